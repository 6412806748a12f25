package outbox

// This file has only SQL, no tracing: the same statements for SQLite and PostgreSQL.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"go.opentelemetry.io/otel/propagation"
	_ "modernc.org/sqlite"
)

// timeout is for one statement or transaction.
const timeout = 5 * time.Second

// Store is a database with orders and their outbox.
type Store struct {
	db   *sql.DB
	lock string // keeps two relays from taking the same row
}

// Open opens a database, and creates the two tables unless they exist. Its URL begins with file: for SQLite, and with
// postgres: for PostgreSQL.
func Open(ctx context.Context, url string) (*Store, error) {
	driver, lock := "pgx", "FOR UPDATE SKIP LOCKED"
	if strings.HasPrefix(url, "file:") {
		driver, lock = "sqlite", "" // only one connection can write at a time
		url += "?_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)"
	} else if !strings.HasPrefix(url, "postgres:") && !strings.HasPrefix(url, "postgresql:") {
		return nil, errors.New("want a URL such as postgres://user:password@localhost:5432/database, or file:outbox.db")
	}
	db, err := sql.Open(driver, url)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, table := range []string{
		`CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, task TEXT NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS outbox (
			id TEXT PRIMARY KEY, task TEXT NOT NULL, traceparent TEXT NOT NULL, tracestate TEXT NOT NULL, baggage TEXT NOT NULL,
			created BIGINT NOT NULL, taken_until BIGINT NOT NULL DEFAULT 0, publications INTEGER NOT NULL DEFAULT 0,
			given_up TEXT NOT NULL DEFAULT '')`,
	} {
		if _, err := db.ExecContext(ctx, table); err != nil {
			db.Close()
			return nil, fmt.Errorf("create tables: %w", err)
		}
	}
	return &Store{db, lock}, nil
}

// Close closes the connections.
func (s *Store) Close() error { return s.db.Close() }

// insert stores an order and its message, or neither.
func (s *Store) insert(ctx context.Context, r row) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, `INSERT INTO orders (id, task) VALUES ($1, $2)`, r.id, r.task); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO outbox (id, task, traceparent, tracestate, baggage, created)
		VALUES ($1, $2, $3, $4, $5, $6)`,
		r.id, r.task, r.carrier["traceparent"], r.carrier["tracestate"], r.carrier["baggage"], r.created.UnixMicro()); err != nil {
		return err
	}
	return tx.Commit()
}

// take returns the oldest row that no relay has, and keeps other relays from it for the duration of the lease.
func (s *Store) take(lease time.Duration) (row, bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	now := time.Now()
	var r row
	var traceparent, tracestate, baggage string
	var created int64
	err := s.db.QueryRowContext(ctx, `UPDATE outbox SET taken_until = $1, publications = publications + 1 WHERE id = (
		SELECT id FROM outbox WHERE taken_until < $2 AND given_up = '' ORDER BY created LIMIT 1 `+s.lock+`)
		RETURNING id, task, traceparent, tracestate, baggage, created, publications`,
		now.Add(lease).UnixMilli(), now.UnixMilli()).
		Scan(&r.id, &r.task, &traceparent, &tracestate, &baggage, &created, &r.publications)
	if errors.Is(err, sql.ErrNoRows) {
		return row{}, false, nil
	} else if err != nil {
		return row{}, false, fmt.Errorf("take a row: %w", err)
	}
	r.created = time.UnixMicro(created)
	r.carrier = propagation.MapCarrier{"traceparent": traceparent, "tracestate": tracestate, "baggage": baggage}
	return r, true, nil
}

// remove deletes a row that was published.
func (s *Store) remove(r row) error { return s.exec(`DELETE FROM outbox WHERE id = $1`, r.id) }

// giveUp keeps a row that can't be published.
func (s *Store) giveUp(r row, reason error) error {
	return s.exec(`UPDATE outbox SET given_up = $2 WHERE id = $1`, r.id, reason.Error())
}

// release lets the relay try again at once.
func (s *Store) release(r row, reason error) error {
	return errors.Join(reason, s.exec(`UPDATE outbox SET taken_until = 0 WHERE id = $1`, r.id))
}

func (s *Store) exec(statement string, values ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, statement, values...)
	return err
}
