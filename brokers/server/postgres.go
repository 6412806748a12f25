package server

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// SQLite returns the URL of a new database in a temporary folder.
func SQLite() (url string, stop func(), err error) { return opened(newSQLite()) }

func newSQLite() (*Server, error) {
	directory, err := os.MkdirTemp("", "sqlite")
	return &Server{URL: "file:" + filepath.Join(directory, "outbox.db"), remove: func() { os.RemoveAll(directory) }}, err
}

// newPostgres starts the PostgreSQL that is in the PATH, or where Debian installs it.
func newPostgres() (*Server, error) {
	program, err := exec.LookPath("postgres")
	if err != nil {
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
		if len(found) == 0 {
			return nil, fmt.Errorf("%w: postgres is not in the PATH (on Debian: apt-get install postgresql)", ErrMissing)
		}
		program = slices.Max(found)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	directory, err := os.MkdirTemp("", "postgres")
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "postgres://postgres@127.0.0.1:" + port + "/postgres?sslmode=disable",
		remove: func() { os.RemoveAll(directory) }}
	s.start = func() (*process, error) {
		cmd := exec.Command(program, "-D", directory, "-p", port, "-c", "listen_addresses=127.0.0.1",
			"-c", "unix_socket_directories=", "-c", "fsync=off")
		if err := notAsRoot(cmd, directory); err != nil {
			return nil, err
		}
		p, err := start(cmd)
		if err != nil {
			return nil, err
		}
		s.stop = func() {
			p.cmd.Process.Signal(os.Interrupt) // after SIGTERM, it would wait until all clients have left
			p.stop()
		}
		if err := p.waitForPort(port, 30*time.Second); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for { // it listens before it is ready
			conn, err := pgx.Connect(ctx, s.URL)
			if err == nil {
				return nil, conn.Close(ctx)
			} else if ctx.Err() != nil {
				return nil, fmt.Errorf("start PostgreSQL: %w", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	initialize := exec.Command(filepath.Join(filepath.Dir(program), "initdb"), "--pgdata", directory, "--username", "postgres",
		"--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync")
	if err = notAsRoot(initialize, directory); err == nil {
		if out, failed := initialize.CombinedOutput(); failed != nil {
			err = fmt.Errorf("initdb: %w: %s", failed, out)
		}
	}
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
