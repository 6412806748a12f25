package brokertest

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"otel-demo/brokers/server"
)

// Spans records the spans of all of a package's tests: its tracer stays on the first provider ever set.
var Spans = tracetest.NewSpanRecorder()

// Main runs a package's tests, and fails if they leave a goroutine behind.
func Main(m *testing.M) {
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(Spans)))
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	slog.SetDefault(slog.New(&log))
	goleak.VerifyTestMain(tests{m})
}

type tests struct{ *testing.M }

func (t tests) Run() int {
	defer func() {
		for _, s := range shared {
			s.Close()
		}
	}()
	return t.M.Run()
}

var shared = map[string]*server.Server{} // the servers that take seconds to start, by name

// On runs a test on each server that the lesson has in server.Kinds. start starts one, or returns the one that the
// package's tests share, with what they have left in it. It also clears the spans and the log.
func On(t *testing.T, lesson string, test func(t *testing.T, start func(t *testing.T) *server.Server)) {
	for _, kind := range server.Kinds {
		if kind.Lesson != lesson {
			continue
		}
		t.Run(kind.Name, func(t *testing.T) {
			test(t, func(t *testing.T) *server.Server {
				t.Helper()
				s := shared[kind.Name]
				if s == nil {
					var err error
					if s, err = kind.New(); errors.Is(err, server.ErrMissing) && os.Getenv(kind.Require) == "" {
						t.Skip(err)
					} else if err != nil {
						t.Fatal(err)
					}
				}
				if kind.Slow {
					shared[kind.Name] = s
					t.Cleanup(func() { // a test may have stopped it
						if s.Stopped() && s.Start() != nil {
							delete(shared, kind.Name)
						}
					})
				} else {
					t.Cleanup(s.Close)
				}
				Reset()
				return s
			})
		})
	}
}

// Reset clears the spans and the log.
func Reset() {
	Spans.Reset()
	log.mu.Lock()
	defer log.mu.Unlock()
	log.lines = nil
}

// Line is a line of the log.
type Line struct {
	Message    string
	Attributes map[string]string
	Span       trace.SpanContext // of its context
}

type handler struct {
	mu    sync.Mutex
	lines []Line
}

var log handler

// Lines returns the lines of the log whose message contains text.
func Lines(text string) (found []Line) {
	log.mu.Lock()
	defer log.mu.Unlock()
	for _, line := range log.lines {
		if strings.Contains(line.Message, text) {
			found = append(found, line)
		}
	}
	return found
}

func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	line := Line{record.Message, map[string]string{}, trace.SpanContextFromContext(ctx)}
	for a := range record.Attrs {
		line.Attributes[a.Key] = a.Value.String()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, line)
	return nil
}

func (*handler) Enabled(context.Context, slog.Level) bool { return true }
func (h *handler) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h *handler) WithGroup(string) slog.Handler          { return h }

// Together publishes two messages whose handlers each wait for the other to begin, and reports whether both did.
func Together(subscribe func(handle func()), publish func()) bool {
	begun, together := make(chan struct{}, 2), make(chan bool, 2)
	subscribe(func() {
		begun <- struct{}{}
		for timeout := time.After(300 * time.Millisecond); len(begun) < 2; {
			select {
			case <-timeout:
				together <- false
				return
			case <-time.After(time.Millisecond):
			}
		}
		together <- true
	})
	publish()
	publish()
	first := <-together
	return <-together && first
}

// KillAt runs this test binary with an environment variable, and kills it when it has printed a line.
func KillAt(t *testing.T, line, setting string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env, child.Stderr = append(os.Environ(), setting), os.Stderr
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	printed, err := bufio.NewReader(output).ReadString('\n')
	child.Process.Kill()
	child.Wait()
	if printed != line+"\n" {
		t.Fatalf("it printed %q, %v", printed, err)
	}
}
