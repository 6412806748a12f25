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
		BlockOf(DemoShape, "make request"):                      false, // and nothing else
		"":                                                      false,
	} {
		if err := Match(want, all); (err == nil) != match {
			t.Errorf("Match returned %v for\n%s", err, want)
		}
	}
	if err := Match("", nil); err != nil {
		t.Errorf("no traces do not match an empty text: %v", err)
	}
}

func TestMatchShowsWhatDiffers(t *testing.T) {
	spans := Demo()
	spans[5].Attributes = map[string]any{"messaging.destination.name": "jobs"}
	err := Match(strings.Replace(DemoShape, "1 trace\nclient  wait", "2 traces\nclient  wait", 1), Traces(spans))
	if err == nil {
		t.Fatal("it matches")
	}
	for _, line := range []string{
		"\n-5 traces\n", "\n+4 traces\n", "\n-2 traces\n", "\n+1 trace\n", "\n client  wait for server  internal\n",
		"\n+        server  publish work  producer  messaging.destination.name=jobs\n",
	} {
		if !strings.Contains(err.Error(), line) {
			t.Errorf("no line %q in\n%v", line, err)
		}
	}
}

func TestMatchShowsTheMostSimilarShapeOpposite(t *testing.T) {
	want := strings.Join([]string{
		strings.Replace(BlockOf(DemoShape, "make request"), "donuts", "bagels", 1),
		"1 trace\nclient  wait for server  internal  user.name=nobody\n",
		"1 trace\nclient  example error  internal\n",
	}, "\n")
	err := Match(want, Traces(Demo()))
	if err == nil {
		t.Fatal("it matches")
	}
	for _, sign := range []string{"\n-", "\n+"} {
		if n := strings.Count(err.Error(), sign); n != 4 { // the file's name, and a line of each block
			t.Errorf("%d lines begin with %q in\n%v", n, sign, err)
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
