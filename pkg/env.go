package pkg

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Env reads environment variables. One that is empty has its default. The first that can't be used is kept in Err, so
// that a program reads all, looks at Err once, and stops before it has started anything. (OpenTelemetry's
// specification has an SDK warn and go on. A demo that goes on with something else than you asked for teaches the
// wrong thing.)
type Env struct{ Err error }

var errUnusable = errors.New("unusable")

func read[T any](e *Env, name, byDefault, want string, parse func(string) (T, error)) T {
	value := cmp.Or(os.Getenv(name), byDefault)
	parsed, err := parse(value)
	if err != nil {
		shown := value[strings.LastIndex(value, "@")+1:] // a URL without its user and password
		e.Err = cmp.Or(e.Err, fmt.Errorf("%s=%q: want %s", name, shown, want))
	}
	return parsed
}

// URL reads a URL of http or https.
func (e *Env) URL(name, byDefault string) *url.URL {
	return read(e, name, byDefault, "a URL such as "+byDefault, func(value string) (*url.URL, error) {
		u, err := url.Parse(value)
		if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "") {
			err = errUnusable
		}
		return u, err
	})
}

// Uint reads a whole number from 0.
func (e *Env) Uint(name, byDefault string) uint64 {
	return read(e, name, byDefault, "a whole number from 0, such as "+byDefault,
		func(value string) (uint64, error) { return strconv.ParseUint(value, 10, 31) })
}

// Duration reads a duration from 0, in the form of [time.ParseDuration].
func (e *Env) Duration(name, byDefault string) time.Duration {
	return read(e, name, byDefault, "a duration from 0, such as "+byDefault, func(value string) (time.Duration, error) {
		if strings.HasPrefix(value, "-") {
			return 0, errUnusable
		}
		return time.ParseDuration(value)
	})
}

// OneOf reads one of values, of which the first is the default.
func (e *Env) OneOf(name string, values ...string) string {
	return read(e, name, values[0], strings.Join(values, " or "), func(value string) (string, error) {
		if !slices.Contains(values, strings.ToLower(value)) {
			return "", errUnusable
		}
		return strings.ToLower(value), nil
	})
}

// Redis reads a URL in the form of [redis.ParseURL].
func (e *Env) Redis(name, byDefault string) *redis.Options {
	return read(e, name, byDefault, "a URL such as "+byDefault, redis.ParseURL)
}
