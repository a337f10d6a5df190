// Package jq compiles jq programs and runs them over raw JSON bytes.
//
// The language is gojq's. Numbers that a program only passes on keep their text, whatever their size (1.10 stays 1.10,
// 1e400 stays 1e400). Results are compact and write the keys of every object sorted, as gojq does; where a key comes
// twice in an object, the last one counts. Strings are written with as few escapes as JSON allows, and DEL.
//
// Programs are pure: what depends on more than the record, such as now, input or env, is refused by Compile, so that a
// record pulled again gives the same result (invariant 3) and no secret is within reach (invariant 8).
//
// A run is bounded by the size of its input, by MaxOutput, MaxResults, a number of steps and the depth of what it builds
// (invariant 7). One thing is not: a single builtin may work for seconds past its context, or ask for gigabytes ("x" * 1e9). Programs that callers
// send therefore run behind a Guard.
package jq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"ferry/internal/jsonscan"

	"github.com/itchyny/gojq"
)

// Bounds of one run.
const (
	MaxOutput  = 16 << 20 // bytes of all results together
	MaxResults = 100_000

	// A step is one instruction of the virtual machine, some tens of nanoseconds. The limit does not depend on the
	// machine's speed, so a program that runs away ends the same way everywhere.
	baseSteps    = 5_000_000
	stepsPerByte = 100
)

var (
	// ErrTooLarge: the results of one run are larger than MaxOutput together.
	ErrTooLarge = errors.New("the results of one record are larger than 16 MiB; make the program give less")
	// ErrTooMany: one run gave more than MaxResults results.
	ErrTooMany = errors.New("one record gave more than 100,000 results; make the program give fewer")
	// ErrTooLong: one run took more steps than its input allows; most likely it never ends.
	ErrTooLong = errors.New("the program takes too many steps; look for a loop (repeat, until, recurse) that does not end")
	// ErrTooDeep: a result holds arrays and objects deeper in each other than any record may.
	ErrTooDeep = errors.New("a result is nested too deep")
)

// RunError is what the program itself says of a record: a value of the wrong type, a division by zero, or error(…).
type RunError struct{ Msg string }

func (e *RunError) Error() string { return e.Msg }

// Program is a compiled jq program. It is safe for concurrent use.
type Program struct {
	src  string
	code *code
	path *Path // when the program is a path of keys and indexes, or the identity
	plan *plan // a faster way to the same results, or nil
	pool sync.Pool
}

// Compile compiles a jq program. Its error is a *CompileError.
func Compile(src string) (*Program, error) {
	q, err := parse(src)
	if err != nil {
		return nil, err
	}
	if err := checkPure(src, q); err != nil {
		return nil, err
	}
	code, err := compileCode(q, nil)
	if err != nil {
		return nil, compileError(src, err)
	}
	p := &Program{src: src, code: code}
	if steps, ok := pathOf(q); ok && !hasEach(steps) {
		p.path = &Path{src: src, steps: steps}
	}
	if p.path == nil {
		p.plan = newPlan(src, q)
	}
	p.pool.New = func() any { return new(scratch) }
	return p, nil
}

// Check says what Compile would say of src.
func Check(src string) error {
	_, err := Compile(src)
	return err
}

// String is the program's source.
func (p *Program) String() string { return p.src }

// Append runs the program on one JSON value. It appends the bytes of all results to dst and, for each, the length of dst
// behind it to ends; no result and no error means that the program gave none. in is only read during the call, and the
// results do not alias it.
//
// With an error, dst and ends come back as they were. A *RunError or one of ErrTooLarge, ErrTooMany, ErrTooLong,
// ErrTooDeep and ErrNesting is the record's fault and comes again when tried again; so is an input that is not one JSON value (the
// errors of jsonscan). The context's error is not; it is looked at every thousand steps or so.
func (p *Program) Append(ctx context.Context, dst []byte, ends []int, in []byte) ([]byte, []int, error) {
	s := p.pool.Get().(*scratch)
	defer p.put(s)
	out := output{dst: dst, ends: ends, start: len(dst), first: len(ends), enc: &s.enc}
	if err := p.run(ctx, s, in, &out); err != nil {
		return dst, ends, err
	}
	return out.dst, out.ends, nil
}

// One runs the program until its first result and returns that result's bytes, which the caller owns; found is false
// when there is none. Errors are those of Append; what would come behind the first result is not run.
func (p *Program) One(ctx context.Context, in []byte) (result []byte, found bool, err error) {
	s := p.pool.Get().(*scratch)
	defer p.put(s)
	out := output{enc: &s.enc, one: true}
	if err := p.run(ctx, s, in, &out); err != nil || len(out.ends) == 0 {
		return nil, false, err
	}
	return out.dst, true, nil
}

// Test runs the program as a condition: true when any result is neither false nor null, as select would have it; false
// when there is no result. Errors are those of Append; what would come behind the first true result is not run.
func (p *Program) Test(ctx context.Context, in []byte) (bool, error) {
	s := p.pool.Get().(*scratch)
	defer p.put(s)
	out := output{enc: &s.enc, truth: true}
	if err := p.run(ctx, s, in, &out); err != nil {
		return false, err
	}
	return out.isTrue, nil
}

// run gives the program's results to out.
func (p *Program) run(ctx context.Context, s *scratch, in []byte, out *output) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("run jq: %w", err)
	}
	if p.path != nil {
		raw, found, err := p.path.Get(in)
		if err == nil {
			if !found {
				raw = null
			}
			return out.raw(raw)
		}
		if kind := new(jsonscan.KindError); !errors.As(err, &kind) {
			return err
		}
	}
	if p.plan != nil {
		if err := p.plan.run(ctx, s, in, out); !errors.Is(err, errFallback) {
			return err
		}
		out.undo()
	}
	if err := jsonscan.Valid(in, jsonscan.MaxDepth); err != nil {
		return err
	}
	v := s.dec.decode(in)
	if err := s.dec.fit(); err != nil {
		return err
	}
	return p.code.run(ctx, v, len(in), out.value)
}

var null = []byte("null")

// scratch is what one run needs and the next can use again.
type scratch struct {
	dec   decoder
	enc   encoder
	spans []jsonscan.Span
	vars  []any
}

// put gives the scratch back, without hold of anything large or of the record.
func (p *Program) put(s *scratch) {
	s.dec.reset()
	s.enc.reset()
	p.pool.Put(s)
}

// parse parses src or returns a *CompileError.
func parse(src string) (*gojq.Query, error) {
	if strings.TrimSpace(src) == "" {
		return nil, &CompileError{src: src, msg: "the program is empty; write . to pass the record on as it is"}
	}
	if len(src) > maxProgram {
		return nil, &CompileError{src: src, msg: fmt.Sprintf("the program has %d bytes; at most 65,536 are taken", len(src))}
	}
	q, err := gojq.Parse(src)
	if err != nil {
		return nil, compileError(src, err)
	}
	unfold(q)
	return q, nil
}
