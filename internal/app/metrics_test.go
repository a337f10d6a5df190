package app

import (
	"math"
	"slices"
	"testing"
)

// metric is what /metrics would show of a series, NaN when it is absent.
func metric(t *testing.T, a *App, name string, labels ...string) float64 {
	t.Helper()
	families, err := a.metrics.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if slices.Equal(values, labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return math.NaN()
}

func TestNextRunGoesWithAPause(t *testing.T) {
	a := openApp(t, deadConfig+"    every: 1h\n")
	next := func() float64 { return metric(t, a, "ferry_pipeline_next_run_timestamp_seconds", "other") }
	if _, err := a.Pipelines(t.Context()); err != nil || math.IsNaN(next()) {
		t.Errorf("next run %v, %v, want one", next(), err)
	}
	if _, err := a.Pause(t.Context(), "other"); err != nil || !math.IsNaN(next()) {
		t.Errorf("next run of a paused pipeline: %v, %v", next(), err)
	}
	if _, err := a.Resume(t.Context(), "other"); err != nil || math.IsNaN(next()) {
		t.Errorf("next run %v, %v, want one again", next(), err)
	}
}
