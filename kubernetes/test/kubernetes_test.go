// Package kubernetes has only tests: that `kubectl apply -k .` matches docker-compose.yml, and that Kubernetes knows
// every field of it. They need no cluster. local/e2e/kubernetes_test.go runs the demo on a real one.
package kubernetes

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	podsecurityapi "k8s.io/pod-security-admission/api"
	podsecurity "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// demo is what the kustomization renders to.
type demo struct {
	objects   map[string]metav1.Object          // by "kind/name", in lower case
	pods      map[string]corev1.PodTemplateSpec // by the name of the Deployment, DaemonSet or Job
	selectors map[string]*metav1.LabelSelector  // of Deployments, DaemonSets, budgets and spreads
	services  map[string]*corev1.Service
	configs   map[string]*corev1.ConfigMap
	namespace *corev1.Namespace
	policies  []*networkingv1.NetworkPolicy
}

// render does what `kubectl kustomize .` does. Each object must be of a kind that the API knows, and have no unknown
// field.
func render(t *testing.T) demo {
	t.Helper()
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), root)
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	known := runtime.NewSchemeBuilder(corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, policyv1.AddToScheme,
		networkingv1.AddToScheme)
	if err := known.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	strict := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	d := demo{map[string]metav1.Object{}, map[string]corev1.PodTemplateSpec{}, map[string]*metav1.LabelSelector{}, map[string]*corev1.Service{},
		map[string]*corev1.ConfigMap{}, nil, nil}
	for _, resource := range rendered.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := strict.Decode(text, nil, nil)
		if err != nil {
			t.Errorf("%s: %v", resource.CurId(), err)
			continue
		}
		name := resource.GetName()
		d.objects[strings.ToLower(resource.GetKind()+"/"+name)] = object.(metav1.Object)
		switch o := object.(type) {
		case *appsv1.Deployment:
			d.pods[name], d.selectors["deployment "+name] = o.Spec.Template, o.Spec.Selector
		case *appsv1.DaemonSet:
			d.pods[name], d.selectors["daemonset "+name] = o.Spec.Template, o.Spec.Selector
		case *batchv1.Job:
			d.pods[name] = o.Spec.Template
		case *policyv1.PodDisruptionBudget:
			d.selectors["budget "+name] = o.Spec.Selector
		case *corev1.Service:
			d.services[name] = o
		case *corev1.ConfigMap:
			d.configs[name] = o
		case *corev1.Namespace:
			d.namespace = o
		case *networkingv1.NetworkPolicy:
			d.policies = append(d.policies, o)
		default:
			t.Errorf("%s: a kind that these tests don't know", resource.CurId())
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return d
}

func TestEachObjectIsValidAndInTheNamespace(t *testing.T) {
	d := render(t)
	for _, o := range d.objects {
		if o != metav1.Object(d.namespace) && o.GetNamespace() != d.namespace.Name {
			t.Errorf("%s is in the namespace %q", o.GetName(), o.GetNamespace())
		}
	}
}

func TestEachSelectorFindsItsPods(t *testing.T) {
	d := render(t)
	for name, service := range d.services {
		d.selectors["service "+name] = metav1.SetAsLabelSelector(service.Spec.Selector)
	}
	for name, pod := range d.pods {
		for _, spread := range pod.Spec.TopologySpreadConstraints {
			d.selectors["spread "+name] = spread.LabelSelector
		}
	}
	for name, selector := range d.selectors {
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		_, app, _ := strings.Cut(name, " ")
		for other, pod := range d.pods {
			if finds := s.Matches(labels.Set(pod.Labels)); finds != (app == other) {
				t.Errorf("the selector of %s finds %s: %v", name, other, finds)
			}
		}
	}
}

func TestPodsMeetTheStandardThatTheNamespaceEnforces(t *testing.T) {
	d := render(t)
	if level := d.namespace.Labels["pod-security.kubernetes.io/enforce"]; level != "restricted" {
		t.Errorf("the namespace enforces %q", level)
	}
	evaluator, err := podsecurity.NewEvaluator(podsecurity.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := podsecurityapi.LevelVersion{
		Level: podsecurityapi.LevelRestricted, Version: podsecurityapi.LatestVersion()}
	for name, pod := range d.pods {
		for _, result := range evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec) {
			if !result.Allowed {
				t.Errorf("%s: %s (%s)", name, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
		container := only(t, name, pod)
		if context := container.SecurityContext; context.ReadOnlyRootFilesystem == nil || !*context.ReadOnlyRootFilesystem {
			t.Errorf("%s can write to its own files", name)
		}
		if links := pod.Spec.EnableServiceLinks; links == nil || *links {
			t.Errorf("%s gets environment variables from Services", name)
		}
		if token := pod.Spec.AutomountServiceAccountToken; token == nil || *token {
			t.Errorf("%s has a Kubernetes API token", name)
		}
	}
}

// only returns a pod's one container.
func only(t *testing.T, name string, pod corev1.PodTemplateSpec) corev1.Container {
	t.Helper()
	if len(pod.Spec.Containers) != 1 || len(pod.Spec.InitContainers) != 0 {
		t.Fatalf("%s has more than one container", name)
	}
	return pod.Spec.Containers[0]
}

func TestProbesAskForTheirOwnPodOnly(t *testing.T) {
	for name, pod := range render(t).pods {
		container := only(t, name, pod)
		ready, live := container.ReadinessProbe, container.LivenessProbe
		if name == "client" || name == "worker" { // nothing connects to them
			if ready != nil || live != nil {
				t.Errorf("%s has a probe", name)
			}
			continue
		}
		if ready == nil || live == nil {
			t.Errorf("%s lacks a probe", name)
			continue
		}
		collector := name == "otel-agent" || name == "otel-collector"
		asked := live.TCPSocket
		if collector {
			if live.HTTPGet == nil || ready.HTTPGet == nil || ready.HTTPGet.Port != live.HTTPGet.Port {
				t.Errorf("%s is not probed on its health_check extension", name)
				continue
			}
			asked = &corev1.TCPSocketAction{Port: live.HTTPGet.Port}
		}
		if asked == nil {
			t.Errorf("%s can be killed for more than not listening", name)
			continue
		}
		listens := func(p corev1.ContainerPort) bool { return p.ContainerPort == asked.Port.IntVal }
		if !slices.ContainsFunc(container.Ports, listens) {
			t.Errorf("%s: the probe uses port %v, which the container doesn't have", name, asked.Port.IntVal)
		}
		// The server's own health check includes the worker.
		if name == "server" && ready.TCPSocket == nil {
			t.Errorf("%s: the readiness probe checks more than whether it listens", name)
		}
	}
}

// reach reports whether a pod of the namespace, by its app, can connect to a port of another, if policies are enforced.
// A pod that no policy selects accepts everything.
func (d demo) reach(t *testing.T, from, to string, port int32) bool {
	t.Helper()
	matches := func(selector *metav1.LabelSelector, app string) bool {
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		return s.Matches(labels.Set{"app": app})
	}
	selected := false
	for _, policy := range d.policies {
		if !matches(&policy.Spec.PodSelector, to) {
			continue
		}
		selected = true
		for _, rule := range policy.Spec.Ingress {
			ok := len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port.IntVal == port })
			peer := len(rule.From) == 0 || slices.ContainsFunc(rule.From, func(p networkingv1.NetworkPolicyPeer) bool {
				return from != "" && p.NamespaceSelector == nil && p.PodSelector != nil && matches(p.PodSelector, from)
			})
			if ok && peer {
				return true
			}
		}
	}
	return !selected
}

// A cluster may not enforce policies, so this test reads them.
func TestPoliciesLetInOnlyWhatIsNeeded(t *testing.T) {
	d := render(t)
	const outside = "" // another namespace
	for _, test := range []struct {
		from, to string
		port     int32
		want     bool
	}{
		{"server", "redis", 6379, true}, {"worker", "redis", 6379, true}, {"client", "redis", 6379, false}, {outside, "redis", 6379, false},
		{"client", "otel-agent", 4317, true}, {"server", "otel-agent", 4317, true}, {"worker", "otel-agent", 4317, true},
		{outside, "otel-agent", 4317, false}, {"otel-agent", "otel-collector", 4318, true}, {outside, "otel-collector", 4318, false},
		{"otel-collector", "jaeger", 4318, true}, {outside, "jaeger", 4318, false}, {outside, "jaeger", 16686, false},
		{"otel-collector", "zipkin", 9411, true}, {outside, "zipkin", 9411, false}, {outside, "server", 8080, true},
	} {
		if got := d.reach(t, test.from, test.to, test.port); got != test.want {
			t.Errorf("%q reaches %s:%d: %v, want %v", test.from, test.to, test.port, got, test.want)
		}
	}
}

// composeService is what these tests read from a service in docker-compose.yml.
type composeService struct {
	Build       *struct{ Args map[string]string }
	Image       string
	Command     []string
	Environment map[string]string
	Volumes     []string
	Tmpfs       []string
	User        string
	Ports       []string
	MemLimit    string `json:"mem_limit"`
}

func TestIsTheComposeFile(t *testing.T) {
	d := render(t)
	var compose struct{ Services map[string]composeService }
	if err := yaml.Unmarshal([]byte(read(t, "docker-compose.yml")), &compose); err != nil {
		t.Fatal(err)
	}
	for name := range d.pods {
		if _, ok := compose.Services[name]; !ok {
			t.Errorf("compose has no service %s", name)
		}
	}
	delete(compose.Services, "readable") // pods get their files from ConfigMaps, which everyone can read
	for name, service := range compose.Services {
		maps.DeleteFunc(service.Environment, func(name, _ string) bool { return strings.HasSuffix(strings.ToUpper(name), "_PROXY") })
		pod, ok := d.pods[name]
		if !ok {
			t.Errorf("no Deployment, DaemonSet or Job is named %s", name)
			continue
		}
		container := only(t, name, pod)

		image := service.Image
		if service.Build != nil {
			image = "otel-demo/" + service.Build.Args["CMD"] + ":dev"
		}
		equal(t, name, "image", container.Image, image)
		if len(container.Command) > 0 {
			t.Errorf("%s: command replaces the image's entrypoint; compose's command is args here", name)
		}
		args := container.Args
		if name == "otel-agent" { // the one thing that only a cluster needs
			args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return strings.Contains(arg, ".keepalive.enabled=") })
		}
		equal(t, name, "args", strings.Join(args, "\n"), strings.Join(service.Command, "\n"))
		equal(t, name, "environment", environment(t, name, container), service.Environment)
		limit := resource.MustParse(strings.ToUpper(service.MemLimit) + "i") // 1g is 1Gi
		equal(t, name, "memory limit", container.Resources.Limits.Memory().Value(), limit.Value())
		equal(t, name, "memory request", container.Resources.Requests.Memory().Value(), limit.Value())
		if container.Resources.Requests.Cpu().IsZero() {
			t.Errorf("%s requests no CPU", name)
		}
		if context := pod.Spec.SecurityContext; context != nil && context.RunAsUser != nil && context.RunAsGroup != nil {
			equal(t, name, "user", fmt.Sprintf("%d:%d", *context.RunAsUser, *context.RunAsGroup), service.User)
		} else if service.Build == nil && !strings.Contains(image, "opentelemetry-collector") { // whose images set one
			t.Errorf("%s: no user and group", name)
		}
		files, memory := mounts(t, name, pod, d)
		equal(t, name, "tmpfs", memory, service.Tmpfs)
		equal(t, name, "files", len(files), len(service.Volumes))
		for _, volume := range service.Volumes {
			file, path, _ := strings.Cut(strings.TrimSuffix(volume, ":ro,z"), ":")
			equal(t, name, "config", files[path], read(t, file))
		}
		for _, published := range service.Ports {
			d.serves(t, "compose", name, published[strings.LastIndex(published, ":")+1:])
		}
	}
}

func equal(t *testing.T, name, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprintf("%v", got), fmt.Sprintf("%v", want); g != w {
		t.Errorf("%s, %s:\ngot  %s\nwant %s", name, what, g, w)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// environment returns a container's environment, except for what tells it where it runs.
func environment(t *testing.T, name string, container corev1.Container) map[string]string {
	t.Helper()
	all, fields := map[string]string{}, map[string]string{}
	for _, variable := range container.Env {
		if variable.ValueFrom != nil {
			fields["$("+variable.Name+")"] = variable.ValueFrom.FieldRef.FieldPath
			continue
		}
		all[variable.Name] = variable.Value
		if variable.Name == "OTEL_RESOURCE_ATTRIBUTES" {
			field := func(reference string) string { return fields[reference] }
			where := regexp.MustCompile(`\$\(\w+\)`).ReplaceAllStringFunc(variable.Value, field)
			equal(t, name, "where it runs", where, "k8s.namespace.name=metadata.namespace,k8s.pod.name=metadata.name,"+
				"k8s.pod.uid=metadata.uid,k8s.container.name=metadata.labels['app'],k8s.node.name=spec.nodeName")
			equal(t, name, "the label app", name, container.Name)
			delete(all, variable.Name)
		}
	}
	if traced := slices.Contains([]string{"client", "server", "worker"}, name); traced != (len(fields) == 5) {
		t.Errorf("%s: the fields about where it runs are %v", name, fields)
	}
	return all
}

// mounts returns the files that a container sees, by path, and its in-memory folders.
func mounts(t *testing.T, name string, pod corev1.PodTemplateSpec, d demo) (files map[string]string, memory []string) {
	t.Helper()
	files = map[string]string{}
	for _, volume := range pod.Spec.Volumes {
		for _, mount := range only(t, name, pod).VolumeMounts {
			switch {
			case mount.Name != volume.Name:
			case volume.EmptyDir != nil && volume.EmptyDir.Medium == corev1.StorageMediumMemory:
				memory = append(memory, mount.MountPath)
			case volume.ConfigMap != nil && mount.ReadOnly:
				files[mount.MountPath] = d.configs[volume.ConfigMap.Name].Data[mount.SubPath]
			default:
				t.Errorf("%s: the volume %s is neither in memory nor a read-only config", name, volume.Name)
			}
		}
	}
	return files, memory
}

// serves fails if no Service has that name and port.
func (d demo) serves(t *testing.T, who, name, port string) {
	t.Helper()
	service := d.services[name]
	has := func(p corev1.ServicePort) bool { return fmt.Sprint(p.Port) == port && p.TargetPort.IntVal == 0 }
	if service == nil || !slices.ContainsFunc(service.Spec.Ports, has) {
		t.Errorf("%s names %s:%s, which no Service serves", who, name, port)
	}
}

// Each host and port that a pod or a config names is a Service, and every port that an agent listens on can be reached.
func TestEachAddressIsAService(t *testing.T) {
	d := render(t)
	texts := map[string]string{}
	for name, pod := range d.pods {
		for _, variable := range only(t, name, pod).Env {
			texts[name] += variable.Value + "\n"
		}
	}
	for name, config := range d.configs {
		for file, content := range config.Data {
			texts[name] = regexp.MustCompile(`(?m)#.*$`).ReplaceAllString(content, "")
			for _, own := range regexp.MustCompile(`0\.0\.0\.0:(\d+)`).FindAllStringSubmatch(content, -1) {
				if own[1] != "13133" { // health_check: only probes use it, and they connect to the pod
					d.serves(t, file, strings.TrimSuffix(file, "-config.yaml"), own[1])
				}
			}
		}
	}
	found := 0
	for who, text := range texts {
		for _, address := range regexp.MustCompile(`\b([a-z][a-z-]+):(\d+)\b`).FindAllStringSubmatch(text, -1) {
			if address[1] != "localhost" { // what a browser calls it, by port-forward
				d.serves(t, who, address[1], address[2])
				found++
			}
		}
	}
	if found != 9 { // client 2, server 2, worker 2, agent 1, collector 2
		t.Errorf("found %d addresses, want 9", found)
	}
}

func TestTheHashOfAConfigIsPartOfItsName(t *testing.T) {
	for name := range render(t).configs {
		if !regexp.MustCompile(`-config-[a-z0-9]{10}$`).MatchString(name) {
			t.Errorf("%s would keep its name when its content changes, and no pod would notice", name)
		}
	}
}

// How pods find each other, move and stop without losing a span. local/e2e/kubernetes_test.go shows that it works.
func TestPodsEndAndMoveSoThatNoSpanIsLost(t *testing.T) {
	d := render(t)
	if service := d.services["otel-agent"]; service.Spec.InternalTrafficPolicy == nil ||
		*service.Spec.InternalTrafficPolicy != corev1.ServiceInternalTrafficPolicyLocal {
		t.Error("the agent's Service routes to other nodes")
	}
	if d.services["otel-collector"].Spec.ClusterIP == corev1.ClusterIPNone {
		t.Error("the collector's Service has no address: HTTP uses only the first of several")
	}
	if args := fmt.Sprint(d.pods["otel-agent"].Spec.Containers[0].Args); !strings.Contains(args, "otlp_http.keepalive.enabled=false") {
		t.Error("an agent keeps its connections: all its spans would go to one collector")
	}
	agent := d.objects["daemonset/otel-agent"].(*appsv1.DaemonSet).Spec.UpdateStrategy.RollingUpdate
	if agent == nil || agent.MaxSurge.String() != "1" || agent.MaxUnavailable.String() != "0" {
		t.Error("an agent stops before the next one is ready")
	}
	for _, name := range []string{"worker", "redis", "jaeger", "zipkin"} {
		if d.deployment(name).Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
			t.Errorf("a rollout runs two of %s", name)
		}
	}
	for _, name := range []string{"server", "otel-collector"} {
		budget, ok := d.objects["poddisruptionbudget/"+name].(*policyv1.PodDisruptionBudget)
		if !ok || budget.Spec.MaxUnavailable.String() != "1" {
			t.Errorf("%s has no budget of one", name)
		}
		if n := d.deployment(name).Spec.Replicas; n == nil || *n < 2 || len(d.pods[name].Spec.TopologySpreadConstraints) == 0 {
			t.Errorf("%s is not spread over several nodes", name)
		}
	}
	for _, name := range []string{"server", "worker", "otel-collector"} {
		for _, key := range []string{"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"} {
			if !slices.ContainsFunc(d.pods[name].Spec.Tolerations, func(t corev1.Toleration) bool {
				return t.Key == key && t.TolerationSeconds != nil && *t.TolerationSeconds < 60
			}) {
				t.Errorf("%s stays on a node that is lost: %s", name, key)
			}
		}
	}

	// The agent keeps running until the server has stopped, the collector longer than the agent, and each has time left
	// to send what it holds.
	server, agents, collector := ends(d.pods["server"]), ends(d.pods["otel-agent"]), ends(d.pods["otel-collector"])
	const serverNeeds = 4 + 4 // seconds for its requests and for its last spans, see pkg/program.go and pkg/tracer.go
	if worker := ends(d.pods["worker"]); worker.ended < 10 {
		t.Errorf("the worker's shutdown: %+v", worker)
	}
	if server.goesOn < 5 || server.goesOn+serverNeeds >= server.ended {
		t.Errorf("the server's shutdown: %+v", server)
	}
	if agents.goesOn <= server.goesOn+serverNeeds || agents.goesOn >= agents.ended {
		t.Errorf("the agent's shutdown: %+v", agents)
	}
	if collector.goesOn <= agents.goesOn || collector.goesOn >= collector.ended || collector.ended <= agents.ended {
		t.Errorf("the collector's shutdown: %+v", collector)
	}
}

func (d demo) deployment(name string) *appsv1.Deployment {
	return d.objects["deployment/"+name].(*appsv1.Deployment)
}

// end is when a pod that should stop is told to, and when it is killed, in seconds.
type end struct{ goesOn, ended int64 }

func ends(pod corev1.PodTemplateSpec) end {
	e := end{ended: 30} // Kubernetes' default
	if lifecycle := pod.Spec.Containers[0].Lifecycle; lifecycle != nil && lifecycle.PreStop != nil && lifecycle.PreStop.Sleep != nil {
		e.goesOn = lifecycle.PreStop.Sleep.Seconds
	}
	if grace := pod.Spec.TerminationGracePeriodSeconds; grace != nil {
		e.ended = *grace
	}
	return e
}
