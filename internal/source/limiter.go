package source

import (
	"context"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"ferry/internal/config"
	"ferry/internal/retry"
)

// Limiters holds the rate limit of each host, for all sources of a process: of the rates that sources name for a host,
// the lowest holds for all of them. Safe for concurrent use.
type Limiters struct {
	mu    sync.Mutex
	hosts map[string]*limiter
}

// NewLimiters returns an empty set.
func NewLimiters() *Limiters { return &Limiters{hosts: make(map[string]*limiter)} }

// limiter is one host's.
type limiter struct {
	free   atomic.Bool // nobody has named a rate
	bucket *rate.Limiter
	rates  map[*Source]rate.Limit // guarded by Limiters.mu
}

// join makes s one of the host's sources, until leave.
func (l *Limiters) join(host string, s *Source, r config.Rate) *limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil {
		h = &limiter{bucket: rate.NewLimiter(rate.Inf, 1), rates: make(map[*Source]rate.Limit)}
		l.hosts[host] = h
	}
	limit := rate.Inf
	if r.Count > 0 && r.Per > 0 {
		limit = rate.Limit(r.Count / r.Per.Seconds())
	}
	h.rates[s] = limit
	h.settle()
	return h
}

func (l *Limiters) leave(host string, s *Source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil {
		return
	}
	delete(h.rates, s)
	if len(h.rates) == 0 {
		delete(l.hosts, host)
		return
	}
	h.settle()
}

// settle puts the lowest rate into force. Requests are spaced evenly, one at a time; only above 100/s may as many come
// at once as fit into 10 ms, because timers are not finer than that under load.
func (h *limiter) settle() {
	lowest := rate.Inf
	for _, r := range h.rates {
		lowest = min(lowest, r)
	}
	if lowest == h.bucket.Limit() {
		h.free.Store(lowest == rate.Inf)
		return
	}
	h.bucket.SetLimit(lowest)
	if lowest != rate.Inf {
		h.bucket.SetBurst(max(1, int(math.Ceil(float64(lowest)/100))))
	}
	h.free.Store(lowest == rate.Inf)
}

// wait blocks until a request may be made or ctx ends. Waits count towards no timeout but that of ctx.
func (h *limiter) wait(ctx context.Context) error {
	if h == nil || h.free.Load() {
		return nil
	}
	r := h.bucket.Reserve()
	if err := retry.Sleep(ctx, r.Delay()); err != nil {
		r.Cancel() // gives the place back
		return err
	}
	return nil
}
