package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"otel-demo/local/compose"
	"otel-demo/local/runner"
	"otel-demo/local/spans/spantest"
)

// tries are the tutorial's "Try it" notes: which file has the note, the edit that it asks for, and how the traces then
// differ from docs/trace.txt, as pairs of an old and a new text.
var tries = []struct {
	note string
	edit
	traces []string
}{
	{"cmd/client/client.go", edit{"cmd/client/client.go", "\tdefer shutdown()", "\t_ = shutdown"}, []string{
		"5 traces\n", "0-4 traces\n",
		"1 trace\nclient  example error  internal  error\n", `1-5 traces
server  GET /hello  server  http.route=/hello  http.response.status_code=200
  server  handle request  internal
    server  publish work  producer  messaging.destination.name=work
      server  publish  client
      worker  process work  consumer  messaging.destination.name=work  user.name=donuts  link=publish work
`}},
	{"cmd/server/server.go", edit{"cmd/server/server.go", "defer span.End()\n", "\n"}, []string{
		"      server  handle request  internal\n        server  publish work", "server  publish work",
		"\n          server  publish  client", "\n  server  publish  client",
		"\n          worker", "\n  worker"}},
	{"pkg/message.go", edit{"pkg/tracer.go", "otel.SetTextMapPropagator(autoprop", "_ = (autoprop"}, []string{
		"    server  GET /hello", "\n5 traces\nserver  GET /hello",
		"      server  handle request", "  server  handle request",
		"        server  publish work", "    server  publish work",
		"          server  publish  client", "      server  publish  client",
		"          worker", "\n5 traces\nworker",
		"  user.name=donuts  link=publish work", ""}},
	{"cmd/worker/worker.go", edit{"cmd/worker/worker.go", `FromContext(ctx).Member("username")`, `FromContext(ctx).Member("Username")`}, []string{
		"  user.name=donuts", ""}},
	{"pkg/broker.go", edit{"pkg/broker.go", `ctx, span := tracer.Start(ctx, "publish "`, `_, span := tracer.Start(ctx, "publish "`}, []string{
		"          server  publish  client", "        server  publish  client",
		"          worker", "        worker",
		"link=publish work", "link=handle request"}},
	{"pkg/tracer.go", edit{"pkg/tracer.go", "SetStatus(codes.Error,", "SetStatus(codes.Unset,"}, []string{
		"internal  error", "internal"}},
}

// Each "Try it" note of the tutorial holds: after its edit, the demo produces the traces that the table above has.
func TestTheTryItNotesHold(t *testing.T) {
	needsLong(t)
	t.Parallel()
	for _, try := range tries {
		t.Run(strings.ReplaceAll(try.note, "/", "_"), func(t *testing.T) {
			t.Parallel()
			want := strings.NewReplacer(try.traces...).Replace(expected(t))
			dir, collector := t.TempDir(), binary(t, "collector")
			content, err := os.ReadFile(collector)
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, filepath.Base(collector)), content, 0o700),
				buildEdited(t.Context(), projectRoot(t), dir, []edit{try.edit}, "./cmd/...")); err != nil {
				t.Fatal(err)
			}
			d, _ := startDemoWith(t, runner.Options{Files: []string{compose.File}, Binaries: dir})
			waitForTraces(t, d)
			if err := spantest.Match(want, d.Jaeger().Traces()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Each file of the tutorial has one note of at most 4 lines, which names the edit of the table above and the command.
func TestTheTutorialHasTheTryItNotes(t *testing.T) {
	const command = "`go run -C local . -once -shape`"
	replaced, deleted := regexp.MustCompile("replace `([^`]+)` with `([^`]+)`"), regexp.MustCompile("delete `([^`]+)`")
	for i, file := range tutorial {
		content, err := os.ReadFile(filepath.Join(projectRoot(t), filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		var notes [][]string
		var note []string
		for line := range strings.Lines(string(content)) {
			comment, isComment := strings.CutPrefix(strings.TrimSpace(line), "//")
			if strings.Contains(comment, "Try it:") {
				note = []string{}
			}
			if note == nil {
				continue
			}
			if !isComment {
				notes, note = append(notes, note), nil
				continue
			}
			note = append(note, strings.TrimSpace(comment))
		}
		if len(notes) != 1 || len(notes[0]) > 4 {
			t.Errorf("%s has the notes %q, want one of at most 4 lines", file, notes)
			continue
		}
		text, try := strings.Join(notes[0], " "), tries[i]
		if try.note != file {
			t.Errorf("tries has %s at %d, want %s, as in the tutorial", try.note, i, file)
			continue
		}
		if !strings.Contains(text, command) {
			t.Errorf("%s: the note lacks %s: %s", file, command, text)
		}
		if try.file != file && !strings.Contains(text, "in "+try.file+",") {
			t.Errorf("%s: the note's edit is in %s, but the note doesn't say that: %s", file, try.file, text)
		}
		old, edited := deleted.FindStringSubmatch(text), ""
		if found := replaced.FindStringSubmatch(text); found != nil {
			old, edited = found[:2], found[2]
		}
		if old == nil || strings.Replace(try.old, old[1], edited, 1) != try.new {
			t.Errorf("%s: the note's edit isn't the table's, %q for %q: %s", file, try.new, try.old, text)
		}
	}
}
