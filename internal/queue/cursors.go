package queue

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"ferry/internal/record"
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
	Preparer
	Info() Info
	Ping(ctx context.Context) error
	Close(ctx context.Context) error
}

// A Refuser is a Publisher that knows beforehand what its broker would not take. Commit asks it, so that the good records
// of a commit are not published before the bad ones are taken out of it.
type Refuser interface {
	// Refused gives the records that can never be published to the topic, by index, and why. Nothing is published; the
	// topic is made when missing, as in Publish.
	Refused(ctx context.Context, topic string, batch []record.Record) (map[int]error, error)
}

// WithCursors makes a Queue of the tiers Deduplicated and AtLeastOnce: Commit publishes the records, then the dead
// letters, and moves the cursor once all are durable (invariant 1). Writers are fenced by compare-and-set: a fenced
// writer finds out before it publishes; one that is fenced while it publishes has written records whose cursor is not
// moved, so they come a second time with the same ids. Cursors are kept under <topic>/<pipeline>.
func WithCursors(p Publisher, store CursorStore) Queue {
	return &withCursors{Publisher: p, store: store}
}

type withCursors struct {
	Publisher
	store  CursorStore
	closed atomic.Bool
}

// Close implements Queue. The store outlives the queue, so that a closed queue has to say so itself.
func (q *withCursors) Close(ctx context.Context) error {
	q.closed.Store(true)
	return q.Publisher.Close(ctx)
}

func cursorKey(topic, pipeline string) string { return topic + "/" + pipeline }

// entry is what the store keeps: one line that says which write this is (by which a writer knows its own), when it was
// made, and whether a writer is at work; then the cursor.
type entry struct {
	id     string // without a space or line break
	at     time.Time
	idle   bool // the writer closed with nothing under way
	cursor record.Cursor
}

func newEntry(cursor record.Cursor, idle bool) entry {
	return entry{id: rand.Text(), at: time.Now(), idle: idle, cursor: bytes.Clone(cursor)}
}

func (e entry) bytes() []byte {
	state := "open"
	if e.idle {
		state = "idle"
	}
	return append(fmt.Appendf(nil, "%s %s %d\n", e.id, state, e.at.UnixMilli()), e.cursor...)
}

func readEntry(value []byte) entry {
	line, cursor, _ := bytes.Cut(value, []byte("\n"))
	id, rest, _ := strings.Cut(string(line), " ")
	state, at, _ := strings.Cut(rest, " ")
	millis, _ := strconv.ParseInt(at, 10, 64)
	return entry{id: id, at: time.UnixMilli(millis), idle: state != "open", cursor: cursor}
}

func (q *withCursors) get(ctx context.Context, topic, pipeline string) (entry, uint64, error) {
	if q.closed.Load() {
		return entry{}, 0, ErrClosed
	}
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
		claim := newEntry(last.cursor, false)
		rev, err = q.store.Put(ctx, cursorKey(topic, pipeline), claim.bytes(), rev)
		switch {
		case err == nil:
			w := &cursorWriter{q: q, pipeline: pipeline, topic: topic, rev: rev, cursor: last.cursor}
			if !last.idle {
				w.unfinished = last.at
			}
			return w, nil
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
	unfinished      time.Time // when the writer before, which never closed, last wrote its cursor; zero: it closed
	warning         string
}

// cursorAttempt remembers how far a commit has come, so that trying it again does not publish twice what was
// confirmed.
type cursorAttempt struct {
	*Attempt
	entry         entry // what the store will hold
	records, dead progress
	unsure        bool // something was sent whose outcome is unknown
}

// progress says which records of one part of a commit are durable.
type progress struct {
	ids     []string
	durable []bool
}

// newProgress takes over what a try before has made durable: a broker that refuses records only in its answer has stored
// the others by then, and the caller comes again without the refused ones. The same id is the same record (invariant 3).
func newProgress(part []record.Record, before progress) progress {
	p := progress{ids: make([]string, len(part)), durable: make([]bool, len(part))}
	stored := make(map[string]int)
	for i, id := range before.ids {
		if before.durable[i] {
			stored[id]++
		}
	}
	for i := range part {
		id := part[i].ID
		p.ids[i], p.durable[i] = id, stored[id] > 0
		if p.durable[i] {
			stored[id]--
		}
	}
	return p
}

// left gives the records that are not durable yet, and where they are in the part.
func (p progress) left(part []record.Record) (left []record.Record, at []int) {
	for i := range part {
		if !p.durable[i] {
			left, at = append(left, part[i]), append(at, i)
		}
	}
	return left, at
}

func (p progress) done() bool { return !slices.Contains(p.durable, false) }

// Cursor implements Writer.
func (w *cursorWriter) Cursor() record.Cursor { return w.cursor }

// Warning implements Warner.
func (w *cursorWriter) Warning() string {
	text := w.warning
	w.warning = ""
	return text
}

// Close implements Writer. It notes that nothing is under way, so that the next writer knows that it repeats nothing.
func (w *cursorWriter) Close(ctx context.Context) error {
	if w.fenced || w.attempt != nil {
		return nil
	}
	_, err := w.q.store.Put(ctx, cursorKey(w.topic, w.pipeline), newEntry(w.cursor, true).bytes(), w.rev)
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("close writer of %s: %w", w.pipeline, err)
	}
	w.fenced = true
	return nil
}

// repeats notes when records that are about to be published may have been before, since a moment that the broker may
// not remember any more. Half the window is the limit, for clocks and queues on the way.
func (w *cursorWriter) repeats(since time.Time, why string) {
	window := w.q.Info().Window
	if age := time.Since(since); age > window/2 {
		remembers := "the queue recognises none"
		if window > 0 {
			remembers = fmt.Sprintf("the queue recognises them for %s only", window)
		}
		w.warning = fmt.Sprintf("duplicate possible: %s %s ago, and %s; duplicates have the same id", why, age.Round(time.Second), remembers)
	}
}

// Commit implements Writer.
func (w *cursorWriter) Commit(ctx context.Context, b Batch, next record.Cursor) error {
	if w.fenced {
		return ErrFenced
	}
	if err := w.check(ctx, b); err != nil {
		return err
	}
	if err := w.q.Info().Limits.Check(b); err != nil {
		return err
	}
	last, rev, err := w.q.get(ctx, w.topic, w.pipeline)
	if err != nil {
		return err
	}
	a := w.attempt
	same := a != nil && a.Is(b, next)
	switch {
	case rev == w.rev:
	case a != nil && last.id == a.entry.id: // its outcome was unknown; it was written
		w.rev, w.cursor, w.attempt = rev, a.entry.cursor, nil
		if same {
			return nil
		}
		return ErrWritten
	default:
		w.fenced = true
		return ErrFenced
	}
	if !same {
		var before cursorAttempt
		if a != nil && bytes.Equal(a.Next, next) {
			before = *a
		}
		e := newEntry(next, false)
		a = &cursorAttempt{
			Attempt: NewAttempt(e.id, b, next), entry: e,
			records: newProgress(b.Records, before.records), dead: newProgress(b.Dead, before.dead),
		}
		w.attempt = a
	}
	if b.Len() > 0 {
		if a.unsure && !(a.records.done() && a.dead.done()) {
			w.repeats(a.entry.at, "this commit was first tried")
		}
		if !w.unfinished.IsZero() {
			w.repeats(w.unfinished, "the run before ended without a word, its last commit was")
			w.unfinished = time.Time{}
		}
		a.unsure = true
	}
	err = w.publish(ctx, w.topic, b.Records, 0, b.Len(), a.records)
	if err == nil {
		err = w.publish(ctx, DeadTopic(w.topic), b.Dead, len(b.Records), b.Len(), a.dead)
	}
	if err != nil {
		var refused *BatchError
		a.unsure = !errors.As(err, &refused) // it tells of each record
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

// publish writes what an earlier try of the same commit has not, and counts its failed records from first on.
func (w *cursorWriter) publish(ctx context.Context, topic string, part []record.Record, first, total int, p progress) error {
	left, at := p.left(part)
	if len(left) == 0 {
		return nil
	}
	err := w.q.Publish(ctx, topic, left)
	var refused *BatchError
	var partly *PartError
	switch {
	case err == nil:
	case errors.As(err, &refused):
		moved := &BatchError{Failed: make(map[int]error, len(refused.Failed)), Total: total}
		for k, i := range at {
			if e, bad := refused.Failed[k]; bad {
				moved.Failed[first+i] = e
			} else {
				p.durable[i] = true
			}
		}
		return moved
	case errors.As(err, &partly):
		at = at[:partly.Done]
	default:
		at = nil
	}
	for _, i := range at {
		p.durable[i] = true
	}
	return err
}

// check finds what the broker would refuse before anything is written.
func (w *cursorWriter) check(ctx context.Context, b Batch) error {
	failed := make(map[int]error)
	for _, part := range []struct {
		topic   string
		records []record.Record
		first   int
	}{{w.topic, b.Records, 0}, {DeadTopic(w.topic), b.Dead, len(b.Records)}} {
		if len(part.records) == 0 {
			continue
		}
		bad, err := w.q.refused(ctx, part.topic, part.records)
		if err != nil {
			return err
		}
		for i, err := range bad {
			failed[part.first+i] = err
		}
	}
	if len(failed) > 0 {
		return &BatchError{Failed: failed, Total: b.Len()}
	}
	return nil
}

// refused asks the publisher; of one that cannot tell, the limit of its records is known.
func (q *withCursors) refused(ctx context.Context, topic string, batch []record.Record) (map[int]error, error) {
	if r, ok := q.Publisher.(Refuser); ok {
		return r.Refused(ctx, topic, batch)
	}
	failed := make(map[int]error)
	limit := q.Info().Limits.RecordBytes
	for i := range batch {
		if n := batch[i].Size(); limit > 0 && n > limit {
			failed[i] = &TooLargeError{Size: n, Limit: limit}
		}
	}
	return failed, nil
}
