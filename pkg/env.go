package pkg

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Env reads environment variables. One that is empty has its default. The first that can't be used is kept in Err, so
// that a program reads all, looks at Err once, and stops before it has started anything. (OpenTelemetry's specification
// has an SDK warn and go on. A demo that goes on with something else than you asked for teaches the wrong thing.)
type Env struct{ Err error }

func parse[T any](e *Env, name, byDefault, want string, parse func(string) (T, error)) T {
	value := cmp.Or(os.Getenv(name), byDefault)
	parsed, err := parse(value)
	if err != nil {
		e.Err = cmp.Or(e.Err, fmt.Errorf("%s=%q: want %s", name, value, want))
	}
	return parsed
}

// URL reads a URL of http or https.
func (e *Env) URL(name, byDefault string) *url.URL {
	return parse(e, name, byDefault, "a URL such as "+byDefault, func(value string) (*url.URL, error) {
		u, err := url.Parse(value)
		if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !isPort(cmp.Or(u.Port(), "80"))) {
			err = errors.New("not a URL of a server")
		}
		return u, err
	})
}

// Address reads a host:port to listen on. The host may be empty, for all addresses of the machine.
func (e *Env) Address(name, byDefault string) string {
	return parse(e, name, byDefault, "host:port such as "+byDefault, func(value string) (string, error) {
		_, port, err := net.SplitHostPort(value)
		if err == nil && !isPort(port) {
			err = errors.New("not a port")
		}
		return value, err
	})
}

// Int reads a whole number from 0.
func (e *Env) Int(name, byDefault string) int {
	return parse(e, name, byDefault, "a whole number from 0, such as "+byDefault, func(value string) (int, error) {
		n, err := strconv.ParseUint(value, 10, 31)
		return int(n), err
	})
}

// Duration reads a duration from 0, in the form of [time.ParseDuration].
func (e *Env) Duration(name, byDefault string) time.Duration {
	return parse(e, name, byDefault, "a duration from 0, such as "+byDefault, func(value string) (time.Duration, error) {
		d, err := time.ParseDuration(value)
		if d < 0 {
			err = errors.New("negative")
		}
		return d, err
	})
}

// OneOf reads one of values, of which the first is the default.
func (e *Env) OneOf(name string, values ...string) string {
	return parse(e, name, values[0], strings.Join(values, " or "), func(value string) (string, error) {
		if !slices.Contains(values, value) {
			return "", errors.New("unknown")
		}
		return value, nil
	})
}

// Redis reads a URL in the form of [redis.ParseURL]. Its password is not in the error.
func (e *Env) Redis(name, byDefault string) *redis.Options {
	value := cmp.Or(os.Getenv(name), byDefault)
	options, err := redis.ParseURL(value)
	if err != nil {
		shown := "(not shown, as it may hold a password)"
		if u, err := url.Parse(value); err == nil && u.Host != "" {
			shown = strconv.Quote(u.Redacted())
		}
		e.Err = cmp.Or(e.Err, fmt.Errorf("%s=%s: want a URL such as %s", name, shown, byDefault))
	}
	return options
}

func isPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}
