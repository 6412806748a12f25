package load

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"otel-demo/local/trace"
)

func TestBadLoadFlagsAreOneLine(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"-load", "0"}, `"0": want requests a second`},
		{[]string{"-load", "100,many"}, `"many": want requests a second`},
		{[]string{"-load", "10", "-for", "1ms"}, "want a duration from 1s"},
		{[]string{"-for", "10s"}, "want -load with them"},
		{[]string{"-json"}, "want -load with them"},
		{[]string{"-load", "10", "-once"}, "want neither -once nor -shape"},
		{[]string{"-collector", "-shape"}, "want no other flag"},
	} {
		err := run(test.args)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: got %v, want one line with %s", test.args, err, test.want)
		}
	}
	t.Setenv("REDIS_URL", "redis://:sesame@localhost:1/0")
	if err := run([]string{"-load", "10"}); err == nil || !strings.Contains(err.Error(), "REDIS_URL: want none with -load") {
		t.Errorf("got %v", err)
	}
}

// The report accounts for each span. What was fast or slow is no matter here.
func TestLoadReportsBothSides(t *testing.T) {
	t.Parallel()
	r := startRunner(t, "-load", "20", "-for", "1s", "-json")
	if status := r.status(); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	var got loadReport
	if err := json.Unmarshal(r.stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Sides) != 2 || got.Sides[0].Side != "untraced" || got.Sides[1].Side != "traced" {
		t.Fatalf("got %+v, want both sides", got)
	}
	for _, side := range got.Sides {
		if side.Answered != 20 || side.Gave != "" || side.Latency.P50 <= 0 || side.Latency.P999 < side.Latency.P50 ||
			side.FromSend.P50 > side.Latency.P50 {
			t.Errorf("got %+v, want 20 answers", side)
		}
		names := ""
		for _, p := range side.Processes {
			names += p.Name + " "
			if p.PeakMB < 1 {
				t.Errorf("%s: got a peak of %v MB", p.Name, p.PeakMB)
			}
		}
		want := map[string]string{"untraced": "worker server runner ", "traced": "otel-collector otel-agent worker server runner "}
		if names != want[side.Side] {
			t.Errorf("%s: got the processes %s, want %s", side.Side, names, want[side.Side])
		}
	}
	traced := got.Sides[1]
	for _, name := range []string{"jaeger", "zipkin"} {
		b := traced.Backends[name]
		if traced.SpansMade != 100 || b.Arrived != 100 || b.Lost != 0 || b.WholeP50 <= 0 || b.WholeP99 < b.WholeP50 {
			t.Errorf("%s: got %+v of %d spans, want 100", name, b, traced.SpansMade)
		}
	}
	if got.Sides[0].Backends != nil {
		t.Error("the untraced side has spans")
	}
	var text bytes.Buffer
	if err := got.writeText(&text); err != nil || !strings.Contains(text.String(), "spans made") || !strings.Contains(text.String(), "ratio") {
		t.Errorf("got %v and\n%s", err, &text)
	}
}

// A request that the sender itself sent late is as late for whoever would have sent it in time.
func TestLatencyIsFromTheIntendedStart(t *testing.T) {
	began := time.Now()
	r := &requests{began: began, interval: 10 * time.Millisecond}
	// The third was intended after 30 ms, was sent 70 ms later, and took 5 ms.
	result := &vegeta.Result{Seq: 2, Timestamp: began.Add(100 * time.Millisecond), Latency: 5 * time.Millisecond}
	if got := r.late(result); got != 75*time.Millisecond {
		t.Errorf("got %v, want 75ms", got)
	}
}

func TestArrivals(t *testing.T) {
	end := time.Now().Add(-time.Second)
	a := &arrivals{traces: map[string]*arrival{}}
	part := func(trace string, ids ...string) *backend.Trace {
		p := &backend.Trace{ID: trace}
		for _, id := range ids {
			p.Spans = append(p.Spans, &backend.Span{ID: id, End: end})
		}
		return p
	}
	a.take([]*backend.Trace{part("one", "1", "2", "3"), part("two", "1")})
	a.take([]*backend.Trace{part("one", "3", "4", "5")}) // 3 was sent twice
	got := a.report([]string{"one", "two", "three"})
	if got.Arrived != 6 || got.Lost != 9 || got.WholeP50 < 1000 {
		t.Errorf("got %+v, want 6 of 15, and one whole trace a second after its end", got)
	}
}

func TestWhatGave(t *testing.T) {
	if got := (sideReport{Sent: 100, Answered: 100}).gave(100); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
	got := sideReport{Sent: 90, Answered: 80, SpansMade: 400, Latency: quantiles{P99: 1500},
		Backends: map[string]backendReport{"jaeger": {Lost: 3}}}.gave(100)
	for _, want := range []string{"10 of 100 requests could not be sent", "10 requests failed", "p99", "jaeger lacks 3 of 400 spans"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %s in it", got, want)
		}
	}
}

func TestCollectorAloneListens(t *testing.T) {
	if err := canListen("127.0.0.1:4317"); err != nil {
		t.Skip("port 4317 is taken")
	}
	cmd := exec.Command(os.Args[0], runnerName, "-collector")
	confine(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // if it hasn't ended
	eventually(t, "the collector to listen", func() bool {
		connection, err := net.Dial("tcp", "127.0.0.1:4317")
		if err == nil {
			_ = connection.Close() // it was only a question
		}
		return err == nil
	})
	if err := terminate(cmd.Process); err != nil {
		t.Fatal(err)
	}
	// A collector listens a moment before it handles signals, and may have been ended by this one.
	if err := cmd.Wait(); err != nil && err.Error() != "signal: terminated" {
		t.Error(err)
	}
}
