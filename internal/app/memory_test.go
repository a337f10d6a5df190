package app

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestEmbeddedCache(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	for limit, want := range map[int64]int64{
		math.MaxInt64: 512 << 20, 3 << 30: 512 << 20, 400 << 20: 300 << 20, 160 << 20: 120 << 20, 10 << 20: 16 << 20,
	} {
		debug.SetMemoryLimit(limit)
		if got := embeddedCache(); got != want {
			t.Errorf("with a memory limit of %d MiB the cache is %d MiB, want %d", limit>>20, got>>20, want>>20)
		}
	}
}

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 300, 4 << 20: 300, 16 << 20: 200, 32 << 20: 100, 40 << 20: 80, 64 << 20: 50, 1 << 30: 50,
	} {
		if got := gcPercent(live); got != want {
			t.Errorf("a heap of %d MiB may grow by %d %%, want %d %%", live>>20, got, want)
		}
	}
}

// What is held decides, again and again. It goes on after the test, as it does in a process; nothing here minds.
func TestPaceGC(t *testing.T) {
	paceGC(defaultGC)
	becomes := func(least, most int) {
		t.Helper()
		now := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			runtime.GC()
			metrics.Read(now)
			got := int(now[0].Value.Uint64())
			if least <= got && got <= most {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("GOGC is %d, want %d to %d", got, least, most)
			}
		}
	}
	held := make([]byte, 100<<20)
	becomes(leastGC, leastGC)
	runtime.KeepAlive(held)
	becomes(defaultGC, mostGC)
}
