package brokertest

import (
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Eventually waits until condition is true, for up to a minute.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			for _, span := range Spans.Ended() {
				t.Logf("%s  %v", span.Name(), span.Status())
			}
			for _, line := range Lines("") {
				t.Logf("%s  %v", line.Message, line.Attributes)
			}
			t.Fatalf("no %s within a minute", what)
		}
	}
}

func named(name string) (found []sdktrace.ReadOnlySpan) {
	for _, span := range Spans.Ended() {
		if strings.TrimSuffix(span.Name(), "/{kitchen}") == name { // MQTT's topics hold an id, and its names a template
			found = append(found, span)
		}
	}
	return found
}

// Named waits for count spans with this name, and returns them in the order in which they ended.
func Named(t *testing.T, name string, count int) []sdktrace.ReadOnlySpan {
	t.Helper()
	Eventually(t, name, func() bool { return len(named(name)) >= count })
	spans := named(name)
	if len(spans) != count {
		t.Fatalf("got %d spans named %q, want %d", len(spans), name, count)
	}
	return spans
}

// Attribute returns a span's attribute as a string, or "".
func Attribute(span sdktrace.ReadOnlySpan, key string) string {
	for _, attribute := range span.Attributes() {
		if string(attribute.Key) == key {
			return attribute.Value.String()
		}
	}
	return ""
}

// LinksTo fails unless the span has exactly these links, in this order.
func LinksTo(t *testing.T, span sdktrace.ReadOnlySpan, want ...trace.SpanContext) {
	t.Helper()
	links := span.Links()
	if len(links) != len(want) {
		t.Errorf("%s has %d links, want %d", span.Name(), len(links), len(want))
		return
	}
	for i, link := range links {
		if link.SpanContext.SpanID() != want[i].SpanID() || link.SpanContext.TraceID() != want[i].TraceID() {
			t.Errorf("link %d of %s leads to %v, want %v", i, span.Name(), link.SpanContext, want[i])
		}
	}
}

func isChild(t *testing.T, child, parent sdktrace.ReadOnlySpan) {
	t.Helper()
	if child.Parent().SpanID() != parent.SpanContext().SpanID() ||
		child.SpanContext().TraceID() != parent.SpanContext().TraceID() {
		t.Errorf("%s is not a child of %s", child.Name(), parent.Name())
	}
}
