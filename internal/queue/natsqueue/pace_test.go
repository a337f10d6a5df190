package natsqueue

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestPace: in any ten seconds no more is written than the cache holds.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cache = 100 << 20
		q := &Queue{pacer: newPacer(cache)}
		type written struct {
			at    time.Time
			bytes int
		}
		var all []written
		start := time.Now()
		for time.Since(start) < time.Minute {
			n := 1 << 20
			if err := q.pace(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			all = append(all, written{time.Now(), n})
		}
		for i := range all {
			sum := 0
			for _, w := range all[i:] {
				if w.at.Sub(all[i].at) < 10*time.Second {
					sum += w.bytes
				}
			}
			if sum > cache+2<<20 {
				t.Fatalf("%d MiB within ten seconds, with a cache of 100 MiB", sum>>20)
			}
		}
		if total := len(all); total < 300 {
			t.Errorf("only %d MiB in a minute: too slow", total)
		}
	})
	if (&Queue{}).pace(t.Context(), 1<<40) != nil {
		t.Error("no cache given, and still a limit")
	}
}
