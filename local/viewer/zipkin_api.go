package viewer

//lint:file-ignore ST1005 the errors are Zipkin's, word for word

import (
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBody bounds the body of a request, packed or not.
const maxBody = 16 << 20

// What Zipkin's API answers here was compared with Zipkin 3.6.1's for the same spans. Two codes are not Zipkin's: a body
// that is too large, or isn't gzip as it says, is 413 and 400 here and 500 there.
func (b *Backend) zipkinAPI(mux *http.ServeMux) {
	mux.HandleFunc("POST /api/v2/spans", func(w http.ResponseWriter, r *http.Request) {
		body, err := readBody(w, r)
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			answerText(w, http.StatusRequestEntityTooLarge, err.Error())
			return
		}
		var spans []*zipkinSpan
		if err == nil && len(body) > 0 {
			if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-protobuf") {
				spans, err = parseZipkinProto(body)
			} else {
				spans, err = parseZipkinJSON(body)
			}
		}
		if err != nil {
			answerText(w, http.StatusBadRequest, err.Error())
			return
		}
		b.zipkin.add(fromZipkin(spans))
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("GET /api/v2/services", func(w http.ResponseWriter, _ *http.Request) {
		names := []string{}
		for _, t := range b.zipkin.Traces() {
			for _, name := range t.Services() {
				names = append(names, strings.ToLower(name))
			}
		}
		slices.Sort(names)
		answerJSON(w, "application/json", slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" }))
	})
	mux.HandleFunc("GET /api/v2/trace/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := zipkinTraceID(r.PathValue("id"))
		if err != nil {
			answerText(w, http.StatusBadRequest, err.Error())
			return
		}
		t := b.zipkin.Trace(padded(id, 32))
		if t == nil {
			answerText(w, http.StatusNotFound, id+" not found")
			return
		}
		answerJSON(w, "application/json", t.zipkinSpans())
	})
	mux.HandleFunc("GET /api/v2/traces", func(w http.ResponseWriter, r *http.Request) {
		query, err := parseZipkinQuery(r.URL.Query())
		if err != nil {
			answerText(w, http.StatusBadRequest, err.Error())
			return
		}
		found := [][]*zipkinSpan{}
		for _, t := range b.zipkin.Traces() {
			if spans := t.zipkinSpans(); query.matches(spans) {
				found = append(found, spans)
			}
		}
		slices.SortStableFunc(found, func(a, b []*zipkinSpan) int { return cmp.Compare(zipkinStart(b), zipkinStart(a)) })
		answerJSON(w, "application/json", found[:min(len(found), query.limit)])
	})
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body := http.MaxBytesReader(w, r.Body, maxBody)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return nil, errors.New("Input is not in the GZIP format")
		}
		body = http.MaxBytesReader(w, unpacked, maxBody)
	}
	return io.ReadAll(body)
}

// zipkinSpans returns the trace as Zipkin answers it.
func (t *Trace) zipkinSpans() []*zipkinSpan {
	spans := make([]*zipkinSpan, 0, len(t.Spans))
	for _, s := range t.Spans {
		spans = append(spans, s.zipkin.lower())
	}
	return spans
}

// zipkinStart is when Zipkin says that a trace began, in microseconds: with its root, or else with its first span.
func zipkinStart(spans []*zipkinSpan) (start int64) {
	for _, s := range spans {
		if s.Timestamp > 0 && s.ParentID == "" {
			return s.Timestamp
		}
		if s.Timestamp > 0 && (start == 0 || s.Timestamp < start) {
			start = s.Timestamp
		}
	}
	return start
}

// zipkinQuery is what a trace that is found must have.
type zipkinQuery struct {
	service, remoteService, span string
	annotations                  map[string]string // of the tags or annotations of one span or several; "" is any value
	minDuration, maxDuration     int64             // microseconds
	endTs, lookback              int64             // milliseconds
	limit                        int
}

func parseZipkinQuery(values url.Values) (q zipkinQuery, err error) {
	name := func(key string) string {
		value := strings.ToLower(values.Get(key))
		if value == "all" {
			return ""
		}
		return value
	}
	positive := func(key string, otherwise int64) (n int64) {
		text := values.Get(key)
		if text == "" || err != nil {
			return otherwise
		}
		if n, err = strconv.ParseInt(text, 10, 64); err != nil {
			err = fmt.Errorf("For input string: %q", text)
		} else if n <= 0 {
			err = errors.New(key + " <= 0")
		}
		return n
	}
	q = zipkinQuery{
		service:       name("serviceName"),
		remoteService: name("remoteServiceName"),
		span:          name("spanName"),
		annotations:   map[string]string{},
		minDuration:   positive("minDuration", 0),
		maxDuration:   positive("maxDuration", 0),
		endTs:         positive("endTs", time.Now().UnixMilli()),
		lookback:      positive("lookback", (24 * time.Hour).Milliseconds()),
		limit:         int(min(positive("limit", 10), KeptTraces)),
	}
	for _, part := range strings.Split(values.Get("annotationQuery"), " and ") {
		if key, value, _ := strings.Cut(strings.TrimSpace(part), "="); key != "" {
			q.annotations[key] = value
		}
	}
	switch {
	case err != nil:
	case q.maxDuration > 0 && q.minDuration == 0:
		err = errors.New("maxDuration is only valid with minDuration")
	case q.maxDuration > 0 && q.maxDuration < q.minDuration:
		err = errors.New("maxDuration < minDuration")
	}
	return q, err
}

// matches follows Zipkin: each condition may be met by another span, but all by spans of the service that is asked for.
func (q zipkinQuery) matches(spans []*zipkinSpan) bool {
	start := zipkinStart(spans) / 1000
	if start == 0 || start > q.endTs || start < q.endTs-q.lookback {
		return false
	}
	service, remote, name, duration := false, q.remoteService == "", q.span == "", q.minDuration == 0
	met := map[string]bool{}
	for _, s := range spans {
		if q.service != "" && s.LocalEndpoint.service() != q.service {
			continue
		}
		service = true
		remote = remote || s.RemoteEndpoint.service() == q.remoteService
		name = name || s.Name == q.span
		duration = duration || s.Duration >= q.minDuration && (q.maxDuration == 0 || s.Duration <= q.maxDuration)
		for key, value := range q.annotations {
			tag, ok := s.Tags[key]
			if ok && (value == "" || value == tag) || value == "" &&
				slices.ContainsFunc(s.Annotations, func(a zipkinAnnotation) bool { return a.Value == key }) {
				met[key] = true
			}
		}
	}
	return service && remote && name && duration && len(met) == len(q.annotations)
}
