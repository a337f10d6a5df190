package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// requestRetries is how often a request publishes again before it fails: its caller waits.
const requestRetries = 2

// Done is what became of a request's records. All of it is durable.
type Done struct {
	Counters
	// Results are what was published, in order.
	Results []record.Record
	// Dead are the letters of the records that could not go on, and DeadAt which of the records they were made of.
	Dead   []record.Record
	DeadAt []int
}

// Process carries the records of one fetch. It returns after every result and every dead letter is durable
// (invariant 2). Any number of calls share the queue's group commit.
func (p *Pipeline) Process(ctx context.Context, c Context) (Done, error) {
	part, err := p.cfg.Source.Fetch(ctx)
	if err != nil {
		return Done{}, fmt.Errorf("fetch: %w", err)
	}
	p.at("fetched")
	return p.deliver(ctx, c, part, 1, false)
}

// Push carries the records of a body that was sent to ferry, as Process does those of a fetch.
func (p *Pipeline) Push(ctx context.Context, c Context, contentType string, body []byte) (Done, error) {
	part, err := p.cfg.Source.Split(contentType, body)
	if err != nil {
		return Done{}, &BodyError{err}
	}
	return p.deliver(ctx, c, part, 0, false)
}

// BodyError says that a pushed body holds no records: the sender's mistake.
type BodyError struct{ Err error }

func (e *BodyError) Error() string { return "read records in the body: " + e.Err.Error() }
func (e *BodyError) Unwrap() error { return e.Err }

// Replay carries dead letters again, from their original bytes. Those of the stage source had no valid key and no id that
// comes of it: both are found anew, as the source is configured now. One that has the header record.HeaderDeadSize is not
// for Replay: its bytes are not the record's. With stay, those that fail again are told in Dead, but not published once more: they
// are to stay where they are, for the queue would take the new letter for a copy of the old one.
func (p *Pipeline) Replay(ctx context.Context, c Context, letters []record.Record, stay bool) (Done, error) {
	part := record.Part{Records: make([]record.Record, len(letters)), Bad: make(map[int]error)}
	for i, l := range letters {
		if l.Header(record.HeaderDeadStage) != stageSource {
			part.Records[i] = record.Record{ID: l.ID, Key: l.Key, Data: l.Data}
			continue
		}
		r, bad := p.cfg.Source.Identify(ctx, l.Data)
		if bad != nil {
			part.Bad[i] = bad
		}
		part.Records[i] = r
	}
	return p.deliver(ctx, c, part, 0, stay)
}

// deliver carries the part; with stay, its dead letters are told and not published.
func (p *Pipeline) deliver(ctx context.Context, c Context, part record.Part, pages int64, stay bool) (Done, error) {
	cargo, err := p.load(ctx, part, p.headers(c))
	if err != nil {
		return Done{}, err
	}
	if err := p.publish(ctx, cargo, stay); err != nil {
		return Done{}, err
	}
	n := len(cargo.ends)
	done := Done{Counters: cargo.count(0, n), Results: cargo.results}
	done.Pages = pages
	for i := 0; i < n && len(cargo.dead) > 0; i++ {
		if letter, ok := cargo.dead[i]; ok {
			done.Dead, done.DeadAt = append(done.Dead, letter), append(done.DeadAt, i)
		}
	}
	p.counted(done.Counters)
	return done, nil
}

// publish makes the cargo durable: first the results, of which the queue may refuse some, then the dead letters.
func (p *Pipeline) publish(ctx context.Context, c *cargo, stay bool) error {
	start := time.Now()
	p.at("committing")
	err := p.publishTo(ctx, p.cfg.Topic, c.results)
	var refused *queue.BatchError
	if errors.As(err, &refused) {
		// The others of this batch are durable, so a record of which one result was refused is partly there.
		err = c.buryFailed(p, refused)
	}
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if len(c.dead) > 0 && !stay {
		letters := make([]record.Record, 0, len(c.dead))
		for i := range c.ends {
			if letter, ok := c.dead[i]; ok {
				letters = append(letters, letter)
			}
		}
		if err := p.publishTo(ctx, p.dead, letters); err != nil {
			return fmt.Errorf("publish dead letters: %w", err)
		}
	}
	p.at("committed")
	if p.cfg.Hooks.Committed != nil {
		size := 0
		for _, n := range c.sizes {
			size += n
		}
		p.committed(len(c.results)+len(c.dead), size, time.Since(start))
	}
	return nil
}

// buryFailed makes dead letters of the records of which the queue refused a result for good. Another failure (the
// queue is full, say) fails the request as a whole: its caller may send it again, with the same ids.
func (c *cargo) buryFailed(p *Pipeline, refused *queue.BatchError) error {
	owner := make([]int, len(c.results))
	for i := range c.ends {
		for k := c.start(i); k < c.ends[i]; k++ {
			owner[k] = i
		}
	}
	for k, err := range refused.Failed {
		var large *queue.TooLargeError
		if !errors.As(err, &large) {
			return err
		}
		i := owner[k]
		if _, done := c.dead[i]; !done {
			c.bury(i, p.deadLetter(c.part.Records[i], "queue", err))
		}
	}
	for i := range c.dead {
		c.drop(i, c.dead[i])
	}
	return nil
}

// publishTo begins another try behind what the one before has made durable, and tells of the whole batch.
func (p *Pipeline) publishTo(ctx context.Context, topic string, batch []record.Record) error {
	if len(batch) == 0 {
		return nil
	}
	durable := 0
	policy := retry.Policy{Retries: requestRetries, Base: 20 * time.Millisecond, Max: time.Second}
	return retry.Do(ctx, policy, func(ctx context.Context) error {
		err := p.cfg.Queue.Publish(ctx, topic, batch[durable:])
		var refused *queue.BatchError
		var partly *queue.PartError
		switch {
		case errors.As(err, &refused):
			whole := &queue.BatchError{Failed: make(map[int]error, len(refused.Failed)), Total: len(batch)}
			for i, err := range refused.Failed {
				whole.Failed[durable+i] = err
			}
			return retry.Permanent(whole)
		case errors.As(err, &partly):
			durable += partly.Done
			err = &queue.PartError{Done: durable, Err: partly.Err}
		}
		if errors.Is(err, queue.ErrClosed) || errors.Is(err, queue.ErrUnknown) {
			return retry.Permanent(err)
		}
		return err
	})
}
