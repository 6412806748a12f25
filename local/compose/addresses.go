package compose

import (
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/types"
)

// addresses gives each port of each service an address on this machine, the same for as long as the demo runs. In
// compose a service is a host of its own; here all share one, so `otel-agent:4317` becomes `127.0.0.1:21234`.
type addresses struct {
	services []string        // the names that are hosts
	fixed    map[string]bool // services in the runner: they serve the ports that they have already, and no other
	several  map[string]int  // services of which there are several: a name would have to be several addresses
	of       map[port]string // what was given out
	dialled  map[port]bool   // ports that another service than its own was told of
	redisURL string          // REDIS_URL of the user, if set: it takes the place of every redis:// URL of a service
}

// port is one port of a container.
type port struct {
	service  string
	instance int // 0, unless there are several
	number   int
}

// newAddresses reserves the published ports under their own numbers, or under free ones.
func newAddresses(project *types.Project, freePorts bool) (*addresses, error) {
	a := &addresses{
		services: project.ServiceNames(),
		fixed:    map[string]bool{},
		several:  map[string]int{},
		of:       map[port]string{},
		dialled:  map[port]bool{},
	}
	for _, name := range a.services {
		service := project.Services[name]
		if n := service.GetScale(); n > 1 {
			a.several[name] = n
		}
		for _, p := range service.Ports {
			if p.Published == "" || freePorts {
				continue // a free one, when somebody asks
			}
			address := net.JoinHostPort("127.0.0.1", p.Published)
			if err := canListen(address); err != nil {
				return nil, fmt.Errorf("port %s, which service %s publishes, is taken: end the program that listens on it, "+
					"or give the service another port in an overlay (-f)", p.Published, name)
			}
			a.of[port{name, 0, int(p.Target)}] = address
		}
	}
	return a, nil
}

func canListen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

// get returns the address of a port, and gives it one if it has none yet.
func (a *addresses) get(p port) (string, error) {
	if address, ok := a.of[p]; ok {
		return address, nil
	}
	if a.fixed[p.service] {
		return "", fmt.Errorf("%s:%d: the runner's %s has no such port", p.service, p.number, p.service)
	}
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	a.of[p] = address
	return address, nil
}

// Free ports are sought below those that systems give to outgoing connections. Otherwise one could be taken while its
// service is stopped, and a program that dials a stopped service could even be connected to itself.
const lowestPort, highestPort = 20000, 32000

var (
	givenMu sync.Mutex
	given   = map[int]bool{} // by any demo of this process
)

func freeAddress() (string, error) {
	givenMu.Lock()
	defer givenMu.Unlock()
	for range 1000 {
		n := lowestPort + rand.IntN(highestPort-lowestPort)
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(n))
		if !given[n] && canListen(address) == nil {
			given[n] = true
			return address, nil
		}
	}
	return "", fmt.Errorf("no free port on 127.0.0.1 between %d and %d", lowestPort, highestPort)
}

const hostPattern = `\[[0-9a-fA-F:]*\]|[A-Za-z0-9_.-]+`

var (
	// what stands before the host, the scheme in it, host, port, path
	urlPattern = regexp.MustCompile(`(([a-z][a-z0-9+.]*)://(?:[^\s/@,]*@)?)(` + hostPattern + `)(?::(\d+))?(/\S*)?`)
	// what stands before, host (none in `:8080`), port
	hostPortPattern = regexp.MustCompile(`(^|[\s,="'])(` + hostPattern + `|):(\d{1,5})\b`)
	loneHostPort    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*:\d{1,5}$`)
	defaultPorts    = map[string]string{"http": "80", "https": "443", "redis": "6379", "rediss": "6379"}
	ownHosts        = []string{"", "0.0.0.0", "127.0.0.1", "localhost", "[::]", "[::1]"}
)

// inText replaces every host and port of the demo in a text that belongs to one instance of a service: a value of its
// environment, an argument, a scalar of its YAML. A host name that no service has is an error: it has a dot or an address
// of its own if it is outside.
func (a *addresses) inText(owner string, instance int, text string) (string, error) {
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
		if strings.HasPrefix(scheme, "redis") && a.redisURL != "" && slices.Contains(a.services, host) {
			return a.redisURL
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

// lookUp returns the address for a host and a port as one instance of a service sees them, and whether it has one.
func (a *addresses) lookUp(owner string, instance int, host, number string) (string, bool, error) {
	n, err := strconv.Atoi(number)
	if err != nil {
		return "", false, err
	}
	switch {
	case slices.Contains(ownHosts, host):
		address, err := a.get(port{owner, instance, n})
		return address, true, err
	case !slices.Contains(a.services, host):
		return "", false, nil
	case a.several[host] > 1:
		return "", false, fmt.Errorf("%s:%d: there are %d of service %s, and the runner has no name for all of them",
			host, n, a.several[host], host)
	}
	p := port{host, 0, n}
	if host != owner {
		a.dialled[p] = true
	}
	address, err := a.get(p)
	return address, true, err
}

// replaceGroups replaces each match by what replace returns for it and its groups.
func replaceGroups(re *regexp.Regexp, text string, replace func(groups []string) string) string {
	return re.ReplaceAllStringFunc(text, func(match string) string {
		return replace(re.FindStringSubmatch(match))
	})
}
