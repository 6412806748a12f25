package examples_test

// This is not an example. The examples record their spans with it, and print the shape of their traces.

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// record returns a provider, and the recorder that gets its spans.
func record() (*sdktrace.TracerProvider, *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	return sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)), recorder
}

// traced does work in a span, which is marked as failed if work returns an error.
func traced(ctx context.Context, spans trace.TracerProvider, name string, work func(context.Context) error) error {
	ctx, span := spans.Tracer("example").Start(ctx, name)
	defer span.End()
	if err := work(ctx); err != nil {
		return pkg.Fail(span, err)
	}
	return nil
}

// shape returns the spans that have ended as trees. Siblings are sorted by name, then by start. A line has the span's
// name, its kind, its error.type if it is marked as failed, the attributes called keys, and the spans that it links to.
// A ? is a span that the recorder doesn't have.
func shape(recorder *tracetest.SpanRecorder, keys ...attribute.Key) (text string) {
	spans, names := recorder.Ended(), map[trace.SpanID]string{}
	slices.SortStableFunc(spans, func(a, b sdktrace.ReadOnlySpan) int {
		return cmp.Or(strings.Compare(a.Name(), b.Name()), a.StartTime().Compare(b.StartTime()))
	})
	for _, span := range spans {
		names[span.SpanContext().SpanID()] = span.Name()
	}
	var children func(parent trace.SpanID, indent string)
	children = func(parent trace.SpanID, indent string) {
		for _, span := range spans {
			if span.Parent().SpanID() != parent {
				continue
			}
			text += fmt.Sprintf("%s%s  %s", indent, span.Name(), span.SpanKind())
			for _, attribute := range span.Attributes() {
				if span.Status().Code == codes.Error && attribute.Key == "error.type" || slices.Contains(keys, attribute.Key) {
					text += fmt.Sprintf("  %s=%s", attribute.Key, attribute.Value.String())
				}
			}
			links := map[string]int{}
			for _, link := range span.Links() {
				links[cmp.Or(names[link.SpanContext.SpanID()], "?")]++
			}
			for _, name := range slices.Sorted(maps.Keys(links)) {
				text += fmt.Sprintf("  link=%s", name)
				if links[name] > 1 {
					text += fmt.Sprintf(" ×%d", links[name])
				}
			}
			text += "\n"
			children(span.SpanContext().SpanID(), indent+"  ")
		}
	}
	children(trace.SpanID{}, "")
	for _, span := range spans {
		if parent := span.Parent().SpanID(); parent.IsValid() && names[parent] == "" {
			names[parent] = "?"
			text += "?\n"
			children(parent, "  ")
		}
	}
	return text
}
