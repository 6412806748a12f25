package spantest

import (
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	all := Traces(Demo())
	for want, match := range map[string]bool{
		DemoShape: true,
		strings.ReplaceAll(DemoShape, "\n", "\r\n"):             true,
		strings.Replace(DemoShape, "5 traces", "5-5 traces", 1): true,
		strings.Replace(DemoShape, "5 traces", "0-9 traces", 1): true,
		DemoShape + "\n0-2 traces\nclient  maybe  internal\n":   true,
		strings.Replace(DemoShape, "5 traces", "0-4 traces", 1): false,
		strings.Replace(DemoShape, "5 traces", "6-9 traces", 1): false,
		strings.Replace(DemoShape, "5 traces", "4 traces", 1):   false,
		DemoShape + "\n1-2 traces\nclient  maybe  internal\n":   false,
		strings.Replace(DemoShape, "donuts", "bagels", 1):       false,
		DemoShape[:strings.Index(DemoShape, "\n1 trace\n")]:     false, // and nothing else
		"": false,
	} {
		if err := Match(want, all); (err == nil) != match {
			t.Errorf("Match returned %v for\n%s", err, want)
		}
	}
	if err := Match("", nil); err != nil {
		t.Errorf("no traces do not match an empty text: %v", err)
	}
}

func TestMatchShowsWhatDiffersAndNothingElse(t *testing.T) {
	all := Demo()
	all[4].Attributes = map[string]any{"messaging.destination.name": "jobs"}
	err := Match(strings.Replace(DemoShape, "1 trace\n", "2 traces\n", 1), Traces(all))
	if err == nil {
		t.Fatal("it matches")
	}
	for line, want := range map[string]int{
		"-": 3, "+": 12, // with the files' names, and the other trace's seven spans and an empty line
		"-5 traces\n": 1, "+4 traces\n": 1, "-2 traces\n": 1, "+1 trace\n": 2, " client  example error  internal  error\n": 1,
		"+        server  publish work  producer  messaging.destination.name=jobs\n": 1,
	} {
		if n := strings.Count(err.Error(), "\n"+line); n != want {
			t.Errorf("%d lines begin with %q, want %d, in\n%v", n, line, want, err)
		}
	}
}

func TestMatchRefusesATextThatIsNoShape(t *testing.T) {
	for _, want := range []string{
		"client  make request\n", "five traces\na  b\n", "2-1 traces\na  b\n", "1 trace\n", "-1 traces\na  b\n",
		"1 trace\na  b\n\n2 traces\na  b\n", "99999999999999999999 traces\na  b\n",
	} {
		if err := Match(want, nil); err == nil || !strings.Contains(err.Error(), "cannot read") {
			t.Errorf("%q: %v", want, err)
		}
	}
}
