package pkg

// This is file 3 of 6: an envelope that can carry the trace context over a broker.
//
// The trace context travels in the headers of an HTTP request. A Redis pub/sub message is a plain string without
// headers, so the body goes into an envelope that has them. The envelope is JSON here, but any format that can hold a
// few strings will do. Kafka, RabbitMQ and NATS messages have headers: use those, without an envelope. See the
// brokers folder.

import (
	"encoding/json"
	"fmt"

	"go.opentelemetry.io/otel/propagation"
)

// maxMessageSize limits, in bytes, what is decoded: a publisher may send anything.
const maxMessageSize = 64 << 10

// Message is the envelope. On the wire it looks like this, as `redis-cli subscribe work` shows:
//
//	{"id":"…","headers":{"baggage":"username=donuts","traceparent":"00-…-…-01"},"body":"hello, world"}
type Message struct {
	// ID identifies this message in the spans of both sides.
	ID string `json:"id"`
	// Headers hold the trace context and the baggage. A propagator writes them into a carrier (here, a map) and reads
	// them back. A map's keys are case-sensitive; write the W3C's header names in lower case.
	// Try it: in pkg/tracer.go, replace `otel.SetTextMapPropagator(` with `_ = (` and run `go run -C local . -once
	// -shape`. Without a propagator, headers stay empty, and each program starts its own traces.
	Headers propagation.MapCarrier `json:"headers"`
	Body    string                 `json:"body"`
}

// decodeMessage returns the message that a payload holds. It fails if the payload is too long or isn't a valid
// envelope. Missing headers are not an error: a message without a trace context is still a message. Other producers may
// add headers that aren't strings. They are ignored.
func decodeMessage(payload string) (Message, error) {
	if len(payload) > maxMessageSize {
		return Message{}, fmt.Errorf("decode message: %d bytes, want at most %d", len(payload), maxMessageSize)
	}
	var received struct {
		ID, Body string
		Headers  any
	}
	if err := json.Unmarshal([]byte(payload), &received); err != nil {
		return Message{}, fmt.Errorf("decode message: %.200w", err) // truncated: it may quote the payload
	}
	m := Message{received.ID, propagation.MapCarrier{}, received.Body}
	headers, _ := received.Headers.(map[string]any)
	for key, value := range headers {
		if text, ok := value.(string); ok {
			m.Headers.Set(key, text)
		}
	}
	return m, nil
}

// The envelope is published. Next: cmd/worker/worker.go, which gets the message.
