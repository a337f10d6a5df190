package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// LimitMemory makes nine tenths of the container's memory limit (cgroup) the soft limit of Go's heap, unless GOMEMLIMIT
// or AUTOMEMLIMIT says otherwise; where there is no limit, or none can be read, there is none. And it bounds what the heap
// grows by between two collections, unless GOGC says otherwise. Both are of the whole process, so main's side calls it
// once, before anything else.
func LimitMemory() {
	_, _ = memlimit.Set(memlimit.WithProvider(memlimit.FromCgroup)) // a limit that cannot be read is no reason not to start
	if os.Getenv("GOGC") == "" {
		paceGC(defaultGC)
	}
}

const (
	growth     = 32 << 20 // bytes that the heap may grow by, while that is between the two percentages of what is held
	leastGC    = 50       // percent
	mostGC     = 300
	defaultGC  = 100 // Go's own
	noticeable = 5   // percentage points: setting it stops the world for a moment
)

// paceGC sets the percentage of GOGC anew after each collection. Go's fixed one lets a heap of 70 MB, as a fast run has
// it, grow to 140, and collects one of 10 MB, as requests leave it, at each 10 MB of garbage: too much of the one and too
// often for the other. current is the percentage that holds now.
func paceGC(current int) {
	// What nobody holds is cleaned up after the next collection.
	runtime.AddCleanup(new(*byte), func(current int) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		if want := gcPercent(live[0].Value.Uint64()); max(want-current, current-want) >= noticeable {
			debug.SetGCPercent(want)
			current = want
		}
		paceGC(current)
	}, current)
}

// gcPercent is by how much a heap of that many live bytes may grow before it is collected, in percent.
func gcPercent(live uint64) int {
	return int(min(max(growth*100/max(live, 1), leastGC), mostGC))
}

const (
	leastCache = 16 << 20  // what the queue's URL allows at least
	mostCache  = 512 << 20 // 45 MiB/s, which two cores hardly reach
)

// embeddedCache is how much memory the embedded queue may use for what it wrote last when its URL does not say: three
// quarters of the soft memory limit, so that a container of any size holds a run of any length (invariant 7).
func embeddedCache() int64 {
	return min(max(debug.SetMemoryLimit(-1)/4*3, leastCache), mostCache)
}
