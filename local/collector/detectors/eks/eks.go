// Package eks replaces the detector for EKS, which would bring Kubernetes' client: see local/go.mod.
package eks

import (
	"errors"

	"go.opentelemetry.io/otel/sdk/resource"
)

// NewResourceDetector returns a detector that fails.
func NewResourceDetector() resource.Detector {
	return resource.StringDetector("", "", func() (string, error) { return "", errors.New("EKS is not detected here") })
}
