package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/config"
)

// Options are what a Handler needs beside its Service. The zero value works: no keys, default limits, no metrics.
type Options struct {
	Auth    config.Auth   // keys of the callers; none lets everybody do everything
	Server  config.Server // limits; a zero field means the default that config documents
	Listen  string        // address listened on; on loopback without keys, foreign Host names are refused
	Version string
	Logger  *slog.Logger // failures that are not for the caller, and every request at debug; nil: silent

	Metrics http.Handler // served at /metrics; nil: 404
	Console http.Handler // served at / and /console/; nil: 404

	// Observe, when not nil, hears of every answer: the route as in the OpenAPI document ("" when none matched), the
	// method ("OTHER" when it is an unusual one), the status and the time taken. It has to be quick and is called
	// concurrently.
	Observe func(route, method string, status int, d time.Duration)
	// InFlight, when not nil, hears 1 when work on a request begins and -1 when it ends: of those that count against
	// server.in_flight, so of no probe and no stream. It has to be quick and is called concurrently.
	InFlight func(delta int)
	// Tracing, when not nil, wraps every request; it takes traceparent from the header into the context.
	Tracing func(http.Handler) http.Handler
	// Idempotency remembers answers by Idempotency-Key; nil: in this process's memory.
	Idempotency Idempotency
}

// Handler serves the whole HTTP API. Safe for concurrent use.
type Handler struct {
	svc         Service
	opt         Options
	log         *slog.Logger
	keys        *keyring
	origins     *origins
	idempotency Idempotency
	mux         *http.ServeMux
	inner       http.Handler // mux behind Tracing

	idPrefix string
	requests atomic.Uint64 // for request ids
	inFlight atomic.Int64
	streams  atomic.Int64
	bodies   atomic.Int64 // bytes of request bodies held
	answers  sync.Pool    // *[]byte: buffers of process

	draining atomic.Bool
	stop     chan struct{} // closed by Stop: streams and long waits end
	stopOnce sync.Once
}

const (
	mostStreams  = 256
	smallBody    = 1 << 20 // limit for bodies other than pushed records
	openBody     = 4 << 10 // the same where no key is needed: strangers could keep the memory for all bodies taken
	bodiesFactor = 8       // all bodies at once: this many of the largest
)

// New makes the handler. It fails when the options contradict each other.
func New(svc Service, opt Options) (*Handler, error) {
	opt.Server = withDefaults(opt.Server)
	keys, err := newKeyring(opt.Auth)
	if err != nil {
		return nil, err
	}
	origins, err := newOrigins(opt.Listen, opt.Auth, opt.Server)
	if err != nil {
		return nil, err
	}
	var prefix [5]byte
	rand.Read(prefix[:]) // never fails (crypto/rand, Go 1.24)
	h := &Handler{
		svc: svc, opt: opt, keys: keys, origins: origins,
		log:         cmp.Or(opt.Logger, slog.New(slog.DiscardHandler)),
		idempotency: opt.Idempotency,
		mux:         http.NewServeMux(),
		idPrefix:    hex.EncodeToString(prefix[:]) + "-",
		stop:        make(chan struct{}),
	}
	if h.idempotency == nil {
		h.idempotency = newAnswers()
	}
	h.register()
	h.inner = http.HandlerFunc(h.dispatch)
	if opt.Tracing != nil {
		h.inner = opt.Tracing(h.inner)
	}
	return h, nil
}

// withDefaults fills fields that are zero with what config documents, so that no limit is ever off by accident.
func withDefaults(s config.Server) config.Server {
	d := func(v *config.Duration, or time.Duration) { *v = cmp.Or(*v, config.Duration(or)) }
	s.HeaderBytes = cmp.Or(s.HeaderBytes, 32<<10)
	s.BodyBytes = cmp.Or(s.BodyBytes, 8<<20)
	s.InFlight = cmp.Or(s.InFlight, 1024)
	d(&s.HeaderTimeout, 5*time.Second)
	d(&s.BodyTimeout, 30*time.Second)
	d(&s.IdleTimeout, 2*time.Minute)
	d(&s.RequestTimeout, time.Minute)
	return s
}

// whenStopping is the header by which a load balancer says that it can ask another instance: while this one is stopping
// it then answers at once with the status that the header names, before it has done anything. Only 429 is known, because
// no other answer of ferry has it, so that the balancer cannot take work that was begun for work that was not.
const whenStopping = "Ferry-When-Stopping"

// Drain turns /readyz red, so that load balancers look elsewhere, and asks clients to close their connections. Every
// request is still served (invariant 10), but for those of a balancer that can ask elsewhere.
func (h *Handler) Drain() { h.draining.Store(true) }

// Stop drains, ends streams, and lets long waits answer with what they have. Work under way goes on.
func (h *Handler) Stop() {
	h.Drain()
	h.stopOnce.Do(func() { close(h.stop) })
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{
		ResponseWriter: w,
		id:             h.requestID(r.Header.Get("X-Request-Id")),
		started:        time.Now(),
		patient:        h.opt.Server.BodyTimeout.D(),
	}
	w.Header()["X-Request-Id"] = []string{x.id}
	w.Header()["X-Content-Type-Options"] = []string{"nosniff"}
	if r.ContentLength != 0 {
		x.hurry(h.opt.Server.BodyTimeout.D())
	}
	defer h.finish(x, r)
	if h.draining.Load() {
		w.Header()["Connection"] = []string{"close"} // nobody should keep what is about to close
		if r.Header.Get(whenStopping) == "429" {
			p := newProblem(CodeStopping, "Nothing was done. Ask another instance.")
			p.Status = http.StatusTooManyRequests
			p.write(x, x)
			return
		}
	}
	h.inner.ServeHTTP(x, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
}

// finish answers for a handler that panicked, and tells Observe and the log.
func (h *Handler) finish(x *exchange, r *http.Request) {
	v := recover()
	if v != nil && v != http.ErrAbortHandler { //nolint:errorlint // panics carry it as it is
		h.log.LogAttrs(r.Context(), slog.LevelError, "request panicked", slog.Any("panic", v),
			slog.String("request", x.id), slog.String("route", x.route), slog.String("caller", x.caller), slog.String("stack", string(debug.Stack())))
		if x.status == 0 {
			newProblem(CodeInternal, "Something went wrong here. The log tells more under this request id.").write(x, x)
			v = nil
		} else {
			v = http.ErrAbortHandler // what has been sent is not whole: the client has to see that
		}
	}
	took := time.Since(x.started)
	status := cmp.Or(x.status, http.StatusOK)
	if h.opt.Observe != nil {
		h.opt.Observe(x.route, knownMethod(r.Method), status, took)
	}
	if h.log.Enabled(r.Context(), slog.LevelDebug) {
		h.log.LogAttrs(r.Context(), slog.LevelDebug, "request", slog.String("request", x.id), slog.String("method", r.Method),
			slog.String("route", x.route), slog.Int("status", status), slog.Duration("took", took), slog.String("caller", x.caller))
	}
	if v != nil {
		panic(v)
	}
}

// knownMethod keeps metrics bounded whatever callers invent.
func knownMethod(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return m
	}
	return "OTHER"
}

// requestID takes the caller's id when it is safe to log, and makes one otherwise.
func (h *Handler) requestID(given string) string {
	if given != "" && len(given) <= 64 {
		ok := true
		for i := range len(given) {
			c := given[i]
			ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_' || c == '.')
		}
		if ok {
			return given
		}
	}
	return h.idPrefix + strconv.FormatUint(h.requests.Add(1), 36)
}

// dispatch hands the request to its route, and answers itself when there is none.
func (h *Handler) dispatch(w http.ResponseWriter, r *http.Request) {
	match, pattern := h.mux.Handler(r)
	if pattern != "" {
		h.mux.ServeHTTP(w, r)
		return
	}
	x := exchangeOf(r.Context())
	var probe headerProbe // the mux's own answer: 405 with Allow, or 404
	match.ServeHTTP(&probe, r)
	if allow := probe.Header().Get("Allow"); probe.status == http.StatusMethodNotAllowed {
		if r.URL.Path == processPath {
			allow = processAllows // the mux takes HEAD for one where GET is
		}
		w.Header().Set("Allow", allow)
		newProblem(CodeMethod, fmt.Sprintf("%s takes %s.", printable(r.URL.Path), allow)).write(w, x)
		return
	}
	newProblem(CodeNoRoute, fmt.Sprintf("There is nothing at %s.", printable(r.URL.Path))).write(w, x)
}

// printable shortens what a caller sent, for showing it back.
func printable(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// headerProbe is a ResponseWriter that keeps status and header and drops the body.
type headerProbe struct {
	status int
	header http.Header
}

func (p *headerProbe) Header() http.Header {
	if p.header == nil {
		p.header = http.Header{}
	}
	return p.header
}
func (p *headerProbe) WriteHeader(status int)      { p.status = status }
func (p *headerProbe) Write(b []byte) (int, error) { return len(b), nil }

// fail answers with the problem that err is, and logs what is not for the caller.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	p, hidden := problemOf(r.Context(), err)
	if hidden {
		h.logFailure(r.Context(), p, err)
	}
	p.write(w, exchangeOf(r.Context()))
}

func (h *Handler) logFailure(ctx context.Context, p *Problem, err error) {
	x := exchangeOf(ctx)
	level := slog.LevelError
	if p.Code() != CodeInternal {
		level = slog.LevelWarn // a failure of something outside, told to the caller by its kind
	}
	h.log.LogAttrs(ctx, level, "request failed", slog.String("request", x.id), slog.String("route", x.route),
		slog.String("caller", x.caller), slog.String("problem", string(p.Code())), slog.Any("error", err))
}

// access is how a route is guarded.
type access struct {
	role    role
	runs    bool  // does something even by GET: refused to other sites' pages
	work    bool  // counts against server.in_flight
	body    int64 // largest body
	timeout time.Duration
}

// guard wraps a route's handler with everything that holds before it: origin, key, body, load, time, repetition.
func (h *Handler) guard(route string, a access, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r.Context())
		x.route = route
		if p := h.origins.check(r, a.runs); p != nil {
			p.write(w, x)
			return
		}
		if p := h.authorize(w, r, x, a.role); p != nil {
			p.write(w, x)
			return
		}
		var body []byte
		if r.ContentLength != 0 {
			var p *Problem
			var free func()
			if body, free, p = h.readBody(w, r, x, a.body); p != nil {
				p.write(w, x)
				return
			}
			defer free()
			r.Body = &requestBody{rest: body, whole: body}
		}
		if a.work {
			defer h.work(-1)
			if h.work(1) > int64(h.opt.Server.InFlight) {
				p := newProblem(CodeOverloaded, "This instance is working on as many requests as server.in_flight allows.")
				p.retryAfter = time.Second
				p.write(w, x)
				return
			}
		}
		handle := func(w http.ResponseWriter, r *http.Request) {
			if a.timeout > 0 {
				ctx, cancel := context.WithTimeout(r.Context(), a.timeout)
				defer cancel()
				r = r.WithContext(ctx)
			}
			next(w, r)
		}
		if r.Method == http.MethodPost && len(r.Header["Idempotency-Key"]) > 0 {
			h.idempotent(w, r, x, body, handle)
			return
		}
		handle(w, r)
	}
}

// work counts the requests worked on.
func (h *Handler) work(delta int) int64 {
	if h.opt.InFlight != nil {
		h.opt.InFlight(delta)
	}
	return h.inFlight.Add(int64(delta))
}

// requestBody is a body that has been read whole already.
type requestBody struct{ rest, whole []byte }

func (b *requestBody) Read(p []byte) (int, error) {
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}
func (b *requestBody) Close() error { return nil }

// readBody reads the whole body before any work begins, within the limits of size, time and memory for all bodies
// together (invariant 7). free gives the memory back.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, x *exchange, limit int64) (body []byte, free func(), p *Problem) {
	tooLarge := func() ([]byte, func(), *Problem) {
		return nil, nil, newProblem(CodeTooLarge, fmt.Sprintf("The body may have up to %d bytes.", limit))
	}
	reserve := r.ContentLength
	switch {
	case reserve > limit:
		return tooLarge()
	case reserve < 0:
		reserve = limit
	}
	free = func() { h.bodies.Add(-reserve) }
	if h.bodies.Add(reserve) > bodiesFactor*max(int64(h.opt.Server.BodyBytes), smallBody) {
		free()
		p := newProblem(CodeOverloaded, "This instance is taking as many bytes of request bodies at once as it may.")
		p.retryAfter = time.Second
		return nil, nil, p
	}
	var err error
	reader := http.MaxBytesReader(w, r.Body, limit)
	if r.ContentLength > 0 {
		body = make([]byte, r.ContentLength)
		_, err = io.ReadFull(reader, body)
	} else {
		body, err = io.ReadAll(reader)
	}
	if err == nil {
		x.hurry(0)
		read := int64(len(body))
		h.bodies.Add(read - reserve) // of unknown length, it is mostly shorter than it might have been
		reserve = read
		return body, free, nil
	}
	free()
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge()
	}
	w.Header().Set("Connection", "close") // the rest of the body is not worth reading
	if t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && t.Timeout() {
		return nil, nil, newProblem(CodeSlowClient, fmt.Sprintf("The body did not come within %s.", h.opt.Server.BodyTimeout.D()))
	}
	return nil, nil, newProblem(CodeMalformed, "The body ended early.")
}
