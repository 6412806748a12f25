package outbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	natsclient "github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/brokers/brokertest"
	"otel-demo/brokers/nats"
	"otel-demo/brokers/server"
	"otel-demo/pkg"
)

// The test binary is also a relay that hangs after it has taken a row.
func TestMain(m *testing.M) {
	url := os.Getenv("RUN_RELAY")
	if url == "" {
		brokertest.Main(m)
		return
	}
	store, err := Open(context.Background(), url)
	if err != nil {
		panic(err)
	}
	Relay{Store: store, Lease: time.Second, Send: func(context.Context, map[string]string, string) error {
		fmt.Println("sent")
		select {}
	}}.Run(context.Background())
}

// on runs a test on each database. open starts one, and returns a store with empty tables.
func on(t *testing.T, test func(t *testing.T, open func(t *testing.T) (*Store, *server.Server))) {
	brokertest.On(t, "outbox", func(t *testing.T, start func(*testing.T) *server.Server) {
		test(t, func(t *testing.T) (*Store, *server.Server) {
			t.Helper()
			s := start(t)
			store := openStore(t, s.URL)
			for _, table := range []string{"orders", "outbox"} {
				if err := store.exec("DELETE FROM " + table); err != nil {
					t.Fatal(err)
				}
			}
			return store, s
		})
	})
}

func openStore(t *testing.T, url string) *Store {
	t.Helper()
	store, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// connect starts NATS, and returns a connection.
func connect(t *testing.T) (*natsclient.Conn, *server.Server) {
	t.Helper()
	for _, kind := range server.Kinds {
		if kind.Lesson == "nats" {
			s, err := kind.New()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			conn, err := nats.Connect(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(conn.Close)
			return conn, s
		}
	}
	panic("no NATS")
}

// receive runs a relay, and a worker that gets what it publishes over NATS.
func receive(ctx context.Context, store *Store, conn *natsclient.Conn, handle nats.Handler) error {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- nats.Receive(working, conn, handle) }()
	for conn.NumSubscriptions() == 0 && pkg.Sleep(ctx, time.Millisecond) == nil {
	}
	err := Relay{Store: store, Send: ToNATS(conn), Lease: 10 * time.Second}.Run(ctx)
	stop()
	return errors.Join(err, <-done)
}

func TestSuite(t *testing.T) {
	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		brokertest.Run(t, func(t *testing.T) brokertest.Broker {
			store, s := open(t)
			conn, _ := connect(t)
			return brokertest.Broker{
				Server:    s,
				System:    "nats",
				Created:   "create work",
				Published: "publish work",
				Publish:   func(ctx context.Context, task string) error { return PlaceOrder(ctx, store, task) },
				Receive: func(ctx context.Context, handle brokertest.Handler) error {
					return receive(ctx, store, conn, handle)
				},
				Listening: func() bool { return conn.NumSubscriptions() > 0 },
				Send: func(t *testing.T, headers []brokertest.Header, body []byte) {
					r := row{id: fmt.Sprint(time.Now().UnixNano()), task: string(body), carrier: propagation.MapCarrier{}, created: time.Now()}
					for _, header := range headers {
						r.carrier[header.Key] = header.Value
					}
					err := store.insert(t.Context(), r)
					if !utf8.Valid(body) { // PostgreSQL refuses it, so it comes from another producer
						err = errors.Join(ToNATS(conn)(t.Context(), r.carrier, r.task), store.exec(`DELETE FROM outbox`))
					}
					if err != nil {
						t.Fatal(err)
					}
				},
				Deliveries: 1,
				Keeps:      true,
				Undecoded:  []byte("\xff"),
				Fail:       func(t *testing.T, then func()) { store.Close(); then() },
			}
		})
	})
}

// order places an order in its own trace, and returns the span `create work`.
func order(t *testing.T, store *Store) sdktrace.ReadOnlySpan {
	t.Helper()
	if err := PlaceOrder(t.Context(), store, "make donuts"); err != nil {
		t.Fatal(err)
	}
	return brokertest.Named(t, "create work", 1)[0]
}

// run runs a relay until the condition is true.
func run(t *testing.T, relay Relay, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	brokertest.Eventually(t, what, condition)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func published(count int) func() bool {
	return func() bool {
		ended := 0
		for _, span := range brokertest.Spans.Ended() {
			if span.Name() == "publish work" {
				ended++
			}
		}
		return ended >= count
	}
}

func sent(context.Context, map[string]string, string) error { return nil }

// The obvious relay has a span around its poll, and passes its context on.
func TestTrapThePollIsTheParent(t *testing.T) {
	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		store, _ := open(t)
		create := order(t, store)
		ctx, poll := tracer.Start(t.Context(), "poll")
		if _, ok, err := store.take(0); !ok || err != nil {
			t.Fatal(ok, err)
		}
		_, obvious := tracer.Start(ctx, "obvious publish")
		obvious.End()
		poll.End()
		if obvious.SpanContext().TraceID() == create.SpanContext().TraceID() {
			t.Error("the obvious relay's span is in the order's trace: this is no longer a trap")
		}

		run(t, Relay{Store: store, Send: sent}, "publication", published(1))
		publish := brokertest.Named(t, "publish work", 1)[0]
		brokertest.LinksTo(t, publish, create.SpanContext())
		if publish.Parent().SpanID() != create.SpanContext().SpanID() {
			t.Errorf("the parent is %v, want create work", publish.Parent())
		}
	})
}

// The obvious span covers everything until the message is published. While the relay doesn't run, it isn't exported, not
// even by an orderly shutdown.
func TestTrapASpanThatStaysOpenIsNotExported(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	_, obvious := provider.Tracer("test").Start(t.Context(), "place order and publish")
	if err := errors.Join(provider.ForceFlush(t.Context()), provider.Shutdown(t.Context())); err != nil {
		t.Fatal(err)
	}
	if spans := exporter.GetSpans(); len(spans) > 0 {
		t.Errorf("%v is exported: this is no longer a trap", spans)
	}
	obvious.End()

	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		store, _ := open(t)
		order(t, store) // without a relay, its span has ended
	})
}

// The obvious length for a column is 255.
func TestTrapAColumnIsTooShortForBaggage(t *testing.T) {
	member, _ := baggage.NewMemberRaw("username", strings.Repeat("donuts", 1000))
	bag, _ := baggage.New(member)
	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		store, s := open(t)
		ctx := baggage.ContextWithBaggage(t.Context(), bag)
		if err := errors.Join(store.exec(`DROP TABLE outbox`), store.exec(`CREATE TABLE outbox (id TEXT PRIMARY KEY, task TEXT,
			traceparent VARCHAR(255), tracestate VARCHAR(255), baggage VARCHAR(255), created BIGINT)`)); err != nil {
			t.Fatal(err)
		}
		refused := PlaceOrder(ctx, store, "make donuts")
		var orders int
		if err := store.db.QueryRow(`SELECT COUNT(*) FROM orders`).Scan(&orders); err != nil {
			t.Fatal(err)
		}
		if sqlite := strings.HasPrefix(s.URL, "file:"); sqlite != (refused == nil) || sqlite != (orders == 1) {
			t.Errorf("%v, and %d orders: this is no longer a trap", refused, orders)
		}

		if err := store.exec(`DROP TABLE outbox`); err != nil {
			t.Fatal(err)
		}
		store = openStore(t, s.URL)
		if err := PlaceOrder(ctx, store, "make donuts"); err != nil {
			t.Fatal(err)
		}
		var headers map[string]string
		run(t, Relay{Store: store, Send: func(_ context.Context, h map[string]string, _ string) error { headers = h; return nil }},
			"publication", published(1))
		if want := "username=" + strings.Repeat("donuts", 1000); headers["baggage"] != want {
			t.Errorf("the baggage has %d bytes, want %d", len(headers["baggage"]), len(want))
		}
	})
}

// The obvious columns are trace_id and span_id.
func TestTrapTwoIdsLoseTheSampledFlag(t *testing.T) {
	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		store, _ := open(t)
		create := order(t, store).SpanContext()
		obvious := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: create.TraceID(), SpanID: create.SpanID()}))
		if _, span := tracer.Start(obvious, "obvious publish"); span.IsRecording() {
			t.Error("the span is recorded: this is no longer a trap")
		}
		run(t, Relay{Store: store, Send: sent}, "publication", published(1)) // only recorded spans are seen here
	})
}

// A relay is killed while it publishes. The next one publishes the row again once the lease is over.
func TestAnotherRelayPublishesWhatADeadOneHadTaken(t *testing.T) {
	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		store, s := open(t)
		create := order(t, store)
		brokertest.KillAt(t, "sent", "RUN_RELAY="+s.URL)
		run(t, Relay{Store: store, Send: sent, Lease: time.Second}, "publication", published(1))
		publish := brokertest.Named(t, "publish work", 1)[0]
		brokertest.LinksTo(t, publish, create.SpanContext())
		if got := brokertest.Attribute(publish, "work.delivery_count"); got != "2" {
			t.Errorf("the delivery count is %s, want 2", got)
		}
		if ms, err := strconv.Atoi(brokertest.Attribute(publish, "work.waited_ms")); err != nil || ms < 500 || ms > 60_000 {
			t.Errorf("it waited %d ms, %v; want at least the lease", ms, err)
		}
	})
}

// A relay has published a row and can't delete it. The second publication has a span too, with the same link.
func TestEachPublicationLinksToTheOrder(t *testing.T) {
	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		store, s := open(t)
		create := order(t, store)
		lost := openStore(t, s.URL)
		run(t, Relay{Store: lost, Send: func(context.Context, map[string]string, string) error { return lost.Close() }},
			"publication", published(1))
		run(t, Relay{Store: store, Send: sent, NewRoot: true}, "publication", published(2))
		for i, publish := range brokertest.Named(t, "publish work", 2) {
			brokertest.LinksTo(t, publish, create.SpanContext())
			if got := brokertest.Attribute(publish, "work.delivery_count"); got != fmt.Sprint(i+1) || publish.Status().Code != codes.Unset {
				t.Errorf("publication %d has the count %s and the status %v", i+1, got, publish.Status())
			}
			if root := !publish.Parent().IsValid(); root != (i == 1) {
				t.Errorf("publication %d: a root is %v; want the second one to be one", i+1, root)
			}
		}
		if lines := brokertest.Lines("it will be published again"); len(lines) != 1 || lines[0].Span.TraceID() != create.SpanContext().TraceID() {
			t.Errorf("the lines are %v, want one, with the ids of the trace", lines)
		}
	})
}

// A message that the broker will never take doesn't stop those behind it.
func TestAMessageThatIsTooLargeIsGivenUp(t *testing.T) {
	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		store, _ := open(t)
		conn, _ := connect(t)
		for _, task := range []string{strings.Repeat("donuts", 200_000), "make donuts"} {
			if err := PlaceOrder(t.Context(), store, task); err != nil {
				t.Fatal(err)
			}
		}
		create := brokertest.Named(t, "create work", 2)[0].SpanContext()
		run(t, Relay{Store: store, Send: ToNATS(conn)}, "two publications", published(2))
		publish := brokertest.Named(t, "publish work", 2)
		brokertest.LinksTo(t, publish[0], create)
		if publish[0].Status().Code != codes.Error || publish[1].Status().Code != codes.Unset ||
			brokertest.Attribute(publish[0], "work.delivery_count") != "1" || brokertest.Attribute(publish[0], "error.type") != "refused" {
			t.Errorf("%v with %v, %v", publish[0].Status(), publish[0].Attributes(), publish[1].Status())
		}
		lines := brokertest.Lines("give up")
		if len(lines) != 1 || lines[0].Attributes["deliveries"] != "1" || lines[0].Span.SpanID() != publish[0].SpanContext().SpanID() {
			t.Errorf("the lines are %v, want one with the ids of the span", lines)
		}
		var traceparent, reason string
		if err := store.db.QueryRow(`SELECT traceparent, given_up FROM outbox`).Scan(&traceparent, &reason); err != nil ||
			!strings.Contains(traceparent, create.SpanID().String()) || !strings.Contains(reason, "maximum payload") {
			t.Errorf("the row has %q and %q, %v; want what leads to the trace, and a reason", traceparent, reason, err)
		}
	})
}

// The broker is down while the relay runs. One line says so, one that it is back, and the row isn't given up.
func TestTheRelaySurvivesARestartOfTheBroker(t *testing.T) {
	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		store, _ := open(t)
		conn, s := connect(t)
		s.Stop()
		create := order(t, store)
		run(t, Relay{Store: store, Send: ToNATS(conn), Lease: time.Second}, "publication", func() bool {
			if published(2)() && s.Stopped() { // at least two attempts have failed
				if err := s.Start(); err != nil {
					t.Fatal(err)
				}
			}
			return len(brokertest.Lines("the database or the broker is back")) > 0
		})
		if lines := brokertest.Lines("the database or the broker is unreachable"); len(lines) != 1 {
			t.Errorf("the lines are %v, want one", lines)
		}
		failed := 0
		for _, span := range brokertest.Spans.Ended() {
			if span.Name() == "publish work" {
				brokertest.LinksTo(t, span, create.SpanContext())
				if span.Status().Code == codes.Error {
					failed++
				}
			}
		}
		if failed < 2 || !published(failed+1)() {
			t.Errorf("%d attempts failed, want at least 2, and one more span", failed)
		}
	})
}

func TestTwoRelaysPublishEachRowOnce(t *testing.T) {
	on(t, func(t *testing.T, open func(*testing.T) (*Store, *server.Server)) {
		store, s := open(t)
		const orders = 50
		for i := range orders {
			if err := PlaceOrder(t.Context(), store, fmt.Sprint("task ", i)); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		seen := map[string]int{}
		send := func(_ context.Context, _ map[string]string, task string) error {
			mu.Lock()
			defer mu.Unlock()
			seen[task]++
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var relays sync.WaitGroup
		for range 2 {
			relay := Relay{Store: openStore(t, s.URL), Send: send, Lease: time.Minute}
			relays.Go(func() { relay.Run(ctx) })
		}
		brokertest.Eventually(t, "publications", published(orders))
		cancel()
		relays.Wait()
		brokertest.Named(t, "publish work", orders)
		if len(seen) != orders {
			t.Errorf("%d of %d rows were published", len(seen), orders)
		}
	})
}
