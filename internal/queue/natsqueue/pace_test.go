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

// TestWatched: writing is slowed down only where somebody may read close behind.
func TestWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Queue{}
		if q.watched() {
			t.Error("nobody has read yet")
		}
		q.read.Store(time.Now().UnixNano())
		time.Sleep(9 * time.Second)
		if !q.watched() {
			t.Error("what was read nine seconds ago is still in the server's memory")
		}
		time.Sleep(2 * time.Second)
		if q.watched() {
			t.Error("what was read eleven seconds ago is no longer in the server's memory")
		}
	})
	for _, c := range []Config{{Listen: "127.0.0.1:4222"}, {Cluster: []string{"a:6222", "b:6222", "c:6222"}}} {
		if q := (&Queue{cfg: c}); !q.watched() {
			t.Errorf("clients from outside or members of a cluster may read: %+v", c)
		}
	}
}
