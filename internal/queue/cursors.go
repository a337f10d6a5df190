package queue

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"ferry/internal/record"
	"ferry/internal/retry"
)

// ErrConflict is what a CursorStore answers when the revision is not the one expected.
var ErrConflict = errors.New("cursor was changed by someone else")

// CursorStore is a durable key-value store with compare-and-set, for queues that cannot hold cursors themselves.
// Safe for concurrent use.
type CursorStore interface {
	// Get returns the value and its revision, which is 0 when there is none. It must see every Put that has returned.
	Get(ctx context.Context, key string) (value []byte, rev uint64, err error)
	// Put writes durably and returns the new revision. rev must be the present one, otherwise ErrConflict and nothing
	// is written.
	Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error)
}

// Publisher is a queue that holds no cursors.
type Publisher interface {
	Publish(ctx context.Context, topic string, batch []record.Record) error
	Reader
	Info() Info
	Ping(ctx context.Context) error
	Close(ctx context.Context) error
}

// WithCursors makes a Queue of the tiers Deduplicated and AtLeastOnce: Commit publishes the records, then the dead
// letters, and moves the cursor once all are durable (invariant 1). Writers are fenced by compare-and-set: a fenced
// writer finds out before it publishes; one that is fenced while it publishes has written records whose cursor is not
// moved, so they come a second time with the same ids. Cursors are kept under <topic>/<pipeline>.
func WithCursors(p Publisher, store CursorStore) Queue { return &withCursors{p, store} }

type withCursors struct {
	Publisher
	store CursorStore
}

func cursorKey(topic, pipeline string) string { return topic + "/" + pipeline }

// entry is what the store keeps: the id of the write, by which a writer knows its own, and the cursor. An id has no
// line break.
type entry struct {
	id     string
	cursor record.Cursor
}

func (e entry) bytes() []byte { return append([]byte(e.id+"\n"), e.cursor...) }

func readEntry(value []byte) entry {
	id, cursor, _ := bytes.Cut(value, []byte("\n"))
	return entry{string(id), cursor}
}

func (q *withCursors) get(ctx context.Context, topic, pipeline string) (entry, uint64, error) {
	value, rev, err := q.store.Get(ctx, cursorKey(topic, pipeline))
	if err != nil {
		return entry{}, 0, fmt.Errorf("read cursor of %s: %w", pipeline, err)
	}
	return readEntry(value), rev, nil
}

// Cursor implements Queue.
func (q *withCursors) Cursor(ctx context.Context, pipeline, topic string) (record.Cursor, error) {
	e, _, err := q.get(ctx, topic, pipeline)
	return e.cursor, err
}

// OpenWriter implements Queue. The claim is a new revision of the same cursor.
func (q *withCursors) OpenWriter(ctx context.Context, pipeline, topic string) (Writer, error) {
	for { // again while the writer before commits in between
		last, rev, err := q.get(ctx, topic, pipeline)
		if err != nil {
			return nil, err
		}
		claim := entry{rand.Text(), last.cursor}
		rev, err = q.store.Put(ctx, cursorKey(topic, pipeline), claim.bytes(), rev)
		switch {
		case err == nil:
			return &cursorWriter{q: q, pipeline: pipeline, topic: topic, rev: rev, cursor: last.cursor}, nil
		case !errors.Is(err, ErrConflict):
			return nil, fmt.Errorf("claim pipeline %s: %w", pipeline, err)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("claim pipeline %s: %w", pipeline, context.Cause(ctx))
		}
	}
}

type cursorWriter struct {
	q               *withCursors
	pipeline, topic string
	rev             uint64
	cursor          record.Cursor
	attempt         *cursorAttempt // a commit whose outcome is unknown
	fenced          bool
}

// cursorAttempt remembers how far a commit has come, so that trying it again does not publish twice what was
// confirmed.
type cursorAttempt struct {
	entry         entry
	records, dead int
	published     bool
	buried        bool // the dead letters
}

// Cursor implements Writer.
func (w *cursorWriter) Cursor() record.Cursor { return w.cursor }

// Close implements Writer.
func (w *cursorWriter) Close(context.Context) error { return nil }

// Commit implements Writer.
func (w *cursorWriter) Commit(ctx context.Context, b Batch, next record.Cursor) error {
	if w.fenced {
		return ErrFenced
	}
	if err := w.checkSizes(b); err != nil {
		return err
	}
	if n, limit := b.Len(), w.q.Info().Limits.CommitRecords; limit > 0 && n > limit {
		return retry.Permanent(fmt.Errorf("commit of %d records is over the queue's limit of %d", n, limit))
	}
	last, rev, err := w.q.get(ctx, w.topic, w.pipeline)
	if err != nil {
		return err
	}
	a := w.attempt
	same := a != nil && a.records == len(b.Records) && a.dead == len(b.Dead) && bytes.Equal(a.entry.cursor, next)
	switch {
	case rev == w.rev:
	case a != nil && last.id == a.entry.id: // its outcome was unknown; it was written
		w.rev, w.cursor, w.attempt = rev, a.entry.cursor, nil
		if same {
			return nil
		}
		return retry.Permanent(errors.New("the commit before this one was written after all; open the pipeline's writer anew"))
	default:
		w.fenced = true
		return ErrFenced
	}
	if !same {
		a = &cursorAttempt{entry: entry{rand.Text(), bytes.Clone(next)}, records: len(b.Records), dead: len(b.Dead)}
		w.attempt = a
	}
	if err := w.publish(ctx, w.topic, b.Records, 0, b.Len(), &a.published); err != nil {
		return err
	}
	if err := w.publish(ctx, DeadTopic(w.topic), b.Dead, len(b.Records), b.Len(), &a.buried); err != nil {
		return err
	}
	rev, err = w.q.store.Put(ctx, cursorKey(w.topic, w.pipeline), a.entry.bytes(), w.rev)
	if errors.Is(err, ErrConflict) {
		// An earlier Put of this attempt that came through late looks the same as another writer's claim.
		last, now, gerr := w.q.get(ctx, w.topic, w.pipeline)
		switch {
		case gerr != nil:
			return gerr
		case last.id != a.entry.id:
			w.fenced = true
			return ErrFenced
		}
		rev, err = now, nil
	}
	if err != nil {
		return fmt.Errorf("write cursor of %s: %w", w.pipeline, err)
	}
	w.rev, w.cursor, w.attempt = rev, a.entry.cursor, nil
	return nil
}

// publish writes a part of the batch unless an earlier try of the same commit has, and counts its failed records from
// first on.
func (w *cursorWriter) publish(ctx context.Context, topic string, part []record.Record, first, total int, done *bool) error {
	if *done || len(part) == 0 {
		return nil
	}
	err := w.q.Publish(ctx, topic, part)
	var be *BatchError
	if errors.As(err, &be) {
		moved := &BatchError{Failed: make(map[int]error, len(be.Failed)), Total: total}
		for i, e := range be.Failed {
			moved.Failed[first+i] = e
		}
		return moved
	}
	*done = err == nil
	return err
}

// checkSizes finds what the broker would refuse before anything is written.
func (w *cursorWriter) checkSizes(b Batch) error {
	limit := w.q.Info().Limits.RecordBytes
	if limit == 0 {
		return nil
	}
	failed := make(map[int]error)
	for i := range b.Len() {
		var r *record.Record
		if i < len(b.Records) {
			r = &b.Records[i]
		} else {
			r = &b.Dead[i-len(b.Records)]
		}
		if n := r.Size(); n > limit {
			failed[i] = &TooLargeError{Size: n, Limit: limit}
		}
	}
	if len(failed) > 0 {
		return &BatchError{Failed: failed, Total: b.Len()}
	}
	return nil
}
