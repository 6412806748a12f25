package pkg

// This is file 3 of 6: an envelope that can carry the trace context over a broker.
//
// The trace context travels in the headers of an HTTP request. A Redis pub/sub message is a plain string without
// headers, so the body goes into an envelope that has them. The envelope is JSON here, but any format that can hold a
// few strings will do. Kafka, RabbitMQ and NATS messages have headers: use those, without an envelope. See the folder
// brokers.

import (
	"encoding/json"
	"fmt"

	"go.opentelemetry.io/otel/propagation"
)

// maxMessageSize is the longest message that is decoded, in bytes. Don't trust your input.
const maxMessageSize = 64 << 10

// Message is the envelope. On the wire it looks like this, as `redis-cli subscribe work` shows:
//
//	{"id":"…","headers":{"baggage":"username=donuts","traceparent":"00-…-…-01"},"body":"hello, world"}
type Message struct {
	// ID identifies this message in the spans of both sides.
	ID string `json:"id"`
	// Headers hold the trace context and the baggage. A propagator turns these into keys and values, and back. What it
	// writes to and reads from is called a carrier: MapCarrier is one for a map. Its keys are case-sensitive. The W3C's
	// keys are lowercase, so programs in any language agree.
	// Try it: in pkg/tracer.go, replace `otel.SetTextMapPropagator(` with `_ = (` and run `go run -C local . -once
	// -shape`. Without a propagator, headers stay empty, and each program starts its own traces.
	Headers propagation.MapCarrier `json:"headers"`
	Body    string                 `json:"body"`
}

// decodeMessage returns the message that a payload holds. It fails if the payload is too long or isn't such an
// envelope. Missing headers are not an error: a message without a trace context is still a message.
func decodeMessage(payload string) (Message, error) {
	var m Message
	if len(payload) > maxMessageSize {
		return m, fmt.Errorf("decode message: %d bytes, want at most %d", len(payload), maxMessageSize)
	}
	if err := json.Unmarshal([]byte(payload), &m); err != nil {
		return m, fmt.Errorf("decode message: %.200w", err) // cut off: it may quote the payload
	}
	return m, nil
}

// The envelope is published. Next: cmd/worker/worker.go, which opens it.
