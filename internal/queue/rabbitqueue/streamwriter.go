package rabbitqueue

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// streamCommit bounds a commit, whose plan is a value of the cursor store.
const streamCommit = 10_000

// WithCursors makes a queue.Queue of q, with cursors in store. On queues that is queue.WithCursors: at least once. On
// streams commits are exactly once: see streamWriter. Close closes q.
func (q *Queue) WithCursors(store queue.CursorStore) queue.Queue {
	if q.cfg.Type != typeStream {
		return queue.WithCursors(q, store)
	}
	return &streamQueue{Queue: q, store: store, writers: make(map[*streamWriter]bool)}
}

type streamQueue struct {
	*Queue
	store queue.CursorStore

	mu      sync.Mutex
	writers map[*streamWriter]bool
}

var _ queue.Queue = (*streamQueue)(nil)

// Info implements queue.Queue.
func (q *streamQueue) Info() queue.Info {
	info := q.Queue.Info()
	info.Tier = queue.ExactlyOnce
	info.Limits.CommitRecords = streamCommit
	info.Note += "; commits carry publishing ids, so that a repeated one is stored once; what requests publish is at least once"
	return info
}

// Close implements queue.Queue.
func (q *streamQueue) Close(ctx context.Context) error {
	err := q.Queue.Close(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	for w := range q.writers {
		w.hangUp()
	}
	clear(q.writers)
	return err
}

// streamEntry is what the store keeps of a pipeline and a topic.
type streamEntry struct {
	Write   string      `json:"write"` // which write this is, by which a writer knows its own
	Name    string      `json:"name"`  // under which the streams know the publisher
	Records streamPlace `json:"records"`
	Dead    streamPlace `json:"dead"`
	Cursor  []byte      `json:"cursor"`
}

func (q *streamQueue) get(ctx context.Context, pipeline, topic string) (e streamEntry, rev uint64, err error) {
	value, rev, err := q.store.Get(ctx, "stream/"+topic+"/"+pipeline)
	if err == nil && len(value) > 0 {
		err = json.Unmarshal(value, &e)
	}
	if err != nil {
		return e, rev, fmt.Errorf("read cursor of %s: %w", pipeline, err)
	}
	return e, rev, nil
}

func (q *streamQueue) put(ctx context.Context, pipeline, topic string, e streamEntry, rev uint64) (uint64, error) {
	value, err := json.Marshal(e)
	if err != nil {
		return 0, fmt.Errorf("write cursor of %s: %w", pipeline, err)
	}
	rev, err = q.store.Put(ctx, "stream/"+topic+"/"+pipeline, value, rev)
	if err != nil {
		return 0, fmt.Errorf("write cursor of %s: %w", pipeline, err)
	}
	return rev, nil
}

// Cursor implements queue.Queue.
func (q *streamQueue) Cursor(ctx context.Context, pipeline, topic string) (record.Cursor, error) {
	if err := q.calls.Enter(); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	e, _, err := q.get(ctx, pipeline, topic)
	return e.Cursor, err
}

// OpenWriter implements queue.Queue. The claim is a new revision of the same entry. The publisher's name is made once
// and kept with the cursor: whoever has lost the cursor has lost the name, and can so never take a new record for one
// that the stream has.
func (q *streamQueue) OpenWriter(ctx context.Context, pipeline, topic string) (queue.Writer, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	for { // again while the writer before commits in between
		e, rev, err := q.get(ctx, pipeline, topic)
		if err != nil {
			return nil, err
		}
		if e.Name == "" {
			e.renew()
		}
		e.Write = rand.Text()
		rev, err = q.put(ctx, pipeline, topic, e, rev)
		switch {
		case err == nil:
			w := &streamWriter{q: q, pipeline: pipeline, topic: topic, entry: e, rev: rev}
			q.mu.Lock()
			q.writers[w] = true
			q.mu.Unlock()
			return w, nil
		case !errors.Is(err, queue.ErrConflict):
			return nil, fmt.Errorf("claim pipeline %s: %w", pipeline, err)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("claim pipeline %s: %w", pipeline, context.Cause(ctx))
		}
	}
}

// renew gives the entry a publisher's name that no stream knows. Publishing ids begin at 1: 0 is a stream's answer for
// a name that it does not know.
func (e *streamEntry) renew() {
	e.Name, e.Records, e.Dead = "ferry-"+rand.Text(), streamPlace{Next: 1}, streamPlace{Next: 1}
}

// streamWriter commits to a stream in three steps: it writes down which record gets which publishing id (the plan), it
// publishes, it writes the cursor and the end of the plan. The stream keeps the last publishing id of the pipeline's
// publisher in the same log as the records, and drops what is not above it. So whoever finds a plan without an end, the
// same writer or the next, publishes the plan again: what was stored is not stored twice.
//
// Writers are fenced by compare-and-set in the store: a fenced one writes no plan. One that is fenced while it publishes
// goes on with a plan that its successor has read, and both publish the same records under the same ids.
//
// What is not exactly once: a page that has changed between the attempts, whose old record a fenced writer is just
// publishing, and that changes back for a third attempt, gives that record twice. A store that was put back to an older
// state gives the records since then twice; Warning says so.
type streamWriter struct {
	q               *streamQueue
	pipeline, topic string
	entry           streamEntry
	rev             uint64
	tried           []tried // writes whose outcome is unknown
	ended           *tried  // one of them that ended a commit, was written after all, and was not told yet
	fenced          bool
	warning         string

	mu   sync.Mutex // of conn, for the queue's Close
	conn *streamConn
}

var _ queue.Warner = (*streamWriter)(nil)

// tried is a write to the store.
type tried struct {
	entry streamEntry
	// final is the digest of the batch whose commit it ends, nil when it ends none: a claim of publishing ids.
	final []byte
}

// triedMax is how many of those are remembered; a store that is away for long takes one of the last, if any.
const triedMax = 16

func batchDigest(b queue.Batch) []byte {
	h := sha256.New()
	for _, part := range [][]record.Record{b.Records, b.Dead} {
		fmt.Fprintln(h, len(part))
		for i := range part {
			fmt.Fprintf(h, "%q\n", part[i].ID)
		}
	}
	return h.Sum(nil)
}

// Cursor implements queue.Writer.
func (w *streamWriter) Cursor() record.Cursor { return w.entry.Cursor }

// Warning implements queue.Warner.
func (w *streamWriter) Warning() string {
	text := w.warning
	w.warning = ""
	return text
}

// Close implements queue.Writer.
func (w *streamWriter) Close(context.Context) error {
	w.hangUp()
	w.q.mu.Lock()
	defer w.q.mu.Unlock()
	delete(w.q.writers, w)
	return nil
}

func (w *streamWriter) hangUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.conn.Close()
		w.conn = nil
	}
}

// Commit implements queue.Writer.
func (w *streamWriter) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	if err := w.q.calls.Enter(); err != nil {
		return err
	}
	defer w.q.calls.Leave()
	if w.fenced {
		return queue.ErrFenced
	}
	if err := w.check(b); err != nil {
		return err
	}
	if done, err := w.catchUp(ctx, b, next); done || err != nil {
		return err
	}
	e := w.entry
	if b.Len() > 0 {
		var err error
		if e.Records, e.Dead, err = w.write(ctx, b); err != nil {
			return err
		}
	}
	e.Name, e.Cursor = w.entry.Name, bytes.Clone(next)
	return w.put(ctx, e, batchDigest(b))
}

// check finds what could never be taken before anything is written.
func (w *streamWriter) check(b queue.Batch) error {
	failed := make(map[int]error)
	for i := range b.Len() {
		topic, records := w.topic, b.Records
		at := i
		if i >= len(b.Records) {
			topic, records, at = queue.DeadTopic(w.topic), b.Dead, i-len(b.Records)
		}
		if err := w.q.refuse(w.q.route(topic), &records[at]); err != nil {
			failed[i] = err
		}
	}
	if len(failed) > 0 {
		return &queue.BatchError{Failed: failed, Total: b.Len()}
	}
	return queue.Limits{CommitRecords: streamCommit}.Check(b)
}

// catchUp makes sure that the writer still holds the claim, and finds out about a write whose outcome was unknown. done:
// it was this very commit, and it is written.
func (w *streamWriter) catchUp(ctx context.Context, b queue.Batch, next record.Cursor) (done bool, err error) {
	last, rev, err := w.q.get(ctx, w.pipeline, w.topic)
	if err != nil {
		return false, err
	}
	// What was tried and is not there can still come: it is found when the next write is refused.
	if rev != w.rev && !w.adopt(last, rev) {
		w.fenced = true
		return false, queue.ErrFenced
	}
	if w.ended == nil {
		return false, nil
	}
	ended := *w.ended
	w.ended = nil
	if !bytes.Equal(ended.entry.Cursor, next) || !bytes.Equal(ended.final, batchDigest(b)) {
		return false, queue.ErrWritten
	}
	return true, nil
}

// adopt takes over the store's entry when it is one that this writer has tried to write.
func (w *streamWriter) adopt(last streamEntry, rev uint64) bool {
	for _, one := range w.tried {
		if one.entry.Write == last.Write {
			w.entry, w.rev, w.tried = one.entry, rev, nil
			if one.final != nil {
				w.ended = &one
			}
			return true
		}
	}
	return false
}

// put writes the entry, and takes it over when it is written.
func (w *streamWriter) put(ctx context.Context, e streamEntry, final []byte) error {
	e.Write = rand.Text()
	w.tried = append(w.tried, tried{e, final})
	if len(w.tried) > triedMax {
		w.tried = w.tried[1:]
	}
	rev, err := w.q.put(ctx, w.pipeline, w.topic, e, w.rev)
	if errors.Is(err, queue.ErrConflict) {
		// A write of ours that was given up for lost and came through late looks the same as another writer's claim.
		last, now, gerr := w.q.get(ctx, w.pipeline, w.topic)
		if gerr != nil {
			return gerr
		}
		switch {
		case !w.adopt(last, now):
			w.fenced = true
			return queue.ErrFenced
		case last.Write != e.Write:
			return fmt.Errorf("%w: write cursor of %s: an earlier write came through late", queue.ErrUnavailable, w.pipeline)
		}
		w.ended = nil
		return nil
	}
	if err != nil {
		return err
	}
	w.entry, w.rev, w.tried = e, rev, nil
	return nil
}

// write plans and publishes a batch, and gives the places in the streams behind it.
func (w *streamWriter) write(ctx context.Context, b queue.Batch) (records, dead streamPlace, err error) {
	c, err := w.connect(ctx)
	if err != nil {
		return records, dead, err
	}
	old := [2]int{w.entry.Records.planned(), w.entry.Dead.planned()}
	batches, err := w.publish(ctx, c, b)
	if err != nil {
		w.hangUp() // answers to come would be taken for those of the next attempt
		return records, dead, err
	}
	return w.entry.Records.after(batches[0], old[0]), w.entry.Dead.after(batches[1], old[1]), nil
}

func (w *streamWriter) publish(ctx context.Context, c *streamConn, b queue.Batch) (batches [2][]numbered, err error) {
	timeout := w.q.cfg.Timeout
	what := "commit to " + w.topic
	defer c.bound(ctx, timeout)()
	e := w.entry
	places := [2]*streamPlace{&e.Records, &e.Dead}
	for i, records := range [2][]record.Record{b.Records, b.Dead} {
		next, batch, missing := places[i].match(records)
		if missing { // what is in the stream already must keep its place in the plan
			last, err := c.sequence(e.Name, w.stream(i))
			if err != nil {
				return batches, w.failure(ctx, what, err)
			}
			next = next.without(batch, last)
		}
		*places[i], batches[i] = next, batch
	}
	if !e.Records.equal(w.entry.Records) || !e.Dead.equal(w.entry.Dead) {
		if err := w.put(ctx, e, nil); err != nil {
			return batches, err
		}
	}
	extend := func() {
		_ = c.conn.SetDeadline(time.Now().Add(timeout)) // fails with its connection
		if ctx.Err() != nil {
			_ = c.conn.SetDeadline(time.Unix(1, 0))
		}
	}
	for i, batch := range batches {
		extend()
		if err := c.publish(byte(i), batch, extend); err != nil {
			return batches, w.failure(ctx, what, err)
		}
	}
	return batches, nil
}

// failure maps an error of the connection; the caller's own wish comes first.
func (w *streamWriter) failure(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: outcome unknown: %w", what, context.Cause(ctx))
	}
	var large *queue.TooLargeError
	if errors.As(err, &large) { // only where the broker's frames are smaller than its default
		return retry.Permanent(fmt.Errorf("%s: %w", what, err))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// Under an alarm the broker reads no more from who writes to a stream, and does not say so; a ping hears of it.
		if alarm := w.q.Ping(ctx); errors.Is(alarm, queue.ErrFull) {
			return fmt.Errorf("%s: %w", what, alarm)
		}
	}
	err = mapStreamError(what, err)
	if errors.Is(err, queue.ErrNoTopic) { // somebody has deleted it: look again
		w.q.forget(w.topic)
		w.q.forget(queue.DeadTopic(w.topic))
	}
	return err
}

func (w *streamWriter) stream(i int) string { return [2]string{w.topic, queue.DeadTopic(w.topic)}[i] }

// connect gives the writer's connection, with the pipeline's publishers declared on it.
func (w *streamWriter) connect(ctx context.Context) (*streamConn, error) {
	w.mu.Lock()
	c := w.conn
	w.mu.Unlock()
	if c != nil {
		return c, nil
	}
	if err := w.q.ensure(ctx, w.topic); err != nil {
		return nil, err
	}
	c, err := w.q.dialStream(ctx)
	if err != nil {
		return nil, w.failure(ctx, "connect to RabbitMQ", err)
	}
	if err := w.introduce(ctx, c); err != nil {
		c.conn.Close()
		return nil, err
	}
	w.mu.Lock()
	w.conn = c
	w.mu.Unlock()
	return c, nil
}

// introduce declares the publishers, after it has made sure that the streams know no publishing id that is not planned:
// that would swallow new records.
func (w *streamWriter) introduce(ctx context.Context, c *streamConn) error {
	defer c.bound(ctx, w.q.cfg.Timeout)()
	what := "commit to " + w.topic
	for i, place := range [2]streamPlace{w.entry.Records, w.entry.Dead} {
		last, err := c.sequence(w.entry.Name, w.stream(i))
		if err != nil {
			return w.failure(ctx, what, err)
		}
		if last >= place.Next+uint64(place.planned()) {
			e := w.entry
			e.renew()
			if err := w.put(ctx, e, nil); err != nil {
				return err
			}
			w.warning = "duplicate possible: stream " + w.stream(i) + " is ahead of the saved cursor, which was put back to an older one; duplicates have the same id"
			break
		}
	}
	for i := range 2 {
		if err := c.declarePublisher(byte(i), w.entry.Name, w.stream(i)); err != nil {
			return w.failure(ctx, what, err)
		}
	}
	return nil
}
