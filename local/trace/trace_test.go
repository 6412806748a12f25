package trace_test

import (
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"otel-demo/local/trace"
	"otel-demo/local/trace/tracetest"
)

// testSpan is a span as the tests write it.
type testSpan tracetest.Span

func own(spans []tracetest.Span) (all []testSpan) {
	for _, s := range spans {
		all = append(all, testSpan(s))
	}
	return all
}

func request(n, first int) []testSpan { return own(tracetest.Request(n, first)) }
func demo() []testSpan                { return own(tracetest.Demo()) }

func otlp(spans []testSpan) ptrace.Traces {
	var all []tracetest.Span
	for _, s := range spans {
		all = append(all, tracetest.Span(s))
	}
	return tracetest.OTLP(all)
}

func traces(spans []testSpan) []*trace.Trace {
	all, _ := trace.FromOTLP(otlp(spans))
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
