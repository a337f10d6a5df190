// Package source reads one page from an HTTP API: it logs in, asks, follows pages, finds the records and gives each an
// id that stays the same (invariant 3). It keeps no progress of its own: all of it is in the cursor.
//
// What it refuses to take for success (invariant 9): a body that is cut short, broken, HTML or of another content type;
// pages that repeat; a place for records that is not there. What bounds it (invariant 7): the limits of the
// configuration, and parts of about 1 MiB for a page of any size. What never leaves (invariant 8): logins, in errors,
// cursors, redirects and next links.
package source

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/config"
	"ferry/internal/jq"
	"ferry/internal/jsonscan"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// Options are what a Source needs beside its configuration. Only Pipeline is required.
type Options struct {
	// Pipeline's name goes into every record's id.
	Pipeline string
	// Limiters hold rate limits across sources. Nil: this source's own.
	Limiters *Limiters
	// Observer hears of requests and retries. Nil: nobody.
	Observer Observer
	// UserAgent is sent unless the configuration has a header of that name. Default "ferry".
	UserAgent string
	// RootCAs are trusted for TLS instead of the system's, when not nil.
	RootCAs *x509.CertPool
	// Transport takes the place of the source's own, for tests. The timeouts for connecting, TLS and headers, the
	// limit on headers and the refusal of metadata addresses by what a name resolves to are the transport's.
	Transport http.RoundTripper

	dial func(ctx context.Context, network, address string) (net.Conn, error) // for this package's tests
}

// Source is an HTTP API. It is safe for concurrent use.
type Source struct {
	cfg      config.Source
	pipeline string
	observer Observer
	secrets  *secrets

	template *template
	first    *request // for the first page of a first pull: what Fetch asks; nil when nothing is read (cfg.Push)
	client   *client
	tokens   *tokens // nil without oauth2
	limiters *Limiters
	host     string
	rated    string // host, as rates know it
	limiter  *limiter
	policy   retry.Policy

	records            finder
	key                *expression // nil: the content is the key
	stop               *expression
	paging             paging
	inc                *incremental
	perRecord          *jsonscan.Finder // of key and incremental.field while records are split; nil when neither is a path
	keySlot, fieldSlot int              // of them in finder, -1 for what it does not look for
	whole              string           // the key whose expression needs to see whole pages, or ""
	keep               bool             // something looks at what lies beside the records
	guesses, hints     []jq.Path

	pageCounts, recordCounts []jq.Path

	unpackers sync.Pool    // of *gzip.Reader
	lastSize  atomic.Int64 // of a page, for the size of the next one's buffer
}

// New checks cfg, fills in what has a default, and compiles its expressions. It makes no connection.
func New(cfg config.Source, opt Options) (*Source, error) {
	if opt.Pipeline == "" {
		return nil, errors.New("make source: the pipeline's name is required")
	}
	complete(&cfg, &opt)
	s := &Source{cfg: cfg, pipeline: opt.Pipeline, observer: opt.Observer, limiters: opt.Limiters}
	if err := s.prepare(&opt); err != nil {
		return nil, fmt.Errorf("source of %s: %w", opt.Pipeline, err)
	}
	if s.first != nil {
		s.limiter = s.limiters.join(s.rated, s, cfg.Rate)
	}
	return s, nil
}

// nothingToRead is the answer of a source without an API to all but Split.
func (s *Source) nothingToRead() *Error {
	return failf(KindPush, "pipeline %s reads no API (source.push): send its records to POST /v1/pipelines/%s/records", s.pipeline, s.pipeline)
}

// complete fills in defaults, for a configuration that was not loaded.
func complete(cfg *config.Source, opt *Options) {
	t, l := &cfg.Timeouts, &cfg.Limits
	for _, d := range []struct {
		v   *config.Duration
		def time.Duration
	}{
		{&cfg.Timeout, 30 * time.Second},
		{&cfg.RetryMax, 30 * time.Second},
		{&cfg.RetryAfter, 5 * time.Minute},
		{&t.Connect, 10 * time.Second},
		{&t.TLS, 10 * time.Second},
		{&t.Page, 10 * time.Minute},
	} {
		if *d.v <= 0 {
			*d.v = config.Duration(d.def)
		}
	}
	for _, d := range []*config.Duration{&t.Headers, &t.Idle} {
		if *d <= 0 {
			*d = cfg.Timeout
		}
	}
	for _, b := range []struct {
		v   *config.Bytes
		def config.Bytes
	}{{&l.Headers, 256 << 10}, {&l.Wire, 4 << 30}, {&l.Inflated, 4 << 30}, {&l.Record, 8 << 20}, {&l.Envelope, 8 << 20}} {
		if *b.v <= 0 {
			*b.v = b.def
		}
	}
	if l.Depth <= 0 {
		l.Depth = 256
	}
	if opt.Limiters == nil {
		opt.Limiters = NewLimiters(nil)
	}
	if opt.Observer == nil {
		opt.Observer = Silent{}
	}
	if opt.UserAgent == "" {
		opt.UserAgent = "ferry"
	}
}

func (s *Source) prepare(opt *Options) (err error) {
	cfg := &s.cfg
	if cfg.Push {
		s.template, s.secrets = &template{}, newSecrets(cfg)
		return s.compile()
	}
	if s.template, err = newTemplate(cfg, opt.UserAgent); err != nil {
		return err
	}
	if u := s.template.url.User; u != nil { // a login in the address is one like any other
		s.template.url.User = nil
		if isNoAuth(&cfg.Auth) {
			password, _ := u.Password()
			cfg.Auth.Basic = &config.Basic{User: u.Username(), Password: config.Secret(password)}
		}
	}
	s.secrets = newSecrets(cfg)
	if err = addStatic(s.template.header, &cfg.Auth); err != nil {
		return err
	}
	s.host = s.template.url.Host
	s.rated = ratedHost(s.template.url)
	s.client = newClient(cfg, opt, s.template.url)
	if cfg.Auth.OAuth2 != nil {
		if s.tokens, err = newTokens(cfg.Auth.OAuth2, s.client, cfg.Timeout.D()); err != nil {
			return err
		}
	}
	s.policy = retry.Policy{Retries: cfg.Retries, Max: cfg.RetryMax.D(), MaxAfter: cfg.RetryAfter.D(), OnRetry: func(_ int, wait time.Duration, err error) {
		s.observer.Retry(s.host, reasonOf(err), wait)
	}}
	if err = s.compile(); err != nil {
		return err
	}
	s.first, err = s.build(&position{})
	return err
}

// compile compiles the expressions and finds out what each has to see.
func (s *Source) compile() (err error) {
	cfg := &s.cfg
	if s.records, err = newFinder(cfg.Records); err != nil {
		return err
	}
	if cfg.Key != "" {
		if s.key, err = compile("key", cfg.Key); err != nil {
			return err
		}
	}
	if s.paging, err = newPaging(&cfg.Paginate); err != nil {
		return err
	}
	if err = s.countable(); err != nil {
		return err
	}
	if cfg.Incremental != nil {
		if s.inc, err = newIncremental(cfg.Incremental); err != nil {
			return err
		}
	}
	s.seekWhileSplitting()
	for _, p := range s.places() {
		if p.in == "body" && s.template.method != http.MethodPost {
			return fmt.Errorf("body.%s: only a post has a body", p.name)
		}
		s.template.mutable = s.template.mutable || p.in == "body"
	}
	looks := s.paging.lookups()
	if cfg.Stop != "" {
		if s.stop, err = compile("stop", cfg.Stop); err != nil {
			return err
		}
		looks = append(looks, &lookup{src: cfg.Stop, body: s.stop})
	}
	s.keep = len(looks) > 0
	for _, l := range looks {
		if !s.looksBeside(l.src) {
			s.whole = l.src
		}
	}
	s.guesses, s.hints = mustPaths(guesses), mustPaths(hints)
	if s.paging.style == styleAuto {
		s.pageCounts, s.recordCounts = mustPaths(pageCounts), mustPaths(recordCounts)
		s.keep = true
	}
	return nil
}

// countable refuses numbers that go on by the records of a page where one thing that the API counts may give several
// records, or none: an offset would skip and double, and a page without records would not be the end.
func (s *Source) countable() error {
	what := ""
	switch p := &s.paging; {
	case p.style == styleOffset:
		what = "paginate.offset"
	case p.style == stylePage && p.total == nil:
		what = "paginate.page without total"
	}
	outer, inner, nested := s.records.unfold()
	switch {
	case what == "":
	case nested:
		return fmt.Errorf("%s counts records, and records %s gives any number of them for each of %s; set records: %s, and unfold it in transform with map: %s", what, s.records.src, outer, outer, inner)
	case s.records.sifts():
		return fmt.Errorf("%s counts records, and records %s may give more of them than the page has, or fewer; set records to where they all lie, and choose or unfold them in transform, with where or map", what, s.records.src)
	}
	return nil
}

// seekWhileSplitting lets the splitter look for what every record is asked for, so that it is read once.
func (s *Source) seekWhileSplitting() {
	s.keySlot, s.fieldSlot = -1, -1
	var paths [][]jsonscan.Step
	slot := func(x *expression) int {
		if x.program != nil {
			return -1
		}
		for i, path := range paths {
			if slices.Equal(path, x.path.Steps()) {
				return i
			}
		}
		paths = append(paths, x.path.Steps())
		return len(paths) - 1
	}
	if s.key != nil {
		s.keySlot = slot(s.key)
	}
	if s.inc != nil {
		s.fieldSlot = slot(s.inc.field)
	}
	if f, ok := jsonscan.NewFinder(paths...); ok && len(paths) > 0 {
		s.perRecord = f
	}
}

// places are where values go.
func (s *Source) places() []place {
	places := []place{s.paging.into, s.paging.sizeInto}
	if s.inc != nil {
		places = append(places, s.inc.into)
	}
	return places
}

// looksBeside says whether an expression provably looks at nothing but what lies beside the records, so that it gives the
// same whether the records are there or not. Only then may a page stream.
func (s *Source) looksBeside(src string) bool {
	paths, ok := plain(src)
	if !ok {
		return false
	}
	switch {
	case s.records.auto: // objects are read as a whole anyway, and arrays have nothing beside
		return !slices.ContainsFunc(paths, fitsArray)
	case s.records.program != nil: // the page is read as a whole anyway
		return true
	}
	for _, path := range paths {
		if overlaps(path, s.records.steps) {
			return false
		}
	}
	return true
}

func isNoAuth(a *config.SourceAuth) bool {
	return a.Bearer == "" && a.Basic == nil && a.APIKey == nil && a.OAuth2 == nil
}

// Fetch makes one request, that for the first page of a first pull, and returns all records of its answer in one part,
// which limits.envelope bounds. The part's cursors are empty. Errors are *Error; ctx bounds it as it does Read.
func (s *Source) Fetch(ctx context.Context) (record.Part, error) {
	var part record.Part
	if s.first == nil {
		return part, s.nothingToRead()
	}
	err := s.patiently(ctx, s.first, func(ctx context.Context) (err error) {
		part, err = s.fetch(ctx)
		return err
	})
	return part, err
}

func (s *Source) fetch(ctx context.Context) (record.Part, error) {
	a, err := s.ask(ctx, s.first)
	if err != nil {
		return record.Part{}, err
	}
	defer a.close()
	p := &splitter{s: s, single: true}
	switch statusVerdict(a.status, s.cfg.On) {
	case verdictRetry, verdictFail:
		return record.Part{}, a.statusError()
	case verdictSkip, verdictEnd:
		return p.whole(ctx), nil
	case verdictOK:
		if a.status == http.StatusNoContent {
			return p.whole(ctx), nil
		}
	}
	p.src = &a.body
	p.read = func(err error) error { return a.readError(ctx, err) }
	limit := int64(s.cfg.Limits.Envelope)
	size := int64(4 << 10)
	if a.length >= 0 && !a.body.packed {
		size = min(a.length, limit, partBytes) + 1 // and one byte to see the end
	}
	p.buf = make([]byte, 0, size)
	if err := p.all(limit, ""); err != nil {
		return record.Part{}, err
	}
	if err := p.split(ctx, a.header.Get("Content-Type")); err != nil {
		return record.Part{}, err
	}
	return p.whole(ctx), nil
}

// Split finds the records of a body that was pushed: the elements of an array, the lines of NDJSON, or the one value. Keys
// and ids are those that the same records have when they are read. The part holds on to body, which must not be changed.
// Errors are *Error.
func (s *Source) Split(contentType string, body []byte) (record.Part, error) {
	ctx := context.Background() // nothing of it waits
	p := &splitter{s: s, single: true, pushed: true}
	p.buf, p.eof = body, true
	if err := p.split(ctx, contentType); err != nil {
		return record.Part{}, err
	}
	return p.whole(ctx), nil
}

// Describe gives the method and address that Read would ask, such as "GET https://api.example.com/orders?after=7", with
// secrets masked.
func (s *Source) Describe(from record.Cursor) (string, error) {
	if s.first == nil {
		return "", s.nothingToRead()
	}
	pos, err := s.position(from)
	if err != nil {
		return "", err
	}
	r, err := s.build(pos)
	if err != nil {
		return "", asError(err)
	}
	return s.describe(r), nil
}

func (s *Source) describe(r *request) string {
	return r.method + " " + s.secrets.address(r.url)
}

// Close closes idle connections and gives up the source's part in rate limits. Reads under way go on.
func (s *Source) Close() {
	if s.first == nil {
		return
	}
	s.limiters.leave(s.rated, s)
	s.client.close()
}

// patiently tries f until it succeeds, fails for good or has used up the retries. Its errors are *Error, errStopped apart.
func (s *Source) patiently(ctx context.Context, r *request, f func(context.Context) error) error {
	err := retry.Do(ctx, s.policy, func(ctx context.Context) error {
		err := f(ctx)
		if err == nil {
			return nil
		}
		var e *Error
		switch {
		case !errors.As(err, &e) || !e.again:
			return retry.Permanent(err)
		case e.asked:
			return retry.After(err, e.wait)
		}
		return err
	})
	if err == nil || errors.Is(err, errStopped) {
		return err
	}
	e := *asError(err)
	if ctx.Err() != nil && e.Err == nil { // it ended while waiting to try again
		detail := e.Detail
		e = *ended(ctx)
		e.Detail += "; the last try: " + detail
	}
	e.Detail, e.At = s.secrets.detail(e.Detail), s.describe(r)
	return &e
}

// asError makes an *Error of any error.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return failf(KindContent, "%v", err)
}

// reasonOf is what an Observer hears as the reason of a retry.
func reasonOf(err error) string {
	e := asError(err)
	if e.Status != 0 {
		return strconv.Itoa(e.Status)
	}
	return string(e.Kind)
}
