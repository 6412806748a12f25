package viewer

import (
	"bytes"
	"cmp"
	"embed"
	"html/template"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"otel-demo/local/spans"
)

//go:embed web
var web embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"duration": spans.FormatDuration,
	"short":    spans.ShortID,
	"color":    spans.ColorOf,
}).ParseFS(web, "web/*.html"))

// The most that a page shows.
const (
	listedTraces = 100
	shownSpans   = 1000
)

// site is one of the two sets of pages, which differ in the spans that they show and in their addresses.
type site struct {
	store  *spans.Store
	For    string // the backend that it replaces
	Format string
	Home   string // the address of the list
	Below  string // the prefix of a trace's address
}

func (v *Viewer) jaegerPages(mux *http.ServeMux) {
	s := site{v.jaeger, "Jaeger", "OTLP", "/", "/trace/"}
	mux.HandleFunc("GET /{$}", s.list)
	mux.HandleFunc("GET /search", s.list) // the address of Jaeger's own list
	mux.HandleFunc("GET /trace/{id}", s.trace)
	mux.HandleFunc("GET /style.css", style)
}

func (v *Viewer) zipkinPages(mux *http.ServeMux) {
	s := site{v.zipkin, "Zipkin", "Zipkin’s format", "/zipkin/", "/zipkin/traces/"}
	mux.Handle("GET /{$}", http.RedirectHandler(s.Home, http.StatusFound)) // as Zipkin does
	mux.HandleFunc("GET /zipkin/{$}", s.list)
	mux.HandleFunc("GET /zipkin/traces/{id}", s.trace)
	mux.HandleFunc("GET /style.css", style)
}

func style(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeFileFS(w, r, web, "web/style.css")
}

func renderPage(w http.ResponseWriter, status int, name string, data any) {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes())
}

// listPage is what list.html shows.
type listPage struct {
	site
	Service, MinDuration string
	Attribute            string // NAME=VALUE, of a span or of what produced it
	ErrorsOnly, Paused   bool
	Bad                  string // what is wrong with the filter
	Services             []string
	Traces               []listedTrace
	Matching, Kept       int
	Spans                int
	Toggle               string // the address of this list with updates paused, or resumed
}

type listedTrace struct {
	*spans.Trace
	Root   *spans.Span
	Errors int
	Share  float64        // of the longest trace shown, in percent
	Per    map[string]int // spans by service
}

func (s site) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if id := strings.TrimSpace(query.Get("id")); id != "" {
		http.Redirect(w, r, s.Below+url.PathEscape(id), http.StatusSeeOther)
		return
	}
	page := listPage{
		site:        s,
		Service:     query.Get("service"),
		MinDuration: strings.TrimSpace(query.Get("min")),
		Attribute:   strings.TrimSpace(query.Get("attribute")),
		ErrorsOnly:  query.Has("errors"),
		Paused:      query.Has("paused"),
		Spans:       s.store.Spans(),
	}
	least, err := time.ParseDuration(cmp.Or(page.MinDuration, "0"))
	status := http.StatusOK
	if err != nil || least < 0 {
		status, page.Bad = http.StatusBadRequest, "The minimum must be a duration such as 100ms or 1.5s."
	}
	if page.Attribute != "" && !strings.Contains(page.Attribute, "=") {
		status, page.Bad = http.StatusBadRequest, "An attribute must be NAME=VALUE, such as user.name=donuts."
	}
	toggled := r.URL.Query()
	if toggled.Set("paused", "1"); page.Paused {
		toggled.Del("paused")
	}
	page.Toggle = s.Home + "?" + toggled.Encode()

	all := s.store.Traces()
	page.Kept = len(all)
	var matching []*spans.Trace
	for _, t := range all {
		services := t.Services()
		page.Services = append(page.Services, services...)
		if (page.Service == "" || slices.Contains(services, page.Service)) &&
			(page.Attribute == "" || hasAttribute(t, page.Attribute)) && (!page.ErrorsOnly || t.Failed()) && t.Duration() >= least && page.Bad == "" {
			matching = append(matching, t)
		}
	}
	slices.Sort(page.Services)
	page.Services = slices.Compact(page.Services)
	slices.SortStableFunc(matching, func(a, b *spans.Trace) int { return b.Start().Compare(a.Start()) })
	page.Matching = len(matching)
	longest := time.Duration(1)
	for _, t := range matching[:min(len(matching), listedTraces)] {
		longest = max(longest, t.Duration())
		listed := listedTrace{Trace: t, Root: t.Tree()[0].Span, Per: map[string]int{}}
		for _, span := range t.Spans {
			listed.Per[span.Service]++
			if span.Failed() {
				listed.Errors++
			}
		}
		page.Traces = append(page.Traces, listed)
	}
	for i := range page.Traces {
		page.Traces[i].Share = percent(float64(page.Traces[i].Duration()) / float64(longest))
	}
	renderPage(w, status, "list.html", page)
}

// hasAttribute reports whether any span of a trace, or what produced the span, has an attribute, NAME=VALUE.
func hasAttribute(t *spans.Trace, attribute string) bool {
	key, value, _ := strings.Cut(attribute, "=")
	want := spans.Attribute{Key: key, Value: value}
	return slices.ContainsFunc(t.Spans, func(s *spans.Span) bool {
		return slices.Contains(s.Attributes, want) || slices.Contains(s.Resource, want)
	})
}

// tracePage is what trace.html shows.
type tracePage struct {
	site
	*spans.Trace
	Root     *spans.Span
	Per      []string
	Missing  string
	Ticks    []tick
	Tree     []*spanView
	Hidden   int // spans that don't fit on the page
	NotFound string
}

type tick struct {
	At   float64 // percent
	Time time.Duration
}

// spanView is a span in the waterfall.
type spanView struct {
	*spans.Span
	Below         string // the prefix of another trace's address
	Depth         int
	At, Length    float64 // percent of the trace
	Offset        time.Duration
	Events        []eventView
	Links         []linkView
	Children      []*spanView
	ChildrenTotal int
}

type eventView struct {
	spans.Event
	Offset time.Duration // since the span's start
}

type linkView struct {
	spans.Link
	Name  string // of the linked span, if it is here
	Other bool   // it is in another trace
}

func (s site) trace(w http.ResponseWriter, r *http.Request) {
	id := traceID(r.PathValue("id"))
	if id == "" {
		renderPage(w, http.StatusBadRequest, "trace.html",
			tracePage{site: s, NotFound: "This is not a trace id: a trace id is up to 32 hexadecimal digits."})
		return
	}
	t := s.store.Trace(id)
	if t == nil {
		renderPage(w, http.StatusNotFound, "trace.html",
			tracePage{site: s, NotFound: "There is no such trace here, or it is no longer kept."})
		return
	}
	tree := t.Tree()
	page := tracePage{site: s, Trace: t, Root: tree[0].Span, Per: t.Services(), Missing: spans.Missing(s.store.Traces())[t.ID]}
	for i := range 5 {
		page.Ticks = append(page.Ticks, tick{float64(25 * i), t.Duration() * time.Duration(i) / 4})
	}

	linked := map[string]*spans.Trace{}
	for _, span := range t.Spans {
		for _, l := range span.Links {
			if to := s.store.Trace(l.TraceID); to != nil {
				linked[l.TraceID] = to
			}
		}
	}
	byKey := spans.Index(slices.Collect(maps.Values(linked)))
	start, total, left := t.Start(), t.Duration(), shownSpans
	var view func(nodes []*spans.Node) (views []*spanView)
	view = func(nodes []*spans.Node) (views []*spanView) {
		for _, n := range nodes {
			if left == 0 {
				break
			}
			left--
			at, length := n.Share(start, total)
			v := &spanView{
				Span: n.Span, Below: s.Below, Depth: n.Depth, At: percent(at), Length: percent(length), Offset: n.Start.Sub(start),
			}
			for _, e := range n.Events {
				v.Events = append(v.Events, eventView{e, e.Time.Sub(n.Start)})
			}
			for _, l := range n.Links {
				linked := linkView{Link: l, Other: l.TraceID != t.ID}
				if to := byKey[spans.Key{Trace: l.TraceID, Span: l.SpanID}]; to != nil {
					linked.Name = to.Service + " " + to.Name
				}
				v.Links = append(v.Links, linked)
			}
			before := left
			v.Children = view(n.Children)
			v.ChildrenTotal = before - left
			views = append(views, v)
		}
		return views
	}
	page.Tree = view(tree)
	page.Hidden = max(0, len(t.Spans)-shownSpans)
	renderPage(w, http.StatusOK, "trace.html", page)
}

// traceID returns an id with the leading zeros that Jaeger lets you leave out, or "" if it is not a trace id.
func traceID(id string) string {
	if id == "" || len(id) > 32 || strings.Trim(strings.ToLower(id), "0123456789abcdef") != "" {
		return ""
	}
	return strings.Repeat("0", 32-len(id)) + strings.ToLower(id)
}

// percent rounds to what is exact enough for a bar.
func percent(share float64) float64 { return math.Round(share*1e5) / 1e3 }
