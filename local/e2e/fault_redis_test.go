//go:build unix

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"otel-demo/local/compose"
	"otel-demo/local/runner"
)

// realRedis is the test's own redis-server, with the options that ship. Its clients need the password.
type realRedis struct {
	t       *testing.T
	address string
	cmd     *exec.Cmd
}

const redisPassword = "sesame"

// startRedis starts one. Without redis-server the test is skipped, unless REQUIRE_REDIS is set, as .ci/run does.
func startRedis(t *testing.T) *realRedis {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("REQUIRE_REDIS") != "" {
			t.Fatal("REQUIRE_REDIS is set, and there is no redis-server (Debian: apt-get install redis-server)")
		}
		t.Skip("needs a real Redis: there is no redis-server (Debian: apt-get install redis-server)")
	}
	r := &realRedis{t: t, address: freeAddress(t)}
	r.start()
	t.Cleanup(func() { r.end(syscall.SIGKILL) })
	return r
}

func (r *realRedis) start() {
	r.t.Helper()
	project, err := runner.Load(r.t.Context(), projectRoot(r.t), []string{compose.File})
	if err != nil {
		r.t.Fatal(err)
	}
	shipped := project.Services["redis"].Command
	host, number := compose.HostAndPort(r.address)
	r.cmd = exec.Command(shipped[0], append(shipped[1:], "--bind", host, "--port", number, "--requirepass", redisPassword)...)
	r.cmd.Dir = r.t.TempDir()
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "Redis", func() bool {
		connection, err := net.Dial("tcp", r.address)
		if err == nil {
			_ = connection.Close() // it was only a check
		}
		return err == nil
	})
}

func (r *realRedis) signal(signal syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(signal); err != nil {
		r.t.Fatal(err)
	}
}

func (r *realRedis) end(signal syscall.Signal) {
	if r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Signal(signal) // it may have exited
		_ = r.cmd.Wait()                 // likewise
	}
}

func TestRedisRestarts(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct{ away, back func(r *realRedis) }{
		"stopped":       {func(r *realRedis) { r.end(syscall.SIGTERM) }, (*realRedis).start},
		"killed":        {func(r *realRedis) { r.end(syscall.SIGKILL) }, (*realRedis).start},
		"not answering": {func(r *realRedis) { r.signal(syscall.SIGSTOP) }, func(r *realRedis) { r.signal(syscall.SIGCONT) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRedis(t)
			d, log := startDemoOn(t, fmt.Sprintf("redis://:%s@%s/0", redisPassword, r.address), noClient)
			isWell(t, d)
			hello := "http://" + address(t, d, "server", 8080) + "/hello"
			health := strings.Replace(hello, "/hello", "/healthz", 1)
			if got := getURL(hello); got.status != http.StatusOK {
				t.Fatalf("got %+v", got)
			}

			fault.away(r)
			slowest := time.Duration(0)
			for range 2 {
				for _, url := range []string{hello, health} {
					got := getURL(url)
					slowest = max(slowest, got.took)
					if got.status != http.StatusServiceUnavailable || got.took > 2*time.Second {
						t.Errorf("%s without Redis: got %d %q after %v, want 503 within 2 s", url, got.status, got.body, got.took)
					}
				}
			}

			fault.back(r)
			start := time.Now()
			for getURL(health).status != http.StatusOK && time.Since(start) < 30*time.Second {
				time.Sleep(20 * time.Millisecond)
			}
			back := time.Since(start)
			if back > 5*time.Second {
				t.Errorf("healthy again after %v, want at most 5 s", back)
			}
			processed := strings.Count(log.String(), "msg=processed")
			if got := getURL(hello); got.status != http.StatusOK {
				t.Errorf("got %+v", got)
			}
			eventually(t, "the worker to process", func() bool { return strings.Count(log.String(), "msg=processed") > processed })
			t.Logf("measured: Redis %s: 503 after at most %v, both programs back after %v", name,
				slowest.Round(time.Millisecond), back.Round(time.Millisecond))

			// The password was used for each connection, and appears nowhere.
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
			if strings.Contains(log.String(), redisPassword) {
				t.Error("the password is in the log")
			}
			spans := 0
			for _, store := range d.Backends() {
				for _, trace := range store.Traces() {
					for _, span := range trace.Spans {
						spans++
						if strings.Contains(fmt.Sprintf("%+v", span), redisPassword) {
							t.Errorf("the password is on the span %s", span.Name)
						}
					}
				}
			}
			if spans == 0 {
				t.Error("no span arrived")
			}
		})
	}
}

// redisFault starts the demo on its own Redis, and returns a client of that Redis.
func redisFault(t *testing.T, worker string) (*realRedis, *goredis.Client, *runner.Demo, *safeBuffer) {
	t.Helper()
	r := startRedis(t)
	d, log := startDemoOn(t, fmt.Sprintf("redis://:%s@%s/0", redisPassword, r.address), noClient, worker)
	isWell(t, d)
	client := goredis.NewClient(&goredis.Options{Addr: r.address, Password: redisPassword})
	t.Cleanup(func() { client.Close() })
	return r, client, d, log
}

const (
	redisIsUnreachable = `msg="Redis is unreachable; trying again until it is back"`
	redisIsBack        = `msg="Redis is back; messages may have been missed meanwhile"`
)

// The worker reads no more than it can process. When Redis has to buffer too much for it, Redis drops the connection,
// and the worker logs it.
func TestASlowWorkerSaysThatItWasDropped(t *testing.T) {
	t.Parallel()
	_, client, d, log := redisFault(t, `services: {worker: {environment: {WORK_DURATION: 500ms}}}`)
	if err := client.ConfigSet(t.Context(), "client-output-buffer-limit", "pubsub 1mb 1mb 1").Err(); err != nil {
		t.Fatal(err)
	}
	message := fmt.Sprintf(`{"id":"x","body":%q}`, strings.Repeat("x", 60_000))
	dropped := false
	for n := 0; n < 3000 && !dropped; n++ { // up to 180 MB
		dropped = client.Publish(t.Context(), "work", message).Val() == 0
	}
	if !dropped {
		t.Error("Redis did not drop the worker, so it has read 3000 messages of 60 kB")
	}
	for _, line := range []string{redisIsUnreachable, redisIsBack} {
		eventually(t, line, func() bool { return strings.Contains(log.String(), line) })
	}
	isWell(t, d)
}

// The worker would allocate a huge message before it could check its size, or Redis would disconnect the worker. Redis
// refuses the message instead.
func TestRedisRefusesAHugeMessage(t *testing.T) {
	t.Parallel()
	_, client, d, log := redisFault(t, `services: {worker: {environment: {WORK_DURATION: 1ms}}}`)
	if err := client.Publish(t.Context(), "work", strings.Repeat("x", 128_000_000)).Err(); err == nil {
		t.Error("Redis accepted a message of 128 MB")
	} else {
		t.Logf("a message of 128 MB: %v", err)
	}
	if err := client.Publish(t.Context(), "work", strings.Repeat("x", 1_000_000)).Err(); err != nil {
		t.Errorf("a message of 1 MB: %v", err)
	}
	eventually(t, "the worker to count a bad message", func() bool { return strings.Contains(log.String(), `"so far"=`) })
	isWell(t, d)
	if strings.Contains(log.String(), redisIsUnreachable) {
		t.Error("Redis has disconnected the worker")
	}
	memory := peakMemory(t, d, "worker")
	if memory >= 100 {
		t.Errorf("the worker took %d MB, want less than 100", memory)
	}
	t.Logf("measured: a message of 128 MB: refused by Redis, worker at up to %d MB", memory)
}

// A Redis that no longer responds keeps its connections open. The worker notices all the same, and can be stopped.
func TestTheWorkerNoticesARedisThatNoLongerResponds(t *testing.T) {
	t.Parallel()
	r, _, d, log := redisFault(t, `services: {worker: {environment: {WORK_DURATION: 1ms}}}`)
	r.signal(syscall.SIGSTOP)
	start := time.Now()
	eventually(t, "the line about the outage", func() bool { return strings.Contains(log.String(), redisIsUnreachable) })
	noticed := time.Since(start)
	r.signal(syscall.SIGCONT)
	eventually(t, "the line about its end", func() bool { return strings.Contains(log.String(), redisIsBack) })
	isWell(t, d)
	if n := strings.Count(log.String(), redisIsUnreachable); n != 1 {
		t.Errorf("%d lines say that Redis is unreachable, want 1", n)
	}
	r.signal(syscall.SIGSTOP)
	defer r.signal(syscall.SIGCONT)
	status, took := terminateService(t, d, "worker", 10*time.Second)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	t.Logf("measured: a Redis that no longer responds is noticed after %v; SIGTERM then: exit %d after %v",
		noticed.Round(100*time.Millisecond), status, took)
}

// After the password changes, the worker exits with one line, instead of listening to nothing forever.
func TestTheWorkerExitsWhenRedisRefusesIt(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][]any{
		"another password":           {"config", "set", "requirepass", "another"},
		"no permission to subscribe": {"acl", "setuser", "default", "resetchannels"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, client, d, log := redisFault(t, `services: {worker: {environment: {WORK_DURATION: 1ms}}}`)
			_, err := client.Pipelined(t.Context(), func(p goredis.Pipeliner) error {
				p.Do(t.Context(), change...)
				p.Do(t.Context(), "client", "kill", "type", "pubsub")
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			status, err := d.Wait(ctx, "worker")
			if err != nil || status != 1 {
				t.Errorf("the worker exited with %d, %v, want 1", status, err)
			}
			want := "worker | REDIS_URL: Redis refuses the user, the password, or the command; want a user that"
			if strings.Count(log.String(), want) != 1 || strings.Contains(log.String(), redisPassword) {
				t.Errorf("the log lacks %q, or has a password:\n%s", want, lastLines(log.String(), "worker"))
			}
		})
	}
}
