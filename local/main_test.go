package main

import (
	"strings"
	"testing"
)

func TestBadFlagsAreOneLine(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"-x"}, "-x (-h shows the flags)"},
		{[]string{"up"}, `"up": want flags only`},
		{[]string{"-once", "-wait", "0s"}, "want a duration above 0"},
		{[]string{"-once", "-wait", "soon"}, `invalid value "soon" for flag -wait`},
		{[]string{"-wait", "5s"}, "use it with -once"},
		{[]string{"-recipe", "nosuch"}, "there is no recipes/nosuch/docker-compose.yml; the recipes are:"},
		{[]string{"-recipe", "nosuch/variant"}, "there is no recipes/nosuch/docker-compose.variant.yml"},
		{[]string{"-case", "nosuch"}, "-case nosuch: there is no cases/nosuch/docker-compose.yml; the cases are: bad-release, busy-worker"},
		{[]string{"-f", "nosuch.yml"}, "nosuch.yml"},
		{[]string{"-load", "0"}, `"0": want requests a second`},
		{[]string{"-load", "100,many"}, `"many": want requests a second`},
		{[]string{"-load", "10", "-for", "1ms"}, "want a duration of at least 1s"},
		{[]string{"-for", "10s"}, "use them with -load"},
		{[]string{"-json"}, "use them with -load"},
		{[]string{"-load", "10", "-once"}, "don't use -once or -shape"},
	} {
		err := run(test.args)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: got %v, want one line with %s", test.args, err, test.want)
		}
	}
	t.Setenv("REDIS_URL", "redis://:sesame@localhost:1/0")
	if err := run([]string{"-load", "10"}); err == nil || !strings.Contains(err.Error(), "REDIS_URL: unset it to use -load") {
		t.Errorf("got %v", err)
	}
}
