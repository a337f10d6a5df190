package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"ferry/internal/jsonscan"
)

// sampleBytes is how much of a record that cannot be held goes into its dead letter.
const sampleBytes = 4 << 10

// splitter finds the records of a body, and what lies beside them.
type splitter struct {
	window
	s      *Source
	single bool // one request: the body is here as a whole, and what lies beside the records does not matter
	pushed bool // the body was sent to ferry: records: does not apply

	places   [2]jsonscan.Span // of the record that is being read
	odd      []oddity
	oddBytes int    // of their data
	count    int    // records found
	envelope []byte // the page without its records
	beside   int64  // bytes of it
	ndjson   bool

	complaint bool // an error is told beside the records
}

// oddity is a record that cannot go on as it is.
type oddity struct {
	data    []byte // its first bytes, as a JSON string
	size    int64  // of all of them
	version []byte // a digest of all of them
	reason  error
}

// elem is a record as it was split from its body.
type elem struct {
	data   []byte
	odd    *oddity         // when it is one
	buf    []byte          // the window's, in which sought lies
	sought []jsonscan.Span // places of key and incremental field, by slot; nil when they are not known
}

// at gives the record of a span.
func (p *splitter) at(sp span) elem {
	if sp.start < 0 {
		odd := &p.odd[sp.end]
		return elem{data: odd.data, odd: odd}
	}
	r := elem{data: p.buf[sp.start:sp.end:sp.end]}
	if sp.found >= 0 {
		r.buf, r.sought = p.buf, p.sought[sp.found:]
	}
	return r
}

// reset forgets the spans, which have been handed over.
func (p *splitter) reset() {
	p.shared = p.shared || p.inside
	p.spans, p.sought, p.odd, p.oddBytes, p.inside = p.spans[:0], p.sought[:0], nil, 0, false
}

// add takes the value that ends at end as a record and goes behind it. sought are its places, nil when they are not known.
func (p *splitter) add(end int, sought []jsonscan.Span) error {
	found := -1
	if sought != nil {
		found = len(p.sought)
		p.sought = append(p.sought, sought...)
	}
	p.spans = append(p.spans, span{p.pos, end, found})
	p.inside = true
	p.pos = end
	return p.added()
}

// added hands over what room does not see to: many records, however small, and what is kept of oddities, which is not in the
// window (invariant 7).
func (p *splitter) added() error {
	p.count++
	if (len(p.spans) >= partRecords || p.oddBytes >= partBytes) && p.hand != nil {
		return p.hand()
	}
	return nil
}

// addOdd takes the value at pos as a record of which only the beginning is kept, and goes behind it by skip. What is kept,
// and the id that comes of it, do not depend on how the body arrives (invariant 3).
func (p *splitter) addOdd(reason error, skip func() error) error {
	for len(p.buf)-p.pos < sampleBytes && !p.eof {
		if err := p.fill(1); err != nil {
			return err
		}
	}
	head := append([]byte(nil), p.buf[p.pos:min(len(p.buf), p.pos+sampleBytes)]...)
	p.passed = 0
	p.sum = sha256.New()
	err := skip()
	version := p.sum.Sum(nil)
	p.sum = nil
	if err != nil {
		return err
	}
	head = bytes.TrimRight(head[:min(int64(len(head)), p.passed)], "\r\n")
	p.spans = append(p.spans, span{-1, len(p.odd), -1})
	data := jsonscan.AppendQuote(nil, string(head))
	p.odd = append(p.odd, oddity{data, p.passed, version, reason})
	p.oddBytes += len(data)
	return p.added()
}

// split goes through the body.
// Errors are *Error.
func (p *splitter) split(ctx context.Context, contentType string) error {
	lines, err := p.s.checkType(contentType)
	if err == nil {
		err = p.begin(lines)
	}
	if err == nil {
		if p.ndjson = lines; lines {
			err = p.lines()
		} else {
			err = p.page(ctx)
		}
	}
	return p.explain(err)
}

// checkType says whether a content type is one of JSON's, and whether it means lines. format: goes before it.
func (s *Source) checkType(contentType string) (lines bool, err error) {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	switch s.cfg.Format {
	case "ndjson":
		return true, nil
	case "json":
		return false, nil
	}
	switch {
	case kind == "application/json", strings.HasSuffix(kind, "+json"), kind == "text/json", kind == "text/plain", kind == "",
		kind == "application/octet-stream", kind == "binary/octet-stream", kind == "application/javascript", kind == "text/javascript":
		return false, nil
	case kind == "application/x-ndjson", kind == "application/ndjson", kind == "application/jsonl", kind == "application/x-jsonlines",
		kind == "application/jsonlines", kind == "application/json-lines", kind == "application/stream+json", kind == "application/x-json-stream":
		return true, nil
	}
	return false, &wrongType{kind}
}

// wrongType is a content type that is none of JSON's. Its explanation shows the beginning of the body.
type wrongType struct{ kind string }

func (e *wrongType) Error() string { return "content type " + e.kind }

// begin skips a byte order mark and looks whether what follows can be JSON.
func (p *splitter) begin(lines bool) error {
	for len(p.buf)-p.pos < 3 && !p.eof {
		if err := p.fill(1); err != nil {
			return err
		}
	}
	if b := p.buf[p.pos:]; len(b) >= 3 && string(b[:3]) == "\xef\xbb\xbf" {
		p.pos += 3
	}
	if err := p.space(); err != nil {
		return err
	}
	if p.pos == len(p.buf) {
		if lines { // no lines
			return nil
		}
		return failf(KindContent, "the body is empty").passing()
	}
	if jsonscan.KindOf(p.buf[p.pos]) == jsonscan.Invalid {
		return &wrongType{}
	}
	return nil
}

// explain turns errors of the splitter into *Error.
func (p *splitter) explain(err error) error {
	if err == nil {
		return nil
	}
	var (
		own    *Error
		wrong  *wrongType
		syntax *jsonscan.SyntaxError
	)
	switch {
	case errors.Is(err, errStopped) || errors.Is(err, errChanged) || errors.As(err, &own):
		return err
	case errors.As(err, &wrong):
		for len(p.buf)-p.pos < 200 && p.fill(1) == nil { //nolint:revive // for the sample; the failure is another
		}
		what := "the body is not JSON"
		if wrong.kind != "" {
			what = "the body is " + p.s.secrets.sample([]byte(wrong.kind), 60) + ", not JSON"
		}
		if head := p.buf[p.pos:]; len(head) > 0 {
			what += "; it begins with: " + p.s.secrets.begin(head, 80, !p.eof)
		} else {
			what += "; it is empty"
		}
		return failf(KindContent, "%s", what)
	case errors.As(err, &syntax):
		return failf(KindContent, "the body is not valid JSON: %s at byte %d", p.s.secrets.text(syntax.Msg), p.base+int64(syntax.Offset))
	case errors.Is(err, errShort), errors.Is(err, jsonscan.ErrIncomplete):
		return failf(KindContent, "the body ends in the middle of its JSON, after %d bytes", p.base+int64(len(p.buf))).passing()
	case errors.Is(err, jsonscan.ErrDepth):
		return failf(KindLimit, "the page is nested deeper than limits.depth (%d)", p.s.cfg.Limits.Depth)
	case errors.Is(err, errTooLarge):
		return failf(KindLimit, "the page has more than limits.envelope (%d bytes) beside its records", p.s.cfg.Limits.Envelope)
	}
	return failf(KindContent, "%s", p.s.secrets.text(err.Error()))
}

// page goes through a body that is one JSON value.
func (p *splitter) page(ctx context.Context) error {
	kind, err := p.kind()
	if err != nil {
		return err
	}
	if kind == jsonscan.Null && !p.pushed {
		if _, err := p.value(8, 0); err != nil {
			return err
		}
		return failf(KindContent, "the page is null")
	}
	r := &p.s.records
	why := ""
	switch {
	case p.pushed:
	case r.program != nil:
		why = "records is a program"
	case p.s.whole != "" && !p.single:
		why = p.s.whole + " looks at the records"
	case r.auto && kind == jsonscan.Object:
		why = "records is not set"
	}
	if why != "" && !p.single {
		if err := p.all(int64(p.s.cfg.Limits.Envelope), why); err != nil {
			return err
		}
	}
	if why != "" {
		end, err := p.value(1<<62, p.s.cfg.Limits.Depth)
		if err != nil {
			return err
		}
		p.envelope = p.buf[p.pos:end:end]
	}
	switch {
	case p.pushed && kind == jsonscan.Array:
		err = p.elements()
	case p.pushed: // null too: whoever pushes it means it, and in an array it is one as well
		err = p.element()
	case r.program != nil:
		err = p.run(ctx)
	case r.auto && kind == jsonscan.Object:
		var steps []jsonscan.Step
		if steps, err = p.choose(); err == nil {
			err = p.walk(steps, false)
		}
	default:
		err = p.walk(r.steps, why == "" && p.s.keep && !p.single)
		if err == nil && p.count == 0 && p.complaint { // as GraphQL answers
			err = failf(KindContent, "the page tells of an error and has nothing at records %s; if it is in order all the same, set records: %s?%s", r.src, strings.TrimSuffix(r.src, "[]")+"[]", p.begins())
		}
	}
	if err != nil {
		return err
	}
	return p.end()
}

// all reads the rest of the body.
func (p *splitter) all(limit int64, why string) error {
	for {
		switch {
		case p.base+int64(len(p.buf)) <= limit:
		case why == "":
			return failf(KindLimit, "the body is larger than limits.envelope (%d bytes), the most that one request may give", limit)
		default:
			return failf(KindLimit, "the page is larger than limits.envelope (%d bytes) and has to be read as a whole, because %s", limit, why)
		}
		if p.eof {
			return nil
		}
		if err := p.fill(1); err != nil {
			return err
		}
	}
}

// end makes sure that nothing follows.
func (p *splitter) end() error {
	if err := p.space(); err != nil {
		return err
	}
	if p.pos < len(p.buf) {
		return failf(KindContent, "something follows the body's JSON at byte %d: %s", p.base+int64(p.pos), p.s.secrets.begin(p.buf[p.pos:], 40, !p.eof))
	}
	return nil
}

// run takes the results of the records program as records.
func (p *splitter) run(ctx context.Context) error {
	end := p.pos + len(p.envelope)
	out, ends, err := p.s.records.program.program.Append(ctx, nil, nil, p.envelope)
	if err != nil {
		e := expressionError(ctx, "records", p.s.records.program.src, err)
		if e.Kind == KindContent {
			e.Detail += p.begins()
		}
		return e
	}
	p.pos = end
	if err := p.end(); err != nil {
		return err
	}
	p.buf, p.pos = out, 0
	for _, end := range ends {
		if err := p.add(end, nil); err != nil {
			return err
		}
	}
	return nil
}

// commonNames are names under which APIs give their records.
var commonNames = map[string]bool{
	"data": true, "items": true, "results": true, "result": true, "records": true, "rows": true, "entries": true, "values": true,
	"value": true, "objects": true, "content": true, "list": true, "elements": true, "hits": true,
}

// complains tells the names under which APIs tell of errors, with status 200 too: GraphQL, JSON:API, Cloudflare, Slack.
func complains(key []byte) bool { return jsonscan.KeyIs(key, "error") || jsonscan.KeyIs(key, "errors") }

// choose finds the records of the object in the window, when nothing says where they are: in the one array of objects that
// has a common name; in the one that has such a name and is empty, as on the last page, whatever lies beside it; or in the
// only array of objects. Where there is none, the object itself is the record. A page that tells of an error and has no
// records is a failure (invariant 9), unless records says otherwise.
func (p *splitter) choose() ([]jsonscan.Step, error) {
	var full, common, empty []string
	complaint, more := false, false // is there an error, and anything else that is not empty?
	w := jsonscan.Walk(p.envelope, 0, jsonscan.MaxDepth)
	for w.Next() {
		v := w.Value()
		key, err := jsonscan.Unquote(w.Key())
		if err != nil {
			continue
		}
		switch {
		case saysNothing(v):
			if v[0] == '[' && commonNames[key] {
				empty = append(empty, key)
			}
			continue
		case v[0] == '[' && v[jsonscan.SkipSpace(v, 1)] == '{':
			full = append(full, key)
			if commonNames[key] {
				common = append(common, key)
			}
		}
		if complains(w.Key()) {
			complaint = true
		} else {
			more = true
		}
	}
	in := func(name string) ([]jsonscan.Step, error) {
		return []jsonscan.Step{{Key: name}, {Each: true}}, nil
	}
	fails := func(records string) ([]jsonscan.Step, error) {
		return nil, failf(KindContent, "the page tells of an error and has no records; if it is in order all the same, set records: %s%s", records, p.begins())
	}
	switch {
	case len(common) == 1:
		return in(common[0])
	case len(common) == 0 && len(empty) == 1:
		if complaint {
			return fails("." + empty[0] + "[]")
		}
		return in(empty[0])
	case len(full) == 1:
		if full[0] == "error" || full[0] == "errors" {
			return fails("." + full[0] + "[]")
		}
		return in(full[0])
	case complaint && !more:
		return fails(".")
	}
	return nil, nil
}

// saysNothing tells empty values, 0, as in "error": 0, and arrays and objects with nothing in them.
func saysNothing(v []byte) bool {
	if isContainer(v[0]) {
		c := v[jsonscan.SkipSpace(v, 1)]
		return c == ']' || c == '}'
	}
	return isEmptyValue(v) || string(v) == "0"
}

// walk follows the path to the records. What lies beside it is kept as the envelope when keep is set, and bounded in any
// case (invariant 7).
func (p *splitter) walk(steps []jsonscan.Step, keep bool) error {
	kind, err := p.kind()
	if err != nil {
		return err
	}
	if len(steps) == 0 || steps[0].Each {
		switch {
		case kind == jsonscan.Array:
			if keep {
				p.envelope = append(p.envelope, "[]"...)
			}
			return p.elements()
		case kind == jsonscan.Null: // APIs that write null for "none"
			if keep {
				p.envelope = append(p.envelope, "null"...)
			}
			end, err := p.value(8, 0)
			p.pos = end
			return err
		case len(steps) > 0:
			return failf(KindContent, "records %s meets a value of type %s where it expects an array%s", p.s.records.src, kind, p.begins())
		}
		if keep {
			p.envelope = append(p.envelope, "null"...)
		}
		return p.element()
	}
	if kind != jsonscan.Object {
		return failf(KindContent, "records %s meets a value of type %s where it expects an object with %q%s", p.s.records.src, kind, steps[0].Key, p.begins())
	}
	return p.members(steps, keep)
}

func (p *splitter) members(steps []jsonscan.Step, keep bool) error {
	limit := int64(p.s.cfg.Limits.Envelope)
	note := func(b []byte) {
		if keep {
			p.envelope = append(p.envelope, b...)
		}
	}
	note([]byte{'{'})
	empty, err := p.enter()
	if err != nil {
		return err
	}
	found := false
	var names []string
	for more := !empty; more; {
		key, err := p.member(limit)
		if err != nil {
			return err
		}
		if p.beside += int64(len(key)); p.beside > limit {
			return errTooLarge
		}
		note(key)
		note([]byte{':'})
		if jsonscan.KeyIs(key, steps[0].Key) {
			if found {
				return failf(KindContent, "the page has %q twice", steps[0].Key)
			}
			found = true
			err = p.walk(steps[1:], keep)
		} else {
			if len(names) < 8 {
				names = append(names, p.s.secrets.sample(key[1:len(key)-1], 40))
			}
			var end int
			if end, err = p.value(limit-p.beside, p.s.cfg.Limits.Depth); err == nil {
				p.beside += int64(end - p.pos)
				note(p.buf[p.pos:end])
				p.complaint = p.complaint || complains(key) && !saysNothing(p.buf[p.pos:end])
				p.pos = end
			}
		}
		if err != nil {
			return err
		}
		if more, err = p.leave('}'); err != nil {
			return err
		}
		if more {
			note([]byte{','})
		}
	}
	note([]byte{'}'})
	if !found {
		has := "it is an empty object"
		if len(names) > 0 {
			has = "it has " + strings.Join(names, ", ")
		}
		return failf(KindContent, "the page has nothing at records %s; %s%s", p.s.records.src, has, p.begins())
	}
	return nil
}

// begins shows the beginning of the page to whoever has to find out why its records are not where they should be: APIs
// tell of errors so, with status 200.
func (p *splitter) begins() string {
	if p.base > 0 {
		return ""
	}
	return "; the page begins with: " + p.s.secrets.begin(p.buf, 160, !p.eof)
}

// elements takes those of the array at pos as records.
func (p *splitter) elements() error {
	empty, err := p.enter()
	if err != nil {
		return err
	}
	for more := !empty; more; {
		if err := p.element(); err != nil {
			return err
		}
		if more, err = p.leave(']'); err != nil {
			return err
		}
	}
	return nil
}

// element takes the value at pos as a record. One that is too large or too deep is an oddity, and does not stop the rest.
func (p *splitter) element() error {
	limits := &p.s.cfg.Limits
	end, sought, err := p.record(int64(limits.Record), limits.Depth)
	switch {
	case err == nil:
		if p.ndjson && end < len(p.buf) && p.buf[end] > ' ' && !isContainer(p.buf[p.pos]) {
			return &jsonscan.SyntaxError{Offset: end, Msg: "something follows the value in its line"}
		}
		return p.add(end, sought)
	case errors.Is(err, errTooLarge):
		return p.addOdd(fmt.Errorf("the record is larger than limits.record (%d bytes)", limits.Record), p.beyond)
	case errors.Is(err, jsonscan.ErrDepth):
		return p.addOdd(fmt.Errorf("the record is nested deeper than limits.depth (%d)", limits.Depth), p.beyond)
	}
	return err
}

// beyond goes over a value that is too large or too deep. Among lines it ends with its own line: one that is broken as well
// must not take the next one along. If it is the first, what is broken in it shows that the body is something else.
func (p *splitter) beyond() error { return p.pass(p.ndjson && p.count > 0) }

// record is value for a record: it notes on the way where key and incremental field are.
func (p *splitter) record(limit int64, depth int) (end int, sought []jsonscan.Span, err error) {
	finder := p.s.perRecord
	if finder == nil {
		end, err = p.value(limit, depth)
		return end, nil, err
	}
	sought = p.places[:finder.Len()]
	end, err = p.seek(limit, depth, func(b []byte, i, depth int) (int, error) {
		if sought != nil {
			end, err := finder.Find(b, i, depth, sought)
			if !errors.Is(err, jsonscan.ErrUnfit) {
				return end, err
			}
			sought = nil
		}
		return jsonscan.Skip(b, i, depth)
	})
	return end, sought, err
}

func isContainer(c byte) bool { return c == '{' || c == '[' }

// lines takes the values of a body of lines (NDJSON, JSON Lines) as records; objects and arrays that follow each other
// without a new line are taken too. A line that is not JSON is an oddity, unless it is the first: then the body is
// something else. So is a value that is too large or too deep, up to its end or, where it has none there, its line's.
func (p *splitter) lines() error {
	for {
		if err := p.space(); err != nil {
			return err
		}
		if p.pos == len(p.buf) {
			return nil
		}
		err := p.element()
		var syntax *jsonscan.SyntaxError
		if errors.As(err, &syntax) && p.count > 0 {
			err = p.addOdd(fmt.Errorf("the line is not valid JSON: %s", p.s.secrets.text(syntax.Msg)), p.line)
		}
		if err != nil {
			return err
		}
	}
}
