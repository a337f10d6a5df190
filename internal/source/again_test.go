package source

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ferry/internal/config"
)

// TestIdentifyIsAsSplit: a record by itself gets the key, the id and the reason that it has among others.
func TestIdentifyIsAsSplit(t *testing.T) {
	for name, cfg := range map[string]config.Source{
		"without a key": {Push: true},
		"a path":        {Push: true, Key: ".id"},
		"a program":     {Push: true, Key: `.id | select(. != 2)`},
	} {
		s, err := New(cfg, Options{Pipeline: "p"})
		if err != nil {
			t.Fatal(err)
		}
		lines := []string{`{"id": 1, "n": "a"}`, `{"id": 2}`, `{"n": "no id"}`, `{"id": ""}`, `{"id": {}}`, `{"id": "` + strings.Repeat("x", maxKey+1) + `"}`}
		part, err := s.Split("application/x-ndjson", []byte(strings.Join(lines, "\n")))
		if err != nil || len(part.Records) != len(lines) {
			t.Fatalf("%s: %d records, %v", name, len(part.Records), err)
		}
		for i, line := range lines {
			got, bad := s.Identify(t.Context(), []byte(line))
			if d := cmp.Diff(part.Records[i], got); d != "" {
				t.Errorf("%s, %s: %s", name, line, d)
			}
			if want := part.Bad[i]; (bad == nil) != (want == nil) || bad != nil && bad.Error() != want.Error() {
				t.Errorf("%s, %s: %v, want %v", name, line, bad, want)
			}
		}
	}
}
