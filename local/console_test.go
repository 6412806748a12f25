package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"otel-demo/local/runner"
	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

// watched runs a console that watches a store, in a bubble whose time the test moves. printed returns what has been
// written since it was last called.
func watched(t *testing.T, test func(store *spans.Store, printed func() string)) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "stdout")
		stdout, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer stdout.Close()
		c, store, stop, done := newConsole(func(error) {}), spans.NewStore(), make(chan struct{}), make(chan struct{})
		c.stdout.file = stdout
		go func() { c.watch(store, stop); close(done) }()
		before := 0
		test(store, func() string {
			synctest.Wait()
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text := string(content[before:])
			before = len(content)
			return text
		})
		close(stop)
		<-done
	})
}

// A program that isn't the demo's publishes a message, and whatever should consume it never shows up.
func TestAnIncompleteTraceIsPrintedOnceItIsQuiet(t *testing.T) {
	watched(t, func(store *spans.Store, printed func() string) {
		request := spantest.Request(2, 1)
		for i := range request {
			request[i].Service = map[string]string{"client": "gateway", "server": "orders", "worker": "mailer"}[request[i].Service]
		}
		request[4].Name = "publish mail"
		all := spantest.Traces(request)[0]
		store.Add([]*spans.Trace{{ID: all.ID, Spans: all.Spans[1:4:4]}})
		time.Sleep(runner.Quiet - time.Second)
		store.Add([]*spans.Trace{{ID: all.ID, Spans: append(all.Spans[4:5:5], all.Spans[0])}})
		time.Sleep(runner.Quiet - time.Second)
		if got := printed(); got != "" {
			t.Errorf("while spans arrive, it is printed:\n%s", got)
		}
		time.Sleep(time.Second + 200*time.Millisecond)
		if got, want := printed(), "incomplete: missing the consumer of orders \"publish mail\"\n"; !strings.HasSuffix(got, want) || !strings.Contains(got, "  5 spans") {
			t.Errorf("got\n%swant five spans and %s", got, want)
		}
		time.Sleep(time.Minute)
		if got := printed(); got != "" {
			t.Errorf("it is printed again:\n%s", got)
		}
		store.Add([]*spans.Trace{{ID: all.ID, Spans: all.Spans[5:]}})
		time.Sleep(runner.Settled + 200*time.Millisecond)
		if got := printed(); !strings.Contains(got, "  7 spans") || strings.Contains(got, "incomplete") {
			t.Errorf("once the rest is there, got\n%s", got)
		}
	})
}

func TestACompleteTraceIsPrintedOnce(t *testing.T) {
	watched(t, func(store *spans.Store, printed func() string) {
		store.Add(spantest.Traces(spantest.Request(2, 1)))
		time.Sleep(runner.Settled + 200*time.Millisecond)
		if got := printed(); !strings.Contains(got, "  7 spans") || strings.Contains(got, "incomplete") {
			t.Errorf("got\n%s", got)
		}
		store.Add(spantest.Traces([]spantest.Span{{Trace: 3, Service: "a", Name: "another", Took: time.Second}}))
		time.Sleep(time.Minute)
		if got := printed(); strings.Contains(got, "make request") || !strings.Contains(got, "another") {
			t.Errorf("with another one, got\n%s", got)
		}
	})
}
