package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

// console writes what you see: the services' lines, each after its service's name, on standard error, and the traces on
// standard output.
type console struct {
	stdout, stderr output
	stop           func(error) // stops the run
	once           sync.Once
	err            error // of the first write that failed

	mu    sync.Mutex
	width int // of the longest name so far
}

// output is standard output or standard error.
type output struct {
	file            *os.File
	failed          func(error)
	terminal, color bool // color: it is a terminal, and the user wants colors (https://no-color.org)
}

func newConsole(stop func(error)) *console {
	c := &console{stop: stop, width: len("otel-collector")}
	for file, out := range map[*os.File]*output{os.Stdout: &c.stdout, os.Stderr: &c.stderr} {
		terminal := term.IsTerminal(int(file.Fd())) && understandsEscapes(file)
		*out = output{file, c.failed, terminal, terminal && os.Getenv("NO_COLOR") == ""}
	}
	return c
}

// Write stops the run if it fails: without its output, the run is of no use.
func (o output) Write(b []byte) (int, error) {
	n, err := o.file.Write(b)
	if err != nil {
		o.failed(err)
	}
	return n, err
}

// failed stops the run for the first write that fails. A pipe without a reader, as in `... | head`, counts as a signal.
func (c *console) failed(err error) {
	c.once.Do(func() {
		if errors.Is(err, syscall.EPIPE) {
			err = interrupted{syscall.SIGPIPE}
		}
		c.err = err
		c.stop(err)
	})
}

// line writes a service's line. The runner's own lines have no name before them.
func (c *console) line(service, line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if service == "" {
		fmt.Fprintln(c.stderr, line)
		return
	}
	c.width = max(c.width, len(service))
	prefix := fmt.Sprintf("%-*s |", c.width, service)
	if c.stderr.color {
		prefix = spans.Paint(service, prefix)
	}
	fmt.Fprintln(c.stderr, prefix, line)
}

// trace writes a trace as a tree.
func (c *console) trace(t *spans.Trace, note string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	width, _, err := term.GetSize(int(c.stdout.file.Fd()))
	if err != nil {
		width = 0 // not a terminal: use the default
	}
	fmt.Fprint(c.stdout, "\n", spans.TreeText(t, spans.TreeOptions{Width: width, Color: c.stdout.color}))
	if note != "" {
		fmt.Fprintln(c.stdout, note)
	}
}

// progressLine returns a function that shows the load's progress: on a terminal it overwrites its line; otherwise, it
// writes a line every ten seconds.
func (c *console) progressLine() func(string) {
	calls := 0
	return func(text string) {
		if calls++; c.stderr.terminal {
			fmt.Fprintf(c.stderr, "\r\x1b[K%s", text)
		} else if calls%10 == 0 {
			c.line("", text)
		}
	}
}

// watch writes each of a store's traces when it is complete, until stop is closed. An incomplete trace is written, with
// what it lacks, when no span of it has arrived for some seconds. A trace that gets more spans is written again. In the
// end, watch writes the rest.
func (c *console) watch(store *spans.Store, stop <-chan struct{}) {
	type state struct {
		spans, written int // how many have arrived, and how many were there when the trace was written
		since          time.Time
	}
	seen := map[string]*state{}
	for last := false; ; {
		traces := store.Traces()
		var missing map[string]string
		for _, t := range traces {
			s := seen[t.ID]
			if s == nil {
				s = &state{}
				seen[t.ID] = s
			}
			if s.spans != len(t.Spans) {
				s.spans, s.since = len(t.Spans), time.Now()
			}
			if s.written == s.spans {
				continue
			}
			if missing == nil {
				missing = spans.Missing(traces)
			}
			quiet, note := runner.Settled, ""
			if lacks := missing[t.ID]; lacks != "" {
				quiet, note = runner.Quiet, "incomplete: "+lacks
			}
			if last || time.Since(s.since) >= quiet {
				c.trace(t, note)
				s.written = s.spans
			}
		}
		if last {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-stop:
			last = true
		}
	}
}
