package spans

import (
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// FromOTLP groups spans by trace. It counts those that it leaves out because they have no trace id or no span id.
func FromOTLP(from ptrace.Traces) (traces []*Trace, rejected int) {
	byID := map[pcommon.TraceID]*Trace{}
	for _, resourceSpans := range from.ResourceSpans().All() {
		service, resource := "", attributes(resourceSpans.Resource().Attributes())
		if name, ok := resourceSpans.Resource().Attributes().Get("service.name"); ok {
			service = name.AsString()
		}
		for _, scopeSpans := range resourceSpans.ScopeSpans().All() {
			scope := strings.TrimSpace(scopeSpans.Scope().Name() + " " + scopeSpans.Scope().Version())
			for _, from := range scopeSpans.Spans().All() {
				if from.TraceID().IsEmpty() || from.SpanID().IsEmpty() {
					rejected++
					continue
				}
				span := spanFromOTLP(from)
				span.Service, span.Resource, span.Scope = service, resource, scope
				t := byID[from.TraceID()]
				if t == nil {
					t = &Trace{ID: span.TraceID}
					byID[from.TraceID()] = t
					traces = append(traces, t)
				}
				t.Spans = append(t.Spans, span)
			}
		}
	}
	return traces, rejected
}

func spanFromOTLP(from ptrace.Span) *Span {
	span := &Span{
		TraceID:    from.TraceID().String(),
		ID:         from.SpanID().String(),
		ParentID:   from.ParentSpanID().String(),
		Name:       from.Name(),
		Start:      from.StartTimestamp().AsTime(),
		End:        from.EndTimestamp().AsTime(),
		Attributes: attributes(from.Attributes()),
		Status:     Status{Code: strings.ToLower(from.Status().Code().String()), Message: from.Status().Message()},
	}
	if from.Kind() != ptrace.SpanKindUnspecified {
		span.Kind = strings.ToLower(from.Kind().String())
	}
	for _, event := range from.Events().All() {
		span.Events = append(span.Events, Event{
			Time: event.Timestamp().AsTime(), Name: event.Name(), Attributes: attributes(event.Attributes()),
		})
	}
	for _, link := range from.Links().All() {
		span.Links = append(span.Links, Link{
			TraceID: link.TraceID().String(), SpanID: link.SpanID().String(), Attributes: attributes(link.Attributes()),
		})
	}
	return span
}

func attributes(from pcommon.Map) []Attribute {
	var all []Attribute
	for key, value := range from.All() {
		all = append(all, Attribute{key, value.AsString()})
	}
	return all
}
