package runner

import (
	"fmt"
	"slices"

	"github.com/compose-spec/compose-go/v2/types"
)

// nothing is a service that exits at once: `command: ["true"]` or a shell's. It only prepares or checks what containers
// need.
var nothing = &kind{
	name: "nothing",
	is: func(service types.ServiceConfig) bool {
		return slices.Equal(service.Command, []string{"true"}) || len(service.Command) > 0 && service.Command[0] == "sh"
	},
	settings: []string{"image", "command", "volumes"},
	check:    checkNothing,
}

// checkNothing refuses a shell that could change a file: the runner doesn't run it. In a named volume there is no file
// yet, since the runner starts with new ones.
func checkNothing(service types.ServiceConfig) error {
	for _, volume := range service.Volumes {
		if service.Command[0] == "sh" && !volume.ReadOnly && volume.Type != types.VolumeTypeVolume {
			return fmt.Errorf("command: %q: the runner runs no shell, so mount %s read-only", service.Command, volume.Target)
		}
	}
	return nil
}
