package e2e

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"otel-demo/local/runner"
	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

var (
	killNode = flag.String("kill-node", "", "with -kubeconfig and -long: kill a node too, "+
		"by this command with its name added, such as 'docker kill'")
	startNode  = flag.String("start-node", "", "with -kill-node: the command that brings it back, such as 'docker start'")
	nextServer = flag.String("next-server", "", "with -kubeconfig and -long: roll the servers to this image too")
)

// kubeconfig is -kubeconfig FILE: run the demo on this cluster too. The collector's load balancer, which supports
// Kubernetes itself, may already have defined that flag.
var kubeconfig = func() flag.Value {
	if flag.Lookup("kubeconfig") == nil {
		flag.String("kubeconfig", "", "run the demo on this Kubernetes cluster too; see kubernetes/README.md")
	}
	return flag.Lookup("kubeconfig").Value
}()

// cluster is the demo on a cluster, controlled with kubectl, as in kubernetes/README.md.
type cluster struct {
	t       *testing.T
	root    string
	started time.Time
}

// onCluster applies the demo and waits until all of it is ready. It is deleted at the test's end.
func onCluster(t *testing.T) cluster {
	t.Helper()
	if kubeconfig.String() == "" {
		t.Skip("needs a Kubernetes cluster: run it with -kubeconfig FILE")
	}
	if (*killNode == "") != (*startNode == "") {
		t.Fatal("-kill-node and -start-node: want both or neither")
	}
	c := cluster{t, projectRoot(t), time.Now()}
	if len(c.nodes()) < 2 {
		t.Fatal("want a cluster of two nodes or more: on one, nothing shows that each node has its own agent")
	}
	if found := c.kubectl("get", "namespace", "otel-demo", "--ignore-not-found"); found != "" {
		t.Fatal("the cluster has a namespace otel-demo already, whose traces would be among these: kubectl delete -k .")
	}
	t.Cleanup(func() {
		if t.Failed() {
			pods, _ := kubectl(context.Background(), "get", "pods", "-o", "wide").CombinedOutput()
			warnings, _ := kubectl(context.Background(), "get", "events", "--field-selector=type=Warning").CombinedOutput()
			t.Logf("%s\n%s", pods, warnings)
		}
		c.kubectl("delete", "-k", c.root, "--ignore-not-found", "--timeout=2m")
	})
	c.kubectl("apply", "-k", c.root)
	c.ready("daemonset/otel-agent", "deployment/otel-collector", "deployment/jaeger", "deployment/zipkin",
		"deployment/redis", "deployment/worker", "deployment/server")
	t.Logf("all is ready after %v", time.Since(c.started).Round(time.Second))
	return c
}

func (c cluster) ready(names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.kubectl("rollout", "status", name, "--timeout=3m")
	}
}

func (c cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := kubectl(context.Background(), args...).Output()
	if exit, ok := err.(*exec.ExitError); ok {
		c.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, exit.Stderr)
	} else if err != nil {
		c.t.Fatal(err)
	}
	return string(out)
}

func kubectl(ctx context.Context, args ...string) *exec.Cmd {
	common := []string{"--kubeconfig", kubeconfig.String(), "--namespace", "otel-demo"}
	return exec.CommandContext(ctx, "kubectl", append(common, args...)...)
}

func (c cluster) nodes() []string {
	c.t.Helper()
	return strings.Fields(c.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
}

type pod struct {
	app, name, node string
	ready, ending   bool
}

// pods lists the pods of an app, or of all.
func (c cluster) pods(app string) (all []pod) {
	c.t.Helper()
	lines := c.kubectl("get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.labels.app},{.metadata.name},`+
		`{.spec.nodeName},{.status.conditions[?(@.type=="Ready")].status},{.metadata.deletionTimestamp}{"\n"}{end}`)
	for line := range strings.Lines(lines) {
		field := strings.Split(strings.TrimSpace(line), ",")
		if app == "" || app == field[0] {
			all = append(all, pod{field[0], field[1], field[2], field[3] == "True", field[4] != ""})
		}
	}
	return all
}

// forward returns an address of this machine that leads to a port of a pod or a Service, until the test's end. It
// reaches what listens on the pod's localhost too.
func (c cluster) forward(t *testing.T, target string, port int) string {
	t.Helper()
	cmd := kubectl(t.Context(), "port-forward", target, fmt.Sprintf(":%d", port))
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // its context has killed it
	out := bufio.NewReader(pipe)
	line, err := out.ReadString('\n')
	go io.Copy(io.Discard, out) // it writes a line for each connection, and blocks if nothing reads them
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	if address == "" {
		t.Fatalf("kubectl port-forward %s %d: %q %v", target, port, line, err)
	}
	return address
}

// The same traces on a cluster, as its Jaeger and Zipkin report them; where spans were made, and the path they took.
func TestKubernetes(t *testing.T) {
	c := onCluster(t)
	jaeger, zipkin := c.forward(t, "service/jaeger", 16686), c.forward(t, "service/zipkin", 9411)
	traces := func() ([]*spans.Trace, error) { return jaegerTracesOf(jaeger, c.started.Add(-time.Minute)) }

	made := 0 // spans
	t.Run("gives the same traces", func(t *testing.T) {
		c.t = t
		c.kubectl("wait", "--for=condition=Complete", "job/client", "--timeout=2m")
		untilNil(t, func() error {
			all, err := traces()
			if err == nil {
				err = spantest.Match(expected(t), all)
			}
			return err
		})
		untilNil(t, func() error {
			all, err := zipkinTracesOf(zipkin)
			if err == nil {
				err = spantest.MatchFold(expected(t), all)
			}
			return err
		})
		all, err := traces()
		if err != nil {
			t.Fatal(err)
		}
		for _, trace := range all {
			made += len(trace.Spans)
		}
		t.Logf("Jaeger has, and Zipkin too:\n%s", spans.Shape(all))
	})

	t.Run("collectors share the load, and spans pass through their own node's agent", func(t *testing.T) {
		c.t = t
		var loads []*loading
		agents, collectors, on := map[string]string{}, map[string]string{}, map[string]string{}
		for _, pod := range c.pods("") {
			on[pod.name] = pod.node
			switch pod.app {
			case "server":
				loads = append(loads, startLoad(t, c.forward(t, "pod/"+pod.name, 8080), 4))
			case "otel-agent":
				agents[pod.name] = c.forward(t, "pod/"+pod.name, 8888)
			case "otel-collector":
				collectors[pod.name] = c.forward(t, "pod/"+pod.name, 8888)
			}
		}
		// An agent that started first learns of a new collector only when one of its connections closes.
		start := time.Now()
		untilNil(t, func() error {
			accepted, sum, err := acceptedSpans(collectors)
			if err == nil && sum < made+100 {
				err = fmt.Errorf("the collectors have %d spans, want more", sum)
			}
			for name, n := range accepted {
				if n*10 < sum {
					err = fmt.Errorf("%s has %d of %d spans", name, n, sum)
				}
			}
			return err
		})
		t.Logf("measured: each collector has a tenth of all spans or more after %v", time.Since(start).Round(time.Second))
		for _, load := range loads {
			load.Stop()
			made += len(requestSpans) * len(load.allAnswered())
		}

		untilNil(t, func() error {
			all, err := traces()
			if err != nil {
				return err
			}
			madeOn, total := map[string]int{}, 0
			for _, trace := range all {
				for _, span := range trace.Spans {
					where := map[string]string{}
					for _, attribute := range span.Resource {
						where[attribute.Key] = attribute.Value
					}
					node := where["k8s.node.name"]
					if node == "" || on[where["k8s.pod.name"]] != node || where["k8s.namespace.name"] != "otel-demo" {
						return fmt.Errorf("a span of %s has the wrong place: %v", span.Service, where)
					}
					madeOn[node]++
					total++
				}
			}
			byAgent, _, err := acceptedSpans(agents)
			if err != nil {
				return err
			}
			byCollector, collected, err := acceptedSpans(collectors)
			if err != nil {
				return err
			}
			report := ""
			for _, name := range slices.Sorted(maps.Keys(byAgent)) {
				report += fmt.Sprintf("%s: %d spans made, %d through its agent\n", on[name], madeOn[on[name]], byAgent[name])
				if byAgent[name] != madeOn[on[name]] {
					err = errors.New("not all spans passed through their own node's agent")
				}
			}
			for _, name := range slices.Sorted(maps.Keys(byCollector)) {
				report += fmt.Sprintf("%s on %s: %d of %d spans\n", name, on[name], byCollector[name], total)
			}
			if collected != made || total != made {
				err = fmt.Errorf("%d spans were made; the collectors have %d, and Jaeger %d", made, collected, total)
			}
			if err != nil {
				return fmt.Errorf("%w:\n%s", err, report)
			}
			t.Logf("measured:\n%s", report)
			return nil
		})
	})

	t.Run("faults", func(t *testing.T) {
		needsLong(t)
		c.t = t
		c.faults(t)
	})
}

// acceptedSpans returns how many spans collectors have received, by their own metrics, and the sum.
func acceptedSpans(addresses map[string]string) (accepted map[string]int, sum int, err error) {
	accepted = map[string]int{}
	for name, address := range addresses {
		metrics, err := runner.Metrics(address)
		if err != nil {
			return nil, 0, err
		}
		accepted[name] = 0 // a collector that has received none has no such metric
		for _, m := range metrics {
			if strings.HasPrefix(string(m.Metric["__name__"]), "otelcol_receiver_accepted_spans") {
				accepted[name] += int(m.Value)
			}
		}
		sum += accepted[name]
	}
	return accepted, sum, nil
}

const (
	faultRate = 20 // requests a second
	faultLoad = 3 * time.Minute
	nodeAway  = 100 * time.Second
)

// faults does to pods and nodes, under load, what can happen to them. An orderly shutdown loses no span.
func (c cluster) faults(t *testing.T) {
	// Not through port-forward, which stops with its pod.
	f := fault{c, c.service("server", 8080), c.service("jaeger", 16686), c.service("zipkin", 9411)}
	connection, err := net.DialTimeout("tcp", f.server, 2*time.Second)
	if err != nil {
		t.Fatalf("this machine must reach the cluster's Services: %v", err)
	}
	connection.Close()
	one := func(app string) []string { return c.names(c.pods(app)[:1]) }
	all := func(app string) []string { return c.names(c.pods(app)) }

	f.test(t, "a collector's pod deleted", one("otel-collector"), func(f fault, pods []string) {
		f.kubectl("delete", "pod", pods[0], "--wait=false")
	})
	f.test(t, "an agent's pod deleted", one("otel-agent"), func(f fault, pods []string) {
		f.kubectl("delete", "pod", pods[0], "--wait=false")
	})
	dir := copyKustomization(t, c.root)
	change := func(file string) func(fault, []string) {
		return func(f fault, _ []string) {
			appendTo(f.t, filepath.Join(dir, file), "# changed\n")
			f.kubectl("apply", "-k", dir)
		}
	}
	f.test(t, "collectors rolled to a new config", all("otel-collector"), change("otel-collector-config.yaml"))
	f.test(t, "agents rolled to a new config", all("otel-agent"), change("otel-agent-config.yaml"))
	if *nextServer == "" {
		t.Log("no rollout of the servers: that needs -next-server")
	} else {
		f.test(t, "servers rolled to a new image", all("server"), func(f fault, _ []string) {
			f.kubectl("set", "image", "deployment/server", "server="+*nextServer)
		})
	}
	f.test(t, "the worker replaced", all("worker"), func(f fault, _ []string) {
		f.kubectl("rollout", "restart", "deployment/worker")
	}, http.StatusServiceUnavailable)
	if *killNode == "" {
		t.Log("no node is killed: that needs -kill-node and -start-node")
		return
	}
	f.testNode(t)
}

func (c cluster) service(name string, port int) string {
	c.t.Helper()
	return fmt.Sprintf("%s:%d", c.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}"), port)
}

func (c cluster) names(pods []pod) (names []string) {
	for _, pod := range pods {
		names = append(names, pod.name)
	}
	return names
}

// copyKustomization copies all that `kubectl apply -k` reads.
func copyKustomization(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "kubernetes"), os.DirFS(filepath.Join(root, "kubernetes"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kustomization.yaml", "otel-agent-config.yaml", "otel-collector-config.yaml"} {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		appendTo(t, filepath.Join(dir, name), string(content))
	}
	return dir
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = file.WriteString(text)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

type fault struct {
	cluster
	server, jaeger, zipkin string // addresses
}

// test does something to these pods under load, and waits until others have replaced them. No span may be lost.
// Requests may fail only with one of these status codes, and no more than are sent in 10 s.
func (f fault) test(t *testing.T, name string, pods []string, do func(f fault, pods []string), mayFail ...uint16) {
	t.Run(name, func(t *testing.T) {
		f.t = t
		load, start := startLoad(t, f.server, faultRate), time.Now()
		time.Sleep(30 * time.Second)
		at := time.Now()
		do(f, pods)
		whole := f.untilReplaced(at, pods)
		time.Sleep(faultLoad - time.Since(start))
		lost, failed := f.report(load, at, fmt.Sprintf("whole after %v", whole))
		if lost > 0 {
			t.Errorf("%d spans are lost", lost)
		}
		for code, n := range failed {
			if !slices.Contains(mayFail, code) || n > 10*faultRate {
				t.Errorf("%d requests failed with status code %d", n, code) // 0: with none
			}
		}
	})
}

// untilReplaced waits until these pods are gone or terminating, and as many as before are ready.
func (f fault) untilReplaced(at time.Time, gone []string) time.Duration {
	f.t.Helper()
	for ; ; time.Sleep(500 * time.Millisecond) {
		ready, left := map[string]int{}, 0
		for _, pod := range f.pods("") {
			switch {
			case pod.ending:
			case slices.Contains(gone, pod.name):
				left++
			case pod.ready:
				ready[pod.app]++
			}
		}
		if left == 0 && ready["otel-agent"] == len(f.nodes()) && ready["otel-collector"] == 3 && ready["server"] == 2 &&
			ready["worker"] == 1 {
			return time.Since(at).Round(time.Second)
		}
		if time.Since(at) > 5*time.Minute {
			f.t.Fatalf("not replaced after 5 minutes: %v", f.pods(""))
		}
	}
}

// testNode kills a node and brings it back: one without the broker or a backend, which keep everything in memory.
func (f fault) testNode(t *testing.T) {
	nodes := f.nodes()
	node := nodes[len(nodes)-1]
	c := f.cluster
	t.Cleanup(func() { c.kubectl("uncordon", node) })
	f.kubectl("cordon", node)
	var moved []string
	for _, pod := range f.pods("") {
		if pod.node == node && slices.Contains([]string{"redis", "jaeger", "zipkin", "worker"}, pod.app) {
			moved = append(moved, pod.name)
			f.kubectl("delete", "pod", pod.name)
		}
	}
	f.untilReplaced(time.Now(), moved)
	f.ready("deployment/redis", "deployment/jaeger", "deployment/zipkin")
	f.kubectl("uncordon", node)

	t.Run("a node ended hard, and back", func(t *testing.T) {
		f.t = t
		untilNil(t, func() error { _, err := fetch("http://" + f.server + "/healthz"); return err })
		var there, gone []string
		for _, pod := range f.pods("") {
			if pod.node == node && pod.app != "client" {
				there = append(there, pod.app)
				if pod.app != "otel-agent" { // its own node's DaemonSet waits for the node
					gone = append(gone, pod.name)
				}
			}
		}
		if !slices.Contains(there, "server") || !slices.Contains(there, "otel-collector") {
			t.Fatalf("%s has only %v", node, there)
		}
		load := startLoad(t, f.server, faultRate)
		time.Sleep(30 * time.Second)
		at := time.Now()
		t.Cleanup(func() { f.command(*startNode, node) }) // does nothing if it is running
		f.command(*killNode, node)
		elsewhere := time.Duration(0)
		for ; time.Since(at) < nodeAway; time.Sleep(time.Second) {
			left, ready := false, 0
			for _, pod := range f.pods("") {
				switch {
				case pod.ending:
				case slices.Contains(gone, pod.name):
					left = true
				case pod.ready && pod.node != node && pod.app != "otel-agent":
					ready++
				}
			}
			if elsewhere == 0 && !left && ready == 9 {
				elsewhere = time.Since(at).Round(time.Second)
			}
		}
		back := time.Now()
		f.command(*startNode, node)
		whole := f.untilReplaced(back, gone)
		time.Sleep(30 * time.Second)
		lost, failed := f.report(load, at, fmt.Sprintf("on it were %v; all but its agent elsewhere after %v; back after %v, "+
			"and then whole after %v", there, elsewhere, nodeAway, whole))
		if elsewhere == 0 {
			t.Error("not all pods have moved before the node is back")
		}
		unanswered := 0
		for _, n := range failed {
			unanswered += n
		}
		if most := 60 * faultRate; unanswered > most { // a minute's requests, some of which go to the other server
			t.Errorf("%d requests failed, more than %d", unanswered, most)
		}
		if most := 10 * faultRate * len(requestSpans); lost > most { // those of 10 s of requests
			t.Errorf("%d spans are lost, more than %d", lost, most)
		}
	})
}

func (f fault) command(line, argument string) {
	f.t.Helper()
	words := append(strings.Fields(line), argument)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %v\n%s", words, err, out)
	}
}

// report stops the load. It returns how many of the spans that the requests must have made are missing at either
// backend, and how many requests failed, by status code. A request that got 200 made five spans, and one that was told
// that no worker listens made four. What a request without a response made is unknown.
func (f fault) report(load *loading, at time.Time, whole string) (lost int, failed map[uint16]int) {
	f.t.Helper()
	load.Stop()
	load.answered() // checks that each response names its own request's trace
	failed = map[uint16]int{}
	want, total, failures, last := map[string][]string{}, 0, map[string]int{}, time.Duration(0)
	for _, result := range load.Ended() {
		id := result.Headers.Get("Trace-Id")
		switch result.Code {
		case http.StatusOK:
			want[id] = requestSpans
		case http.StatusServiceUnavailable:
			want[id] = slices.DeleteFunc(slices.Clone(requestSpans), func(name string) bool {
				return strings.HasPrefix(name, "worker")
			})
			fallthrough
		default:
			failed[result.Code]++
			failures[fmt.Sprint(result.Code, " ", result.Error)]++
			last = max(last, result.Timestamp.Add(result.Latency).Sub(at).Round(100*time.Millisecond))
		}
		total += len(want[id])
	}
	ended := time.Now()
	text := ""
	for _, b := range []struct {
		name, url string
		parse     func([]byte) ([]*spans.Trace, error)
	}{
		{"Jaeger", "http://" + f.jaeger + "/api/v3/traces/", parseJaeger},
		{"Zipkin", "http://" + f.zipkin + "/api/v2/trace/", parseZipkin},
	} {
		left := maps.Clone(want)
		var missing map[string]int
		for {
			missing = map[string]int{}
			for id, names := range left {
				lacks := lacking(b.url+id, b.parse, names)
				if len(lacks) == 0 {
					delete(left, id)
				}
				for _, name := range lacks {
					missing[name]++
				}
			}
			if len(left) == 0 || time.Since(ended) > time.Minute {
				break
			}
			time.Sleep(time.Second)
		}
		n := 0
		for _, m := range missing {
			n += m
		}
		lost = max(lost, n)
		text += fmt.Sprintf("\n  %s lacks %d of %d spans, in %d traces %v, %v after the last request",
			b.name, n, total, len(left), missing, time.Since(ended).Round(time.Second))
	}
	sum := 0
	for _, n := range failed {
		sum += n
	}
	f.t.Logf("measured: %d requests, %d failed, the last %v after the fault; %s%s\n  failures: %v",
		len(load.Ended()), sum, last, whole, text, failures)
	return lost, failed
}

// lacking returns which of the spans that a trace must have are missing.
func lacking(url string, parse func([]byte) ([]*spans.Trace, error), names []string) []string {
	body, err := fetch(url)
	if err != nil {
		return names // Jaeger's and Zipkin's 404
	}
	traces, _ := parse(body)
	got := map[string]bool{}
	for _, trace := range traces {
		for _, span := range trace.Spans {
			got[strings.ToLower(span.Service+" "+span.Name)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return got[name] })
}
