package redisstreams

// This file has only Redis, no tracing: how a worker gets entries, and goes on after Redis was restarted.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"otel-demo/brokers/outage"
)

// Join creates the group, unless it exists. It begins with the stream's first entry.
func (w Worker) Join(ctx context.Context) error {
	err := w.Client.XGroupCreateMkStream(ctx, stream, group, "0").Err()
	if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
		return fmt.Errorf("create group: %w", err)
	}
	return nil
}

// read waits up to half a second for new entries. SIGTERM doesn't cut it short: otherwise Redis could assign an entry
// to a worker that never sees it.
func (w Worker) read(limit int64) ([]redis.XMessage, error) {
	streams, err := w.Client.XReadGroup(context.Background(), &redis.XReadGroupArgs{Group: group, Consumer: w.Name,
		Streams: []string{stream, ">"}, Count: limit, Block: 500 * time.Millisecond}).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return streams[0].Messages, nil
}

// keepReading passes entries to process until ctx is canceled. These are new entries, and those that a worker has read
// but not acknowledged, because it died or failed. A group never hands them to another worker by itself: without
// XAUTOCLAIM they would wait forever. While Redis is unreachable, keepReading keeps trying. It returns an error that
// retrying won't mend.
func (w Worker) keepReading(ctx context.Context, process func(redis.XMessage) error) error {
	down := outage.New("Redis")
	for ctx.Err() == nil {
		entries, err1 := w.claim()
		fresh, err2 := w.read(10)
		err := errors.Join(err1, err2)
		for _, entry := range append(entries, fresh...) {
			err = errors.Join(err, process(entry))
		}
		switch {
		case err == nil:
			down.End()
		case redis.IsAuthError(err) || redis.IsPermissionError(err):
			return err
		case noGroup(err1) || noGroup(err2): // Redis has lost its data, or someone has deleted the stream
			if err := w.Join(ctx); err != nil {
				down.Begin(err)
				down.Pause(ctx)
				continue
			}
			slog.Warn("the stream was gone, with its entries; joined a new one", "stream", stream)
		default:
			down.Begin(err)
			down.Pause(ctx)
		}
	}
	return nil
}

func noGroup(err error) bool {
	err = errors.Unwrap(err)
	return err != nil && (redis.HasErrorPrefix(err, "NOGROUP") || redis.HasErrorPrefix(err, "UNBLOCKED"))
}

// acknowledge tells Redis that the group is done with these entries.
func (w Worker) acknowledge(entries []redis.XMessage) error {
	var ids []string
	for _, entry := range entries {
		ids = append(ids, entry.ID)
	}
	return w.Client.XAck(context.Background(), stream, group, ids...).Err()
}

// claim takes over entries that a worker, this one included, has held for longer than w.Idle. An entry that has been
// delivered three times is given up.
func (w Worker) claim() ([]redis.XMessage, error) {
	entries, _, err := w.Client.XAutoClaim(context.Background(), &redis.XAutoClaimArgs{
		Stream: stream, Group: group, Consumer: w.Name, MinIdle: w.Idle, Start: "0", Count: 10}).Result()
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	deliveries := w.deliveries(entries) // this claim counts as one
	return slices.DeleteFunc(entries, func(entry redis.XMessage) bool {
		return deliveries[entry.ID] > 3 && w.giveUp(entry, deliveries[entry.ID]-1) == nil
	}), nil
}

// deliveries returns how often each of these entries has been delivered, by its id.
func (w Worker) deliveries(entries []redis.XMessage) map[string]int64 {
	if len(entries) == 0 {
		return nil
	}
	counts := map[string]int64{}
	pending, _ := w.Client.XPendingExt(context.Background(), &redis.XPendingExtArgs{Stream: stream, Group: group,
		Consumer: w.Name, Start: entries[0].ID, End: entries[len(entries)-1].ID, Count: 1000}).Result()
	for _, entry := range pending {
		counts[entry.ID] = entry.RetryCount
	}
	return counts
}

// waited returns how long an entry has been in the stream. Its id begins with the time of its arrival, by Redis's
// clock, in milliseconds.
func waited(entry redis.XMessage) time.Duration {
	arrival, _, _ := strings.Cut(entry.ID, "-")
	ms, _ := strconv.ParseInt(arrival, 10, 64)
	return time.Since(time.UnixMilli(ms))
}

// host returns the server's host name.
func host(client *redis.Client) string {
	name, _, _ := net.SplitHostPort(client.Options().Addr)
	return name
}
