package compose

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/types"
)

// Addresses gives each port of each service an address on this machine, the same for as long as the demo runs. In
// compose, each service is its own host; here all share one, so `otel-agent:4317` becomes `127.0.0.1:21234`. Add, Assign
// and Replace change it; once all addresses are assigned, any goroutine may look them up.
//
// A port is held from its assignment until its service starts, so that no other program on this machine can take it.
type Addresses struct {
	services []string        // the names that are hosts
	fixed    map[string]bool // services that get no other ports
	several  map[string]int  // services with several instances, whose name would need several addresses
	of       map[Port]string // the assigned addresses
	held     map[Port]net.Listener
	dialed   map[Port][]string // ports whose addresses other services are given, and which services
	urls     map[string]string // of services that are already running
}

// Port is one port of a container.
type Port struct {
	Service  string
	Instance int // 0 unless there are several
	Number   int
}

// NewAddresses returns the addresses of a project's services. The caller must call Release in the end.
func NewAddresses(project *types.Project) *Addresses {
	a := &Addresses{services: project.ServiceNames(), fixed: map[string]bool{}, several: map[string]int{}, of: map[Port]string{},
		held: map[Port]net.Listener{}, dialed: map[Port][]string{}, urls: map[string]string{}}
	for name, service := range project.Services {
		if n := service.GetScale(); n > 1 {
			a.several[name] = n
		}
	}
	return a
}

// Add holds a service's published ports, under their own numbers or under free ones. If ports are given, the service
// has these, and no others.
func (a *Addresses) Add(service types.ServiceConfig, freePorts bool, ports ...int) error {
	for _, p := range service.Ports {
		if p.Published == "" || freePorts {
			continue // it gets a free one on demand
		}
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", p.Published))
		if err != nil {
			return fmt.Errorf("port %[1]s, which service %[2]s publishes, is taken: stop the program that listens on it, or give the "+
				`service another port in an overlay (-f): services: {%[2]s: {ports: !override ["127.0.0.1:PORT:%[3]d"]}}`,
				p.Published, service.Name, p.Target)
		}
		port := Port{service.Name, 0, int(p.Target)}
		a.of[port], a.held[port] = listener.Addr().String(), listener
	}
	for _, n := range ports {
		if _, err := a.Assign(Port{service.Name, 0, n}); err != nil {
			return err
		}
	}
	a.fixed[service.Name] = len(ports) > 0
	return nil
}

// AddRunning adds a service that is already running, with its one port: url replaces each URL with the service's host.
func (a *Addresses) AddRunning(port Port, address, url string) {
	a.of[port], a.fixed[port.Service], a.urls[port.Service] = address, true, url
}

// Assign returns the address of a port, and assigns one if it has none yet.
func (a *Addresses) Assign(p Port) (string, error) {
	if address, ok := a.of[p]; ok {
		return address, nil
	}
	if a.fixed[p.Service] {
		return "", fmt.Errorf("%s:%d: the runner's %s has no such port", p.Service, p.Number, p.Service)
	}
	listener, err := ListenOnFree()
	if err != nil {
		return "", err
	}
	a.of[p], a.held[p] = listener.Addr().String(), listener
	return a.of[p], nil
}

// Of returns the address of a port, or "" if none is assigned.
func (a *Addresses) Of(service string, instance, number int) string {
	return a.of[Port{service, instance, number}]
}

// All returns all assigned addresses.
func (a *Addresses) All() map[Port]string { return maps.Clone(a.of) }

// Dialed returns the ports of a service whose addresses other services are given, and these services.
func (a *Addresses) Dialed(service string) (ports []int, by []string) {
	for p, owners := range a.dialed {
		if p.Service == service {
			ports, by = append(ports, p.Number), append(by, owners...)
		}
	}
	return ports, by
}

// Listen returns the listener that holds a port, or a new one if the service has already had it.
func (a *Addresses) Listen(p Port) (net.Listener, error) {
	if listener, ok := a.held[p]; ok {
		delete(a.held, p)
		return listener, nil
	}
	return net.Listen("tcp", a.of[p])
}

// ReleaseFor releases the ports of one instance of a service, so that it can listen on them.
func (a *Addresses) ReleaseFor(service string, instance int) {
	for p, listener := range a.held {
		if p.Service == service && p.Instance == instance {
			_ = listener.Close() // it is unused
			delete(a.held, p)
		}
	}
}

// Release releases all ports that are still held.
func (a *Addresses) Release() {
	for p := range a.held {
		a.ReleaseFor(p.Service, p.Instance)
	}
}

// FreePorts is the range of free ports: from the first, up to the second. They are below those that systems use for
// outgoing connections. Otherwise a port could be taken while its service is stopped, and a program that dials a stopped
// service could even connect to itself. For the same reason, a test that starts runners uses ports above theirs.
var FreePorts = [2]int{20000, 26000}

var (
	givenMu sync.Mutex
	given   = map[int]bool{} // to any demo of this process
)

// ListenOnFree listens on a free port that no demo of this process has been given before.
func ListenOnFree() (net.Listener, error) {
	givenMu.Lock()
	defer givenMu.Unlock()
	for range 1000 {
		n := FreePorts[0] + rand.IntN(FreePorts[1]-FreePorts[0])
		if given[n] {
			continue
		}
		if listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(n))); err == nil {
			given[n] = true
			return listener, nil
		}
	}
	return nil, fmt.Errorf("no free port on 127.0.0.1 between %d and %d", FreePorts[0], FreePorts[1])
}

const hostPattern = `\[[0-9a-fA-F:]*\]|[A-Za-z0-9_.-]+`

var (
	// what precedes the host, the scheme in it, host, port, path
	urlPattern = regexp.MustCompile(`(([a-z][a-z0-9+.]*)://(?:[^\s/@,]*@)?)(` + hostPattern + `)(?::(\d+))?(/\S*)?`)
	// what precedes the host, host (empty in `:8080`), port
	hostPortPattern = regexp.MustCompile(`(^|[\s,="'])(` + hostPattern + `|):(\d{1,5})\b`)
	loneHostPort    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*:\d{1,5}$`)
	defaultPorts    = map[string]string{"http": "80", "https": "443", "redis": "6379", "rediss": "6379"}
	ownHosts        = []string{"", "0.0.0.0", "127.0.0.1", "localhost", "[::]", "[::1]"}
)

// Replace replaces every host and port of the demo in a text that belongs to one instance of a service: an environment
// value, an argument, or a scalar in its YAML. It assigns the addresses that are missing. A host name that no service has
// is an error, unless it has a dot or is an IP address: then it is outside the demo.
func (a *Addresses) Replace(owner string, instance int, text string) (string, error) {
	var firstErr error
	mapped := func(host, number string) (string, bool) {
		address, ok, err := a.lookUp(owner, instance, host, number)
		if err != nil && firstErr == nil {
			firstErr = err
		}
		return address, ok && err == nil
	}
	unknown := func(host string) {
		if firstErr == nil {
			firstErr = fmt.Errorf("%q: no service is named %s; the services are %s", text, host, strings.Join(a.services, ", "))
		}
	}
	text = replaceGroups(urlPattern, text, func(m []string) string {
		scheme, host, number := m[2], m[3], m[4]
		if number == "" {
			number = defaultPorts[scheme]
		}
		if url := a.urls[host]; url != "" {
			return url
		}
		if number == "" && !slices.Contains(a.services, host) || scheme == "file" || scheme == "unix" {
			return m[0]
		}
		address, ok := mapped(host, number)
		if ok {
			return m[1] + address + m[5]
		}
		if !strings.ContainsAny(host, ".:") {
			unknown(host)
		}
		return m[0]
	})
	lone := loneHostPort.MatchString(text)
	text = replaceGroups(hostPortPattern, text, func(m []string) string {
		address, ok := mapped(m[2], m[3])
		if ok {
			return m[1] + address
		}
		if lone {
			unknown(m[2])
		}
		return m[0]
	})
	return text, firstErr
}

// lookUp returns the address for a host and a port as one instance of a service sees them, and whether there is one.
func (a *Addresses) lookUp(owner string, instance int, host, number string) (string, bool, error) {
	n, err := strconv.Atoi(number)
	if err != nil {
		return "", false, err
	}
	switch {
	case slices.Contains(ownHosts, host):
		address, err := a.Assign(Port{owner, instance, n})
		return address, true, err
	case !slices.Contains(a.services, host):
		return "", false, nil
	case a.several[host] > 1:
		return "", false, fmt.Errorf("%s:%d: service %s has %d instances, and the runner has no name for all of them",
			host, n, host, a.several[host])
	}
	p := Port{host, 0, n}
	if host != owner {
		a.dialed[p] = append(a.dialed[p], owner)
	}
	address, err := a.Assign(p)
	return address, true, err
}

// replaceGroups replaces each match with what replace returns for it and its groups.
func replaceGroups(re *regexp.Regexp, text string, replace func(groups []string) string) string {
	return re.ReplaceAllStringFunc(text, func(match string) string {
		return replace(re.FindStringSubmatch(match))
	})
}

// HostAndPort splits an address.
func HostAndPort(address string) (host, number string) {
	host, number, _ = net.SplitHostPort(address) // made by net.JoinHostPort
	return host, number
}
