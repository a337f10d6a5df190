package app

import (
	"math"
	"runtime/debug"
	"testing"
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
