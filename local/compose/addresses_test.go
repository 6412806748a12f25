package compose

import (
	"net"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// A port assigned to a service stays reserved until the service listens.
func TestPortsAreHeldUntilTheirServiceStarts(t *testing.T) {
	a, err := NewAddresses(&types.Project{Services: services("one", "two")}, false, "")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release()
	one, err := a.Get(Port{"one", 0, 80})
	if err != nil {
		t.Fatal(err)
	}
	two, err := a.Get(Port{"two", 0, 80})
	if err != nil {
		t.Fatal(err)
	}
	a.ReleaseFor("one", 0)
	for address, free := range map[string]bool{one: true, two: false} {
		listener, err := net.Listen("tcp", address)
		if (err == nil) != free {
			t.Errorf("listen on %s: %v", address, err)
		}
		if err == nil {
			listener.Close()
		}
	}
	if listener, err := a.Listen(Port{"two", 0, 80}); err != nil || listener.Addr().String() != two {
		t.Errorf("service two can't listen on its own port: %v", err)
	} else {
		listener.Close()
	}
}
