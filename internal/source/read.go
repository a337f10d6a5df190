package source

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"time"

	"ferry/internal/record"
)

var (
	errStopped = errors.New("the caller wants no more")
	errChanged = errors.New("the page is not the one that was committed in part")
)

// Read reads the one page at from and yields its parts, in order; a page of less than about 1 MiB is one part. The last
// has PageEnd, the very last of the data End. Reading goes on from the After of a part: Read has no state, so a retry, a
// crash recovery and a first call are the same call. A request that fails in a way that may pass is made again, even
// when parts of its page have been yielded; the reading then goes on behind them.
//
// Read blocks on the network and on the rate limit, until ctx ends. An error is an *Error and comes last.
func (s *Source) Read(ctx context.Context, from record.Cursor) iter.Seq2[record.Part, error] {
	return func(yield func(record.Part, error) bool) {
		err := s.read(ctx, from, yield)
		if err != nil && !errors.Is(err, errStopped) {
			yield(record.Part{}, err)
		}
	}
}

func (s *Source) read(ctx context.Context, from record.Cursor, yield func(record.Part, error) bool) error {
	if s.first == nil {
		return s.nothingToRead()
	}
	pos, err := s.position(from)
	if err != nil {
		return err
	}
	req, err := s.build(pos)
	if err != nil {
		return asError(err)
	}
	r := &reading{s: s, from: pos, request: req, yield: yield}
	if pos.Page != nil {
		r.covered.take(pos.Page)
		pos.Page = nil
	}
	return s.patiently(ctx, req, r.attempt)
}

// position decodes a cursor and checks that it fits this source. Errors are *Error.
func (s *Source) position(from record.Cursor) (*position, error) {
	pos, err := decodeCursor(from)
	if err != nil {
		return nil, err
	}
	if pos.Style != "" && pos.Style != s.paging.style {
		return nil, failf(KindCursor, "the saved cursor is in the middle of pages that follow each other by paginate: %s, and the configuration says %s; set it back, or reset the cursor", pos.Style, s.paging.style)
	}
	if s.inc == nil {
		pos.Since, pos.UpTo = nil, nil
		return pos, nil
	}
	if err := s.inc.load(pos.Since); err != nil {
		return nil, err
	}
	return pos, s.inc.load(pos.UpTo)
}

// reading is one call of Read.
type reading struct {
	s       *Source
	from    *position // of the page
	request *request
	yield   func(record.Part, error) bool

	covered  covered // what was committed or handed over of the page
	elements int     // how many records of the page were in parts that this call handed over
	warning  string  // goes with the next part

	// Of the present attempt:
	upTo  *mark
	seen  int    // goes with the next part
	index int    // records so far
	ids   digest // of them
	n     int    // of those, the ones that are not behind the old boundary
	sum   digest // of them
}

// covered says which records of a page are not to be handed over (again).
type covered struct {
	exact bool
	ids   shortIDs       // when exact; as often as there are equal records
	left  map[uint64]int // how many of each this attempt has still to meet
	count int            // the first so many, with
	sum   digest
}

func (c *covered) take(p *progress) {
	*c = covered{exact: len(p.IDs) > 0 || p.Count == 0, ids: p.IDs, count: p.Count, sum: p.Sum}
	c.index()
}

func (c *covered) index() {
	if c.left = nil; c.exact && len(c.ids) > 0 {
		c.left = make(map[uint64]int, len(c.ids))
		for _, id := range c.ids {
			c.left[id]++
		}
	}
}

// attempt reads the page once, or twice when the first time shows that it has changed.
func (r *reading) attempt(ctx context.Context) error {
	err := r.once(ctx)
	if errors.Is(err, errChanged) {
		r.warning = fmt.Sprintf("the page changed while it was being committed; up to %d records come twice, with the same ids", r.covered.count)
		r.covered, r.elements = covered{exact: true}, 0
		err = r.once(ctx)
	}
	return err
}

func (r *reading) once(ctx context.Context) error {
	s := r.s
	if r.covered.count == 0 && len(r.covered.ids) == 0 {
		r.covered.exact = true
	}
	r.covered.index()
	r.seen, r.index, r.ids, r.n, r.sum = 0, 0, 0, 0, 0
	if s.inc != nil {
		if r.upTo = r.from.UpTo.clone(); r.upTo == nil {
			r.upTo = s.inc.begin(r.from.Since)
		}
	}
	a, err := s.ask(ctx, r.request)
	if err != nil {
		return err
	}
	defer a.close()
	pg := &page{header: a.header, url: a.url}
	switch statusVerdict(a.status, s.cfg.On) {
	case verdictRetry, verdictFail:
		return r.expired(a.status, a.statusError())
	case verdictEnd:
		a.close()
		return r.last(ctx, &splitter{s: s}, pg, true)
	case verdictSkip:
		pg.skipped = true
	case verdictOK:
		if a.status == 204 { // by its definition without a body
			break
		}
		p := s.splitter(ctx, a)
		p.hand = func() error { return r.hand(ctx, p) }
		if err := p.split(ctx, a.header.Get("Content-Type")); err != nil {
			return err
		}
		pg.envelope, pg.ndjson, pg.complaint = p.envelope, p.ndjson, p.complaint
		if p.ndjson && a.unended && !a.body.packed {
			r.warning = join(r.warning, "nothing says that the lines are all there: the server marks their end by closing the connection, as a broken one does")
		}
		s.lastSize.Store(min(p.base+int64(len(p.buf)), partBytes))
		a.close()
		return r.last(ctx, p, pg, false)
	}
	a.close()
	return r.last(ctx, &splitter{s: s}, pg, false)
}

// expired adds what may be wrong where an address or token that an answer gave out is refused: some do not last until
// the next run. The pull is then to begin again, from the mark before it where there is one.
func (r *reading) expired(status int, err *Error) *Error {
	if r.from.URL == "" && r.from.Token == nil || status != http.StatusBadRequest && status != http.StatusNotFound && status != http.StatusGone {
		return err
	}
	again := "reset " + r.s.pipeline
	if since := r.from.Since; since != nil {
		again = fmt.Sprintf("set %s '%s'", r.s.pipeline, (&position{Since: &mark{Value: since.Value}}).encode())
	}
	err.Detail += fmt.Sprintf("; the page before named this one: if that has expired since, begin this pull again with ferry cursor %s", again)
	return err
}

// splitter prepares the reading of an answer's body as a stream.
func (s *Source) splitter(ctx context.Context, a *answer) *splitter {
	p := &splitter{s: s}
	p.src = &a.body
	p.read = func(err error) error { return a.readError(ctx, err) }
	size := s.lastSize.Load() + s.lastSize.Load()/8 // pages are of about one size
	if a.length >= 0 && !a.body.packed {
		size = a.length + 1 // and one byte to see the end
	}
	// Up to twice a part is read as one: its size is known, so nothing has to grow.
	p.buf = make([]byte, 0, max(min(size, 2*partBytes), 512))
	return p
}

// hand yields the records that the splitter has found so far.
func (r *reading) hand(ctx context.Context, p *splitter) error {
	part, cursor := r.part(ctx, p)
	if errors.Is(cursor.err, errChanged) {
		return errChanged
	}
	p.reset()
	if len(part.Records) == 0 && part.Warning == "" {
		return nil // what was seen goes with the next part
	}
	return r.deliver(part, cursor)
}

// deliver yields a part and notes that it was handed over.
func (r *reading) deliver(part record.Part, cursor *partCursor) error {
	part.After = cursor.after
	r.covered.add(cursor.handed(len(part.Records)), r.n, r.sum)
	r.elements = max(r.elements, r.index)
	r.seen, r.warning = 0, ""
	if !r.yield(part, nil) {
		return errStopped
	}
	return nil
}

func (c *covered) add(ids shortIDs, n int, sum digest) {
	if c.exact {
		c.ids = append(slices.Clip(c.ids), ids...)
		if len(c.ids) > maxPageIDs {
			c.exact, c.ids, c.left = false, nil, nil
		}
	}
	if n > c.count {
		c.count, c.sum = n, sum
	}
}

// part makes a part of the splitter's spans: it leaves out what is known to be committed, and takes every record into the
// reckoning.
func (r *reading) part(ctx context.Context, p *splitter) (record.Part, *partCursor) {
	s := r.s
	part := record.Part{Records: make([]record.Record, 0, len(p.spans)), Warning: r.warning}
	c := &partCursor{s: s, page: r.from, n: r.n, sum: r.sum, ids: slices.Clip(r.covered.ids), exact: r.covered.exact, upTo: r.upTo.clone()}
	c.order = make(shortIDs, 0, len(p.spans))
	size := 0
	target := r.covered
	for _, sp := range p.spans {
		rec := s.identify(ctx, p.at(sp))
		size += len(rec.Data)
		known := r.index < r.elements // counted already, with a part that this call handed over
		r.index++
		r.ids = r.ids.add(rec.short)
		if rec.ok {
			s.inc.observe(r.upTo, rec.raw, rec.at, rec.short)
			if r.committedBefore(&rec) {
				if !known {
					r.seen++
				}
				continue
			}
		}
		r.n++
		r.sum = r.sum.add(rec.short)
		c.order = append(c.order, rec.short)
		var skip bool
		if target.exact {
			if skip = target.left[rec.short] > 0; skip {
				target.left[rec.short]--
			}
		} else if skip = r.n <= target.count; r.n == target.count && r.sum != target.sum {
			c.err = errChanged
			return part, c
		}
		if skip {
			if !known {
				r.seen++
			}
			continue
		}
		part.Records = append(part.Records, rec.Record)
		c.place = append(c.place, len(c.order)-1)
		if rec.bad != nil {
			addBad(&part, rec.bad)
		}
	}
	c.records, c.bad = part.Records, part.Bad
	part.Seen = r.seen
	part.Bytes = size + recordOverhead*len(part.Records)
	if !p.shared {
		part.Bytes = max(part.Bytes, cap(p.buf)+recordOverhead*len(part.Records))
	}
	return part, c
}

// committedBefore says whether an earlier pull has committed the record: its id lies at the old boundary.
func (r *reading) committedBefore(rec *identified) bool {
	old := r.from.Since
	return old != nil && old.at.order == rec.at.order && rec.at.compare(&old.at) <= 0 && old.IDs.has(rec.short)
}

// last yields the last part of the page, with the cursor of the next page or, after the last, of the next pull. end: the
// status said that the data ends here.
func (r *reading) last(ctx context.Context, p *splitter, pg *page, end bool) error {
	s := r.s
	part, c := r.part(ctx, p)
	if c.err != nil {
		return c.err
	}
	if !r.covered.exact && r.n < r.covered.count {
		return errChanged
	}
	pg.records, pg.ids = r.index, r.ids
	next, more, warning, err := s.follows(ctx, r.from, pg, end)
	if err != nil {
		return err
	}
	part.PageEnd = true
	switch {
	case !more:
		// Only now is the pull complete, and only now may the mark move: the data need not be sorted.
		reached := r.upTo.end()
		warning = join(warning, r.doubt(reached, pg))
		if pg.complaint {
			warning = join(warning, "the last page tells of an error beside its records, so there may be more of them")
		}
		next, part.End = &position{Since: reached}, true
	default:
		next.Since, next.UpTo = r.from.Since, r.upTo.clone()
		if next.UpTo != nil && next.UpTo.at.order == 0 {
			next.UpTo = nil
		}
	}
	if !part.End {
		part.Remaining = pg.remaining
	}
	part.Warning = join(part.Warning, warning)
	c.next = next
	return r.deliver(part, c)
}

// future is how far a clock elsewhere may be ahead, time zones included, before a mark is doubted.
const future = 48 * time.Hour

// doubt warns when the mark of a complete pull, whose last page is pg, does not keep records from coming again, or
// keeps new ones away.
func (r *reading) doubt(reached *mark, pg *page) string {
	some := pg.records > 0 || r.from.Pages > r.from.Empty // records, on this page or on one before
	switch {
	case r.s.inc != nil && reached == nil && some:
		return fmt.Sprintf("no record has a value to go by at incremental.field %s, so the next run asks for everything again; check the path", r.s.inc.field.src)
	case reached != nil && reached.Full:
		return fmt.Sprintf("more than %d records lie at the boundary of incremental.field; of those, some come again with the next run, with the same ids", maxBoundary)
	case reached != nil:
		now := value{order: byTime, time: time.Now()}
		if unit := reached.at.unit; reached.at.order == byNumber && unit > 0 {
			now = value{order: byNumber, small: now.time.UnixNano() / int64(unit), exact: true, unit: unit}
		}
		if d, ok := reached.at.before(&now); ok && reached.at.order == now.order && d > future {
			return fmt.Sprintf("the greatest value at incremental.field %s is %s, in the future: the next runs ask only for what comes after it; leave such records out of the request, and set the cursor back", r.s.inc.field.src, r.s.secrets.sample(reached.Value, 40))
		}
	}
	return ""
}

func join(a, b string) string {
	if a != "" && b != "" {
		return a + "; " + b
	}
	return a + b
}

// follows says which page comes next, unless the status or the stop predicate has said that none does.
func (s *Source) follows(ctx context.Context, from *position, pg *page, end bool) (to *position, more bool, warning string, err error) {
	if end {
		return nil, false, "", nil
	}
	if stop, err := s.stops(ctx, pg); stop || err != nil {
		return nil, false, "", err
	}
	return s.next(ctx, from, pg)
}

// stops asks the stop predicate.
func (s *Source) stops(ctx context.Context, pg *page) (bool, error) {
	if s.stop == nil || pg.skipped || pg.envelope == nil && !pg.ndjson {
		return false, nil
	}
	if err := pg.hasEnvelope("stop", s.stop.src); err != nil {
		return false, err
	}
	stop, err := s.stop.test(ctx, pg.envelope)
	if err != nil {
		return false, expressionError(ctx, "stop", s.stop.src, err)
	}
	return stop, nil
}
