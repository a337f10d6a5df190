package mockapi

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
)

// Ledger counts what was served, so that a test can compare it with what arrived. A record counts as served when it
// was in an answer that went out whole and that a careful client accepts; what was in cut, garbled or mislabelled
// answers does not count, and broken counts those answers. Its methods are safe for concurrent use.
type Ledger struct {
	off   bool
	quick atomic.Int64 // requests on the quick path of /v1/data
	data  atomic.Int64 // records of /v1/data besides

	mu     sync.Mutex
	routes map[string]*RouteCount
	sets   map[string]*served
	faults map[Kind]int
}

// RouteCount is the requests of one route.
type RouteCount struct {
	Status map[int]int `json:"status"`           // by status
	Broken int         `json:"broken,omitempty"` // answers that did not go out whole, or not as they should be
}

// SetCount sums up what was served of one set.
type SetCount struct {
	Records  int `json:"records"`           // served, each time counted
	Distinct int `json:"distinct"`          // records served at least once
	Versions int `json:"versions"`          // versions of records served at least once; a touched record has several
	Spoiled  int `json:"spoiled,omitempty"` // records that a fault poisoned, blew up or nested; they count nowhere else
	Beyond   int `json:"beyond,omitempty"`  // served, but with an index too high to be told apart
	// Ranges is the indices served, as [first, last], ascending. At most 1,000; Cut tells that there were more.
	Ranges [][2]int `json:"ranges"`
	Cut    bool     `json:"cut,omitempty"`
}

// Summary is the ledger at one moment, as GET /_control/ledger shows it.
type Summary struct {
	Requests int                   `json:"requests"`
	Data     int                   `json:"data"` // records of /v1/data
	Tokens   int                   `json:"tokens"`
	Routes   map[string]RouteCount `json:"routes"`
	Sets     map[string]SetCount   `json:"sets"`
	Faults   map[Kind]int          `json:"faults,omitempty"`
}

const (
	maxTracked = 1 << 24 // indices with a count of their own; four bytes each
	maxRanges  = 1000
	maxRoutes  = 500
)

// served is what is kept of one set.
type served struct {
	times    counts // by index
	versions counts // by key
	sum      SetCount
}

// counts is a small number for each of many places. It stops at its greatest value.
type counts []uint16

// add changes one count by times, which is 1 or -1, and tells how the number of places above zero changes.
func (c *counts) add(i, times int) int {
	if i >= len(*c) {
		*c = append(*c, make(counts, i+1-len(*c))...)
	}
	n := &(*c)[i]
	switch {
	case times > 0 && *n < ^uint16(0):
		*n++
		if *n == 1 {
			return 1
		}
	case times < 0 && *n > 0:
		*n--
		if *n == 0 {
			return -1
		}
	}
	return 0
}

func newLedger(off bool) *Ledger {
	l := &Ledger{off: off}
	l.Reset()
	return l
}

// Reset forgets everything.
func (l *Ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quick.Store(0)
	l.data.Store(0)
	l.routes = map[string]*RouteCount{}
	l.sets = map[string]*served{}
	l.faults = map[Kind]int{}
}

// request counts an answer, or adds that it broke.
func (l *Ledger) request(a *answer, first, broken bool) {
	if l.off || !first && !broken || strings.HasPrefix(a.route, "/_control/") {
		return
	}
	route := a.route
	if route == "" {
		route = "other"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.routes[route]
	if c == nil {
		if len(l.routes) >= maxRoutes {
			route = "other"
		}
		if c = l.routes[route]; c == nil {
			c = &RouteCount{Status: map[int]int{}}
			l.routes[route] = c
		}
	}
	if first {
		c.Status[a.status]++
	}
	if broken {
		c.Broken++
	}
}

// page counts the records of a page as served once more, or takes that back.
func (l *Ledger) page(p *page, a *answer, times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sv := l.set(a.set)
	for i := p.start; i < p.end; i++ {
		if _, spoiled := a.faults.spoiled(i - p.start); spoiled {
			sv.sum.Spoiled += times
			continue
		}
		sv.add(p.v.row(i), times)
	}
}

// record counts one record that was asked for alone.
func (l *Ledger) record(s *set, rw row, times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(s).add(rw, times)
}

func (l *Ledger) set(s *set) *served {
	sv := l.sets[s.name]
	if sv == nil {
		sv = &served{}
		l.sets[s.name] = sv
	}
	return sv
}

func (sv *served) add(rw row, times int) {
	sv.sum.Records += times
	if rw.index >= maxTracked || rw.key >= maxTracked {
		sv.sum.Beyond += times
		return
	}
	sv.sum.Distinct += sv.times.add(rw.index, times)
	sv.sum.Versions += sv.versions.add(rw.key, times)
}

// Times is how often the record with an index (from 0) was served, in whatever version.
func (l *Ledger) Times(set string, index int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	sv := l.sets[set]
	if sv == nil || index < 0 || index >= len(sv.times) {
		return 0
	}
	return int(sv.times[index])
}

// Indices is the indices of all records of a set that were served at least once, ascending.
func (l *Ledger) Indices(set string) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	sv := l.sets[set]
	if sv == nil {
		return nil
	}
	indices := make([]int, 0, sv.sum.Distinct)
	for i, n := range sv.times {
		if n > 0 {
			indices = append(indices, i)
		}
	}
	return indices
}

// Set sums up one set.
func (l *Ledger) Set(name string) SetCount {
	l.mu.Lock()
	defer l.mu.Unlock()
	sv := l.sets[name]
	if sv == nil {
		return SetCount{}
	}
	return sv.count()
}

func (sv *served) count() SetCount {
	c := sv.sum
	c.Ranges = [][2]int{}
	for i := 0; i < len(sv.times); i++ {
		if sv.times[i] == 0 {
			continue
		}
		first := i
		for i+1 < len(sv.times) && sv.times[i+1] > 0 {
			i++
		}
		if len(c.Ranges) == maxRanges {
			c.Cut = true
			break
		}
		c.Ranges = append(c.Ranges, [2]int{first, i})
	}
	return c
}

// Summary is everything at this moment.
func (s *Server) Summary() Summary {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := Summary{
		Data:   int(l.quick.Load() + l.data.Load()),
		Tokens: s.tokens.count(),
		Routes: map[string]RouteCount{},
		Sets:   map[string]SetCount{},
		Faults: cloneCounts(l.faults),
	}
	for route, c := range l.routes {
		sum.Routes[route] = RouteCount{Status: maps.Clone(c.Status), Broken: c.Broken}
	}
	if quick := int(l.quick.Load()); quick > 0 {
		c := sum.Routes["/v1/data"]
		if c.Status == nil {
			c.Status = map[int]int{}
		}
		c.Status[200] += quick
		sum.Routes["/v1/data"] = c
	}
	for _, c := range sum.Routes {
		for _, n := range c.Status {
			sum.Requests += n
		}
	}
	for name, sv := range l.sets {
		sum.Sets[name] = sv.count()
	}
	return sum
}
