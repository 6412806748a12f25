package viewer

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"otel-demo/local/spans/spantest"
)

// linkedDemo is the demo's traces and one more, whose only span is hostile and links to the span that published.
func linkedDemo() []spantest.Span {
	spans := spantest.Demo()
	const script = `<script>alert("x")</script>`
	return append(spans,
		spantest.Span{Trace: 8, Service: script, Name: script, Kind: "consumer", At: 9 * time.Second, Took: 2 * time.Millisecond,
			Failed: script, Attributes: map[string]any{script: script, "b": `"' onload=x`}, Link: []int{5}})
}

func page(t *testing.T, h http.Handler, target string, code int) string {
	t.Helper()
	w := ask(h, "GET", target, "")
	if w.Code != code {
		t.Errorf("%s: %d %s", target, w.Code, w.Body)
	}
	return w.Body.String()
}

type pagesOf struct {
	http.Handler
	home, below string
}

// sites are both sets of pages, filled with the same traces.
func sites(t *testing.T) map[string]pagesOf {
	b := New()
	b.jaeger.Add(spantest.Traces(linkedDemo()))
	proto, _ := zipkinBody(t, spantest.OTLP(linkedDemo()))
	ask(b.ZipkinHandler(), "POST", "/api/v2/spans", proto, "Content-Type", "application/x-protobuf")
	return map[string]pagesOf{"jaeger": {b.JaegerHandler(), "/", "/trace/"}, "zipkin": {b.ZipkinHandler(), "/zipkin/", "/zipkin/traces/"}}
}

func TestPagesSayWhatTheyAreAndNeedNothingElse(t *testing.T) {
	foreign := regexp.MustCompile(`(?i)(src|href|action)="(https?:)?//|<script|<img|<iframe|url\(|@import| on[a-z]+="`)
	for name, site := range sites(t) {
		for _, target := range []string{site.home, site.below + spantest.TraceID(2).String(), site.below + spantest.TraceID(8).String(), site.below + "ff", site.below + "x"} {
			w := ask(site, "GET", target, "")
			body := w.Body.String()
			if !strings.Contains(body, "It is neither Jaeger nor Zipkin.") {
				t.Errorf("%s %s doesn't say what it is", name, target)
			}
			if found := foreign.FindString(body); found != "" {
				t.Errorf("%s %s has %s", name, target, found)
			}
			if w.Header().Get("Content-Type") != "text/html; charset=utf-8" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("%s %s: %v", name, target, w.Header())
			}
		}
		css := ask(site, "GET", "/style.css", "")
		if !strings.HasPrefix(css.Header().Get("Content-Type"), "text/css") || foreign.MatchString(css.Body.String()) {
			t.Errorf("%s: the stylesheet is %s\n%s", name, css.Header(), css.Body)
		}
	}
}

func TestListShowsTheNewestFirstAndFilters(t *testing.T) {
	row := regexp.MustCompile(`href="/(?:zipkin/traces|trace)/[0-9a-f]{31}([0-9])"`)
	for name, site := range sites(t) {
		for query, want := range map[string]string{
			"":                              "8765432",
			"?service=worker":               "65432",
			"?service=nobody":               "",
			"?errors=1":                     "87",
			"?attribute=user.name%3Ddonuts": "65432",
			"?attribute=service.name%3Dworker&errors=1": "",
			"?min=100ms":                   "65432",
			"?min=+100ms+&errors=1":        "",
			"?service=client&min=25ms":     "65432",
			"?service=client&errors=1":     "7",
			"?service=%3Cscript%3E&errors": "",
		} {
			got := ""
			for _, found := range row.FindAllStringSubmatch(page(t, site, site.home+query, 200), -1) {
				got += found[1]
			}
			if got != want {
				t.Errorf("%s%s lists %q, want %q", name, query, got, want)
			}
		}
		for query, says := range map[string]string{"?min=x": "must be a duration such as 100ms", "?min=-1s": "must be a duration", "?min=5": "must be a duration",
			"?attribute=1.5.0": "must be NAME=VALUE"} {
			if body := page(t, site, site.home+query, 400); !strings.Contains(body, says) || strings.Contains(body, "http-equiv") {
				t.Errorf("%s%s doesn't say what is wrong, or keeps updating", name, query)
			}
		}
	}
}

func TestListLeadsToATraceByItsID(t *testing.T) {
	for name, site := range sites(t) {
		if w := ask(site, "GET", site.home+"?service=&id=+ab%2F1", ""); w.Code != 303 || w.Header().Get("Location") != site.below+"ab%2F1" {
			t.Errorf("%s: %d %s", name, w.Code, w.Header().Get("Location"))
		}
	}
}

func TestListUpdatesByItselfUntilItIsPaused(t *testing.T) {
	h := sites(t)["jaeger"]
	// A refresh without an address reloads the same one, and so keeps the filter.
	const refresh = `<meta http-equiv="refresh" content="3">`
	running := page(t, h, "/?service=client&errors=1", 200)
	if !strings.Contains(running, refresh) || !strings.Contains(running, `href="/?errors=1&amp;paused=1&amp;service=client">Pause`) {
		t.Error("the list does not update, or can't be paused, or forgets its filter")
	}
	paused := page(t, h, "/?errors=1&paused=1&service=client", 200)
	if strings.Contains(paused, refresh) || !strings.Contains(paused, `href="/?errors=1&amp;service=client">Update`) {
		t.Error("the paused list updates, or can't be resumed")
	}
	if !strings.Contains(paused, `<option selected>client</option>`) || !strings.Contains(paused, `value="1" checked`) {
		t.Error("the form forgets the filter")
	}
	if empty := page(t, New().JaegerHandler(), "/", 200); !strings.Contains(empty, "No traces have arrived yet") || !strings.Contains(empty, refresh) {
		t.Error("the empty list doesn't wait")
	}
}

func TestTracePage(t *testing.T) {
	for name, site := range sites(t) {
		body := page(t, site, site.below+spantest.TraceID(2).String(), 200)
		at := 0
		for _, want := range []string{
			`id="span-0100000000000001" style="--depth:0"`, "make request", `style="--at:0;--length:5.825"`, "12.0 ms",
			`style="--depth:1"`, "HTTP GET", `<dt>http.response.status_code</dt><dd>200</dd>`,
			`style="--depth:4"`, "publish work", `style="--depth:5"`, `style="--depth:5"`,
			"process work", `style="--at:2.913;--length:97.087"`, `<dt>user.name</dt><dd>donuts</dd>`,
			`<a href="#span-0100000000000005">server publish work</a>`,
		} {
			next := strings.Index(body[at:], want)
			if next < 0 {
				t.Errorf("%s: no %s after what comes before it, in\n%s", name, want, body)
				break
			}
			at += next
		}
		if strings.Count(body, `<details class="span">`) != 7 || strings.Count(body, `<details class="below" open>`) != 5 {
			t.Errorf("%s: the tree's parts can't be opened and closed", name)
		}
		if strings.Contains(body, "is incomplete") || !strings.Contains(body, "<h3>Process</h3><dl><div><dt>service.name</dt><dd>client</dd>") {
			t.Errorf("%s: a whole trace is shown as incomplete, or without its process:\n%s", name, body)
		}
		linked := page(t, site, site.below+spantest.TraceID(8).String(), 200)
		if want := `href="` + site.below + spantest.TraceID(2).String() + `#span-0100000000000005">server publish work</a>, in trace 01000000`; !strings.Contains(linked, want) {
			t.Errorf("%s: no link %s in\n%s", name, want, linked)
		}
	}
}

func TestWhatSpansSayIsText(t *testing.T) {
	for name, site := range sites(t) {
		for _, target := range []string{site.home, site.below + spantest.TraceID(8).String(), site.home + "?service=%3Cscript%3E&min=%22%3E%3Cscript%3E"} {
			w := ask(site, "GET", target, "")
			if body := w.Body.String(); strings.Contains(body, "<script") || !strings.Contains(body, "&lt;script&gt;") || strings.Contains(body, `"' onload`) {
				t.Errorf("%s %s:\n%s", name, target, body)
			}
		}
	}
}

func TestATraceThatIsNotWhole(t *testing.T) {
	b := New()
	b.jaeger.Add(spantest.Traces(spantest.Request(2, 1)[:5]))
	if body := page(t, b.JaegerHandler(), "/trace/"+spantest.TraceID(2).String(), 200); !strings.Contains(body, "is incomplete: missing the consumer of server &#34;publish work&#34;.") {
		t.Error(body)
	}
}

func TestALargeTraceIsShownInPart(t *testing.T) {
	var spans []spantest.Span
	for i := range shownSpans + 5 {
		spans = append(spans, spantest.Span{Trace: 1, Parent: i, Service: "a", Name: "deep", At: time.Duration(i), Took: time.Millisecond})
	}
	b := New()
	b.jaeger.Add(spantest.Traces(spans))
	body := page(t, b.JaegerHandler(), "/trace/"+spantest.TraceID(1).String(), 200)
	if strings.Count(body, "<li id=") != shownSpans || !strings.Contains(body, "5 of them are not shown") || !strings.Contains(body, `--depth:64"`) {
		t.Errorf("%d spans are shown", strings.Count(body, "<li id="))
	}
}

// The viewer has none of Jaeger's and Zipkin's query APIs.
func TestPathsOfThePages(t *testing.T) {
	id := spantest.TraceID(2).String()
	for name, codes := range map[string]map[string]int{
		"jaeger": {"/": 200, "/search": 200, "/trace/" + id: 200, "/trace/" + id[1:]: 200, "/trace/ff": 404, "/trace/x": 400, "/trace/": 404,
			"/zipkin/": 404, "/web/list.html": 404, "/api/v3/services": 404, "/api/v3/traces/" + id: 404},
		"zipkin": {"/": 302, "/zipkin/": 200, "/zipkin/traces/" + id: 200, "/zipkin/traces/ff": 404, "/zipkin/traces/x": 400, "/trace/x": 404,
			"/api/v2/services": 404, "/api/v2/trace/" + id: 404},
	} {
		for target, code := range codes {
			page(t, sites(t)[name], target, code)
		}
	}
}
