// Command brokers shows the lessons in nats, kafka, rabbitmq, redisstreams, mqtt and outbox at work: it publishes and processes a few
// messages over the broker that you name, and prints which traces to look at.
package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// demos are the programs, by the name of their broker.
var demos = []struct {
	name, variable string
	start          func(ctx context.Context, address string) error // starts a broker if address is empty
}{
	{"nats", "NATS_URL", runNATS},
	{"kafka", "KAFKA_BROKERS", runKafka},
	{"rabbitmq", "RABBITMQ_URL", runRabbitMQ},
	{"redisstreams", "REDIS_URL", runRedisStreams},
	{"mqtt", "MQTT_URL", runMQTT},
	{"outbox", "DATABASE_URL", runOutbox},
}

func main() { pkg.Main(run) }

func run(ctx context.Context) error {
	var env pkg.Env
	env.OpenTelemetry()
	if env.Err != nil {
		return env.Err
	}
	if len(os.Args) == 1 {
		fmt.Println("Name a broker, such as `go run -C brokers . nats`. A variable names a server that runs already.")
		for _, d := range demos {
			fmt.Printf("  %-14s %s\n", d.name, d.variable)
		}
		return nil
	}
	for _, d := range demos {
		if len(os.Args) == 2 && os.Args[1] == d.name {
			if err := checkAgent(); err != nil {
				return err
			}
			// Not the broker's own name: Zipkin's map uses that for the broker.
			shutdown, err := pkg.StartTracing(ctx, d.name+"-demo")
			if err != nil {
				return err
			}
			defer shutdown()
			if err := d.start(ctx, os.Getenv(d.variable)); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("%q: want the name of one broker: nats, kafka, rabbitmq, redisstreams, mqtt or outbox", os.Args[1:])
}

// checkAgent returns an error if no agent would accept the spans.
func checkAgent() error {
	endpoint := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"),
		"http://localhost:4317")
	address, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", address.Host, 2*time.Second)
	if err != nil {
		return fmt.Errorf("nothing accepts spans on %s: start the demo with `go run -C local . -recipe own-program` first, "+
			"in another terminal", address.Host)
	}
	return conn.Close()
}

// A story is what one trace shows.
type story struct {
	lookAt     string
	tasks      []string
	deliveries int // of all tasks
}

// The tasks. One fails the first time, and one always.
const good, failsOnce, fails = "make donuts", "make coffee", "make tea"

// worker handles tasks.
type worker struct {
	mu        sync.Mutex
	tries     map[string]int
	delivered chan struct{}
}

func newWorker() *worker {
	return &worker{tries: map[string]int{}, delivered: make(chan struct{}, 100)}
}

func (w *worker) handle(ctx context.Context, task string) error {
	defer func() { w.delivered <- struct{}{} }()
	w.mu.Lock()
	w.tries[task]++
	first := w.tries[task] == 1
	w.mu.Unlock()
	if err := pkg.SimulateWork(ctx, 50*time.Millisecond); err != nil {
		return err
	}
	if task == fails || task == failsOnce && first {
		return pkg.Error{Type: "no_water", Text: "there is no water"}
	}
	return nil
}

// play runs receive, and meanwhile publishes the tasks of each story in one trace. It returns when all deliveries have
// been handled.
func (w *worker) play(ctx context.Context, receive func(context.Context) error, send func(context.Context, string) error,
	stories ...story) error {
	ctx, cancel := context.WithCancel(ctx)
	received := make(chan error, 1)
	go func() {
		received <- receive(ctx)
		cancel()
	}()
	err := w.tell(ctx, send, stories)
	cancel()
	if failed := <-received; failed != nil {
		return failed
	}
	return err
}

func (w *worker) tell(ctx context.Context, send func(context.Context, string) error, stories []story) error {
	for _, s := range stories {
		if err := publish(ctx, s.lookAt, send, s.tasks...); err != nil {
			return err
		}
		timeout := time.After(30 * time.Second)
		for i := range s.deliveries {
			select {
			case <-w.delivered:
			case <-timeout:
				return fmt.Errorf("%d of %d deliveries came within 30 s", i, s.deliveries)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// publish sends tasks in a new trace, and prints its id.
func publish(ctx context.Context, lookAt string, send func(context.Context, string) error, tasks ...string) error {
	ctx, span := otel.Tracer("otel-demo/brokers").Start(ctx, "request")
	defer span.End()
	printTrace(ctx, lookAt)
	for _, task := range tasks {
		if err := send(ctx, task); err != nil {
			return pkg.Fail(span, err)
		}
	}
	return nil
}

var printHeading = sync.OnceFunc(func() {
	fmt.Println("Open http://localhost:16686/trace/ with one of these ids at its end:")
})

func printTrace(ctx context.Context, lookAt string) {
	printHeading()
	fmt.Println(trace.SpanContextFromContext(ctx).TraceID(), "", lookAt)
}
