package sfu

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Metrics gathers LiveKit's metrics and nothing else. LiveKit registers them in
// Prometheus' default registry, where the Go runtime's stand too; this lets a
// registry of one's own be joined with them by prometheus.Gatherers without
// anything appearing twice.
func Metrics() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all, err := prometheus.DefaultGatherer.Gather()
		own := all[:0]
		for _, f := range all {
			if n := f.GetName(); strings.HasPrefix(n, "livekit_") || strings.HasPrefix(n, "psrpc_") {
				own = append(own, f)
			}
		}
		return own, err
	})
}
