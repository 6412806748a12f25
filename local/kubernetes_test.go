package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"otel-demo/local/backend"
)

var (
	killNode = flag.String("kill-node", "", "with -kubeconfig and -long: end a node hard too, "+
		"by this command with its name added, such as 'docker kill'")
	startNode = flag.String("start-node", "", "with -kill-node: the command that brings it back, such as 'docker start'")
)

// kubeconfig is -kubeconfig FILE: run the demo on this cluster too. The collector's load balancer, which knows clusters
// itself, may have defined that flag already.
var kubeconfig = func() flag.Value {
	if flag.Lookup("kubeconfig") == nil {
		flag.String("kubeconfig", "", "run the demo on this Kubernetes cluster too; kubernetes/README.md says how")
	}
	return flag.Lookup("kubeconfig").Value
}()

// cluster is the demo on a cluster. It is driven by kubectl, as a reader of kubernetes/README.md drives it.
type cluster struct {
	t       *testing.T
	root    string
	started time.Time
}

// onCluster applies the demo and waits until all of it is ready. At the test's end it is deleted.
func onCluster(t *testing.T) cluster {
	t.Helper()
	if kubeconfig.String() == "" {
		t.Skip("needs a Kubernetes cluster: run it with -kubeconfig FILE")
	}
	c := cluster{t, projectRoot(t), time.Now()}
	if found := c.kubectl("get", "namespace", "otel-demo", "--ignore-not-found"); found != "" {
		t.Fatal("the cluster has a namespace otel-demo already, whose traces would be among these: kubectl delete -k .")
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.kubectl("get", "pods", "-o", "wide"))
			t.Log(c.kubectl("get", "events", "--field-selector=type=Warning"))
		}
		c.kubectl("delete", "-k", c.root, "--timeout=2m")
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
		c.t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, exit.Stderr)
	} else if err != nil {
		c.t.Fatal(err)
	}
	return string(out)
}

func kubectl(ctx context.Context, args ...string) *exec.Cmd {
	common := []string{"--kubeconfig", kubeconfig.String(), "--namespace", "otel-demo"}
	return exec.CommandContext(ctx, "kubectl", append(common, args...)...)
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
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // its context has ended it
	line, err := bufio.NewReader(out).ReadString('\n')
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	if address == "" {
		t.Fatalf("kubectl port-forward %s %d: %q %v", target, port, line, err)
	}
	return address
}

// The same traces on a cluster, as its Jaeger and its Zipkin tell them; and where they were, and which way they took.
func TestKubernetes(t *testing.T) {
	c := onCluster(t)
	jaeger, zipkin := c.forward(t, "service/jaeger", 16686), c.forward(t, "service/zipkin", 9411)
	traces := func() ([]*backend.Trace, error) { return jaegerTracesOf(jaeger, c.started.Add(-time.Minute)) }

	t.Run("gives the same traces", func(t *testing.T) {
		c.kubectl("wait", "--for=condition=Complete", "job/client", "--timeout=2m")
		untilNil(t, func() error {
			all, err := traces()
			if err == nil {
				err = backend.Match(expected(t), all)
			}
			return err
		})
		untilNil(t, func() error {
			all, err := zipkinTracesOf(zipkin)
			if err == nil {
				err = backend.MatchFold(expected(t), all)
			}
			return err
		})
		all, _ := traces()
		t.Logf("Jaeger has, and Zipkin too:\n%s", backend.Shape(all))
	})

	t.Run("collectors share the load, and spans pass through their own node's agent", func(t *testing.T) {
		var loads []*load
		agents, collectors, on := map[string]string{}, map[string]string{}, map[string]string{}
		for _, pod := range c.pods("") {
			on[pod.name] = pod.node
			switch pod.app {
			case "server":
				loads = append(loads, startLoad(t, c.forward(t, "pod/"+pod.name, 8080), 4))
			case "otel-agent":
				agents[pod.name] = "http://" + c.forward(t, "pod/"+pod.name, 8888) + "/metrics"
			case "otel-collector":
				collectors[pod.name] = "http://" + c.forward(t, "pod/"+pod.name, 8888) + "/metrics"
			}
		}
		// An agent that was there first learns of a collector when one of its connections ends.
		start := time.Now()
		untilNil(t, func() error {
			accepted, sum, err := acceptedSpans(collectors)
			for name, n := range accepted {
				if n*10 < sum {
					err = fmt.Errorf("%s has %d of %d spans", name, n, sum)
				}
			}
			return err
		})
		t.Logf("measured: each collector has a tenth of all spans or more after %v", time.Since(start).Round(time.Second))
		for _, load := range loads {
			load.stop()
			load.allAnswered()
		}

		untilNil(t, func() error {
			all, err := traces()
			if err != nil {
				return err
			}
			made, total := map[string]int{}, 0 // spans by node
			for _, trace := range all {
				for _, span := range trace.Spans {
					where := map[string]string{}
					for _, attribute := range span.Resource {
						where[attribute.Key] = attribute.Value
					}
					node := where["k8s.node.name"]
					if node == "" || on[where["k8s.pod.name"]] != node || where["k8s.namespace.name"] != "otel-demo" {
						return fmt.Errorf("a span of %s says that it was made in %v", span.Service, where)
					}
					made[node]++
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
				report += fmt.Sprintf("%s: %d spans made, %d through its agent\n", on[name], made[on[name]], byAgent[name])
				if byAgent[name] != made[on[name]] {
					err = errors.New("not all spans passed through their own node's agent")
				}
			}
			for _, name := range slices.Sorted(maps.Keys(byCollector)) {
				report += fmt.Sprintf("%s on %s: %d of %d spans\n", name, on[name], byCollector[name], total)
			}
			if collected != total {
				err = fmt.Errorf("the collectors have %d spans, and Jaeger %d", collected, total)
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
func acceptedSpans(urls map[string]string) (accepted map[string]int, sum int, err error) {
	accepted = map[string]int{}
	for name, url := range urls {
		body, err := fetch(url)
		if err != nil {
			return nil, 0, err
		}
		metric := regexp.MustCompile(`(?m)^otelcol_receiver_accepted_spans\w*\{.*\} (\d+)$`)
		for _, found := range metric.FindAllSubmatch(body, -1) {
			n, _ := strconv.Atoi(string(found[1]))
			accepted[name] += n
		}
		sum += accepted[name]
	}
	return accepted, sum, nil
}

const (
	faultRate = 20 // requests a second
	faultLoad = time.Minute
	nodeAway  = 100 * time.Second
)

// faults does, under load, what happens to pods and nodes. What ends in order loses no span.
func (c cluster) faults(t *testing.T) {
	// Not by port-forward, which ends with its pod and gets stuck under load.
	f := fault{c, c.service("server", 8080), c.service("jaeger", 16686), c.service("zipkin", 9411)}
	connection, err := net.DialTimeout("tcp", f.server, 2*time.Second)
	if err != nil {
		t.Skipf("this machine doesn't reach the cluster's Services: %v", err)
	}
	connection.Close()
	one := func(app string) []string { return c.names(c.pods(app)[:1]) }
	all := func(app string) []string { return c.names(c.pods(app)) }

	f.test(t, "a collector's pod deleted", one("otel-collector"), func(pods []string) {
		c.kubectl("delete", "pod", pods[0], "--wait=false")
	})
	f.test(t, "an agent's pod deleted", one("otel-agent"), func(pods []string) {
		c.kubectl("delete", "pod", pods[0], "--wait=false")
	})
	f.test(t, "collectors rolled to a new config", all("otel-collector"), func([]string) {
		c.kubectl("apply", "-k", copyWith(t, c.root, "otel-collector-config.yaml", "# changed\n"))
	})
	f.test(t, "agents rolled to a new config", all("otel-agent"), func([]string) {
		c.kubectl("apply", "-k", copyWith(t, c.root, "otel-agent-config.yaml", "# changed\n"))
	})
	restart := func(app string) func([]string) {
		return func([]string) { c.kubectl("rollout", "restart", "deployment/"+app) }
	}
	f.test(t, "servers rolled", all("server"), restart("server"))
	f.test(t, "the worker replaced", all("worker"), restart("worker"))
	if *killNode == "" {
		t.Log("no node is ended: that needs -kill-node and -start-node")
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

// copyWith copies the kustomization, and adds a text to one of its files.
func copyWith(t *testing.T, root, file, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, pattern := range []string{"kustomization.yaml", "otel-*.yaml", "kubernetes/*.yaml"} {
		files, err := fs.Glob(os.DirFS(root), pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v %v", pattern, files, err)
		}
		for _, name := range files {
			content, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			if name == file {
				content = append(content, text...)
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

type fault struct {
	cluster
	server, jaeger, zipkin string // addresses
}

// test does something to these pods under load, and waits until others have taken their place.
func (f fault) test(t *testing.T, name string, pods []string, do func(pods []string)) {
	t.Run(name, func(t *testing.T) {
		f.t = t
		load, start := startLoad(t, f.server, faultRate), time.Now()
		time.Sleep(10 * time.Second)
		at := time.Now()
		do(pods)
		whole := f.untilReplaced(at, pods)
		time.Sleep(faultLoad - time.Since(start))
		if lost := f.report(load, at, fmt.Sprintf("whole after %v", whole), time.Minute); lost > 0 {
			t.Errorf("%d spans are lost", lost)
		}
	})
}

// untilReplaced waits until these pods are gone or about to end, and as many as there were before are ready.
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
		nodes := len(strings.Fields(f.kubectl("get", "nodes", "-o", "name")))
		if left == 0 && ready["otel-agent"] == nodes && ready["otel-collector"] == 3 && ready["server"] == 2 &&
			ready["worker"] == 1 {
			return time.Since(at).Round(time.Second)
		}
		if time.Since(at) > 5*time.Minute {
			f.t.Fatalf("not whole after 5 minutes: %v", f.pods(""))
		}
	}
}

// testNode ends a node hard that has neither the broker nor a backend, as those keep all that they have in memory, and
// brings it back.
func (f fault) testNode(t *testing.T) {
	nodes := strings.Fields(f.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	node := nodes[len(nodes)-1]
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
		load := startLoad(t, f.server, faultRate)
		time.Sleep(10 * time.Second)
		at := time.Now()
		f.command(*killNode, node)
		elsewhere := time.Duration(0)
		for ; time.Since(at) < nodeAway; time.Sleep(time.Second) {
			left := slices.ContainsFunc(f.pods(""), func(p pod) bool {
				return !p.ending && slices.Contains(gone, p.name)
			})
			ready := 0
			for _, pod := range f.pods("") {
				if pod.ready && !pod.ending && pod.node != node && pod.app != "otel-agent" {
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
		f.report(load, at, fmt.Sprintf("on it were %v; all but its agent elsewhere after %v; back after %v, and then whole "+
			"after %v", there, elsewhere, nodeAway, whole), 2*time.Minute)
	})
}

func (f fault) command(line, argument string) {
	f.t.Helper()
	words := append(strings.Fields(line), argument)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %v\n%s", words, err, out)
	}
}

// report ends the load, and returns how many spans either backend lacks of those that the requests must have made. A
// request that was answered made five, and one that was told that no worker listens made four. What a request without
// an answer made, nobody knows.
func (f fault) report(load *load, at time.Time, whole string, within time.Duration) (lost int) {
	f.t.Helper()
	load.stop()
	want, total, failed, last := map[string][]string{}, 0, map[string]int{}, time.Duration(0)
	for _, result := range load.ended() {
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
			failed[fmt.Sprint(result.Code, " ", result.Error)]++
			last = max(last, result.Timestamp.Add(result.Latency).Sub(at).Round(100*time.Millisecond))
		}
		total += len(want[id])
	}
	ended := time.Now()
	text := ""
	for _, b := range []struct {
		name, url string
		parse     func([]byte) ([]*backend.Trace, error)
	}{
		{"Jaeger", "http://" + f.jaeger + "/api/v3/traces/", backend.ParseJaeger},
		{"Zipkin", "http://" + f.zipkin + "/api/v2/trace/", backend.ParseZipkin},
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
			if len(left) == 0 || time.Since(ended) > within {
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
		len(load.ended()), sum, last, whole, text, failed)
	return lost
}

// lacking returns the names of the spans that a trace lacks, of those that it must have.
func lacking(url string, parse func([]byte) ([]*backend.Trace, error), names []string) []string {
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
