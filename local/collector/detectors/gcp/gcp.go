// Package gcp replaces the detector for Google Cloud, which would bring Google's libraries: see local/go.mod.
package gcp

import (
	"errors"

	"go.opentelemetry.io/otel/sdk/resource"
)

// NewDetector returns a detector that fails.
func NewDetector() resource.Detector {
	return resource.StringDetector("", "", func() (string, error) { return "", errors.New("Google Cloud is not detected here") })
}
