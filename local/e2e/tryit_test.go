package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"otel-demo/local/compose"
	"otel-demo/local/stack"
	"otel-demo/local/trace/tracetest"
)

// tries are the edits that the tutorial's "Try it" notes ask for, one in each file, and the traces that each promises.
// old has as much around it as it takes to occur once.
var tries = []struct{ file, old, new, traces string }{
	{"cmd/client/client.go", "defer span.End()\n\n\t// Baggage", "\n\n\t// Baggage", `5 traces
client  HTTP GET  client  http.response.status_code=200
  server  GET /hello  server  http.route=/hello  http.response.status_code=200
    server  handle request  internal
      server  publish work  producer  messaging.destination.name=work
        server  publish  client
        worker  process work  consumer  messaging.destination.name=work  user.name=donuts  link=publish work
`},
	{"cmd/server/server.go", "WithTimeout(context.WithoutCancel(ctx)", "WithTimeout(context.Background()", `5 traces
client  make request  internal
  client  HTTP GET  client  http.response.status_code=200
    server  GET /hello  server  http.route=/hello  http.response.status_code=200
      server  handle request  internal

5 traces
server  publish work  producer  messaging.destination.name=work
  server  publish  client
  worker  process work  consumer  messaging.destination.name=work  link=publish work
`},
	{"pkg/message.go", "propagation.MapCarrier `json:\"headers\"`", "propagation.MapCarrier `json:\"-\"`", `5 traces
client  make request  internal
  client  HTTP GET  client  http.response.status_code=200
    server  GET /hello  server  http.route=/hello  http.response.status_code=200
      server  handle request  internal
        server  publish work  producer  messaging.destination.name=work
          server  publish  client

5 traces
worker  process work  consumer  messaging.destination.name=work
`},
	{"cmd/worker/worker.go", `FromContext(ctx).Member("username")`, `FromContext(ctx).Member("Username")`, `5 traces
client  make request  internal
  client  HTTP GET  client  http.response.status_code=200
    server  GET /hello  server  http.route=/hello  http.response.status_code=200
      server  handle request  internal
        server  publish work  producer  messaging.destination.name=work
          server  publish  client
          worker  process work  consumer  messaging.destination.name=work  link=publish work
`},
	{"pkg/broker.go", `ctx, span := tracer.Start(ctx, "publish "`, `_, span := tracer.Start(ctx, "publish "`, `5 traces
client  make request  internal
  client  HTTP GET  client  http.response.status_code=200
    server  GET /hello  server  http.route=/hello  http.response.status_code=200
      server  handle request  internal
        server  publish work  producer  messaging.destination.name=work
        server  publish  client
        worker  process work  consumer  messaging.destination.name=work  user.name=donuts  link=handle request
`},
	{"pkg/tracer.go", "SetStatus(codes.Error,", "SetStatus(codes.Unset,", `5 traces
client  make request  internal
  client  HTTP GET  client  http.response.status_code=200
    server  GET /hello  server  http.route=/hello  http.response.status_code=200
      server  handle request  internal
        server  publish work  producer  messaging.destination.name=work
          server  publish  client
          worker  process work  consumer  messaging.destination.name=work  user.name=donuts  link=publish work

1 trace
client  example error  internal
`},
}

// exampleError and waitForServer are the traces that a run has beside those of its requests.
const exampleError, waitForServer = "\n1 trace\nclient  example error  internal  error\n", "\n1 trace\nclient  wait for server  internal\n"

// Each "Try it" note of the tutorial holds: after its edit, the demo gives the traces that the table above has.
func TestTheTryItNotesHold(t *testing.T) {
	needsLong(t)
	t.Parallel()
	for _, try := range tries {
		t.Run(strings.ReplaceAll(try.file, "/", "_"), func(t *testing.T) {
			t.Parallel()
			want := try.traces + waitForServer
			if !strings.Contains(want, "example error") {
				want += exampleError
			}
			d := startEdited(t, try.file, try.old, try.new)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if status, err := d.Wait(ctx, "client"); err != nil || status != 0 {
				t.Fatalf("the client exited with %d, %v", status, err)
			}
			if err := d.WaitForTraces(ctx); err != nil {
				t.Fatal(err)
			}
			if err := tracetest.Match(want, d.Jaeger().Traces()); err != nil {
				t.Error(err)
			}
		})
	}
}

// startEdited starts the demo with programs that are built from a copy of the root module with one edit.
func startEdited(t *testing.T, file, old, edited string) *stack.Demo {
	t.Helper()
	root, module, dir := projectRoot(t), t.TempDir(), t.TempDir()
	for _, name := range []string{"cmd", "pkg"} {
		if err := os.CopyFS(filepath.Join(module, name), os.DirFS(filepath.Join(root, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err := errors.Join(err, os.WriteFile(filepath.Join(module, name), content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(module, filepath.FromSlash(file))
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(content), old) != 1 {
		t.Fatalf("%s: want one %q", file, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(content), old, edited, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := stack.Build(t.Context(), module, dir, "-buildvcs=false", "./cmd/..."); err != nil {
		t.Fatal(err)
	}
	collector := binary(t, "collector")
	if err := os.Link(collector, filepath.Join(dir, filepath.Base(collector))); err != nil {
		if runtime.GOOS == "windows" {
			t.Fatal(err)
		}
		if err := os.Symlink(collector, filepath.Join(dir, filepath.Base(collector))); err != nil {
			t.Fatal(err) // the temporary folder may be on another disk, which takes no hard link
		}
	}
	log := &safeBuffer{}
	d, err := stack.Start(t.Context(), stack.Options{
		Root: root, Binaries: dir, Files: []string{compose.File}, FreePorts: true,
		Line: func(service, line string) { log.Write([]byte(service + " | " + line + "\n")) },
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the services' output:\n%s", log.String())
		}
	})
	return d
}

// Each file of the tutorial has one note. It names the edit of the table above and the command, in at most 4 lines.
func TestTheTutorialHasTheTryItNotes(t *testing.T) {
	const command = "`go run -C local . -once -shape`"
	quoted := regexp.MustCompile("replace (`[^ ]+`|`[^`]+`) with (`[^ ]+`|`[^`]+`)")
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
		text := strings.Join(notes[0], " ")
		j := slices.IndexFunc(tries, func(try struct{ file, old, new, traces string }) bool { return try.file == file })
		if j != i {
			t.Errorf("tries has %s at %d, want %d, as in the tutorial", file, j, i)
			continue
		}
		if !strings.Contains(text, command) {
			t.Errorf("%s: the note lacks %s: %s", file, command, text)
		}
		if found := quoted.FindStringSubmatch(text); found != nil {
			was, is := found[1][1:len(found[1])-1], found[2][1:len(found[2])-1]
			if strings.Replace(tries[j].old, was, is, 1) != tries[j].new {
				t.Errorf("%s: the note's edit is %s for %s, and the table's %q for %q", file, is, was, tries[j].new, tries[j].old)
			}
		} else if !strings.Contains(text, "delete `defer span.End()`") {
			t.Errorf("%s: the note names no edit: %s", file, text)
		}
	}
}
