package viewer

//lint:file-ignore ST1005 the errors are Zipkin's, word for word

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openzipkin/zipkin-go/proto/zipkin_proto3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// zipkinSpan is a span in Zipkin's JSON, its fields in the order in which Zipkin answers them.
type zipkinSpan struct {
	TraceID        string             `json:"traceId"`
	ParentID       string             `json:"parentId,omitempty"`
	ID             string             `json:"id"`
	Kind           string             `json:"kind,omitempty"`
	Name           string             `json:"name,omitempty"`
	Timestamp      int64              `json:"timestamp,omitempty"` // microseconds
	Duration       int64              `json:"duration,omitempty"`  // microseconds
	LocalEndpoint  *zipkinEndpoint    `json:"localEndpoint,omitempty"`
	RemoteEndpoint *zipkinEndpoint    `json:"remoteEndpoint,omitempty"`
	Annotations    []zipkinAnnotation `json:"annotations,omitempty"`
	Tags           map[string]string  `json:"tags,omitempty"`
	Debug          bool               `json:"debug,omitempty"`
	Shared         bool               `json:"shared,omitempty"`
}

type zipkinEndpoint struct {
	ServiceName string `json:"serviceName,omitempty"`
	IPv4        string `json:"ipv4,omitempty"`
	IPv6        string `json:"ipv6,omitempty"`
	Port        int    `json:"port,omitempty"`
}

type zipkinAnnotation struct {
	Timestamp int64  `json:"timestamp"` // microseconds
	Value     string `json:"value"`
}

// maxSpans bounds how many spans one POST may bring, since each costs far more memory than the few bytes that it has
// in a body.
const maxSpans = 100_000

var errTooManySpans = fmt.Errorf("more than %d spans at once", maxSpans)

// parseZipkinJSON reads a list of spans.
func parseZipkinJSON(body []byte) ([]*zipkinSpan, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	if token, err := decoder.Token(); err != nil || token != json.Delim('[') {
		return nil, errors.New("Expected a JSON_V2 encoded list")
	}
	var spans []*zipkinSpan
	for decoder.More() {
		if len(spans) == maxSpans {
			return nil, errTooManySpans
		}
		span := &zipkinSpan{}
		if err := decoder.Decode(span); err != nil {
			return nil, fmt.Errorf("%w reading List<Span> from json", err)
		}
		if err := span.normalize(); err != nil {
			return nil, fmt.Errorf("%w reading List<Span> from json", err)
		}
		spans = append(spans, span)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, fmt.Errorf("%w reading List<Span> from json", err)
	}
	return spans, nil
}

// parseZipkinProto reads a ListOfSpans of zipkin.proto.
func parseZipkinProto(body []byte) ([]*zipkinSpan, error) {
	for rest, count := body, 0; len(rest) > 0; count++ {
		number, _, n := protowire.ConsumeField(rest)
		if n < 0 || number != 1 {
			return nil, errors.New("Expected a PROTO3 encoded list")
		}
		if count == maxSpans {
			return nil, errTooManySpans
		}
		rest = rest[n:]
	}
	var list zipkin_proto3.ListOfSpans
	if err := proto.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("%w reading List<Span> from proto3", err)
	}
	spans := make([]*zipkinSpan, 0, len(list.Spans))
	for _, from := range list.Spans {
		span := &zipkinSpan{
			TraceID:        hex.EncodeToString(from.TraceId),
			ParentID:       hex.EncodeToString(from.ParentId),
			ID:             hex.EncodeToString(from.Id),
			Name:           from.Name,
			Timestamp:      int64(min(from.Timestamp, math.MaxInt64)),
			Duration:       int64(min(from.Duration, math.MaxInt64)),
			LocalEndpoint:  endpointFromProto(from.LocalEndpoint),
			RemoteEndpoint: endpointFromProto(from.RemoteEndpoint),
			Tags:           from.Tags,
			Debug:          from.Debug,
			Shared:         from.Shared,
		}
		if from.Kind != zipkin_proto3.Span_SPAN_KIND_UNSPECIFIED {
			span.Kind = from.Kind.String()
		}
		for _, a := range from.Annotations {
			span.Annotations = append(span.Annotations, zipkinAnnotation{int64(min(a.Timestamp, math.MaxInt64)), a.Value})
		}
		if err := span.normalize(); err != nil {
			return nil, fmt.Errorf("%w reading List<Span> from proto3", err)
		}
		spans = append(spans, span)
	}
	return spans, nil
}

func endpointFromProto(from *zipkin_proto3.Endpoint) *zipkinEndpoint {
	if from == nil {
		return nil
	}
	e := &zipkinEndpoint{ServiceName: from.ServiceName, Port: int(from.Port)}
	if ip, ok := netip.AddrFromSlice(from.Ipv4); ok {
		e.IPv4 = ip.String()
	}
	if ip, ok := netip.AddrFromSlice(from.Ipv6); ok {
		e.IPv6 = ip.String()
	}
	return e
}

// normalize refuses what Zipkin refuses, in its words, and writes the rest as Zipkin does.
func (s *zipkinSpan) normalize() (err error) {
	if s.TraceID, err = zipkinTraceID(s.TraceID); err != nil {
		return err
	}
	if s.ID, err = zipkinID("id", s.ID, 16); err != nil {
		return err
	}
	if strings.Trim(s.ParentID, "0") == "" {
		s.ParentID = ""
	} else if s.ParentID, err = zipkinID("parentId", s.ParentID, 16); err != nil {
		return err
	}
	if !slices.Contains([]string{"", "CLIENT", "SERVER", "PRODUCER", "CONSUMER"}, s.Kind) {
		return fmt.Errorf("No enum constant zipkin2.Span.Kind.%s", s.Kind)
	}
	s.Timestamp, s.Duration = max(s.Timestamp, 0), max(s.Duration, 0)
	slices.SortStableFunc(s.Annotations, func(a, b zipkinAnnotation) int { return cmp.Compare(a.Timestamp, b.Timestamp) })
	for _, e := range []**zipkinEndpoint{&s.LocalEndpoint, &s.RemoteEndpoint} {
		if *e != nil && **e == (zipkinEndpoint{}) {
			*e = nil
		}
	}
	return nil
}

// zipkinTraceID returns a trace id as Zipkin writes it: 16 or 32 digits.
func zipkinTraceID(id string) (string, error) {
	id, err := zipkinID("traceId", id, 32)
	if err != nil {
		return "", err
	}
	if strings.Trim(id, "0") == "" {
		return "", errors.New("traceId is all zeros")
	}
	return strings.TrimPrefix(id, strings.Repeat("0", 16)), nil
}

// zipkinID returns an id with zeros before it.
func zipkinID(field, id string, digits int) (string, error) {
	switch {
	case id == "":
		return "", errors.New("Missing : " + field)
	case len(id) > digits:
		return "", fmt.Errorf("%s.length > %d", field, digits)
	case strings.Trim(id, "0123456789abcdef") != "":
		return "", fmt.Errorf("%s should be lower-hex encoded with no prefix", id)
	}
	return padded(id, digits), nil
}

func padded(id string, digits int) string { return strings.Repeat("0", digits-len(id)) + id }

// lower returns the span as Zipkin answers it: its names in lower case.
func (s *zipkinSpan) lower() *zipkinSpan {
	answer := *s
	answer.Name = strings.ToLower(s.Name)
	for _, e := range []**zipkinEndpoint{&answer.LocalEndpoint, &answer.RemoteEndpoint} {
		if *e != nil {
			lowered := **e
			lowered.ServiceName = strings.ToLower(lowered.ServiceName)
			*e = &lowered
		}
	}
	return &answer
}

func (e *zipkinEndpoint) service() string {
	if e == nil {
		return ""
	}
	return e.ServiceName
}

// fromZipkin sorts spans by their traces.
func fromZipkin(spans []*zipkinSpan) (traces []*Trace) {
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
func spanFromZipkin(from *zipkinSpan) *Span {
	start := time.UnixMicro(from.Timestamp).UTC()
	span := &Span{
		TraceID:  padded(from.TraceID, 32),
		ID:       from.ID,
		ParentID: from.ParentID,
		Service:  from.LocalEndpoint.service(),
		Name:     from.Name,
		Kind:     cmp.Or(strings.ToLower(from.Kind), from.Tags["span.kind"]),
		Start:    start,
		End:      start.Add(time.Duration(min(from.Duration, math.MaxInt64/1000)) * time.Microsecond),
		Status:   Status{Code: "unset"},
		Resource: append(from.LocalEndpoint.attributes("local"), from.RemoteEndpoint.attributes("remote")...),
		zipkin:   from,
	}
	for key, value := range from.Tags {
		span.Attributes = append(span.Attributes, Attribute{key, value})
	}
	slices.SortFunc(span.Attributes, func(a, b Attribute) int { return cmp.Compare(a.Key, b.Key) })
	for _, a := range from.Annotations {
		span.Events = append(span.Events, Event{Time: time.UnixMicro(a.Timestamp).UTC(), Name: a.Value})
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
	} else if from.Tags["otel.status_code"] == "STATUS_CODE_OK" {
		span.Status.Code = "ok"
	}
	return span
}

func (e *zipkinEndpoint) attributes(which string) (all []Attribute) {
	if e == nil {
		return nil
	}
	for _, a := range []Attribute{
		{"serviceName", e.ServiceName}, {"ipv4", e.IPv4}, {"ipv6", e.IPv6}, {"port", strconv.Itoa(e.Port)},
	} {
		if a.Value != "" && a.Value != "0" {
			all = append(all, Attribute{which + "Endpoint." + a.Key, a.Value})
		}
	}
	return all
}

// ParseZipkin reads what Zipkin's API answers: one trace (/api/v2/trace/ID) or several (/api/v2/traces).
func ParseZipkin(body []byte) ([]*Trace, error) {
	var lists []json.RawMessage
	if err := json.Unmarshal(body, &lists); err != nil {
		return nil, err
	}
	if len(lists) > 0 && lists[0][0] == '{' {
		lists = []json.RawMessage{body}
	}
	var all []*zipkinSpan
	for _, list := range lists {
		spans, err := parseZipkinJSON(list)
		if err != nil {
			return nil, err
		}
		all = append(all, spans...)
	}
	return fromZipkin(all), nil
}
