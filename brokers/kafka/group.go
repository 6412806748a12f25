package kafka

// This file has no tracing: how a worker gets records and commits them, in a consumer group that survives a restart of
// Kafka, the death of a worker, and a new one.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"otel-demo/brokers/outage"
)

// SessionTimeout is how long Kafka waits for a worker that has died before another one gets its records.
const SessionTimeout = 10 * time.Second // franz-go's default is 45 s

// Consumer returns the options of a client that receives. They turn off automatic commits: poll, below, commits a
// record only after the work is done. So if a worker dies, another one gets its uncommitted records, and the spans of
// that one link to the same producers.
func Consumer() []kgo.Opt {
	return []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(SessionTimeout),
		// A worker that joins gets none of the records that another one is working on. Without this, it would get those
		// that aren't committed yet.
		kgo.BlockRebalanceOnPoll(),
		Traced(),
		kgo.WithHooks(session{outage.New("Kafka")})}
}

// session logs when the worker loses its place in the group, and when it is back. franz-go joins again by itself.
type session struct{ down *outage.Outage }

func (s session) OnGroupManageError(err error) { s.down.Begin(err) }

func (s session) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if err == nil && key == kmsg.SyncGroup.Int16() {
		s.down.End()
	}
}

// poll waits for up to limit records, passes them to process, and commits them, even if ctx is canceled by then. It
// returns an error that retrying won't mend.
func poll(ctx context.Context, client *kgo.Client, limit int, process func([]*kgo.Record)) error {
	fetches := client.PollRecords(ctx, limit)
	defer client.AllowRebalance()
	if records := fetches.Records(); len(records) > 0 {
		process(records)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := client.CommitRecords(ctx, records...); err != nil {
			slog.Warn("commit: another worker may get these records again", "records", len(records), "error", err)
		}
	}
	for _, fetch := range fetches.Errors() {
		if slices.ContainsFunc(lasting, func(err error) bool { return errors.Is(fetch.Err, err) }) {
			return fmt.Errorf("poll: %w", fetch.Err)
		}
	}
	return nil
}

var lasting = []error{kgo.ErrClientClosed, kerr.SaslAuthenticationFailed, kerr.ClusterAuthorizationFailed,
	kerr.GroupAuthorizationFailed, kerr.TopicAuthorizationFailed, kerr.InvalidSessionTimeout}
