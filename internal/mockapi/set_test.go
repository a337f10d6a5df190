package mockapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestSameSeedSameBytes(t *testing.T) {
	a, b, other := New(Options{Seed: 7}), New(Options{Seed: 7, Orders: 3}), New(Options{Seed: 8})
	for _, set := range []string{"orders", "users", "events"} {
		differs := 0
		for _, i := range []int{0, 1, 99, 9_999, 1_000_000, 123_456_789} {
			if x, y := a.Record(set, i), b.Record(set, i); !bytes.Equal(x, y) {
				t.Errorf("%s %d: %s, then %s", set, i, x, y)
			}
			if !bytes.Equal(a.Record(set, i), other.Record(set, i)) {
				differs++
			}
		}
		if differs < 5 {
			t.Errorf("%s: another seed changes only %d of 6 records", set, differs)
		}
	}
	if a.Record("nothing", 0) != nil {
		t.Error("a record of an unknown set")
	}
}

// The bytes are a contract: other people's tests and figures rest on them.
func TestBytesAreStable(t *testing.T) {
	s := New(Options{Seed: 1})
	for _, c := range []struct{ set, want string }{
		{"orders", goldenOrder},
		{"users", goldenUser},
		{"events", goldenEvent},
	} {
		if got := string(s.Record(c.set, 41)); got != c.want {
			t.Errorf("%s 41:\n got %s\nwant %s", c.set, got, c.want)
		}
	}
}

func TestRecordsAreValidAndWorthTesting(t *testing.T) {
	s := New(Options{})
	seen := map[string]bool{}
	for _, set := range []string{"orders", "users", "events"} {
		for i := range 2000 {
			b := s.Record(set, i)
			if !json.Valid(b) || !utf8.Valid(b) || bytes.ContainsAny(b, "\n\r") {
				t.Fatalf("%s %d is not one line of JSON: %s", set, i, b)
			}
			if !bytes.HasPrefix(b, []byte(`{"id":`)) {
				t.Fatalf("%s %d does not begin with its id, which the poison fault rests on: %s", set, i, b)
			}
			for _, what := range []string{`\ud83d\ude80`, "🚢", `\u0000`, `\u2028`, `"note":null`, `.10}`, `.50}`, "9007199254740", `"phone":null`, `"deleted_at":null`} {
				if strings.Contains(string(b), what) {
					seen[what] = true
				}
			}
			if set == "orders" {
				seen[fmt.Sprint("status ", decode[map[string]any](t, b)["status"])] = true
			}
		}
	}
	if len(seen) != 10+5 {
		t.Errorf("not all of the special cases occur: %v", seen)
	}
}

func TestTimesGrowWithTies(t *testing.T) {
	ties := 0
	for k := 1; k < 100_000; k++ {
		switch d := seconds(k) - seconds(k-1); {
		case d < 0:
			t.Fatalf("the time of key %d is before that of the one before", k)
		case d == 0:
			ties++
		}
	}
	if share := float64(ties) / 100_000; share < 0.6 || share > 0.75 {
		t.Errorf("%.2f of all records share their second with the one before, not 11 of 16", share)
	}
}

func TestPadGivesTheAverage(t *testing.T) {
	s := New(Options{})
	for _, pad := range []int{870, 5000} {
		sum, n := 0, 10_000
		for i := range n {
			b := s.set("orders").append(nil, row{i, i}, form{pad: pad})
			if i%100 == 0 && !json.Valid(b) {
				t.Fatalf("not JSON: %s", b)
			}
			sum += len(b)
		}
		if average := float64(sum) / float64(n); average < float64(pad)-1 || average > float64(pad)+1 {
			t.Errorf("pad=%d gives %.2f on average", pad, average)
		}
	}
}

// model is the plain way to say what overlay and view do by arithmetic.
type model struct {
	rows []row
	next int
	size int
}

func (m *model) touch(index int) {
	for i, rw := range m.rows {
		if rw.index == index {
			m.rows = append(m.rows[:i:i], m.rows[i+1:]...)
			break
		}
	}
	m.rows = append(m.rows, row{index, m.next})
	m.next++
}

func TestOverlayAgreesWithAPlainList(t *testing.T) {
	const n = 200
	s := New(Options{Orders: n})
	m := &model{next: n, size: n}
	for i := range n {
		m.rows = append(m.rows, row{i, i})
	}
	d := dice(1)
	for range 300 {
		if d.roll(3) == 0 {
			s.Grow("orders", 1)
			m.rows = append(m.rows, row{m.size, m.next})
			m.size++
			m.next++
		} else {
			i := d.roll(m.size)
			s.Touch("orders", i)
			m.touch(i)
		}
		v := s.set("orders").view(query{count: -1})
		if v.len() != len(m.rows) {
			t.Fatalf("%d rows, want %d", v.len(), len(m.rows))
		}
		for p, want := range m.rows {
			if got := v.row(p); got != want {
				t.Fatalf("position %d holds %v, want %v", p, got, want)
			}
			if got := v.position(v.mark(p)); got != p {
				t.Fatalf("the mark of position %d leads to %d", p, got)
			}
			if v.find(want.index) != want {
				t.Fatalf("the version of %d is %v, want %v", want.index, v.find(want.index), want)
			}
		}
		down := s.set("orders").view(query{count: -1, order: descending})
		for p := range m.rows {
			if got, want := down.row(p), m.rows[len(m.rows)-1-p]; got != want {
				t.Fatalf("descending position %d holds %v, want %v", p, got, want)
			}
			if got := down.position(down.mark(p)); got != p {
				t.Fatalf("the mark of descending position %d leads to %d", p, got)
			}
		}
	}
	s.Touch("orders", -1, 1<<40)
	s.Touch("nothing", 1)
	s.Grow("nothing", 1)
	s.Reset()
	v := s.set("orders").view(query{count: -1})
	if v.len() != n || v.row(5) != (row{5, 5}) {
		t.Error("Reset kept changes")
	}
}

func TestShuffleVisitsEachOnce(t *testing.T) {
	s := New(Options{})
	for _, n := range []int{0, 1, 2, 3, 10, 64, 1000, 9_999} {
		v := s.set("orders").view(query{count: n, order: shuffled})
		seen := map[int]bool{}
		inOrder := 0
		for p := range n {
			rw := v.row(p)
			if rw.index < 0 || rw.index >= n || seen[rw.index] {
				t.Fatalf("n=%d: position %d holds %d again or out of bounds", n, p, rw.index)
			}
			seen[rw.index] = true
			if p > 0 && seen[rw.index-1] && v.row(p-1).index == rw.index-1 {
				inOrder++
			}
		}
		if n >= 10 && inOrder > n/4 {
			t.Errorf("n=%d: %d neighbours stayed neighbours", n, inOrder)
		}
	}
}

func TestTimeForms(t *testing.T) {
	at := time.Date(2024, 1, 1, 23, 30, 5, 0, time.UTC).Unix()
	for f, want := range map[timeForm]string{
		timeRFC3339:  `"2024-01-01T23:30:05Z"`,
		timeZone:     `"2024-01-02T01:30:05+02:00"`,
		timeFraction: `"2024-01-01T23:30:05.000Z"`,
		timeUnix:     `1704151805`,
		timeUnixMS:   `1704151805000`,
		timeDate:     `"2024-01-01"`,
	} {
		if got := string(f.append(nil, at)); got != want {
			t.Errorf("%s: %s, want %s", f, got, want)
		}
	}
}
