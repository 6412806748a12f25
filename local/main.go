// Command local is the runner: it runs the demo without Docker, with the same programs, the same docker-compose.yml and
// the same collectors, as processes on this machine. See -h.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"otel-demo/local/compose"
	"otel-demo/local/load"
	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

const usage = `Runs the demo in docker-compose.yml without Docker, until you press Ctrl+C:

  go run -C local . [-f FILE]... [-recipe NAME] [-case NAME] [-once [-wait DURATION]] [-shape]
  go run -C local . [-f FILE]... [-recipe NAME] [-case NAME] -load RATE[,RATE]... [-for DURATION] [-json]
  go run -C local . -hops

  -f FILE         a compose file to merge into docker-compose.yml, relative to the project's folder; can be repeated
  -recipe NAME    the same as -f recipes/NAME/docker-compose.yml; NAME/VARIANT for docker-compose.VARIANT.yml
  -case NAME      the same as -f cases/NAME/docker-compose.yml: a system that misbehaves, for you to find out why
  -once           stop when the client is done and its traces have arrived; the exit status is the client's
  -wait DURATION  with -once: how long to wait once all services have started (60s); after that, the exit status is 1
  -shape          print the traces' shape at the end, instead of each trace as a tree
  -load RATE      send this many requests a second to the demo, traced, and at the same time to a second one, untraced,
                  and report what tracing costs; WORK_DURATION is 0. With several rates: one rate after another, and one
                  demo after the other, until it can't keep up. Not with REDIS_URL: each demo needs its own Redis
  -for DURATION   with -load: how long to send at each rate (60s)
  -json           with -load: print the report as JSON, one line per rate
  -hops           only print where the spans of a running demo are, hop by hop and service by service; use the same -f,
                  -recipe and -case as for the demo. The demo's viewer shows the same at /hops

Traces go to standard output, everything else to standard error. Set REDIS_URL to use your own Redis.
`

func main() { os.Exit(status(run(os.Args[1:]))) }

// status returns the exit status for a run's error, and prints the error, unless a client has already printed its own.
func status(err error) int {
	if err == nil {
		return 0
	}
	if client, ok := errors.AsType[clientStatus](err); ok {
		return int(client)
	}
	fmt.Fprintln(os.Stderr, err)
	if interrupt, ok := errors.AsType[interrupted](err); ok {
		return 128 + int(interrupt.Signal)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

// clientStatus is the exit status of a client that failed. The client has printed why.
type clientStatus int

func (s clientStatus) Error() string { return fmt.Sprintf("the client's exit status is %d", int(s)) }

// interrupted is a signal that stopped the run.
type interrupted struct{ syscall.Signal }

func (i interrupted) Error() string { return "stopped by a signal: " + i.String() }

type usageError struct{ error }

// flags holds the parsed command line.
type flags struct {
	files       []string
	once, shape bool
	wait        time.Duration
	rates       []int // of -load
	duration    time.Duration
	json, hops  bool
}

func parseFlags(root string, args []string) (flags, error) {
	f := flags{files: []string{compose.File}}
	set := flag.NewFlagSet("local", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Func("f", "", func(file string) error {
		f.files = append(f.files, file)
		return nil
	})
	for _, folder := range []string{"recipes", "cases"} {
		set.Func(strings.TrimSuffix(folder, "s"), "", func(name string) error {
			file, err := compose.OverlayFile(root, folder, name)
			f.files = append(f.files, file)
			return err
		})
	}
	set.BoolVar(&f.once, "once", false, "")
	set.BoolVar(&f.shape, "shape", false, "")
	set.DurationVar(&f.wait, "wait", time.Minute, "")
	set.Func("load", "", f.parseRates)
	set.DurationVar(&f.duration, "for", time.Minute, "")
	set.BoolVar(&f.json, "json", false, "")
	set.BoolVar(&f.hops, "hops", false, "")
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
		return f, usageError{errors.New("-wait sets how long -once waits: use it with -once")}
	case f.duration < time.Second:
		return f, usageError{fmt.Errorf("-for %v: want a duration of at least 1s, such as 60s", f.duration)}
	case (isSet["for"] || f.json) && f.rates == nil:
		return f, usageError{errors.New("-for and -json apply only to -load: use them with -load")}
	case f.rates != nil && (f.once || f.shape):
		return f, usageError{errors.New("-load stops by itself and prints a report: don't use -once or -shape with it")}
	case f.hops && (f.once || f.shape || f.rates != nil):
		return f, usageError{errors.New("-hops queries a running demo: use only -f, -recipe and -case with it")}
	}
	return f, nil
}

// parseRates parses the value of -load.
func (f *flags) parseRates(value string) error {
	for one := range strings.SplitSeq(value, ",") {
		rate, err := strconv.Atoi(one)
		if err != nil || rate < 1 || rate > 100_000 {
			return fmt.Errorf("%q: want requests a second, from 1 to 100000, such as 200", one)
		}
		f.rates = append(f.rates, rate)
	}
	return nil
}

func run(args []string) error {
	root, err := compose.FindRoot()
	if err != nil {
		return err
	}
	f, err := parseFlags(root, args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := fmt.Print(usage)
		return err
	}
	if err != nil {
		return err
	}

	ctx, stop, kill := signalContext()
	console := newConsole(stop)
	options := runner.Options{Root: root, Files: f.files, RedisURL: os.Getenv("REDIS_URL"), Line: console.line, Kill: kill}
	switch {
	case f.hops:
		return printHops(ctx, root, f.files)
	case f.rates != nil:
		return runLoad(ctx, f, options, console)
	}
	d, err := runner.Start(ctx, options)
	if err != nil {
		return err
	}
	stopWatch, watched := make(chan struct{}), make(chan struct{})
	backends := d.Backends()
	go func() {
		defer close(watched)
		if !f.shape && len(backends) > 0 {
			console.watch(backends[0].Store, stopWatch)
		}
	}()
	console.line("", "all services have started. "+d.Places())
	err = untilDone(ctx, d, f, console)
	// Stop first, then look: spans in flight have arrived by then.
	err = errors.Join(err, d.Stop())
	close(stopWatch)
	<-watched
	console.line("", d.Hops().String())
	if f.shape && len(backends) > 0 {
		fmt.Fprint(console.stdout, spans.Shape(backends[0].Traces()))
	}
	return cmp.Or(err, console.err)
}

// printHops implements -hops.
func printHops(ctx context.Context, root string, files []string) error {
	address, err := runner.ViewerAddress(ctx, root, files)
	if err != nil {
		return err
	}
	response, err := http.Get("http://" + address + "/hops")
	if err != nil {
		return fmt.Errorf("-hops: no demo is running with these files: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("-hops: the program that listens on %s is not the demo's viewer: %s", address, response.Status)
	}
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

// runLoad implements -load.
func runLoad(ctx context.Context, f flags, options runner.Options, c *console) error {
	if options.RedisURL != "" {
		return errors.New("REDIS_URL: unset it to use -load, whose two demos would receive each other's messages")
	}
	return load.Run(ctx, load.Options{Options: options, Rates: f.rates, Duration: f.duration, Progress: c.progressLine()},
		func(r load.Report) error {
			if f.json {
				return r.WriteJSON(c.stdout)
			}
			return r.WriteText(c.stdout)
		})
}

// signalContext returns a context that SIGINT, SIGTERM or SIGHUP cancels, with the signal as its cause, the function that
// cancels it for another cause, and a channel that a second signal closes: pressing Ctrl+C again means that you don't
// want to wait.
func signalContext() (context.Context, context.CancelCauseFunc, <-chan struct{}) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals, kill := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it
		signal.Notify(signals, syscall.SIGHUP)
	}
	signal.Ignore(syscall.SIGPIPE) // writing to a closed pipe fails instead, and the console cancels ctx
	go func() {
		cancel(interrupted{(<-signals).(syscall.Signal)})
		for <-signals == syscall.SIGHUP { // a closed terminal may send it twice: the system, and then the shell
		}
		close(kill)
	}()
	return ctx, cancel, kill
}

// untilDone waits until the demo should stop. It returns nil when -once has what it waits for.
func untilDone(ctx context.Context, d *runner.Demo, f flags, c *console) error {
	done := make(chan error, 1)
	go func() { done <- clientDone(ctx, d, f) }()
	for {
		select {
		case err := <-done:
			if err != nil || f.once {
				return err
			}
			c.line("", "the client is done; the demo keeps running until Ctrl+C. "+d.Places())
			done = nil
		case err := <-d.Failed():
			end, ok := errors.AsType[*runner.EndError](err)
			if !ok || !end.OfClient {
				return err
			}
			if !f.once { // with -once, its exit status is the result, which done delivers
				c.line("", end.Error())
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// clientDone waits for the clients and, with -once, for their traces.
func clientDone(ctx context.Context, d *runner.Demo, f flags) error {
	if f.once {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.wait, fmt.Errorf("not done after %v (-wait)", f.wait))
		defer cancel()
	}
	status, clients := 0, d.Clients()
	for _, name := range clients {
		one, err := d.Wait(ctx, name)
		if err != nil {
			return err
		}
		status = max(status, one)
	}
	switch {
	case !f.once && len(clients) == 0:
		<-ctx.Done()
		return context.Cause(ctx)
	case !f.once:
		return nil // if one failed, Failed reports it
	case len(clients) == 0:
		return errors.New("-once: there is no client to wait for")
	}
	if err := d.WaitForTraces(ctx); err != nil {
		return err
	}
	if status != 0 {
		return clientStatus(status)
	}
	return nil
}
