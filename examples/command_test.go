package examples_test

// You need this where a job starts a command. There are no headers, so the trace context is passed in the environment
// variable TRACEPARENT, which the command reads. The carrier is contrib's envcar.

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/propagators/envcar"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// TestMain makes this test program the command, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "backup" {
		backup()
		return
	}
	m.Run()
}

// backup is the command. Yours calls StartTracing, and shutdown before it exits.
func backup() {
	spans, recorder := record()
	ctx := propagation.TraceContext{}.Extract(context.Background(), &envcar.Carrier{})
	_, span := spans.Tracer("example").Start(ctx, "backup")
	span.End()
	parent := recorder.Ended()[0].Parent()
	fmt.Printf("the command's span is a child of %s, in %s", parent.SpanID(), parent.TraceID())
}

func Example_command() {
	spans, recorder := record()
	ctx, job := spans.Tracer("example").Start(context.Background(), "nightly job")
	ctx, span := spans.Tracer("example").Start(ctx, "run backup", trace.WithSpanKind(trace.SpanKindClient))
	command := exec.CommandContext(ctx, os.Args[0], "backup")
	command.Env = os.Environ()
	propagation.TraceContext{}.Inject(ctx, &envcar.Carrier{SetEnvFunc: func(key, value string) {
		command.Env = append(command.Env, key+"="+value) // the last one wins
	}})
	output, err := command.Output()
	span.End()
	job.End()
	fmt.Print(shape(recorder))
	id := span.SpanContext()
	fmt.Println(strings.NewReplacer(id.SpanID().String(), "run backup", id.TraceID().String(), "the job's trace").Replace(string(output)), err)
	// Output:
	// nightly job  internal
	//   run backup  client
	// the command's span is a child of run backup, in the job's trace <nil>
}
