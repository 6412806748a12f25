package redisstreams

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/brokers/brokertest"
	"otel-demo/brokers/server"
)

func TestMain(m *testing.M) { brokertest.Main(m) }

// A connector starts a server, and returns a client.
type connector func(t *testing.T) (*redis.Client, *server.Server)

// on runs a test on each server.
func on(t *testing.T, test func(*testing.T, connector)) {
	brokertest.On(t, "redisstreams", func(t *testing.T, start func(*testing.T) *server.Server) {
		test(t, func(t *testing.T) (*redis.Client, *server.Server) {
			t.Helper()
			s := start(t)
			options, err := redis.ParseURL(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			options.MaxRetries = -1
			client := redis.NewClient(options)
			t.Cleanup(func() { client.Close() })
			if err := (Worker{Client: client}).Join(t.Context()); err != nil {
				t.Fatal(err)
			}
			return client, s
		})
	})
}

func TestSuite(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		brokertest.Run(t, func(t *testing.T) brokertest.Broker {
			client, s := connect(t)
			return brokertest.Broker{
				Server:    s,
				System:    "redis",
				Published: "publish work",
				Publish:   func(ctx context.Context, task string) error { return Publish(ctx, client, task) },
				Receive: func(ctx context.Context, handle brokertest.Handler) error {
					return Worker{Client: client, Name: "worker", Idle: 50 * time.Millisecond}.Receive(ctx, handle)
				},
				Listening: func() bool { return true }, // from the stream's start
				Send: func(t *testing.T, headers []brokertest.Header, body []byte) {
					var fields []string
					for _, header := range headers {
						fields = append(fields, header.Key, header.Value)
					}
					if name := "task"; string(body) == "undecoded" {
						fields = append(fields, "other", "")
					} else {
						fields = append(fields, name, string(body))
					}
					if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: "work", Values: fields}).Err(); err != nil {
						t.Fatal(err)
					}
				},
				Deliveries: 3,
				Keeps:      true,
				Twice:      true,
				Undecoded:  []byte("undecoded"),
				Fail:       func(t *testing.T, then func()) { s.Stop(); then() },
			}
		})
	})
}

// A worker takes three entries and dies before it has acknowledged any. The obvious loop, which reads only new entries,
// never sees them again.
func TestTrapEntriesOfADeadWorkerAreNotReadAgain(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		for _, task := range []string{"make donuts", "make coffee", "make tea"} {
			if err := Publish(t.Context(), client, task); err != nil {
				t.Fatal(err)
			}
		}
		dead := Worker{Client: client, Name: "dead"}
		if entries, err := dead.read(10); err != nil || len(entries) != 3 {
			t.Fatalf("read %d entries, %v", len(entries), err)
		}
		worker := Worker{Client: client, Name: "worker", Idle: 50 * time.Millisecond}
		if entries, err := worker.read(10); err != nil || len(entries) != 0 {
			t.Errorf("new entries: %v, %v: this is no longer a trap", entries, err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- worker.Receive(ctx, func(context.Context, string) error { return nil }) }()
		process := brokertest.Named(t, "process work", 3)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for i, publish := range brokertest.Named(t, "publish work", 3) {
			brokertest.LinksTo(t, process[i], publish.SpanContext())
			if process[i].Parent().SpanID() != publish.SpanContext().SpanID() {
				t.Error("the second delivery's span is not a child of the producer's")
			}
			if got := brokertest.Attribute(process[i], "work.delivery_count"); got != "2" {
				t.Errorf("the delivery count is %q, want 2", got)
			}
			// The dead worker had waited half a second for more entries, with these in the stream all the time.
			if ms, err := strconv.Atoi(brokertest.Attribute(process[i], "work.waited_ms")); err != nil || ms < 50 || ms > 30_000 {
				t.Errorf("it waited %d ms, %v; want at least 50", ms, err)
			}
		}
		if pending, err := client.XPending(t.Context(), stream, group).Result(); err != nil || pending.Count != 0 {
			t.Errorf("%d entries are pending, %v; want none", pending.Count, err)
		}
	})
}

// Each worker that gets an entry dies. The next one gives it up, though no handler has returned an error.
func TestAnEntryWhoseWorkersDieIsGivenUp(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		if err := Publish(t.Context(), client, "make donuts"); err != nil {
			t.Fatal(err)
		}
		if _, err := (Worker{Client: client, Name: "dead"}).read(1); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if entries, err := (Worker{Client: client, Name: "dead"}).claim(); err != nil || len(entries) != 1 {
				t.Fatal(entries, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- Worker{Client: client, Name: "worker"}.Receive(ctx, func(context.Context, string) error {
				t.Error("the entry was delivered again")
				return nil
			})
		}()
		span := brokertest.Named(t, "ack work", 1)[0]
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		brokertest.LinksTo(t, span, brokertest.Named(t, "publish work", 1)[0].SpanContext())
		if got := brokertest.Attribute(span, "work.delivery_count"); got != "3" || brokertest.Attribute(span, "error.type") != "given_up" {
			t.Errorf("%s deliveries, %v", got, span.Attributes())
		}
	})
}

// Someone deletes the stream, or Redis has lost it in a restart. The worker joins a new one.
func TestAStreamThatIsGoneIsJoinedAgain(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- Worker{Client: client, Name: "worker", Idle: time.Hour}.Receive(ctx, func(context.Context, string) error { return nil })
		}()
		if err := Publish(t.Context(), client, "before"); err != nil {
			t.Fatal(err)
		}
		brokertest.Named(t, "process work", 1)
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		brokertest.Eventually(t, "line", func() bool { return len(brokertest.Lines("joined a new one")) > 0 })
		if err := Publish(t.Context(), client, "after"); err != nil {
			t.Fatal(err)
		}
		brokertest.Named(t, "process work", 2)
		cancel()
		if err := <-done; err != nil || len(brokertest.Lines("joined a new one")) != 1 || len(brokertest.Lines("unreachable")) != 0 {
			t.Errorf("%v, %v", err, brokertest.Lines(""))
		}
	})
}

// A span keeps 128 links by default, and drops the others silently. So a batch is smaller.
func TestABatchLosesNoLink(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		for range 150 {
			if err := Publish(t.Context(), client, "make donuts"); err != nil {
				t.Fatal(err)
			}
		}
		worker := Worker{Client: client, Name: "worker", Idle: time.Hour}
		count := 0
		if err := worker.ReceiveBatch(func(_ context.Context, entries []redis.XMessage) error {
			count = len(entries)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if span := brokertest.Named(t, "process work", 1)[0]; len(span.Links()) != count || span.DroppedLinks() > 0 {
			t.Errorf("the span has %d links for %d messages, and dropped %d", len(span.Links()), count, span.DroppedLinks())
		}
	})
}

func TestABatchLinksToEachProducer(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		for _, task := range []string{"make donuts", "make coffee", "make tea"} {
			if err := Publish(t.Context(), client, task); err != nil {
				t.Fatal(err)
			}
		}
		worker := Worker{Client: client, Name: "worker", Idle: time.Hour}
		if err := worker.ReceiveBatch(func(_ context.Context, entries []redis.XMessage) error {
			if len(entries) != 3 {
				t.Errorf("the batch has %d entries, want 3", len(entries))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		published := brokertest.Named(t, "publish work", 3)
		span := brokertest.Named(t, "process work", 1)[0]
		brokertest.LinksTo(t, span, published[0].SpanContext(), published[1].SpanContext(), published[2].SpanContext())
		if got := brokertest.Attribute(span, "messaging.batch.message_count"); got != "3" || span.Parent().IsValid() {
			t.Errorf("the count is %s and the parent %v, want 3 and none", got, span.Parent())
		}
		for i, link := range span.Links() {
			if got := link.Attributes[1].Value.AsInt64(); got != 1 {
				t.Errorf("link %d has the delivery count %d, want 1", i, got)
			}
			if got, want := link.Attributes[0].Value.AsString(), brokertest.Attribute(published[i], "messaging.message.id"); got != want {
				t.Errorf("link %d has the id %s, want %s", i, got, want)
			}
		}
		if pending, err := client.XPending(t.Context(), stream, group).Result(); err != nil || pending.Count != 0 {
			t.Errorf("%d entries are pending, %v; want none", pending.Count, err)
		}
		// A failed batch is redelivered, entry by entry.
		brokertest.Reset()
		if err := Publish(t.Context(), client, "make donuts"); err != nil {
			t.Fatal(err)
		}
		if err := worker.ReceiveBatch(func(context.Context, []redis.XMessage) error { return errors.New("no donuts left") }); err != nil {
			t.Fatal(err)
		}
		if span := brokertest.Named(t, "process work", 1)[0]; span.Status().Code != codes.Error {
			t.Errorf("the status is %v", span.Status())
		}
		if pending, err := client.XPending(t.Context(), stream, group).Result(); err != nil || pending.Count != 1 {
			t.Errorf("%d entries are pending, %v; want 1", pending.Count, err)
		}
	})
}

// The obvious span for a batch is a child of its first entry.
func TestTrapABatchAsAChildLosesTheOtherTraces(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		for _, task := range []string{"make donuts", "make coffee"} {
			if err := Publish(t.Context(), client, task); err != nil {
				t.Fatal(err)
			}
		}
		entries, err := Worker{Client: client, Name: "worker"}.read(10)
		if err != nil || len(entries) != 2 {
			t.Fatalf("read %d entries, %v", len(entries), err)
		}
		_, span := tracer.Start(extract(entries[0]), "process work")
		span.End()
		other := trace.SpanContextFromContext(extract(entries[1])).TraceID()
		if recorded := brokertest.Named(t, "process work", 1)[0]; recorded.SpanContext().TraceID() == other || len(recorded.Links()) > 0 {
			t.Error("the batch's span is in the second entry's trace or has links: this is no longer a trap")
		}
	})
}

// The SDK drops a link to nowhere, unless it has attributes.
func TestTrapALinkWithAttributesLeadsNowhere(t *testing.T) {
	brokertest.Reset()
	entry := redis.XMessage{ID: "1-0", Values: map[string]any{"task": "make donuts"}}
	_, span := tracer.Start(t.Context(), "obvious", trace.WithLinks(
		trace.LinkFromContext(extract(entry), semconv.MessagingMessageID(entry.ID))))
	span.End()
	if links := brokertest.Named(t, "obvious", 1)[0].Links(); len(links) != 1 || links[0].SpanContext.IsValid() {
		t.Errorf("the links are %v: this is no longer a trap", links)
	}
	// The suite's "no headers" shows that the lesson's span has none.
}

// Pub/sub delivers a message to both workers, a group to only one of them.
func TestAGroupGivesEachEntryToOneWorker(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		channel := client.Subscribe(t.Context(), "channel")
		another := client.Subscribe(t.Context(), "channel")
		defer channel.Close()
		defer another.Close()
		for _, subscription := range []*redis.PubSub{channel, another} {
			if _, err := subscription.Receive(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if heard, err := client.Publish(t.Context(), "channel", "make donuts").Result(); err != nil || heard != 2 {
			t.Errorf("%d workers received the message, %v; want 2", heard, err)
		}

		const entries = 20
		ctx, cancel := context.WithCancel(t.Context())
		var workers sync.WaitGroup
		for _, name := range []string{"one", "two"} {
			workers.Go(func() {
				worker := Worker{Client: client, Name: name, Idle: time.Hour}
				if err := worker.Receive(ctx, func(context.Context, string) error { return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		for i := range entries {
			if err := Publish(t.Context(), client, fmt.Sprint("task ", i)); err != nil {
				t.Fatal(err)
			}
		}
		brokertest.Named(t, "process work", entries)
		cancel()
		workers.Wait()
		brokertest.Named(t, "process work", entries)
	})
}

// The obvious carrier for a map of strings is MapCarrier. But it needs a copy of the fields, and what Inject writes to
// the copy is lost.
func TestTrapACopyOfTheFieldsIsLost(t *testing.T) {
	ctx, span := otel.Tracer("test").Start(t.Context(), "root")
	defer span.End()
	fields := map[string]any{"task": "make donuts"}
	copied := propagation.MapCarrier{}
	for key, value := range fields {
		copied[key] = fmt.Sprint(value)
	}
	otel.GetTextMapPropagator().Inject(ctx, copied)
	if fields["traceparent"] != nil {
		t.Error("the copy's headers are in the entry: this is no longer a trap")
	}
	otel.GetTextMapPropagator().Inject(ctx, carrier(fields))
	if fields["traceparent"] == nil {
		t.Error("the lesson's carrier didn't write traceparent")
	}
}
