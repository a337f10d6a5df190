package natsqueue

import (
	"context"

	"golang.org/x/time/rate"
)

// cacheSeconds is how long a NATS server keeps a block in memory after its last use.
const cacheSeconds = 10

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
