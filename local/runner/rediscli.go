package runner

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	goredis "github.com/redis/go-redis/v9"
)

// redisCLI repeats a command. In a container, `redis-cli -u URL ...` would do it.
var redisCLI = &kind{
	name: "redis-cli",
	is: func(service types.ServiceConfig) bool {
		name, _ := imageOf(service)
		return name == "redis" && len(service.Command) > 0 && service.Command[0] == "redis-cli"
	},
	settings: []string{"image", "command"},
	check: func(service types.ServiceConfig) error {
		_, _, _, err := repeatedCommand(service.Command)
		return err
	},
	plan: planRedisCLI,
}

// repeatedCommand parses the arguments of redis-cli. The runner supports one form: a command that is repeated until the
// service stops, with a pause after each time.
func repeatedCommand(args []string) (redisURL string, pause time.Duration, command []any, err error) {
	if len(args) < 8 || args[1] != "-u" || args[3] != "-r" || args[4] != "-1" || args[5] != "-i" {
		return "", 0, nil, errors.New("command: the runner's redis-cli supports only: -u URL -r -1 -i SECONDS COMMAND")
	}
	seconds, err := strconv.ParseFloat(args[6], 64)
	if err != nil {
		return "", 0, nil, fmt.Errorf("command: -i %s: want seconds", args[6])
	}
	for _, arg := range args[7:] {
		command = append(command, arg)
	}
	return args[2], time.Duration(seconds * float64(time.Second)), command, nil
}

func planRedisCLI(d *Demo, s *service) error {
	args, err := d.arguments(s, 0, s.Command)
	if err != nil {
		return err
	}
	redisURL, pause, command, err := repeatedCommand(args)
	if err != nil {
		return err
	}
	options, err := goredis.ParseURL(redisURL)
	if err != nil {
		return fmt.Errorf("command: %w", err)
	}
	s.instances = []instance{&server{open: func() (func(), error) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			client := goredis.NewClient(options)
			defer client.Close()
			for reported := false; ctx.Err() == nil; {
				err := client.Do(ctx, command...).Err()
				if err != nil && !errors.Is(err, goredis.Nil) && ctx.Err() == nil && !reported {
					d.line(s.Name, err.Error())
					reported = true
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		}()
		return func() { cancel(); <-done }, nil
	}}}
	return nil
}
