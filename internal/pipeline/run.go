package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// errWriterDone ends the reading when the committing has ended.
var errWriterDone = errors.New("committing has ended")

// Progress is what a run tells while it goes on: its counters, and how many records it will have read at its end as far as
// the source says, 0 when it does not. It is called after every commit and every page, from one goroutine.
type Progress func(c Counters, total int64)

// Run reads from the saved cursor to the end of the source's data and commits everything on the way: the next page is
// fetched while this one is transformed and committed. It returns what was counted, also beside an error; what was
// committed before the error stays committed, and the next run goes on from there.
//
// Errors: queue.ErrFenced when another run has taken over; the context's cause when it ended (what was read by then is
// committed first, for at most CommitTimeout); otherwise the source's or the queue's error.
func (p *Pipeline) Run(ctx context.Context, c Context, progress Progress) (Counters, error) {
	w, err := p.openWriter(ctx)
	if err != nil {
		return Counters{}, err
	}
	r := &run{Pipeline: p, writer: w, headers: p.headers(c), progress: progress, buffer: semaphore.NewWeighted(int64(p.cfg.Buffer))}
	err = r.walk(ctx)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if cerr := w.Close(closing); cerr != nil && err == nil {
		err = fmt.Errorf("close writer: %w", cerr)
	}
	return r.sum, err
}

func (p *Pipeline) openWriter(ctx context.Context) (w queue.Writer, err error) {
	err = p.patiently(ctx, func(ctx context.Context) error {
		w, err = p.cfg.Queue.OpenWriter(ctx, p.cfg.Name, p.cfg.Topic)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open writer: %w", err)
	}
	return w, nil
}

// run is one run under way: a reader, a transformer and a committer, each a goroutine, with records walking down.
type run struct {
	*Pipeline
	writer   queue.Writer
	headers  []record.Header
	progress Progress
	buffer   *semaphore.Weighted // bytes of parts between reader and committer

	// Owned by the committer:
	sum   Counters
	total int64 // records at the end, as far as the source has said
}

// ahead is how many parts may wait to be committed, so that a commit finds enough to be worth its round trips also where
// pages are small. Their bytes are bounded by the buffer.
const ahead = 64

func (r *run) walk(ctx context.Context) error {
	parts := make(chan record.Part, 1)
	cargos := make(chan *cargo, ahead)

	// Reading and transforming end at once with ctx; committing goes on until what they handed over is durable.
	reading, stopReading := context.WithCancelCause(ctx)
	defer stopReading(nil)
	var g errgroup.Group
	var readErr, loadErr error
	g.Go(func() error {
		defer close(parts)
		readErr = r.read(reading, r.writer.Cursor(), parts)
		return nil
	})
	g.Go(func() error {
		defer close(cargos)
		for part := range parts {
			c, err := r.load(reading, part, r.headers)
			if err != nil { // only when ctx or committing has ended, and the source may have been read to its end by then
				loadErr = cmp.Or(context.Cause(reading), err)
				r.release(part)
				for part := range parts {
					r.release(part)
				}
				return nil
			}
			cargos <- c
		}
		return nil
	})
	commitErr := r.commitAll(ctx, cargos)
	stopReading(errWriterDone)
	for c := range cargos {
		r.release(c.part)
	}
	_ = g.Wait() // its functions return nil
	return cmp.Or(commitErr, readErr, loadErr)
}

// read hands over part after part until the source's end.
func (r *run) read(ctx context.Context, cursor record.Cursor, parts chan<- record.Part) error {
	for pages := 0; ; {
		done, empty := false, true
		for part, err := range r.cfg.Source.Read(ctx, cursor) {
			if err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return fmt.Errorf("read source: %w", err)
			}
			empty = false
			r.at("fetched")
			if err := r.buffer.Acquire(ctx, r.weightOf(part)); err != nil {
				return context.Cause(ctx)
			}
			select {
			case parts <- part:
			case <-ctx.Done():
				r.release(part)
				return context.Cause(ctx)
			}
			cursor = part.After(len(part.Records))
			if part.PageEnd {
				pages++
			}
			done = part.End || part.PageEnd && r.cfg.MaxPages > 0 && pages >= r.cfg.MaxPages
		}
		if done {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if empty {
			return errors.New("read source: it gave neither a part nor an error")
		}
	}
}

// weightOf is what a part takes of the buffer: a part larger than all of it passes alone.
func (r *run) weightOf(part record.Part) int64 {
	return int64(min(max(part.Bytes, 1), r.cfg.Buffer))
}

func (r *run) release(part record.Part) { r.buffer.Release(r.weightOf(part)) }

// SetCursor replaces the saved cursor; an empty one means the beginning. A run under way is fenced (invariant 6).
func (p *Pipeline) SetCursor(ctx context.Context, to record.Cursor) error {
	w, err := p.openWriter(ctx)
	if err != nil {
		return err
	}
	if err := p.patiently(ctx, func(ctx context.Context) error { return w.Commit(ctx, queue.Batch{}, to) }); err != nil {
		return fmt.Errorf("commit cursor: %w", err)
	}
	if err := w.Close(ctx); err != nil {
		return fmt.Errorf("close writer: %w", err)
	}
	return nil
}
