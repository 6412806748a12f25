package spans_test

import (
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

// testSpan is a span as the tests write it.
type testSpan spantest.Span

func own(spans []spantest.Span) (all []testSpan) {
	for _, s := range spans {
		all = append(all, testSpan(s))
	}
	return all
}

func request(n, first int) []testSpan { return own(spantest.Request(n, first)) }
func demo() []testSpan                { return own(spantest.Demo()) }

func otlp(spans []testSpan) ptrace.Traces {
	var all []spantest.Span
	for _, s := range spans {
		all = append(all, spantest.Span(s))
	}
	return spantest.OTLP(all)
}

func traces(from []testSpan) []*spans.Trace {
	all, _ := spans.FromOTLP(otlp(from))
	return all
}

const (
	internal = ptrace.SpanKindInternal
	server   = ptrace.SpanKindServer
	client   = ptrace.SpanKindClient
	producer = ptrace.SpanKindProducer
	consumer = ptrace.SpanKindConsumer
	ms       = time.Millisecond
)
