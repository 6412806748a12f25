package backend

import (
	"encoding/json"

	"go.opentelemetry.io/collector/pdata/ptrace"
)

// jaegerResult reads the OTLP JSON that Jaeger's API answers.
func jaegerResult(body []byte) (ptrace.Traces, error) {
	var answer struct {
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return ptrace.Traces{}, err
	}
	return (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(answer.Result)
}
