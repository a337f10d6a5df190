package source

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"ferry/internal/jq"
	"ferry/internal/jsonscan"
	"ferry/internal/record"
)

// recordOverhead is about what a record weighs in memory beside its data: itself, its id and its key.
const recordOverhead = 160

// maxKey bounds a record's key, in bytes.
const maxKey = 1024

// finder says where the records of a page are. A path that leads to an array means the array's elements, with [] at its
// end or not; one that leads to anything else means that one value.
type finder struct {
	src     string
	auto    bool
	steps   []jsonscan.Step // keys, with [] at the end or not: followed while the body streams
	program *expression     // any other jq; the page is read as a whole
}

func newFinder(src string) (finder, error) {
	f := finder{src: src}
	if src == "" {
		f.auto = true
		return f, nil
	}
	if path, err := jq.ParsePath(src); err == nil && streams(path.Steps()) {
		f.steps = path.Steps()
		return f, nil
	}
	program, err := jq.Compile(src)
	if err != nil {
		return f, fmt.Errorf("records: %w", err)
	}
	f.program = &expression{src: src, program: program}
	return f, nil
}

func streams(steps []jsonscan.Step) bool {
	for i, s := range steps {
		if s.IsIndex || s.Each && i < len(steps)-1 {
			return false
		}
	}
	return true
}

// unfold takes a path that goes through an array into others apart: .orders[].lines[] is .lines[] of each of .orders[].
func (f *finder) unfold() (outer, inner string, nested bool) {
	path, err := jq.ParsePath(f.src)
	if err != nil {
		return "", "", false
	}
	each := 0
	for _, s := range path.Steps() {
		if s.Each {
			each++
		}
	}
	outer, inner, _ = strings.Cut(f.src, "[]")
	if inner = strings.TrimSpace(inner); !strings.HasPrefix(inner, ".") { // .[][]
		inner = "." + inner
	}
	return strings.TrimSpace(outer) + "[]", inner, each > 1
}

// sifting is what a program has that gives more records than a page has, or fewer.
var sifting = regexp.MustCompile(`\b(select|empty|unique|unique_by|group_by|limit|first|last|flatten|recurse|range)\b|\.\.|\[\].*\[\]`)

// sifts tells a program that seems to choose among the records of a page, or to unfold them.
func (f *finder) sifts() bool {
	return f.program != nil && f.program.program != nil && sifting.MatchString(f.src)
}

// identified is a record with what the reading needs to know of it.
type identified struct {
	record.Record
	short uint64
	raw   []byte // the incremental field, when ok
	at    value
	ok    bool
	bad   error
}

// identify gives a record its key and id (invariant 3). The id comes from the key and the incremental field's value where
// both are there, from key and content where only the key is, and from the content alone where no key is configured. The
// content is the record's bytes as they were sent, white space included.
func (s *Source) identify(ctx context.Context, in elem) (r identified) {
	data := in.data
	r.Data = data
	if in.odd != nil {
		r.bad = in.odd.reason
		r.Headers = []record.Header{{Name: record.HeaderDeadSize, Value: strconv.FormatInt(in.odd.size, 10)}}
		r.ID = record.ID(s.pipeline, "", in.odd.version)
		r.short = shortID(r.ID)
		return r
	}
	if s.key != nil {
		if r.Key, r.bad = s.keyOf(ctx, &in); r.bad != nil {
			r.ID = record.ID(s.pipeline, "", data)
			r.short = shortID(r.ID)
			return r
		}
	}
	version := data
	if s.inc != nil {
		// A record without the field, or with what is no value there, cannot be put in order: it is delivered, with
		// its content as version, and moves no mark.
		if raw, found, err := s.pick(ctx, s.inc.field, s.fieldSlot, &in); err == nil && found {
			if r.at, r.ok = s.inc.decode(raw); r.ok {
				r.raw = raw
				if s.key != nil {
					version = raw
				}
			}
		}
	}
	r.ID = record.ID(s.pipeline, r.Key, version)
	r.short = shortID(r.ID)
	return r
}

// pick is what x gives of a record, which the splitter has noted at the slot if it could.
func (s *Source) pick(ctx context.Context, x *expression, slot int, in *elem) (value []byte, found bool, err error) {
	if in.sought == nil || slot < 0 {
		return x.one(ctx, in.data)
	}
	at := in.sought[slot]
	return in.buf[at.Start:at.End], at.End > 0, nil
}

func (s *Source) keyOf(ctx context.Context, in *elem) (string, error) {
	raw, found, err := s.pick(ctx, s.key, s.keySlot, in)
	if err != nil {
		return "", fmt.Errorf("key %s: %w", s.key.src, err)
	}
	if !found {
		return "", fmt.Errorf("the record has nothing at key %s", s.key.src)
	}
	switch kind := jsonscan.KindOf(raw[0]); kind {
	case jsonscan.String, jsonscan.Number, jsonscan.Bool:
	default:
		return "", fmt.Errorf("key %s is of type %s; it must be a string, a number or a boolean", s.key.src, kind)
	}
	key := textOf(raw)
	switch {
	case key == "":
		return "", fmt.Errorf("key %s is empty", s.key.src)
	case len(key) > maxKey:
		return "", fmt.Errorf("key %s has %s bytes; at most %d are allowed", s.key.src, strconv.Itoa(len(key)), maxKey)
	}
	return key, nil
}

// Identify gives a single record its key and id anew, those that Split would give it. bad says why it cannot go on, as in
// record.Part. The record holds on to data.
func (s *Source) Identify(ctx context.Context, data []byte) (r record.Record, bad error) {
	found := s.identify(ctx, elem{data: data})
	return found.Record, found.bad
}

// whole turns all spans of a splitter into one part without a cursor.
func (p *splitter) whole(ctx context.Context) record.Part {
	part := record.Part{
		Records: make([]record.Record, 0, len(p.spans)),
		After:   func(int) record.Cursor { return nil },
		Bytes:   cap(p.buf) + recordOverhead*len(p.spans),
		PageEnd: true,
		End:     true,
	}
	for _, sp := range p.spans {
		r := p.s.identify(ctx, p.at(sp))
		part.Records = append(part.Records, r.Record)
		if r.bad != nil {
			addBad(&part, r.bad)
		}
	}
	return part
}

// addBad marks the last record of the part.
func addBad(part *record.Part, reason error) {
	if part.Bad == nil {
		part.Bad = make(map[int]error)
	}
	part.Bad[len(part.Records)-1] = reason
}
