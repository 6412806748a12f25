package pkg

// This is file 3 of 6: an envelope that can carry the trace context over a broker.
//
// An HTTP request has headers, and the trace context travels in them. A message of Redis pub/sub is a string and has
// none. So the body is put into an envelope that has: JSON here, but anything with a place for a few strings will do.
// Kafka, RabbitMQ and NATS have headers on their messages. There you need no envelope, and use theirs: see brokers.

import (
	"encoding/json"
	"fmt"

	"go.opentelemetry.io/otel/propagation"
)

// maxMessageSize is the longest message that is decoded, in bytes. Don't trust what you receive.
const maxMessageSize = 64 << 10

// Message is the envelope. On the wire it is JSON, and `redis-cli subscribe work` shows it:
//
//	{"id":"…","headers":{"baggage":"username=donuts","traceparent":"00-…-…-01"},"body":"hello, world"}
type Message struct {
	// ID tells this message from all others, in the spans of both sides.
	ID string `json:"id"`
	// Headers hold the trace context and the baggage. A propagator turns these into keys and values, and back. What
	// it writes to is a carrier, and MapCarrier is the one for a map. Its keys are case-sensitive, and the W3C's are
	// in lower case. So both sides agree, whatever language they are written in.
	Headers propagation.MapCarrier `json:"headers"`
	// Body is what the message is about.
	Body string `json:"body"`
}

// DecodeMessage returns the message that a payload holds. One that is too long, or not such JSON, is an error.
// Headers that are missing or that make no sense are none: a message without a trace context is still a message.
func DecodeMessage(payload string) (Message, error) {
	var m Message
	if len(payload) > maxMessageSize {
		return m, fmt.Errorf("decode message: %d bytes, want at most %d", len(payload), maxMessageSize)
	}
	if err := json.Unmarshal([]byte(payload), &m); err != nil {
		return m, fmt.Errorf("decode message: %.200w", err) // it may quote what came
	}
	return m, nil
}

// The envelope is published. Next: cmd/worker/worker.go, who opens it.
