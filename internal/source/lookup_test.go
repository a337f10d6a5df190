package source

import (
	"testing"

	"ferry/internal/config"
)

// Only an expression that provably looks beside the records may see a page without them.
func TestLooksBeside(t *testing.T) {
	for _, c := range []struct {
		records, src string
		want         bool
	}{
		{".data[]", ".has_more == false", true},
		{".data[]", ".meta.page >= .meta.pages and (.done | not)", true},
		{".data[]", `.next == null or .next == "" or .n < -1.5`, true},
		{".data[]", `.["x y"].z`, true},
		{".data[]", ".data", false},
		{".data[]", ".data == null", false},
		{".data[]", ".data[0].id", false},
		{".data[]", ".", false},
		{".a.b[]", ".a", false},
		{".a.b[]", ".a.b.c == 1", false},
		{".a.b[]", ".a.c", true},
		{".data[]", ".data | length < 5", false},
		{".data[]", "length > 3", false},
		{".data[]", "[.x] == []", false},
		{".data[]", ".x | .y", false},
		{".data[]", "..", false},
		{".data[]", ".x.. == 1", false},
		{".data[]", "to_entries | length > 1", false},
		{".data[]", ".x | notable", false},
		{"", ".meta.next", true},
		{"", "length", false},
	} {
		s := &Source{}
		var err error
		if s.records, err = newFinder(c.records); err != nil {
			t.Fatal(err)
		}
		if got := s.looksBeside(c.src); got != c.want {
			t.Errorf("records %s, %s: %t, want %t", c.records, c.src, got, c.want)
		}
	}
}

// A predicate that looks at the records sees them, whatever the page's size, and one that does not sees the same with and
// without them.
func TestStopSeesTheSame(t *testing.T) {
	for _, n := range []int{3, 5000} {
		for stop, want := range map[string]int{".data == null": 2, ".before.a | not": 2, ".data | length > 2": 1, ".before.a != null": 1} {
			s := open(t, config.Source{
				Base: serve(t, script(reply(jsonType, widePage(0, n)), reply(jsonType, `{"before":{},"data":[]}`))), Records: ".data[]", Stop: stop,
				Paginate: config.Paginate{Page: &config.PagePaging{}},
			}, Options{})
			if pages := readAll(t, s, nil).pages; pages != want {
				t.Errorf("%d records, stop %s: %d pages, want %d", n, stop, pages, want)
			}
		}
	}
}
