package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// commitAll commits cargo after cargo, several small ones together or a large one in pieces, until the channel is
// closed. Records are committed in the order in which they came (invariant 4).
func (r *run) commitAll(ctx context.Context, cargos <-chan *cargo) error {
	var hold []*cargo // not wholly committed yet; the first may be committed up to first
	first := 0
	open := true
	for open || len(hold) > 0 {
		if len(hold) == 0 {
			c, ok := <-cargos
			if !ok {
				return nil
			}
			hold = append(hold, c)
		}
		open = r.fill(ctx, &hold, first, cargos) && open
		stretch := r.measure(hold, first)
		if err := r.commit(ctx, hold, first, stretch); err != nil {
			return err
		}
		for range stretch.whole {
			r.release(hold[0].part)
			hold = hold[1:]
		}
		first = stretch.next
		if len(hold) == 0 {
			hold = nil // let go of the array
		}
	}
	return nil
}

// fill adds the cargo that is there already, or comes within the linger, as long as there is room in the commit. It
// returns false when no more will come.
func (r *run) fill(ctx context.Context, hold *[]*cargo, first int, cargos <-chan *cargo) bool {
	var linger <-chan time.Time
	if r.cfg.Linger > 0 {
		t := time.NewTimer(r.cfg.Linger)
		defer t.Stop()
		linger = t.C
	}
	for !r.measure(*hold, first).full {
		select {
		case c, ok := <-cargos:
			if !ok {
				return false
			}
			*hold = append(*hold, c)
			continue
		default:
		}
		if linger == nil {
			return true
		}
		select {
		case c, ok := <-cargos:
			if !ok {
				return false
			}
			*hold = append(*hold, c)
		case <-linger:
			return true
		case <-ctx.Done():
			return true
		}
	}
	return true
}

// stretch is how far one commit reaches into the cargo that is held.
type stretch struct {
	whole int  // this many cargos to their end (the first of them from the given record on)
	next  int  // then up to this record of the one after
	full  bool // the limits were reached, or would be by the next record
}

// measure finds how far one commit can reach. At least one record always fits (see fits).
func (r *run) measure(hold []*cargo, first int) stretch {
	records, size := 0, 0
	for k, c := range hold {
		from := 0
		if k == 0 {
			from = first
		}
		for i := from; i < len(c.ends); i++ {
			records += c.weight(i)
			size += c.sizes[i]
			over := r.limits.CommitRecords > 0 && records > r.limits.CommitRecords ||
				r.limits.CommitBytes > 0 && size > r.limits.CommitBytes
			if over && (k > 0 || i > from) {
				return stretch{whole: k, next: i, full: true}
			}
		}
	}
	return stretch{whole: len(hold)}
}

// maxRefusals is how often the queue may refuse records of one commit before the run fails: each time fewer and
// shorter records are left.
const maxRefusals = 8

// commit makes one stretch durable together with the cursor after it, and counts it (invariants 1, 5).
func (r *run) commit(ctx context.Context, hold []*cargo, first int, s stretch) error {
	for refusals := 0; ; refusals++ {
		batch, delta, next := r.pack(hold, first, s)
		if batch.Len() == 0 && bytes.Equal(next, r.writer.Cursor()) {
			r.count(delta)
			return nil
		}
		r.at("committing")
		start := time.Now()
		err := r.patiently(ctx, func(ctx context.Context) error { return r.writer.Commit(ctx, batch, next) })
		var refused *queue.BatchError
		if errors.As(err, &refused) && refusals < maxRefusals {
			r.buryRefused(hold, first, s, refused)
			continue
		}
		if err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		r.at("committed")
		if w, ok := r.writer.(queue.Warner); ok && r.cfg.Hooks.Warned != nil {
			if text := w.Warning(); text != "" {
				r.cfg.Hooks.Warned(text)
			}
		}
		size := 0
		for i := range batch.Records {
			size += batch.Records[i].Size()
		}
		r.committed(batch.Len(), size, time.Since(start))
		r.count(delta)
		return nil
	}
}

func (r *run) count(delta Counters) {
	r.sum = r.sum.Add(delta)
	r.counted(delta)
	if r.progress != nil {
		r.progress(r.sum, r.total)
	}
}

// pack gathers what one stretch commits, what it counts, and the cursor after it.
func (r *run) pack(hold []*cargo, first int, s stretch) (b queue.Batch, delta Counters, next record.Cursor) {
	n := 0
	r.each(hold, first, s, func(c *cargo, from, to int) { n += c.start(to) - c.start(from) })
	if n > 0 {
		b.Records = make([]record.Record, 0, n)
	}
	r.each(hold, first, s, func(c *cargo, from, to int) {
		b.Records = append(b.Records, c.results[c.start(from):c.start(to)]...)
		if len(c.dead) > 0 {
			for i := from; i < to; i++ {
				if letter, ok := c.dead[i]; ok {
					b.Dead = append(b.Dead, letter)
				}
			}
		}
		delta = delta.Add(c.count(from, to))
		if to == len(c.ends) {
			delta.Seen += int64(c.part.Seen)
			delta.Read += int64(c.part.Seen)
			if c.part.PageEnd {
				delta.Pages++
				if c.part.Remaining > 0 {
					r.total = r.sum.Read + delta.Read + c.part.Remaining
				}
			}
			if c.part.Warning != "" && r.cfg.Hooks.Warned != nil {
				r.cfg.Hooks.Warned(c.part.Warning)
			}
		}
		next = c.part.After(to)
	})
	return b, delta, next
}

// each calls f for the records from to to-1 of every cargo in the stretch.
func (r *run) each(hold []*cargo, first int, s stretch, f func(c *cargo, from, to int)) {
	for k, c := range hold {
		from, to := 0, len(c.ends)
		if k == 0 {
			from = first
		}
		if k == s.whole {
			to = s.next
		}
		if k > s.whole || k == s.whole && to == from {
			return
		}
		f(c, from, to)
	}
}

// buryRefused makes dead letters of the records whose results the queue can never take, so that they do not block
// the rest. A dead letter that is refused itself is cut short.
func (r *run) buryRefused(hold []*cargo, first int, s stretch, refused *queue.BatchError) {
	type place struct {
		c *cargo
		i int
	}
	var owners, graves []place // by index into Records and into Dead
	r.each(hold, first, s, func(c *cargo, from, to int) {
		for i := from; i < to; i++ {
			for range c.ends[i] - c.start(i) {
				owners = append(owners, place{c, i})
			}
			if _, ok := c.dead[i]; ok {
				graves = append(graves, place{c, i})
			}
		}
	})
	for at, err := range refused.Failed {
		if at < len(owners) {
			o := owners[at]
			if _, done := o.c.dead[o.i]; !done {
				o.c.drop(o.i, r.deadLetter(o.c.part.Records[o.i], "queue", err))
			}
			continue
		}
		if at -= len(owners); at < len(graves) {
			g := graves[at]
			letter := g.c.dead[g.i]
			g.c.bury(g.i, letter.Cut(min(len(letter.Data)/4, deadKeep)))
		}
	}
}

// patiently calls f until it succeeds, fails for good or ctx ends. f itself runs detached from ctx, within the commit
// timeout: a write that is under way when a run is stopped should end with a known outcome (invariant 10).
func (p *Pipeline) patiently(ctx context.Context, f func(context.Context) error) error {
	policy := p.cfg.Retry
	waited := false
	policy.OnRetry = func(_ int, _ time.Duration, err error) {
		waited = true
		if p.cfg.Hooks.Waiting != nil {
			p.cfg.Hooks.Waiting(err.Error())
		}
	}
	err := retry.Do(ctx, policy, func(context.Context) error {
		try, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.CommitTimeout)
		defer cancel()
		err := f(try)
		var refused *queue.BatchError
		if errors.Is(err, queue.ErrFenced) || errors.Is(err, queue.ErrClosed) || errors.As(err, &refused) {
			return retry.Permanent(err)
		}
		return err
	})
	if waited && err == nil && p.cfg.Hooks.Waiting != nil {
		p.cfg.Hooks.Waiting("")
	}
	return err
}
