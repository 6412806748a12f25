package pkg

// What tracing costs one message, one request and one span, on this machine. Each benchmark has a side without tracing,
// so that you can compare both in one run: see docs/performance.md.
//
//	REDIS_URL                    a Redis server to use; if empty, one in this process, whose work is measured too
//	OTEL_EXPORTER_OTLP_ENDPOINT  where a collector is, for tracing=exported; if empty, that is skipped

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/time/rate"
)

// Each way of tracing does one thing more than the one before, so the difference is that thing's cost.
const (
	off       = "off"       // as with OTEL_SDK_DISABLED=true
	unsampled = "unsampled" // the sampler drops all
	recorded  = "recorded"  // spans are made, and go nowhere
	batched   = "batched"   // and wait in the batcher, which discards them
	exported  = "exported"  // and go to the collector
)

var everyWay = []string{off, unsampled, recorded, batched, exported}

// sink is an exporter that counts spans, and passes them to the next one, if there is one.
type sink struct {
	next  sdktrace.SpanExporter
	spans atomic.Int64
}

func (s *sink) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	s.spans.Add(int64(len(spans)))
	if s.next == nil {
		return nil
	}
	return s.next.ExportSpans(ctx, spans)
}

func (s *sink) Shutdown(ctx context.Context) error {
	if s.next == nil {
		return nil
	}
	return s.next.Shutdown(ctx)
}

// traceBy sets up tracing, and returns a function that begins the measurement. It adds two metrics. cpu-ns/op is CPU
// time, including the last export: a busy machine affects it less than wall-clock time. spans/op is what the sink
// counted: a batcher drops what comes too fast for its queue, and a dropped span doesn't cost what it should.
func traceBy(b *testing.B, way string) (begin func()) {
	b.Helper()
	var cpu time.Duration
	begin = func() {
		b.ReportAllocs()
		b.ResetTimer()
		cpu = cpuTime()
	}
	before, tracerBefore := otel.GetTracerProvider(), tracer
	b.Cleanup(func() {
		b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op")
		otel.SetTracerProvider(before)
		tracer = tracerBefore
	})
	if way == off {
		otel.SetTracerProvider(noop.NewTracerProvider())
		tracer = otel.Tracer("otel-demo/pkg")
		return begin
	}
	s := &sink{}
	if way == exported {
		if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
			b.Skip("needs a collector: `go run -C local . -f docs/performance/collector.yml`, and OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317")
		}
		var err error
		if s.next, err = otlptrace.New(b.Context(), newClient()); err != nil {
			b.Fatal(err)
		}
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {})) // lost spans are seen in spans/op
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName("benchmark"))),
	}
	switch way {
	case unsampled:
		options = append(options, sdktrace.WithSampler(sdktrace.NeverSample()))
	case batched, exported:
		options = append(options, sdktrace.WithSpanProcessor(newBatcher(s))) // as in StartTracing
	}
	provider := sdktrace.NewTracerProvider(options...)
	otel.SetTracerProvider(provider)
	tracer = provider.Tracer("otel-demo/pkg")
	b.Cleanup(func() {
		if err := provider.Shutdown(context.Background()); err != nil {
			b.Log(err)
		}
		if way == batched || way == exported {
			b.ReportMetric(float64(s.spans.Load())/float64(b.N), "spans/op")
		}
	})
	return begin
}

// redisOptions returns options for the server at REDIS_URL, or for the benchmark's own.
func redisOptions(b *testing.B) *redis.Options {
	b.Helper()
	if url := os.Getenv("REDIS_URL"); url != "" {
		options, err := redis.ParseURL(url)
		if err != nil {
			b.Fatal(err)
		}
		return options
	}
	return &redis.Options{Addr: miniredis.RunT(b).Addr()}
}

// messages publishes b.N messages from several goroutines, and waits until all are processed.
func messages(b *testing.B, ctx context.Context, way string, redisotel bool, publishers int) {
	begin := traceBy(b, way)
	options := redisOptions(b)
	broker, err := NewBroker(options)
	if !redisotel {
		// These include the ones that NewBroker sets, because options is a pointer.
		options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
		broker = &Broker{redis: redis.NewClient(options), report: rate.Sometimes{Interval: time.Second}}
	}
	if err != nil {
		b.Fatal(err)
	}
	defer broker.Close()

	// At most this many messages are published but not yet processed: Redis would drop a listener that is far behind.
	underWay := make(chan struct{}, 128)
	var processed sync.WaitGroup
	receiving, stop := context.WithCancel(b.Context())
	stopped := make(chan error, 1)
	go func() {
		stopped <- broker.Receive(receiving, func(context.Context, Message) error {
			<-underWay
			processed.Done()
			return nil
		})
	}()
	defer func() {
		stop()
		if err := <-stopped; err != nil {
			b.Error(err)
		}
	}()
	for broker.Ready(ctx) != nil {
		time.Sleep(time.Millisecond)
	}

	begin()
	processed.Add(b.N)
	var next atomic.Int64
	var publishing sync.WaitGroup
	for range publishers {
		publishing.Go(func() {
			for next.Add(1) <= int64(b.N) {
				underWay <- struct{}{}
				if err := broker.Publish(ctx, "hello, world"); err != nil {
					b.Error(err)
					<-underWay
					processed.Done()
				}
			}
		})
	}
	publishing.Wait()
	processed.Wait()
	b.StopTimer()
}

// One message, from Publish to the end of its handler.
func BenchmarkMessage(b *testing.B) {
	for _, publishers := range []int{1, 16} {
		for _, redisotel := range []bool{false, true} {
			for _, way := range everyWay {
				b.Run(fmt.Sprintf("publishers=%d/redisotel=%t/tracing=%s", publishers, redisotel, way), func(b *testing.B) {
					messages(b, context.Background(), way, redisotel, publishers)
				})
			}
		}
	}
}

// The same with baggage, which is sent with each message whether it is traced or not.
func BenchmarkBaggage(b *testing.B) {
	for _, kB := range []int{0, 1, 8} {
		var members []baggage.Member
		for i := range kB {
			member, err := baggage.NewMember(fmt.Sprint("key", i), strings.Repeat("x", 1000))
			if err != nil {
				b.Fatal(err)
			}
			members = append(members, member)
		}
		bag, err := baggage.New(members...)
		if err != nil {
			b.Fatal(err)
		}
		ctx := baggage.ContextWithBaggage(context.Background(), bag)
		for _, way := range []string{off, batched, exported} {
			b.Run(fmt.Sprintf("kB=%d/tracing=%s", kB, way), func(b *testing.B) { messages(b, ctx, way, true, 1) })
		}
	}
}

// One HTTP request, with otelhttp on both sides as in the client and the server, but nothing else.
func BenchmarkRequest(b *testing.B) {
	for _, clients := range []int{1, 16} {
		for _, way := range everyWay {
			b.Run(fmt.Sprintf("clients=%d/tracing=%s", clients, way), func(b *testing.B) {
				begin := traceBy(b, way)
				mux := http.NewServeMux()
				mux.Handle("GET /hello", otelhttp.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					fmt.Fprintln(w, "hello, world")
				}), ""))
				server := httptest.NewServer(mux)
				defer server.Close()
				transport := &http.Transport{MaxIdleConnsPerHost: clients}
				defer transport.CloseIdleConnections()
				client := &http.Client{Transport: otelhttp.NewTransport(transport)}

				begin()
				var next atomic.Int64
				var requesting sync.WaitGroup
				for range clients {
					requesting.Go(func() {
						for next.Add(1) <= int64(b.N) {
							ctx, span := tracer.Start(context.Background(), "make request")
							request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/hello", nil)
							if err != nil {
								b.Error(err)
								return
							}
							response, err := client.Do(request)
							if err != nil {
								b.Error(err)
								return
							}
							_, _ = io.Copy(io.Discard, response.Body) // to its end, or the connection isn't reused
							response.Body.Close()
							span.End()
						}
					})
				}
				requesting.Wait()
				b.StopTimer()
			})
		}
	}
}

// One trace with this many spans, each with five attributes.
func BenchmarkTrace(b *testing.B) {
	for _, spans := range []int{7, 100, 1000} {
		for _, way := range everyWay {
			b.Run(fmt.Sprintf("spans=%d/tracing=%s", spans, way), func(b *testing.B) {
				traceBy(b, way)()
				for b.Loop() {
					ctx, root := tracer.Start(context.Background(), "root")
					for i := range spans - 1 {
						_, span := tracer.Start(ctx, "child")
						span.SetAttributes(
							attribute.Int("number", i), attribute.String("one", "value"), attribute.String("two", "value"),
							attribute.String("three", "value"), attribute.Bool("four", true))
						span.End()
					}
					root.End()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*spans), "ns/span")
			})
		}
	}
}
