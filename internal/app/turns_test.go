package app

import (
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/source"
	"ferry/internal/state"
)

// TestSharedTurns: three instances that each want as much as they can get keep one rate together.
func TestSharedTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := state.NewMemory()
		var mu sync.Mutex
		var all []time.Time
		var wg sync.WaitGroup
		for range 3 {
			var turns source.Turns = sharedTurns{store}
			wg.Go(func() {
				for range 20 {
					first, err := turns.Reserve(t.Context(), "API.example.com:443", 2, 100*time.Millisecond)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					all = append(all, first, first.Add(100*time.Millisecond))
					mu.Unlock()
					time.Sleep(time.Until(first))
				}
			})
		}
		wg.Wait()
		slices.SortFunc(all, time.Time.Compare)
		for i := 1; i < len(all); i++ {
			if d := all[i].Sub(all[i-1]); d < 100*time.Millisecond {
				t.Fatalf("turns %d and %d are %s apart", i-1, i, d)
			}
		}
		if d := all[len(all)-1].Sub(all[0]); len(all) != 120 || d > 119*100*time.Millisecond+time.Second {
			t.Errorf("%d turns in %s, want them one after the other", len(all), d)
		}
	})
}

// TestTurnsOfAWrongClock: a moment that an instance whose clock was ahead has left behind stops nobody; one that many
// waiting requests explain is heeded.
func TestTurnsOfAWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			ahead, interval time.Duration
			heeded          bool
		}{
			{48 * time.Hour, time.Second, false},
			{10 * time.Minute, time.Second, true},
			{10 * time.Minute, time.Millisecond, false},
			{4 * time.Minute, time.Millisecond, true},
			{48 * time.Hour, time.Minute, true},
		} {
			store, now := state.NewMemory(), time.Now()
			value, err := json.Marshal(freeFrom{now.Add(c.ahead)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Put(t.Context(), turnsPrefix+"api.example.com", value, 0); err != nil {
				t.Fatal(err)
			}
			turns := sharedTurns{store}
			want := now
			if c.heeded {
				want = now.Add(c.ahead)
			}
			for range 3 {
				first, err := turns.Reserve(t.Context(), "api.example.com", 1, c.interval)
				if err != nil || !first.Equal(want) {
					t.Fatalf("free from %s ahead, every %s: a turn %s ahead, %v; want %s", c.ahead, c.interval, first.Sub(now), err, want.Sub(now))
				}
				want = want.Add(c.interval)
			}
		}
	})
}
