package natsqueue

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// cacheSeconds is how long a NATS server keeps in memory a block that somebody has read in while it was written. Any
// other it lets go of when it is full.
const cacheSeconds = 10

// watched tells whether somebody may be reading close behind what is written now: through this queue, from outside, or as
// another member of a cluster.
func (q *Queue) watched() bool {
	return q.cfg.Listen != "" || len(q.cfg.Cluster) > 0 || time.Now().UnixNano()-q.read.Load() < cacheSeconds*int64(time.Second)
}

// messageOverhead is about what the headers of a record and of its batch add to its size where it is stored.
const messageOverhead = 180

// newPacer lets through as many bytes as fill the cache in any ten seconds: an eighth of it at once, the rest evenly.
// nil means no limit.
func newPacer(cache int64) *rate.Limiter {
	if cache <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(cache*7/8/cacheSeconds), int(cache/8))
}

// pace waits until n bytes may be written.
func (q *Queue) pace(ctx context.Context, n int) error {
	if q.pacer == nil {
		return nil
	}
	for n > 0 {
		part := min(n, q.pacer.Burst())
		if err := q.pacer.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}
