package backend

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // collectors compress what they send
)

// maxMessage bounds a gRPC message, unpacked. A collector that sends what piled up during an outage sends large ones.
const maxMessage = 16 << 20

// OTLP returns a server of OTLP's trace service over gRPC that fills Jaeger's store. The caller gives it a listener.
func (b *Backend) OTLP() *grpc.Server {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(100),
		grpc.ConnectionTimeout(5*time.Second),
	)
	ptraceotlp.RegisterGRPCServer(server, &otlpService{store: b.jaeger})
	return server
}

// OTLPHandler takes OTLP over HTTP, as protocol buffers, and fills Jaeger's store too.
func (b *Backend) OTLPHandler() http.Handler {
	service := &otlpService{store: b.jaeger}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unpacked, err := gzip.NewReader(r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			body = unpacked
		}
		content, err := io.ReadAll(io.LimitReader(body, maxMessage+1))
		if len(content) > maxMessage {
			http.Error(w, fmt.Sprintf("want at most %d bytes", maxMessage), http.StatusRequestEntityTooLarge)
			return
		}
		request := ptraceotlp.NewExportRequest()
		if err = errors.Join(err, request.UnmarshalProto(content)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response, err := service.Export(r.Context(), request)
		content, err2 := response.MarshalProto()
		if err = errors.Join(err, err2); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(content) // the sender is told nothing then, and sends again
	})
	return mux
}

type otlpService struct {
	ptraceotlp.UnimplementedGRPCServer
	store *Store
}

func (s *otlpService) Export(_ context.Context, request ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	traces, rejected := fromOTLP(request.Traces())
	s.store.add(traces)
	response := ptraceotlp.NewExportResponse()
	if rejected > 0 {
		response.PartialSuccess().SetRejectedSpans(int64(rejected))
		response.PartialSuccess().SetErrorMessage("a span must have a trace id and a span id")
	}
	return response, nil
}

// fromOTLP sorts spans by their traces. It counts those that it leaves out because they have no id.
func fromOTLP(from ptrace.Traces) (traces []*Trace, rejected int) {
	type part struct {
		trace           *Trace
		resource, scope int // what the last copied span was of
		resourceSpans   ptrace.ResourceSpans
		scopeSpans      ptrace.ScopeSpans
	}
	parts := map[pcommon.TraceID]*part{}
	for r, resourceSpans := range from.ResourceSpans().All() {
		service, resource := "", attributes(resourceSpans.Resource().Attributes())
		if name, ok := resourceSpans.Resource().Attributes().Get("service.name"); ok {
			service = name.AsString()
		}
		for s, scopeSpans := range resourceSpans.ScopeSpans().All() {
			scope := strings.TrimSpace(scopeSpans.Scope().Name() + " " + scopeSpans.Scope().Version())
			for _, span := range scopeSpans.Spans().All() {
				if span.TraceID().IsEmpty() || span.SpanID().IsEmpty() {
					rejected++
					continue
				}
				p := parts[span.TraceID()]
				if p == nil {
					otlp := ptrace.NewTraces()
					trace := &Trace{ID: span.TraceID().String(), otlp: []ptrace.Traces{otlp}}
					p = &part{trace: trace, resource: -1}
					parts[span.TraceID()] = p
					traces = append(traces, trace)
				}
				if p.resource != r {
					p.resource, p.scope = r, -1
					p.resourceSpans = p.trace.otlp[0].ResourceSpans().AppendEmpty()
					p.resourceSpans.SetSchemaUrl(resourceSpans.SchemaUrl())
					resourceSpans.Resource().CopyTo(p.resourceSpans.Resource())
				}
				if p.scope != s {
					p.scope = s
					p.scopeSpans = p.resourceSpans.ScopeSpans().AppendEmpty()
					p.scopeSpans.SetSchemaUrl(scopeSpans.SchemaUrl())
					scopeSpans.Scope().CopyTo(p.scopeSpans.Scope())
				}
				span.CopyTo(p.scopeSpans.Spans().AppendEmpty())
				converted := spanFromOTLP(span)
				converted.Service, converted.Resource, converted.Scope = service, resource, scope
				p.trace.Spans = append(p.trace.Spans, converted)
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
