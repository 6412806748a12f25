package viewer

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // collectors compress what they send

	"otel-demo/local/spans"
)

// maxMessage bounds a gRPC message, uncompressed. A collector sends large ones to catch up after an outage.
const maxMessage = 16 << 20

// OTLP returns a server for OTLP over gRPC that fills Jaeger's store. The caller gives it a listener.
func (v *Viewer) OTLP() *grpc.Server {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(100),
		grpc.ConnectionTimeout(5*time.Second),
	)
	ptraceotlp.RegisterGRPCServer(server, &otlpService{store: v.jaeger})
	return server
}

// OTLPHandler receives OTLP over HTTP, as protocol buffers, and fills Jaeger's store too.
func (v *Viewer) OTLPHandler() http.Handler {
	service := &otlpService{store: v.jaeger}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		body, err := readBody(w, r, protobuf)
		request := ptraceotlp.NewExportRequest()
		if err == nil {
			err = request.UnmarshalProto(body)
		}
		if refused(w, err) {
			return
		}
		response, err := service.Export(r.Context(), request)
		content, err2 := response.MarshalProto()
		if err = errors.Join(err, err2); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(content) // if this fails, the sender gets no response and sends again
	})
	return guard(mux)
}

type otlpService struct {
	ptraceotlp.UnimplementedGRPCServer
	store *spans.Store
}

func (s *otlpService) Export(_ context.Context, request ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	traces, rejected := spans.FromOTLP(request.Traces())
	s.store.Add(traces)
	response := ptraceotlp.NewExportResponse()
	if rejected > 0 {
		response.PartialSuccess().SetRejectedSpans(int64(rejected))
		response.PartialSuccess().SetErrorMessage("a span must have a trace id and a span id")
	}
	return response, nil
}
