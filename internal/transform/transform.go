// Package transform carries one record through a pipeline's steps: where, map and schema. One record in, none, one or
// several out. It is pure: the same record always gives the same results with the same ids (invariant 3), and it does no
// I/O after New.
package transform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"ferry/internal/config"
	"ferry/internal/jq"
	"ferry/internal/record"
)

// Stages of an Error.
const (
	StageWhere  = "where"
	StageMap    = "map"
	StageSchema = "schema"
)

// Options of a Transform. The zero value is for steps without schemas.
type Options struct {
	// Dir is the folder that schema files are relative to, the configuration file's own. Empty: the process's folder. A
	// schema may refer to other files in the folder where it lies itself and below, and to nothing else.
	Dir string
	// Guard, when set, runs every Apply behind it: for programs that callers send.
	Guard *jq.Guard
}

// Transform is a pipeline's steps, compiled. Safe for concurrent use. The zero Transform passes every record on.
type Transform struct {
	steps   []step
	guard   *jq.Guard
	buffers sync.Pool // of *buffer
}

// buffer is memory for the results of maps. Results stay where they were written, each in a stretch of its own, so that
// a thousand of them cost a few pieces of memory, which live as long as one of their results.
type buffer struct {
	free []byte // of length 0; its capacity is what no result has
	last int    // bytes of the results before, which the next ones are likely to have
	ends []int
}

// A buffer takes pieceBytes of memory at once, more where results are larger, and keeps at most mostPiece.
const (
	pieceBytes = 16 << 10
	mostPiece  = 1 << 20
)

func (t *Transform) buffer() *buffer {
	b, ok := t.buffers.Get().(*buffer)
	if !ok {
		b = new(buffer)
	}
	if need := max(min(b.last+b.last/8, mostPiece), pieceBytes/8); cap(b.free) < need {
		b.free = make([]byte, 0, max(need, pieceBytes))
	}
	return b
}

// release gives a buffer back unless it is uncommonly large.
func (t *Transform) release(b *buffer) {
	if cap(b.free) <= mostPiece {
		t.buffers.Put(b)
	}
}

// step has exactly one of its parts.
type step struct {
	where    *jq.Program
	mapping  *jq.Program
	validate *schema
}

// Error is what a step has against a record, which makes it a dead letter. It says the same when tried again.
type Error struct {
	Stage string // where, map or schema
	Step  int    // from 0
	Path  string // of a schema: where in the record, as a JSON Pointer; "" is the record itself
	Err   error
}

func (e *Error) Error() string {
	if e.Stage == StageSchema {
		return fmt.Sprintf("step %d (schema): at %s: %v", e.Step+1, place(e.Path), e.Err)
	}
	return fmt.Sprintf("step %d (%s): %v", e.Step+1, e.Stage, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// DeadStage names the stage for the dead letter.
func (e *Error) DeadStage() string { return e.Stage }

func place(path string) string {
	if path == "" {
		return "the record itself"
	}
	return path
}

// New compiles the steps and reads their schema files. Its error names every step that is wrong.
func New(steps []config.Step, opts Options) (*Transform, error) {
	t := &Transform{guard: opts.Guard}
	var errs []error
	for i, s := range steps {
		compiled, err := newStep(s, opts)
		if err != nil {
			errs = append(errs, fmt.Errorf("transform step %d: %w", i+1, err))
		}
		t.steps = append(t.steps, compiled)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return t, nil
}

func newStep(s config.Step, opts Options) (step, error) {
	set := 0
	for _, key := range []string{s.Where, s.Map, s.Schema} {
		if key != "" {
			set++
		}
	}
	if set != 1 {
		return step{}, errors.New("set exactly one of where, map and schema")
	}
	var out step
	var err error
	switch {
	case s.Where != "":
		out.where, err = jq.Compile(s.Where)
	case s.Map != "":
		out.mapping, err = jq.Compile(s.Map)
	default:
		out.validate, err = newSchema(s.Schema, opts.Dir)
	}
	return out, err
}

// Apply appends the results of in to out: none when the record is filtered out, which is no error. Results carry the
// record's key and headers on. where and schema pass the bytes on untouched, so does a Transform without steps; what a
// map makes has bytes of its own.
//
// The id of a single result is the record's. Of several results of one map, the i-th has the id id#i (record.SubID), and
// of several maps after each other the ids nest: id#1#0 is the first result that the second map made of the second result
// of the first. The number is the place among the map's results, before later steps filter; a map that gives a record one
// result leaves its id alone.
//
// The error is an *Error, which is the record's fault, or else the context's or jq.ErrBusy. out then comes back as it was.
func (t *Transform) Apply(ctx context.Context, in record.Record, out []record.Record) ([]record.Record, error) {
	if len(t.steps) == 0 {
		return append(out, in), nil
	}
	if t.guard == nil {
		return t.apply(ctx, in, out)
	}
	in.Data = bytes.Clone(in.Data) // a run past its time may still read it
	results, err := jq.Guarded(ctx, t.guard, func(ctx context.Context) ([]record.Record, error) {
		return t.apply(ctx, in, nil)
	})
	if errors.Is(err, jq.ErrDeadline) {
		err = &Error{Stage: StageMap, Err: err}
	}
	return append(out, results...), err
}

// apply walks the record through the steps. Where a map gives several results, each walks through the rest on its own.
func (t *Transform) apply(ctx context.Context, in record.Record, out []record.Record) ([]record.Record, error) {
	w := walk{t: t, ctx: ctx, out: out, most: len(out) + jq.MaxResults}
	if err := w.from(0, in); err != nil {
		return out, err
	}
	return w.out, nil
}

// walk is one record's way through the steps.
type walk struct {
	t    *Transform
	ctx  context.Context
	out  []record.Record
	most int // how long out may grow
	size int // bytes that maps have made so far
}

// from carries a record through the steps from the i-th on and appends what comes out.
func (w *walk) from(i int, r record.Record) error {
	for ; i < len(w.t.steps); i++ {
		switch s := &w.t.steps[i]; {
		case s.where != nil:
			pass, err := s.where.Test(w.ctx, r.Data)
			if err != nil {
				return w.failed(StageWhere, i, err)
			}
			if !pass {
				return nil
			}
		case s.validate != nil:
			path, err := s.validate.check(r.Data)
			if err != nil {
				return &Error{Stage: StageSchema, Step: i, Path: path, Err: err}
			}
		default:
			done, err := w.mapped(i, s.mapping, &r)
			if done || err != nil {
				return err
			}
		}
	}
	w.out = append(w.out, r)
	return nil
}

// mapped runs the map that is step i. A single result takes the place of r's data; several, or none, are carried through
// the rest of the steps here, and r is done with.
func (w *walk) mapped(i int, program *jq.Program, r *record.Record) (done bool, err error) {
	b := w.t.buffer()
	defer w.t.release(b)
	data, ends, err := program.Append(w.ctx, b.free, b.ends[:0], r.Data)
	if err != nil {
		return false, w.failed(StageMap, i, err)
	}
	b.free, b.last, b.ends = data[len(data):], len(data), ends
	if w.size += len(data); w.size > jq.MaxOutput {
		return false, &Error{Stage: StageMap, Step: i, Err: jq.ErrTooLarge}
	}
	if len(ends) == 1 {
		r.Data = slices.Clip(data)
		return false, nil
	}
	id, start := r.ID, 0
	for k, end := range ends {
		r.ID, r.Data = record.SubID(id, k), data[start:end:end]
		if err := w.from(i+1, *r); err != nil {
			return true, err
		}
		if len(w.out) > w.most {
			return true, &Error{Stage: StageMap, Step: i, Err: jq.ErrTooMany}
		}
		start = end
	}
	return true, nil
}

// failed tells the record's fault from the context's end.
func (w *walk) failed(stage string, i int, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &Error{Stage: stage, Step: i, Err: err}
}
