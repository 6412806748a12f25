package backend

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	zipkin "github.com/openzipkin/zipkin-go/model"
	"github.com/openzipkin/zipkin-go/proto/zipkin_proto3"
	"google.golang.org/protobuf/encoding/protowire"
)

// maxSpans bounds how many spans one POST may bring.
const maxSpans = 100_000

var errTooManySpans = fmt.Errorf("more than %d spans at once", maxSpans)

// parseZipkinJSON reads a list of spans, as POST /api/v2/spans takes it.
func parseZipkinJSON(body []byte) ([]*zipkin.SpanModel, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, err
	}
	if len(raw) > maxSpans {
		return nil, errTooManySpans
	}
	spans := make([]*zipkin.SpanModel, 0, len(raw))
	for _, text := range raw {
		span := &zipkin.SpanModel{}
		if err := json.Unmarshal(text, span); err != nil {
			return nil, err
		}
		spans = append(spans, span)
	}
	return spans, checkZipkin(spans)
}

// parseZipkinProto reads a ListOfSpans of zipkin.proto.
func parseZipkinProto(body []byte) ([]*zipkin.SpanModel, error) {
	// Each span costs far more memory than the two bytes that an empty one has here: count them first.
	for rest, count := body, 0; len(rest) > 0; count++ {
		n := protowire.ConsumeFieldValue(consumeTag(rest))
		_, _, tag := protowire.ConsumeTag(rest)
		if tag < 0 || n < 0 {
			return nil, errors.New("not a protobuf message")
		}
		if count == maxSpans {
			return nil, errTooManySpans
		}
		rest = rest[tag+n:]
	}
	spans, err := zipkin_proto3.ParseSpans(body, false)
	if err != nil {
		return nil, err
	}
	return spans, checkZipkin(spans)
}

func consumeTag(b []byte) (protowire.Number, protowire.Type, []byte) {
	number, kind, n := protowire.ConsumeTag(b)
	return number, kind, b[max(n, 0):]
}

// checkZipkin refuses what could not be shown, and makes equal what both decoders leave different.
func checkZipkin(spans []*zipkin.SpanModel) error {
	for _, s := range spans {
		if s.TraceID.Empty() || s.ID == 0 {
			return errors.New("a span must have a trace id and an id")
		}
		if s.Duration < 0 {
			return errors.New("a duration must not be negative")
		}
		if s.Timestamp.Unix() <= 0 {
			s.Timestamp = time.Time{}
		}
		if s.Kind == "SPAN_KIND_UNSPECIFIED" {
			s.Kind = zipkin.Undetermined
		}
		if s.ParentID != nil && *s.ParentID == 0 {
			s.ParentID = nil
		}
	}
	return nil
}

// fromZipkin sorts spans by their traces.
func fromZipkin(spans []*zipkin.SpanModel) (traces []*Trace) {
	parts := map[string]*Trace{}
	for _, from := range spans {
		span := spanFromZipkin(from)
		if parts[span.TraceID] == nil {
			parts[span.TraceID] = &Trace{ID: span.TraceID}
			traces = append(traces, parts[span.TraceID])
		}
		parts[span.TraceID].Spans = append(parts[span.TraceID].Spans, span)
	}
	return traces
}

// spanFromZipkin reads back what the collector's exporter wrote into tags, because Zipkin has no field for it: the
// kind of an internal span, the status, and links.
func spanFromZipkin(from *zipkin.SpanModel) *Span {
	span := &Span{
		TraceID: fmt.Sprintf("%016x%016x", from.TraceID.High, from.TraceID.Low),
		ID:      from.ID.String(),
		Name:    from.Name,
		Kind:    strings.ToLower(string(from.Kind)),
		Start:   from.Timestamp,
		End:     from.Timestamp.Add(from.Duration),
		Status:  Status{Code: "unset"},
		zipkin:  from,
	}
	if from.ParentID != nil {
		span.ParentID = from.ParentID.String()
	}
	if span.Kind == "" && from.Tags["span.kind"] == "internal" {
		span.Kind = "internal"
	}
	for key, value := range from.Tags {
		span.Attributes = append(span.Attributes, Attribute{key, value})
	}
	slices.SortFunc(span.Attributes, func(a, b Attribute) int { return cmp.Compare(a.Key, b.Key) })
	for _, annotation := range from.Annotations {
		span.Events = append(span.Events, Event{Time: annotation.Timestamp, Name: annotation.Value})
	}
	for i := 0; ; i++ {
		value, ok := from.Tags["otlp.link."+strconv.Itoa(i)]
		ids := strings.SplitN(value, "|", 3) // trace id, span id, then trace state, attributes and a count
		if !ok || len(ids) < 3 {
			break
		}
		span.Links = append(span.Links, Link{TraceID: ids[0], SpanID: ids[1]})
	}
	// In Zipkin the tag "error" is what makes a span red, whatever its value.
	if message, failed := from.Tags["error"]; failed {
		span.Status = Status{Code: "error", Message: from.Tags["otel.status_description"]}
		if span.Status.Message == "" && message != "true" {
			span.Status.Message = message
		}
	} else if strings.EqualFold(from.Tags["otel.status_code"], "ok") {
		span.Status.Code = "ok"
	}
	span.Resource = append(endpoint("local", from.LocalEndpoint), endpoint("remote", from.RemoteEndpoint)...)
	if from.LocalEndpoint != nil {
		span.Service = from.LocalEndpoint.ServiceName
	}
	return span
}

func endpoint(name string, e *zipkin.Endpoint) []Attribute {
	if e.Empty() {
		return nil
	}
	all := []Attribute{{name + "Endpoint.serviceName", e.ServiceName}}
	if len(e.IPv4) > 0 {
		all = append(all, Attribute{name + "Endpoint.ipv4", e.IPv4.String()})
	}
	if len(e.IPv6) > 0 {
		all = append(all, Attribute{name + "Endpoint.ipv6", e.IPv6.String()})
	}
	if e.Port != 0 {
		all = append(all, Attribute{name + "Endpoint.port", strconv.Itoa(int(e.Port))})
	}
	return all
}

// micros is what Zipkin's JSON has for times: microseconds, and none for no time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return min(t.UnixMicro(), math.MaxInt64)
}

// ParseZipkin reads what Zipkin's API answers: one trace (/api/v2/trace/ID) or several (/api/v2/traces).
func ParseZipkin(body []byte) ([]*Trace, error) {
	var lists []json.RawMessage
	if err := json.Unmarshal(body, &lists); err != nil {
		return nil, err
	}
	var all []*zipkin.SpanModel
	if len(lists) > 0 && strings.HasPrefix(string(lists[0]), "{") {
		lists = []json.RawMessage{body}
	}
	for _, list := range lists {
		spans, err := parseZipkinJSON(list)
		if err != nil {
			return nil, err
		}
		all = append(all, spans...)
	}
	return fromZipkin(all), nil
}
