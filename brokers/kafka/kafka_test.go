package kafka

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/plugin/kotel"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/brokers/brokertest"
	"otel-demo/brokers/server"
)

func TestMain(m *testing.M) { brokertest.Main(m) }

// A connector starts a server with an empty topic, and returns a function that connects to it.
type connector func(t *testing.T) (func(options ...kgo.Opt) *kgo.Client, *server.Server)

// on runs a test on each server.
func on(t *testing.T, test func(*testing.T, connector)) {
	brokertest.On(t, "kafka", func(t *testing.T, start func(*testing.T) *server.Server) {
		test(t, func(t *testing.T) (func(options ...kgo.Opt) *kgo.Client, *server.Server) {
			t.Helper()
			s := start(t)
			client := func(options ...kgo.Opt) *kgo.Client {
				client, err := kgo.NewClient(append(options, kgo.SeedBrokers(s.URL))...)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(client.Close)
				return client
			}
			empty(t, client(), s.URL, 1)
			return client, s
		})
	})
}

// empty creates the topic anew, and deletes the group.
func empty(t *testing.T, client *kgo.Client, address string, partitions int32) {
	t.Helper()
	brokertest.Eventually(t, "empty group", func() bool {
		request := kmsg.NewPtrDeleteGroupsRequest()
		request.Groups = []string{group}
		response, err := request.RequestWith(t.Context(), client)
		return err == nil && response.Groups[0].ErrorCode != kerr.NonEmptyGroup.Code
	})
	if err := server.CreateTopic(address, topic, partitions); err != nil {
		t.Fatal(err)
	}
}

func produce(t *testing.T, client *kgo.Client, record *kgo.Record) {
	t.Helper()
	if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func TestSuite(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		brokertest.Run(t, func(t *testing.T) brokertest.Broker {
			client, s := connect(t)
			producer, otherLanguage := client(Producer()...), client()
			return brokertest.Broker{
				Server:    s,
				System:    "kafka",
				Published: "work publish",
				Received:  "work receive",
				Publish:   func(ctx context.Context, task string) error { return Publish(ctx, producer, task) },
				Receive: func(ctx context.Context, handle brokertest.Handler) error {
					consumer := client(Consumer()...)
					defer consumer.Close()
					return Receive(ctx, consumer, handle)
				},
				Listening: func() bool { return true }, // from the topic's start
				Send: func(t *testing.T, headers []brokertest.Header, body []byte) {
					record := &kgo.Record{Topic: "work", Value: body}
					for _, header := range headers {
						record.Headers = append(record.Headers, kgo.RecordHeader{Key: header.Key, Value: []byte(header.Value)})
					}
					produce(t, otherLanguage, record)
				},
				Deliveries: 1,
				Keeps:      true,
				Twice:      true,
				First:      true,
				Undecoded:  []byte("\xff"),
				Fail:       func(t *testing.T, then func()) { s.Stop(); then() },
			}
		})
	})
}

func fetch(t *testing.T, client *kgo.Client) *kgo.Record {
	t.Helper()
	records := client.PollRecords(t.Context(), 1).Records()
	if len(records) != 1 {
		t.Fatalf("there are %d records, want 1", len(records))
	}
	return records[0]
}

// kotel's own spans end once the record has been polled: no span covers the work, and no span shows its error.
func TestTrapKotelHasNoSpanForTheWork(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		if err := Publish(t.Context(), client(Traced()), "make donuts"); err != nil {
			t.Fatal(err)
		}
		obvious := client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), Traced())
		record := fetch(t, obvious)
		if span := trace.SpanFromContext(record.Context); span.IsRecording() {
			t.Error("the span in the record's context has not ended: this is no longer a trap")
		} else {
			span.SetStatus(codes.Error, "no donuts left") // as a handler would, but too late
		}
		for _, span := range brokertest.Spans.Ended() {
			if span.Status().Code == codes.Error || len(span.Links()) > 0 {
				t.Errorf("%s: %v, %v: this is no longer a trap", span.Name(), span.Status(), span.Links())
			}
		}
		process(record.Context, []*kgo.Record{record}, func(context.Context) error { return errors.New("no donuts left") })
		if span := brokertest.Named(t, "process work", 1)[0]; span.Status().Code != codes.Error {
			t.Errorf("the lesson's span has the status %v", span.Status())
		} else {
			brokertest.LinksTo(t, span, brokertest.Named(t, "work publish", 1)[0].SpanContext())
		}
	})
}

func TestTrapKotelHasNoErrorType(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		for _, test := range []struct {
			name   string
			traced kgo.Opt
			want   string
		}{
			{"obvious", kgo.WithHooks(kotel.NewTracer()), ""},
			{"obvious order", kgo.WithHooks(kotel.NewTracer(), errorType{}), ""},
			{"lesson", Traced(), "*errors.errorString"},
		} {
			client, _ := connect(t)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := Publish(ctx, client(test.traced), "make donuts"); err == nil {
				t.Errorf("%s: Publish returned nil though its context is done", test.name)
			}
			span := brokertest.Named(t, "work publish", 1)[0]
			if got := brokertest.Attribute(span, "error.type"); got != test.want || span.Status().Code != codes.Error {
				t.Errorf("%s: %v with error.type=%q, want %q", test.name, span.Status(), got, test.want)
			}
		}
	})
}

// A worker forwards a record, with its headers, to another topic.
func TestTrapAHeaderThatIsAppendedIsNotRead(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		for _, test := range []struct {
			name   string
			inject func(context.Context, *kgo.Record)
			moved  bool // the consumer continues from the span that forwarded the record
		}{
			{"obvious", func(ctx context.Context, record *kgo.Record) {
				headers := propagation.MapCarrier{}
				otel.GetTextMapPropagator().Inject(ctx, headers)
				for key, value := range headers {
					record.Headers = append(record.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
				}
			}, false},
			{"lesson", func(ctx context.Context, record *kgo.Record) {
				otel.GetTextMapPropagator().Inject(ctx, kotel.NewRecordCarrier(record))
			}, true},
		} {
			client, _ := connect(t)
			record := &kgo.Record{Topic: "work", Headers: []kgo.RecordHeader{
				{Key: "traceparent", Value: []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")}}}
			ctx, span := otel.Tracer("test").Start(t.Context(), "pass on")
			span.End()
			test.inject(ctx, record)
			produce(t, client(), record)
			received := fetch(t, client(kgo.ConsumeTopics("work"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())))
			got := trace.SpanContextFromContext(otel.GetTextMapPropagator().Extract(t.Context(), kotel.NewRecordCarrier(received)))
			if moved := got.SpanID() == span.SpanContext().SpanID(); moved != test.moved {
				t.Errorf("%s: the consumer continues from %v; want the span that forwarded the record: %v", test.name, got, test.moved)
			}
		}
	})
}

// A worker processes a record and dies before it commits. The next worker's span is in the same trace, and links to the
// same producer.
func TestARecordThatComesAgainLinksToTheSameProducer(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		if err := Publish(t.Context(), client(Traced()), "make donuts"); err != nil {
			t.Fatal(err)
		}
		dying := client(Consumer()...)
		dead := make(chan struct{})
		go func() {
			defer close(dead)
			Receive(t.Context(), dying, func(context.Context, string) error { runtime.Goexit(); return nil })
		}()
		<-dead
		dying.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		next := client(Consumer()...)
		if err := Receive(ctx, next, func(context.Context, string) error { cancel(); return nil }); err != nil {
			t.Fatal(err)
		}
		publish := brokertest.Named(t, "work publish", 1)[0].SpanContext()
		for _, span := range brokertest.Named(t, "process work", 2) {
			brokertest.LinksTo(t, span, publish)
			if span.SpanContext().TraceID() != publish.TraceID() || brokertest.Attribute(span, "messaging.kafka.offset") != "0" {
				t.Errorf("the span is in the trace %v with %v", span.SpanContext().TraceID(), span.Attributes())
			}
		}
	})
}

// A worker is killed while it works on a record. Kafka waits for the session's timeout, and gives its records to the
// next worker.
func TestTheRecordsOfAKilledWorkerComeAgain(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, s := connect(t)
		if err := Publish(t.Context(), client(Traced()), "make donuts"); err != nil {
			t.Fatal(err)
		}
		brokertest.KillAt(t, "begun", "WORK_ON="+s.URL)
		killed := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := Receive(ctx, client(Consumer()...), func(context.Context, string) error { cancel(); return nil }); err != nil {
			t.Fatal(err)
		}
		brokertest.LinksTo(t, brokertest.Named(t, "process work", 1)[0], brokertest.Named(t, "work publish", 1)[0].SpanContext())
		if waited := time.Since(killed); waited > 2*SessionTimeout {
			t.Errorf("the next worker got the record after %v, want at most %v", waited, 2*SessionTimeout)
		} else {
			t.Logf("the next worker got the record after %v", waited)
		}
	})
}

// The test binary is also the worker that is killed.
func init() {
	if address := os.Getenv("WORK_ON"); address != "" {
		client, err := kgo.NewClient(append(Consumer(), kgo.SeedBrokers(address))...)
		if err != nil {
			panic(err)
		}
		panic(Receive(context.Background(), client, func(context.Context, string) error {
			fmt.Println("begun")
			select {}
		}))
	}
}

// A second worker joins while the first one works on a batch.
func TestTrapARebalanceDeliversABatchAgain(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, s := connect(t)
		for _, test := range []struct {
			name    string
			options []kgo.Opt
			again   bool
		}{
			{"obvious", []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.DisableAutoCommit(),
				kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}, true},
			{"lesson", Consumer(), false},
		} {
			empty(t, client(), s.URL, 2)
			producer := client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
			publish := func(name string) {
				for partition := range int32(2) {
					produce(t, producer, &kgo.Record{Topic: topic, Partition: partition, Value: fmt.Append(nil, name, " ", partition)})
				}
			}
			publish("before")
			var mu sync.Mutex
			seen := map[string]int{}
			see := func(task string) {
				mu.Lock()
				defer mu.Unlock()
				seen[task]++
			}
			all := func(name string) func() bool {
				return func() bool {
					mu.Lock()
					defer mu.Unlock()
					return seen[name+" 0"] > 0 && seen[name+" 1"] > 0
				}
			}
			begun, joining, release := make(chan struct{}, 100), make(chan struct{}, 100), make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			var workers sync.WaitGroup
			work := func(handle func(task string), options ...kgo.Opt) {
				consumer := client(append(options, test.options...)...)
				workers.Go(func() {
					defer consumer.Close()
					if err := Receive(ctx, consumer, func(_ context.Context, task string) error { handle(task); return nil }); err != nil {
						t.Error(err)
					}
				})
			}
			work(func(task string) { begun <- struct{}{}; <-release; see(task) },
				kgo.OnPartitionsCallbackBlocked(func(context.Context, *kgo.Client) { joining <- struct{}{} }))
			<-begun
			work(func(task string) { joining <- struct{}{}; see(task) })
			<-joining // the second worker works on a record, or waits for the first one
			close(release)
			brokertest.Eventually(t, "end of the first batch", all("before"))
			publish("after")
			brokertest.Eventually(t, "end of the second batch", all("after"))
			cancel()
			workers.Wait()
			if again := seen["before 0"]+seen["before 1"] > 2; again != test.again {
				t.Errorf("%s: %v, want records that came again: %v", test.name, seen, test.again)
			}
		}
	})
}

// What only Kafka itself can refuse. error.type is its name for the error.
func TestARecordThatKafkaRefusesShowsWhy(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, s := connect(t)
		if s.Restartable() { // kfake takes it
			producer := client(Traced(), kgo.ProducerBatchMaxBytes(4<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
			if err := Publish(t.Context(), producer, strings.Repeat("x", 2<<20)); !errors.Is(err, kerr.MessageTooLarge) {
				t.Errorf("a record of 2 MiB: %v", err)
			}
			span := brokertest.Named(t, "work publish", 1)[0]
			if got := brokertest.Attribute(span, "error.type"); got != "MESSAGE_TOO_LARGE" || span.Status().Code != codes.Error {
				t.Errorf("a record of 2 MiB: error.type=%q, %v", got, span.Status())
			}
		}
	})
}

// Without the topic, Publish says what to do, and the worker waits for it.
func TestATopicThatDoesNotExist(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, s := connect(t)
		remove := kmsg.NewPtrDeleteTopicsRequest()
		deletion := kmsg.NewDeleteTopicsRequestTopic()
		deletion.Topic = kmsg.StringPtr(topic)
		remove.TopicNames, remove.Topics = []string{topic}, append(remove.Topics, deletion)
		if _, err := remove.RequestWith(t.Context(), client()); err != nil {
			t.Fatal(err)
		}
		brokertest.Eventually(t, "end of the topic", func() bool { // Kafka deletes it a moment later
			request := kmsg.NewPtrMetadataRequest()
			asked := kmsg.NewMetadataRequestTopic()
			asked.Topic = kmsg.StringPtr(topic)
			request.Topics = append(request.Topics, asked)
			response, err := request.RequestWith(t.Context(), client())
			return err == nil && response.Topics[0].ErrorCode == kerr.UnknownTopicOrPartition.Code
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan error, 1)
		consumer := client(Consumer()...)
		go func() { done <- Receive(ctx, consumer, func(context.Context, string) error { cancel(); return nil }) }()
		err := Publish(t.Context(), client(Traced()), "make donuts")
		if err == nil || !strings.Contains(err.Error(), `create the topic "work" first`) {
			t.Errorf("Publish returns %v", err)
		}
		span := brokertest.Named(t, "work publish", 1)[0]
		if got := brokertest.Attribute(span, "error.type"); got != "UNKNOWN_TOPIC_OR_PARTITION" {
			t.Errorf("error.type is %q", got)
		}
		if err := server.CreateTopic(s.URL, topic, 1); err != nil {
			t.Fatal(err)
		}
		if err := Publish(t.Context(), client(Traced()), "make donuts"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		brokertest.Named(t, "process work", 1)
	})
}

// A span keeps 128 links by default, and drops the others silently. So a batch is smaller.
func TestABatchLosesNoLink(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		producer := client(Traced())
		for range 150 {
			if err := Publish(t.Context(), producer, "make donuts"); err != nil {
				t.Fatal(err)
			}
		}
		count := 0
		if err := ReceiveBatch(t.Context(), client(Consumer()...), func(_ context.Context, records []*kgo.Record) error {
			count = len(records)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if span := brokertest.Named(t, "process work", 1)[0]; len(span.Links()) != count || span.DroppedLinks() > 0 {
			t.Errorf("the span has %d links for %d messages, and dropped %d", len(span.Links()), count, span.DroppedLinks())
		}
	})
}

// Three traces, and one span for all of their records.
func TestABatchLinksToEachProducer(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		producer := client(Traced())
		for _, task := range []string{"make donuts", "make coffee", "make tea"} {
			if err := Publish(t.Context(), producer, task); err != nil {
				t.Fatal(err)
			}
		}
		consumer := client(Consumer()...)
		failed := errors.New("no donuts left")
		var sizes []int
		for total := 0; total < 3; total += sizes[len(sizes)-1] {
			if err := ReceiveBatch(t.Context(), consumer, func(_ context.Context, records []*kgo.Record) error {
				sizes = append(sizes, len(records))
				return failed
			}); err != nil {
				t.Fatal(err)
			}
		}
		published := brokertest.Named(t, "work publish", 3)
		if len(sizes) != 1 {
			t.Fatalf("the batches have the sizes %v, want one with all records", sizes)
		}
		span := brokertest.Named(t, "process work", 1)[0]
		brokertest.LinksTo(t, span, published[0].SpanContext(), published[1].SpanContext(), published[2].SpanContext())
		if got := brokertest.Attribute(span, "messaging.batch.message_count"); got != "3" || span.Parent().IsValid() {
			t.Errorf("the count is %s and the parent %v, want 3 and none", got, span.Parent())
		}
		if offset := span.Links()[2].Attributes; len(offset) != 2 || offset[1].Value.AsInt64() != 2 {
			t.Errorf("the third link has %v, want its partition and offset 2", offset)
		}
		if span.Status().Description != failed.Error() {
			t.Errorf("the status is %v", span.Status())
		}
	})
}

// The obvious span for a batch is a child of its first record.
func TestTrapABatchAsAChildLosesTheOtherTraces(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _ := connect(t)
		producer := client(Traced())
		for _, task := range []string{"make donuts", "make coffee"} {
			if err := Publish(t.Context(), producer, task); err != nil {
				t.Fatal(err)
			}
		}
		obvious := client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), Traced())
		first, second := fetch(t, obvious), fetch(t, obvious)
		_, span := tracer.Start(first.Context, "process work")
		span.End()
		other := trace.SpanContextFromContext(second.Context).TraceID()
		for _, span := range brokertest.Named(t, "process work", 1) {
			if span.SpanContext().TraceID() == other || len(span.Links()) > 0 {
				t.Error("the batch's span is in the second record's trace or has links: this is no longer a trap")
			}
		}
	})
}
