package source

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ferry/internal/config"
)

// What the splitter notes of key and incremental field on its way is what asking each record gives.
func TestFoundWhileSplitting(t *testing.T) {
	body := `[
		{"id":1,"at":{"day":3}}, {"at":{"day":4},"id":"x\u0041"}, {"i\u0064":5,"at":{"day":null}}, {"id":5},
		{"id":6,"id":7,"at":{"day":1}}, {"id":8,"at":{"day":1},"at":{"day":2}}, {"id":9,"at":[]}, {"id":10,"at":null},
		{"id":null}, {"id":[1]}, {"at":{"day":1}}, 12, "x", null, [], {"id":""}, { "id" : 11 , "at" : { "day" : 7 } }
	]`
	for _, field := range []string{".at.day", ".id"} {
		s := open(t, config.Source{
			Base: "http://localhost", Records: ".[]", Key: ".id",
			Incremental: &config.Incremental{Field: field, Into: "query.since", Type: "number"},
		}, Options{})
		if s.perRecord == nil {
			t.Fatal("the splitter looks for nothing")
		}
		split := func(piece int) (list []string) {
			p := &splitter{s: s}
			p.src, p.read = &pieces{s: body, n: piece}, func(err error) error { return err }
			if err := p.split(t.Context(), jsonType); err != nil {
				t.Fatal(err)
			}
			for _, sp := range p.spans {
				r := s.identify(t.Context(), p.at(sp))
				list = append(list, fmt.Sprintf("%q %s %v %s %v", r.Key, r.ID, r.ok, r.raw, r.bad))
			}
			return list
		}
		fast := split(len(body))
		inPieces := split(3)
		s.perRecord = nil
		for i, want := range split(len(body)) {
			if fast[i] != want || inPieces[i] != want {
				t.Errorf("%s: record %d: %s, in pieces %s; asked by itself: %s", field, i, fast[i], inPieces[i], want)
			}
		}
	}
}

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
