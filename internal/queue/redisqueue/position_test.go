package redisqueue

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

func TestPosition(t *testing.T) {
	for _, tt := range []struct {
		id   entryID
		want int64
		ok   bool
	}{
		{entryID{0, 1}, 1, true},
		{entryID{1, 0}, 4096, true},
		{entryID{1, 4095}, 8191, true},
		{entryID{1, 4096}, 8191, false},
		{entryID{1795781221123, 7}, 1795781221123<<12 + 7, true},
		{entryID{maxMs, maxSeq}, math.MaxInt64, true},
		{entryID{maxMs + 1, 0}, math.MaxInt64, false},
		{entryID{math.MaxUint64, math.MaxUint64}, math.MaxInt64, false},
	} {
		got, ok := tt.id.position()
		if got != tt.want || ok != tt.ok {
			t.Errorf("%s is at %d, %t; want %d, %t", tt.id, got, ok, tt.want, tt.ok)
		}
		if back := atPosition(got); ok && back != tt.id {
			t.Errorf("position %d is that of %s, want %s", got, back, tt.id)
		}
	}
	if got := atPosition(-1); got != (entryID{}) {
		t.Errorf("before the beginning lies %s", got)
	}
	// What JavaScript can hold is enough for a while.
	last := entryID{uint64(time.Date(2039, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()), maxSeq}
	if pos, _ := last.position(); pos >= 1<<53 {
		t.Errorf("%s is at %d, over 2^53", last, pos)
	}
}

func FuzzReceipt(f *testing.F) {
	orders, _ := parseTopic("orders")
	other, _ := parseTopic("orders.dead")
	f.Add(receipt(orders, entryID{1, 2}, 3))
	f.Add(receipt(other, entryID{1, 2}, 3))
	f.Add("1-2.3.")
	f.Add("1-2.03.00000000")
	f.Fuzz(func(t *testing.T, s string) {
		id, attempt, ok := parseReceipt(orders, s)
		if ok && (receipt(orders, id, attempt) != s || attempt < 1 || strings.ContainsAny(s, " \r\n")) {
			t.Fatalf("took %q", s)
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add("1795781221123-7")
	f.Add("18446744073709551615-18446744073709551615")
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := parseID(s)
		if !ok {
			return
		}
		if again, ok := parseID(id.String()); !ok || again != id {
			t.Fatalf("%q is %s is %s", s, id, again)
		}
		if pos, ok := id.position(); ok && atPosition(pos) != id {
			t.Fatalf("%q is at %d, where %s is", s, pos, atPosition(pos))
		}
	})
}

func TestParseTopic(t *testing.T) {
	for name, want := range map[string]topic{
		"orders":         {"orders", "orders"},
		"orders.eu":      {"orders.eu", "orders.eu"},
		"orders.dead":    {"orders.dead", "orders"},
		"Bestellungen-ä": {"Bestellungen-ä", "Bestellungen-ä"},
		"ferryboats":     {"ferryboats", "ferryboats"},
	} {
		if got, err := parseTopic(name); err != nil || got != want {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"":                       "has no name",
		".dead":                  "has no name",
		"a{b}":                   "braces mark",
		"a b":                    "no spaces",
		"a\n":                    "no spaces",
		"ferry":                  "ferry's own",
		"ferry.topics":           "ferry's own",
		"ferry.dead":             "ferry's own",
		"a.dead.dead":            "dead letters of their own",
		strings.Repeat("x", 201): "longer than 200 bytes",
	} {
		if _, err := parseTopic(name); !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	tp, _ := parseTopic("orders.dead")
	if tp.key() != "{orders}.dead" || tp.cursorKey("p") != "{orders}.ferry.cursor.p" {
		t.Errorf("keys %s and %s", tp.key(), tp.cursorKey("p"))
	}
}
