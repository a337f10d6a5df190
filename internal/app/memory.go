package app

import (
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// LimitMemory makes nine tenths of the container's memory limit (cgroup) the soft limit of Go's heap, unless GOMEMLIMIT
// or AUTOMEMLIMIT says otherwise. It changes the whole process, so main's side calls it once, before anything else.
// Where there is no limit, or none can be read, Go's defaults stay.
func LimitMemory() {
	_, _ = memlimit.Set(memlimit.WithProvider(memlimit.FromCgroup)) // a limit that cannot be read is no reason not to start
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
