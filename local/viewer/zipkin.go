package viewer

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/zipkin/zipkinv2"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"otel-demo/local/spans"
)

// maxBody bounds the body of a request, compressed or not.
const maxBody = 16 << 20

// postSpans receives spans in Zipkin's format, as JSON or protocol buffers. The collector's own translator reads them,
// so it restores what the exporter wrote into tags because Zipkin has no field for it: links, the status and the kind
// of an internal span.
func (v *Viewer) postSpans(w http.ResponseWriter, r *http.Request) {
	format := zipkinv2.NewJSONTracesUnmarshaler(false)
	if contentType(r) == protobuf {
		format = zipkinv2.NewProtobufTracesUnmarshaler(false, false)
	}
	body, err := readBody(w, r, protobuf, "application/json")
	var received ptrace.Traces
	if err == nil {
		received, err = format.UnmarshalTraces(body)
	}
	if refused(w, err) {
		return
	}
	traces, _ := spans.FromOTLP(received) // the translator has already refused spans without ids
	v.zipkin.Add(traces)
	w.WriteHeader(http.StatusAccepted)
}

// refused reports whether err is set, and if so, tells the sender why its request is refused.
func refused(w http.ResponseWriter, err error) bool {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, errContentType):
		http.Error(w, err.Error(), http.StatusUnsupportedMediaType)
	case errors.As(err, &tooLarge):
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return err != nil
}

const protobuf = "application/x-protobuf"

var errContentType = errors.New("unknown Content-Type")

// contentType returns the content type of a request, without parameters.
func contentType(r *http.Request) string {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // empty if it is invalid
	return kind
}

// readBody returns the body of a request of one of these content types. Browsers send none of them to another site
// without asking it first.
func readBody(w http.ResponseWriter, r *http.Request, types ...string) ([]byte, error) {
	if !slices.Contains(types, contentType(r)) {
		return nil, fmt.Errorf("%w: want %s", errContentType, strings.Join(types, " or "))
	}
	body := http.MaxBytesReader(w, r.Body, maxBody)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		body = http.MaxBytesReader(w, unpacked, maxBody)
	}
	return io.ReadAll(body)
}
