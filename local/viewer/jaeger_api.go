package viewer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
)

// What Jaeger's API answers here was compared with Jaeger 2.13's for the same spans. Where Jaeger doesn't know a path it
// answers its web page; this is a 404.
func (b *Backend) jaegerAPI(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v3/services", func(w http.ResponseWriter, _ *http.Request) {
		var names []string
		for _, t := range b.jaeger.Traces() {
			names = append(names, t.Services()...)
		}
		slices.Sort(names)
		answerJSON(w, "text/plain; charset=utf-8", struct {
			Services []string `json:"services,omitempty"`
		}{slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })})
	})
	mux.HandleFunc("GET /api/v3/traces/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := jaegerTraceID(r.PathValue("id"))
		for _, check := range []error{
			malformed("trace_id", err),
			parameter(r, "start_time", parseTime, new(time.Time)),
			parameter(r, "end_time", parseTime, new(time.Time)),
			parameter(r, "raw_traces", strconv.ParseBool, new(bool)),
		} {
			if check != nil {
				jaegerError(w, http.StatusBadRequest, check.Error())
				return
			}
		}
		var found []*Trace
		if t := b.jaeger.Trace(id); t != nil {
			found = append(found, t)
		}
		answerOTLP(w, found)
	})
	mux.HandleFunc("GET /api/v3/traces", func(w http.ResponseWriter, r *http.Request) {
		query, err := parseJaegerQuery(r)
		if err != nil {
			jaegerError(w, http.StatusBadRequest, err.Error())
			return
		}
		// Jaeger says so with this status, too.
		if query.depth <= 0 {
			jaegerError(w, http.StatusInternalServerError, "search depth must be greater than 0 and less than max traces")
			return
		}
		var found []*Trace
		for _, t := range slices.Backward(b.jaeger.Traces()) {
			if len(found) < query.depth && slices.ContainsFunc(t.Spans, query.matches) {
				found = append(found, t)
			}
		}
		answerOTLP(w, found)
	})
}

// jaegerQuery is what one span of a trace that is found must have.
type jaegerQuery struct {
	service, operation       string
	startMin, startMax       time.Time
	durationMin, durationMax time.Duration
	depth                    int // how many traces, at most
}

func parseJaegerQuery(r *http.Request) (q jaegerQuery, err error) {
	values := r.URL.Query()
	q.service, q.operation = values.Get("query.service_name"), values.Get("query.operation_name")
	if values.Get("query.start_time_min") == "" || values.Get("query.start_time_max") == "" {
		return q, errors.New("query.start_time_min and query.start_time_max are required")
	}
	depth := "query.search_depth"
	if values.Get(depth) == "" {
		depth = "query.num_traces" // the older name
	}
	for _, err := range []error{
		parameter(r, "query.start_time_min", parseTime, &q.startMin),
		parameter(r, "query.start_time_max", parseTime, &q.startMax),
		parameter(r, depth, strconv.Atoi, &q.depth),
		parameter(r, "query.duration_min", time.ParseDuration, &q.durationMin),
		parameter(r, "query.duration_max", time.ParseDuration, &q.durationMax),
		parameter(r, "query.raw_traces", strconv.ParseBool, new(bool)),
	} {
		if err != nil {
			return q, err
		}
	}
	return q, nil
}

func (q jaegerQuery) matches(s *Span) bool {
	took := s.End.Sub(s.Start)
	return (q.service == "" || q.service == s.Service) &&
		(q.operation == "" || q.operation == s.Name) &&
		!s.Start.Before(q.startMin) && !s.Start.After(q.startMax) &&
		(q.durationMin == 0 || took >= q.durationMin) &&
		(q.durationMax == 0 || took <= q.durationMax)
}

func parseTime(s string) (time.Time, error) { return time.Parse(time.RFC3339Nano, s) }

// parameter reads a query parameter, if there is one.
func parameter[T any](r *http.Request, name string, parse func(string) (T, error), into *T) (err error) {
	if text := r.URL.Query().Get(name); text != "" {
		*into, err = parse(text)
	}
	return malformed(name, err)
}

func malformed(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("malformed parameter %s: %w", name, err)
}

// jaegerTraceID returns the id with the zeros before it that Jaeger lets you leave out.
func jaegerTraceID(id string) (string, error) {
	if len(id) > 32 {
		return "", fmt.Errorf("TraceID cannot be longer than 32 hex characters: %s", id)
	}
	low := id[max(0, len(id)-16):]
	for _, half := range []string{low, cmp.Or(strings.TrimSuffix(id, low), "0")} {
		if _, err := strconv.ParseUint(half, 16, 64); err != nil {
			return "", err
		}
	}
	return strings.ToLower(padded(id, 32)), nil
}

func jaegerError(w http.ResponseWriter, status int, message string) {
	text, _ := json.Marshal(map[string]any{"error": map[string]any{"httpCode": status, "message": message}})
	http.Error(w, string(text), status)
}

func answerOTLP(w http.ResponseWriter, traces []*Trace) {
	if len(traces) == 0 {
		jaegerError(w, http.StatusNotFound, "No traces found")
		return
	}
	all := ptrace.NewTraces()
	for _, t := range traces {
		for _, part := range t.otlp {
			for _, resourceSpans := range part.ResourceSpans().All() {
				resourceSpans.CopyTo(all.ResourceSpans().AppendEmpty())
			}
		}
	}
	text, err := (&ptrace.JSONMarshaler{}).MarshalTraces(all)
	if err != nil {
		jaegerError(w, http.StatusInternalServerError, err.Error())
		return
	}
	answerJSON(w, "text/plain; charset=utf-8", map[string]json.RawMessage{"result": text})
}

// ParseJaeger reads what Jaeger's API answers (/api/v3/traces and what is below it).
func ParseJaeger(body []byte) ([]*Trace, error) {
	var answer struct {
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	from, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(answer.Result)
	if err != nil {
		return nil, err
	}
	traces, rejected := fromOTLP(from)
	if rejected > 0 {
		return nil, fmt.Errorf("%d spans have no id", rejected)
	}
	return traces, nil
}
