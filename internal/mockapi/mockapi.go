// Package mockapi is a simulated third-party API: generated data sets behind every pagination style, every login and
// every fault that a client of such APIs meets. `ferry dev` and `ferry mock` serve it, tests and benchmarks read it.
//
// Data is a function of seed and index: the same seed gives the same bytes for the same record at any time, for any
// number of records, without holding them. A ledger counts what was served, so that a test can compare it with what
// arrived. GET / describes every route and parameter.
package mockapi

import (
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a Server. The zero value is a whole API with 10,000 orders.
type Options struct {
	// Seed picks the data: equal seeds give equal bytes.
	Seed uint64
	// Orders, Users and Events are the numbers of records in the sets. Zero means 10,000, 1,000 and 5,000; a negative
	// number means an empty set.
	Orders, Users, Events int
	// NoLedger switches the counting off, for benchmarks.
	NoLedger bool
	// NoCompression ignores Accept-Encoding, for benchmarks. The query parameter gzip=0 does so for one request.
	NoCompression bool
	// Now is the clock of token expiry and Retry-After dates. Nil means time.Now.
	Now func() time.Time
	// Logger, when not nil, hears of every fault, at level debug.
	Logger *slog.Logger
}

// Server is the simulated API, an http.Handler. All its methods are safe for concurrent use.
type Server struct {
	opt    Options
	sets   []*set
	ledger *Ledger
	faults rules
	tokens tokens
	dataID atomic.Int64   // the last id that /v1/data gave out
	taken  sync.WaitGroup // connections taken over from net/http; see Running.Close
	pools  pools
}

// New makes a server. It holds no resources and starts nothing; Start listens with one.
func New(opt Options) *Server {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Server{
		opt:    opt,
		ledger: newLedger(opt.NoLedger),
		sets: []*set{
			newSet("orders", opt.Seed, count(opt.Orders, 10_000), appendOrder),
			newSet("users", opt.Seed, count(opt.Users, 1_000), appendUser),
			newSet("events", opt.Seed, count(opt.Events, 5_000), appendEvent),
		},
	}
}

func count(n, byDefault int) int {
	if n == 0 {
		return byDefault
	}
	return max(n, 0)
}

// Ledger is the live count of what was served.
func (s *Server) Ledger() *Ledger { return s.ledger }

// Reset forgets everything that happened: ledger, faults, growth of the data, tokens, ids of /v1/data.
func (s *Server) Reset() {
	s.ledger.Reset()
	s.faults.replace(nil)
	s.tokens.revoke()
	s.dataID.Store(0)
	for _, set := range s.sets {
		set.change(func(*overlay) *overlay { return nil })
	}
}

// Record gives the bytes of the record with this index (from 0) as it is without faults and query parameters, or nil
// when there is no such set.
func (s *Server) Record(name string, index int) []byte {
	set := s.set(name)
	if set == nil {
		return nil
	}
	return set.append(nil, row{index, index}, form{})
}

func (s *Server) set(name string) *set {
	for _, set := range s.sets {
		if set.name == name {
			return set
		}
	}
	return nil
}

// ServeHTTP answers one request. It returns early when the client goes away.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/data" && s.faults.none() && r.Method == http.MethodGet {
		switch r.URL.RawQuery {
		case "":
			s.quickData(w, s.dataID.Add(1))
			return
		case "fixed=1":
			s.quickData(w, 1)
			return
		}
	}
	a := &answer{s: s, w: w, r: r, status: http.StatusOK}
	a.header = w.Header()
	s.serve(a)
	a.count()
}

// serve answers everything but the quick path of /v1/data: faults that stand before the answer first, then the route.
func (s *Server) serve(a *answer) {
	path := a.r.URL.Path
	switch {
	case path == "/":
		a.route = "/"
		s.serveIndex(a)
		return
	case strings.HasPrefix(path, "/_control/"):
		a.route = path
		s.serveControl(a, strings.TrimPrefix(path, "/_control/"))
		return
	}
	if err := a.readBody(); err != nil {
		a.fail(http.StatusBadRequest, err.Error())
		return
	}
	var err error
	if a.faults, err = s.faults.match(a.r); err != nil {
		a.fail(http.StatusBadRequest, err.Error())
		return
	}
	if len(a.faults) > 0 {
		s.ledger.fault(a.faults)
		if s.opt.Logger != nil {
			s.opt.Logger.DebugContext(a.r.Context(), "fault", "path", path, "faults", a.faults.String())
		}
		if a.preempted() {
			return
		}
	}
	s.route(a, path)
}

// route answers path, which is the request's path without the login in front.
func (s *Server) route(a *answer, path string) {
	switch {
	case path == "/v1/data":
		a.route = a.r.URL.Path
		s.serveData(a)
		return
	case path == "/oauth/token":
		a.route = path
		s.serveToken(a)
		return
	case strings.HasPrefix(path, "/auth/"):
		kind, rest, _ := strings.Cut(strings.TrimPrefix(path, "/auth/"), "/")
		if strings.HasPrefix(rest, "auth/") {
			break
		}
		if s.authorize(a, kind) {
			s.route(a, "/"+rest)
		}
		return
	}
	styleName, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	setName, id, one := strings.Cut(rest, "/")
	style, known := styles[styleName]
	set := s.set(setName)
	if !known || set == nil {
		a.fail(http.StatusNotFound, "no such route; GET / lists them")
		return
	}
	a.route = strings.TrimSuffix(a.r.URL.Path, "/"+id)
	a.set = set
	if one {
		s.serveRecord(a, id)
		return
	}
	s.serveList(a, style)
}

// serveRecord answers one record of a set by its place, counted from 1.
func (s *Server) serveRecord(a *answer, id string) {
	q, err := parseQuery(a, styles["v1"])
	if err != nil {
		a.fail(http.StatusBadRequest, err.Error())
		return
	}
	n, err := strconv.Atoi(id)
	v := a.set.view(q)
	if err != nil || n < 1 || n > v.count+v.over.grownRows() {
		a.fail(http.StatusNotFound, "no such record")
		return
	}
	rw := v.find(n - 1)
	a.deliver(typeJSON, a.set.append(nil, rw, q.form), func(times int) { s.ledger.record(a.set, rw, times) })
}

// serveData is /v1/data with faults or further query parameters.
func (s *Server) serveData(a *answer) {
	id := int64(1)
	if a.r.URL.Query().Get("fixed") != "1" {
		id = s.dataID.Add(1)
	}
	a.deliver(typeJSON, appendData(nil, s.opt.Seed, id), func(times int) { s.ledger.data.Add(int64(times)) })
}

// quickData is /v1/data and nothing else: the least that net/http can do.
func (s *Server) quickData(w http.ResponseWriter, id int64) {
	buf, _ := s.pools.small.Get().(*[]byte)
	if buf == nil {
		buf = new(make([]byte, 0, 128))
	}
	*buf = appendData((*buf)[:0], s.opt.Seed, id)
	w.Header()["Content-Type"] = jsonHeader
	if !s.opt.NoLedger {
		s.ledger.quick.Add(1)
	}
	_, _ = w.Write(*buf) // so short a body stays in net/http's buffer until the handler returns
	s.pools.small.Put(buf)
}

// jsonHeader is shared by all quick answers; net/http only reads it.
var jsonHeader = []string{typeJSON}

func appendData(b []byte, seed uint64, id int64) []byte {
	b = append(b, `{"id":`...)
	b = strconv.AppendInt(b, id, 10)
	b = append(b, `,"name":"Sample Data","value":`...)
	b = strconv.AppendUint(b, mix(seed+uint64(id)*golden)%1000, 10)
	return append(b, '}')
}
