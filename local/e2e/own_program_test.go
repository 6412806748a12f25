package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"otel-demo/local/runner"
)

// checkOwnProgram sends a span from outside through each of the agent's two ports. It returns the ids of the traces.
func checkOwnProgram(t *testing.T, d *runner.Demo, _ *safeBuffer) []string {
	ids := sendOwnSpans(t, address(t, d, "otel-agent", 4317), address(t, d, "otel-agent", 4318), func(id string) error {
		if trace := d.Jaeger().Trace(id); trace == nil || len(trace.Spans) != 1 {
			return fmt.Errorf("the trace %s did not arrive", id)
		}
		return nil
	})
	untilNil(t, func() error {
		hops, err := fetch("http://" + address(t, d, "jaeger", 16686) + "/hops")
		if err == nil && !regexp.MustCompile(`(?m)^own program +2 +2$`).Match(hops) {
			err = fmt.Errorf("-hops doesn't show both spans of the program at both backends:\n%s", hops)
		}
		return err
	})
	return ids
}

func sendOwnSpans(t *testing.T, grpcAddress, httpAddress string, arrived func(id string) error) []string {
	t.Helper()
	conn, err := grpc.NewClient(grpcAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	overGRPC, overHTTP := ownSpan(1), ownSpan(2)
	if _, err := ptraceotlp.NewGRPCClient(conn).Export(t.Context(), overGRPC); err != nil {
		t.Fatal(err)
	}
	body, err := overHTTP.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post("http://"+httpAddress+"/v1/traces", "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("the agent responded %s", response.Status)
	}
	var ids []string
	for _, request := range []ptraceotlp.ExportRequest{overGRPC, overHTTP} {
		id := request.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID().String()
		untilNil(t, func() error { return arrived(id) })
		ids = append(ids, id)
	}
	return ids
}

// ownSpan is a span of a program that is not part of the demo.
func ownSpan(number byte) ptraceotlp.ExportRequest {
	traces := ptrace.NewTraces()
	resource := traces.ResourceSpans().AppendEmpty()
	resource.Resource().Attributes().PutStr("service.name", "own program")
	span := resource.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetName("work")
	span.SetTraceID(pcommon.TraceID{0x0e, number})
	span.SetSpanID(pcommon.SpanID{number})
	now := time.Now()
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(now.Add(-time.Second)))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(now))
	return ptraceotlp.NewExportRequestFromTraces(traces)
}
