package redisstreams

// This file has only Redis, no tracing: how a worker gets entries.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
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

// next returns entries that a worker left behind, and then new ones.
func (w Worker) next() ([]redis.XMessage, error) {
	claimed, err1 := w.claim()
	fresh, err2 := w.read(10)
	return append(claimed, fresh...), errors.Join(err1, err2)
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
// delivered three times isn't delivered anymore: it stays in the stream, for you to look at.
func (w Worker) claim() ([]redis.XMessage, error) {
	ctx := context.Background()
	entries, _, err := w.Client.XAutoClaim(ctx, &redis.XAutoClaimArgs{
		Stream: stream, Group: group, Consumer: w.Name, MinIdle: w.Idle, Start: "0", Count: 10}).Result()
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	deliveries := w.deliveries(entries)
	return slices.DeleteFunc(entries, func(entry redis.XMessage) bool {
		return deliveries[entry.ID] > 3 && w.Client.XAck(ctx, stream, group, entry.ID).Err() == nil
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
