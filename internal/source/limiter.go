package source

import (
	"context"
	"math"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"ferry/internal/config"
	"ferry/internal/retry"
)

// Limiters holds the rate limit of each host, for all sources of a process: of the rates that sources name for a host,
// the lowest holds for all of them. Safe for concurrent use.
type Limiters struct {
	turns Turns
	mu    sync.Mutex
	hosts map[string]*limiter
}

// Turns hands out the moments at which a host may be asked, among all processes that share a rate. Safe for concurrent
// use.
type Turns interface {
	// Reserve takes the next n turns, an interval apart, and returns when the first one is. It blocks only for as long as
	// it takes to agree with the others. After an error none was taken for all that the caller knows.
	Reserve(ctx context.Context, host string, n int, interval time.Duration) (first time.Time, err error)
}

// NewLimiters returns an empty set for this process alone, or with turns for all that share them.
func NewLimiters(turns Turns) *Limiters {
	return &Limiters{turns: turns, hosts: make(map[string]*limiter)}
}

// limiter is one host's.
type limiter struct {
	free   atomic.Bool // nobody has named a rate
	bucket *rate.Limiter
	shared *share                 // nil: bucket decides
	rates  map[*Source]rate.Limit // guarded by Limiters.mu
}

// ratedHost is what a rate goes by: the host and its port, however they are spelt. What is asked by http and by https at
// their usual ports is one host.
func ratedHost(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch port := u.Port(); u.Scheme + port {
	case "http", "http80", "https", "https443": // no port may be typed with its colon
		host = strings.TrimSuffix(host, ":"+port)
	}
	return host
}

// join makes s one of the host's sources, until leave.
func (l *Limiters) join(host string, s *Source, r config.Rate) *limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil {
		h = &limiter{bucket: rate.NewLimiter(rate.Inf, 1), rates: make(map[*Source]rate.Limit)}
		if l.turns != nil {
			h.shared = &share{turns: l.turns, host: host, lock: make(chan struct{}, 1)}
		}
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
	if h.shared != nil {
		return h.shared.wait(ctx, h.bucket.Limit())
	}
	r := h.bucket.Reserve()
	if err := retry.AwaitTurn(ctx, r.Delay()); err != nil {
		r.Cancel() // gives the place back
		return err
	}
	return nil
}

// share is this process's part of a rate that several keep together.
type share struct {
	turns Turns
	host  string

	lock chan struct{} // holds a token while somebody uses what follows
	next time.Time     // of the turns in hand
	left int
	step time.Duration
}

// ahead is how much of a rate is taken at once: so that a high one costs few agreements, and a low one none in vain.
const ahead = 50 * time.Millisecond

func (s *share) wait(ctx context.Context, limit rate.Limit) error {
	at, err := s.turn(ctx, time.Duration(float64(time.Second)/float64(limit)))
	if err != nil {
		return err
	}
	return retry.AwaitTurn(ctx, time.Until(at))
}

// turn takes one turn, from those in hand or anew. Nobody who cannot agree with the others goes ahead: a rate is a promise
// to somebody else.
func (s *share) turn(ctx context.Context, step time.Duration) (time.Time, error) {
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
	if s.left == 0 || s.step != step || time.Until(s.next) < -time.Second { // turns that nobody came for are let go
		n := max(1, int(ahead/step))
		err := retry.Do(ctx, retry.Policy{Retries: -1, Max: 2 * time.Second}, func(ctx context.Context) (err error) {
			s.next, err = s.turns.Reserve(ctx, s.host, n, step)
			return err
		})
		if err != nil {
			return time.Time{}, err
		}
		s.left, s.step = n, step
	}
	at := s.next
	s.left--
	s.next = at.Add(step)
	return at, nil
}
