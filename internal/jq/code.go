package jq

import (
	"context"
	"fmt"

	"github.com/itchyny/gojq"
)

// code is a program compiled by gojq. Safe for concurrent use.
type code struct {
	code *gojq.Code
}

func compileCode(q *gojq.Query, variables []string) (*code, error) {
	c, err := gojq.Compile(q, gojq.WithVariables(variables))
	if err != nil {
		return nil, err
	}
	return &code{code: c}, nil
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
	iter := c.code.RunWithContext(&steps, v, variables...)
	for {
		v, ok := iter.Next()
		if !ok {
			return nil
		}
		if e, ok := v.(error); ok {
			if steps.over {
				return ErrTooLong
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
	over bool
}

const stepsPerLook = 1024

func (c *stepContext) Done() <-chan struct{} {
	c.left--
	if c.left%stepsPerLook != 0 {
		return nil
	}
	if c.left <= 0 {
		c.over = true
		return closed()
	}
	return c.Context.Done()
}

func (c *stepContext) Err() error {
	if c.over {
		return ErrTooLong
	}
	return c.Context.Err()
}

func closed() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}
