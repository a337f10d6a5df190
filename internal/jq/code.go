package jq

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"

	"github.com/itchyny/gojq"
)

// code is a program compiled by gojq. Safe for concurrent use.
type code struct {
	current   atomic.Pointer[gojq.Code]
	query     *gojq.Query // set when the program has to be compiled anew now and then
	variables []string
	runs      atomic.Uint64
	nests     bool // the machine has to be looked at while it runs
}

func compileCode(q *gojq.Query, variables []string) (*code, error) {
	compiled, err := compileBounded(q, variables)
	if err != nil {
		return nil, err
	}
	c := &code{nests: nests(q)}
	c.current.Store(compiled)
	if hasComputedRegexp(q) {
		c.query, c.variables = q, variables
	}
	return c, nil
}

// runsPerCompile is after how many runs a program with computed regular expressions is compiled anew. gojq keeps every
// regular expression that a program has met for as long as the program lives; when they come out of records, nothing else
// would bound that (invariant 7).
const runsPerCompile = 1000

// engine returns the program to run.
func (c *code) engine() *gojq.Code {
	if c.query != nil && c.runs.Add(1)%runsPerCompile == 0 {
		if fresh, err := compileBounded(c.query, c.variables); err == nil {
			c.current.Store(fresh)
		}
	}
	return c.current.Load()
}

// hasComputedRegexp says whether a regular expression may be anything but a constant.
func hasComputedRegexp(q *gojq.Query) bool {
	found := false
	visitFuncs(reflect.ValueOf(q), func(f *gojq.Func) {
		switch f.Name {
		case "test", "match", "capture", "scan", "split", "splits", "sub", "gsub":
		default:
			return
		}
		if len(f.Args) == 0 || f.Name == "split" && len(f.Args) == 1 {
			return
		}
		t := f.Args[0].Term
		found = found || t == nil || t.Type != gojq.TermTypeString || t.Str.Queries != nil || len(t.SuffixList) > 0
	})
	return found
}

// run gives the results on v to yield until it wants no more. size is the length of the text that v and the variables
// were decoded from.
func (c *code) run(ctx context.Context, v any, size int, yield func(any) (more bool, err error), variables ...any) (err error) {
	defer func() {
		if r := recover(); r != nil { // a defect in the engine must cost one record, not the process
			err = &RunError{Msg: fmt.Sprintf("the jq engine failed: %v", r)}
		}
	}()
	steps := stepContext{Context: ctx, left: baseSteps + stepsPerByte*size}
	iter := c.engine().RunWithContext(&steps, v, variables...)
	if c.nests {
		steps.machine, steps.every = iter, lookEvery(size)
		steps.look = steps.left - steps.every
	}
	for {
		v, ok := iter.Next()
		if !ok {
			return nil
		}
		if e, ok := v.(error); ok {
			if steps.over != nil {
				return steps.over
			}
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("run jq: %w", err)
			}
			return &RunError{Msg: e.Error()}
		}
		if more, err := yield(v); err != nil || !more {
			return err
		}
	}
}

// stepContext counts the machine's steps: gojq asks for Done before each. It passes the question on to the real context
// only now and then, which is cheaper than a select on a channel that others share. For one goroutine.
type stepContext struct {
	context.Context
	left int
	over error // why the run has been ended

	machine gojq.Iter // nil when it need not be looked at
	every   int       // steps between two looks
	look    int       // how many steps are left at the next one
}

const stepsPerLook = 1024

func (c *stepContext) Done() <-chan struct{} {
	c.left--
	if c.left%stepsPerLook != 0 {
		return nil
	}
	if c.left <= 0 {
		c.over = ErrTooLong
		return closed()
	}
	if c.machine != nil && c.left <= c.look {
		c.look -= c.every
		if tooDeep(c.machine) {
			c.over = ErrNesting
			return closed()
		}
	}
	return c.Context.Done()
}

func (c *stepContext) Err() error {
	if c.over != nil {
		return c.over
	}
	return c.Context.Err()
}

func closed() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}
