// Command local runs the demo without Docker: the same programs, the same docker-compose.yml and the same collectors, as
// processes on this machine. See -h.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"otel-demo/local/trace"
)

const usage = `Runs the demo of docker-compose.yml without Docker, until Ctrl+C:

  go run -C local . [-f FILE]... [-recipe NAME] [-once [-wait DURATION]] [-shape]
  go run -C local . [-f FILE]... [-recipe NAME] -load RATE[,RATE]... [-for DURATION] [-json]
  go run -C local . -collector

  -f FILE         a compose file to merge into docker-compose.yml, from the project's folder; may be repeated
  -recipe NAME    the same as -f recipes/NAME/docker-compose.yml; NAME/VARIANT for docker-compose.VARIANT.yml
  -once           stop when the client is done and its traces have arrived; the exit status is the client's
  -wait DURATION  with -once: how long at most, from when all is started (60s); the exit status is 1 if that is over
  -shape          print the traces' shape at the end, rather than each trace as a tree
  -load RATE      send so many requests a second to the demo, traced, and to a second one, untraced, at the same time, and
                  report what tracing costs; WORK_DURATION is 0. Several rates: each in turn, and one demo after the
                  other, until it can't take any more. Not with REDIS_URL, as each demo needs its own
  -for DURATION   with -load: how long each rate (60s)
  -json           with -load: the report as JSON, a line for each rate
  -collector      only start a collector on localhost:4317, which throws all spans away: for the benchmarks in pkg

Traces go to standard output, everything else to standard error. REDIS_URL makes it use that Redis.
`

func main() {
	if len(os.Args) > 1 && os.Args[1] == collectorName {
		if err := runCollector(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(Main(os.Args[1:]))
}

// Main runs the demo and returns the exit status.
func Main(args []string) int {
	err := run(args)
	if err == nil {
		return 0
	}
	var client clientStatus
	if !errors.As(err, &client) {
		fmt.Fprintln(os.Stderr, err)
	}
	var interrupt interrupted
	var usage usageError
	switch {
	case errors.As(err, &client):
		return int(client)
	case errors.As(err, &interrupt):
		return 128 + int(interrupt.Signal)
	case errors.As(err, &usage):
		return 2
	}
	return 1
}

// clientStatus is the exit status of a client that failed. It has said why itself.
type clientStatus int

func (s clientStatus) Error() string { return fmt.Sprintf("the client's exit status is %d", int(s)) }

// interrupted is a signal that ended the run.
type interrupted struct{ syscall.Signal }

func (i interrupted) Error() string { return "stopped by a signal: " + i.String() }

type usageError struct{ error }

// flags are the command line.
type flags struct {
	files           []string
	once, shape     bool
	wait            time.Duration
	rates           []int // of -load
	duration        time.Duration
	json, collector bool
}

func parseFlags(root string, args []string) (flags, error) {
	f := flags{files: []string{composeFile}}
	set := flag.NewFlagSet("local", flag.ContinueOnError)
	set.SetOutput(discard{})
	set.Func("f", "", func(file string) error {
		f.files = append(f.files, file)
		return nil
	})
	set.Func("recipe", "", func(name string) error {
		file, err := recipeFile(root, name)
		f.files = append(f.files, file)
		return err
	})
	set.BoolVar(&f.once, "once", false, "")
	set.BoolVar(&f.shape, "shape", false, "")
	set.DurationVar(&f.wait, "wait", time.Minute, "")
	set.Func("load", "", f.parseRates)
	set.DurationVar(&f.duration, "for", time.Minute, "")
	set.BoolVar(&f.json, "json", false, "")
	set.BoolVar(&f.collector, "collector", false, "")
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return f, err
		}
		return f, usageError{fmt.Errorf("%w (-h shows the flags)", err)}
	}
	isSet := map[string]bool{}
	set.Visit(func(one *flag.Flag) { isSet[one.Name] = true })
	switch {
	case set.NArg() > 0:
		return f, usageError{fmt.Errorf("%q: want flags only (-h shows them)", set.Arg(0))}
	case f.wait <= 0:
		return f, usageError{fmt.Errorf("-wait %v: want a duration above 0, such as 60s", f.wait)}
	case isSet["wait"] && !f.once:
		return f, usageError{errors.New("-wait says how long -once waits: want -once with it")}
	case f.duration < time.Second:
		return f, usageError{fmt.Errorf("-for %v: want a duration from 1s, such as 60s", f.duration)}
	case (isSet["for"] || f.json) && f.rates == nil:
		return f, usageError{errors.New("-for and -json say more about -load: want -load with them")}
	case f.rates != nil && (f.once || f.shape):
		return f, usageError{errors.New("-load ends by itself and prints a report: want neither -once nor -shape with it")}
	case f.collector && len(isSet) > 1:
		return f, usageError{errors.New("-collector starts nothing else: want no other flag with it")}
	}
	return f, nil
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func run(args []string) error {
	root, err := findRoot()
	if err != nil {
		return err
	}
	f, err := parseFlags(root, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return nil
	}
	if err != nil {
		return err
	}

	if f.collector {
		return runCollector(strings.Split(collectorAlone, "\n"))
	}
	ctx, signals := signalContext()
	console := newConsole()
	if f.rates != nil {
		return loadAndReport(ctx, root, f, console)
	}
	d, err := Start(ctx, Options{Root: root, Files: f.files, RedisURL: os.Getenv("REDIS_URL"), Line: console.line})
	if err != nil {
		return err
	}
	// Who presses Ctrl+C again can't wait any longer.
	go func() {
		<-ctx.Done()
		<-signals
		d.killAll()
	}()

	stopWatch, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		if !f.shape && len(d.stores()) > 0 {
			console.watch(d.stores()[0], stopWatch)
		}
	}()
	console.line("", d.welcome())
	err = d.untilDone(ctx, f)
	// Stop first, then look: what was still under way has arrived by then.
	err = errors.Join(err, d.Stop())
	close(stopWatch)
	<-watched
	if f.shape {
		console.text(backend.Shape(d.Jaeger().Traces()))
	}
	return err
}

// signalContext returns a context that SIGINT and SIGTERM end, with the signal as its cause, and a channel for those that
// follow.
func signalContext() (context.Context, <-chan os.Signal) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() { cancel(interrupted{(<-signals).(syscall.Signal)}) }()
	return ctx, signals
}

// untilDone returns when the demo should stop: with nil when -once has what it waits for.
func (d *Demo) untilDone(ctx context.Context, f flags) error {
	done := make(chan error, 1)
	go func() { done <- d.clientDone(ctx, f) }()
	for {
		select {
		case err := <-done:
			if err != nil || f.once {
				return err
			}
			d.line("", "the client is done; the demo goes on until Ctrl+C. "+d.places())
			done = nil
		case err := <-d.Failed():
			var end *endError
			if f.once && errors.As(err, &end) && d.service(end.process) != nil && d.service(end.process).isClient() {
				continue // its exit status is the result, and done brings it
			}
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// clientDone waits for the clients, and with -once for the traces as well.
func (d *Demo) clientDone(ctx context.Context, f flags) error {
	if f.once {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.wait, fmt.Errorf("not done after %v (-wait)", f.wait))
		defer cancel()
	}
	status, clients := 0, 0
	for _, s := range d.services {
		if !s.isClient() {
			continue
		}
		clients++
		one, err := d.Wait(ctx, s.Name)
		if err != nil {
			return err
		}
		status = max(status, one)
	}
	switch {
	case !f.once && clients == 0:
		<-ctx.Done()
		return context.Cause(ctx)
	case !f.once:
		return nil // if it failed, Failed says so
	case clients == 0:
		return errors.New("-once: there is no client to wait for")
	}
	if err := d.progress("waiting for spans", func() error { return d.WaitForTraces(ctx) }); err != nil {
		return err
	}
	if status != 0 {
		return clientStatus(status)
	}
	return nil
}

func (d *Demo) welcome() string { return "all services are started. " + d.places() }

// places says where you can look at the demo.
func (d *Demo) places() string {
	var places []string
	for _, s := range d.services {
		for _, p := range s.Ports {
			address, err := d.Addr(s.Name, int(p.Target))
			if err != nil {
				continue // left out
			}
			path := ""
			if s.kind == program {
				path = "/hello"
			}
			places = append(places, fmt.Sprintf("%s: http://localhost:%d%s", s.Name, portNumber(address), path))
		}
	}
	return strings.Join(places, ", ")
}
