// Package journal puts a write-ahead log in front of a queue whose own small writes are dear. Publish is confirmed once
// the records are synced in the journal's file: one write and one sync for everybody who waits. A goroutine of its own
// then commits them to the queue behind in large atomic batches, through a Writer whose cursor is the place in the
// journal, so that each record reaches its topic exactly once however often the process is killed.
//
// Readers wait for what was confirmed before they asked, so a record is seen as soon as it is confirmed. Commits of
// runs do not pass through the journal; they wait for what was confirmed before them.
package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

const (
	// held bounds the records in memory that are confirmed and not in their topics yet (invariant 7).
	held = 32 << 20
	// segmentBytes is the size at which a new file is begun. A file goes when all of it is in the topics.
	segmentBytes = 8 << 20
	// linger is how long a small batch waits for company on its way into the topic; nobody waits for it but readers,
	// who end the wait.
	linger = 100 * time.Millisecond
	// enough records are worth a commit at once.
	enough = 1000
	// retryMax is the longest wait before a commit is tried again.
	retryMax = 2 * time.Second
)

// Queue is a queue behind a journal. It implements queue.Queue.
type Queue struct {
	queue.Queue // the one behind; what is not overridden passes through
	dir         string
	pipeline    string // under which the journal's cursors lie
	recovered   uint64 // position of the last record that Open found

	known sync.Map // topics that a Publish has gone through to, so that they exist and take records

	mu       sync.Mutex
	closed   bool
	broken   error   // a sync failed: what is in the file is not known any more
	waiting  []*call // to be written
	writing  bool    // calls are on their way into the file
	lanes    map[string]*lane
	bytes    int           // of all lanes
	last     uint64        // position of the last record written
	hurry    bool          // somebody waits for pending records to be in their topic
	progress chan struct{} // closed and replaced when pending, bytes or blocked change

	writeWork, drainWork chan struct{} // hold one when there is work
	file                 *segment
	old                  []*segment // full, in order
	writers              map[string]queue.Writer
	done                 sync.WaitGroup
	stop                 context.CancelFunc // of the draining
	stopped              context.Context
}

// call is one Publish that waits for its sync.
type call struct {
	topic   string
	records []record.Record
	size    int
	done    chan error // holds one
}

// item is one record on its way from the journal to its topic.
type item struct {
	position uint64
	topic    string // the pipeline's topic, also of a dead letter
	dead     bool
	size     int
	record   record.Record
}

var _ queue.Queue = (*Queue)(nil)

// Open reads the journal in dir, making it where it is missing, and begins to commit what is left in it to the queue
// behind. dir belongs to one process. Closing the journal closes the queue behind.
func Open(ctx context.Context, dir string, behind queue.Queue) (*Queue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	id, err := identity(dir)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	q := &Queue{
		Queue: behind, dir: dir, pipeline: "journal-" + id, lanes: map[string]*lane{}, progress: make(chan struct{}),
		writeWork: make(chan struct{}, 1), drainWork: make(chan struct{}, 1), writers: map[string]queue.Writer{},
	}
	if err := q.recover(ctx); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	q.stopped, q.stop = context.WithCancel(context.Background())
	q.done.Go(q.write)
	q.done.Go(q.drain)
	if len(q.lanes) > 0 {
		q.drainWork <- struct{}{}
	}
	return q, nil
}

// Publish implements queue.Queue. The first records for a topic do not go into the journal (through).
func (q *Queue) Publish(ctx context.Context, topic string, batch []record.Record) error {
	if len(batch) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return givenUp(ctx, topic)
	}
	if _, ok := q.known.Load(topic); !ok {
		return q.through(ctx, topic, batch)
	}
	good, failed := q.fitting(batch)
	if len(good) > 0 {
		if err := q.append(ctx, topic, good); err != nil {
			return err
		}
	}
	if failed != nil {
		return &queue.BatchError{Failed: failed, Total: len(batch)}
	}
	return nil
}

// through publishes to the queue behind itself, which makes the topic or says why it cannot be had. What comes after it
// for the topic goes into the journal; what Open found there for it was confirmed before, and goes first.
func (q *Queue) through(ctx context.Context, topic string, batch []record.Record) error {
	if err := q.arrived(ctx, topic, q.recovered); err != nil {
		return fmt.Errorf("publish to %s: nothing written: %w", topic, err)
	}
	if err := q.Queue.Publish(ctx, topic, batch); err != nil {
		return err
	}
	if q.raise(ctx, topic) == nil {
		q.known.Store(topic, true)
	}
	return nil
}

// raise makes sure that a topic's new records get positions above its cursor: at or below it they would be taken for
// delivered. That is so already, unless files of the journal have been lost.
func (q *Queue) raise(ctx context.Context, topic string) error {
	topic, _ = base(topic)
	cursor, err := q.Queue.Cursor(ctx, q.pipeline, topic)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last = max(q.last, position(cursor))
	return nil
}

// fitting parts the records that the queue behind can take from those that it never can.
func (q *Queue) fitting(batch []record.Record) (good []record.Record, failed map[int]error) {
	limit := q.Info().Limits.RecordBytes
	if limit <= 0 {
		return batch, nil
	}
	for i := range batch {
		if n := batch[i].Size(); n > limit {
			if failed == nil {
				failed = map[int]error{}
			}
			failed[i] = &queue.TooLargeError{Size: n, Limit: limit}
		}
	}
	if failed == nil {
		return batch, nil
	}
	for i := range batch {
		if failed[i] == nil {
			good = append(good, batch[i])
		}
	}
	return good, failed
}

// append waits for room, hands the records to the writing goroutine and waits for their sync.
func (q *Queue) append(ctx context.Context, topic string, records []record.Record) error {
	c := &call{topic: topic, records: records, done: make(chan error, 1)}
	for i := range records {
		c.size += records[i].Size() + overhead
	}
	if err := q.enqueue(ctx, c); err != nil {
		return err
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
	}
	if q.takeBack(c) {
		return givenUp(ctx, topic)
	}
	return <-c.done // the sync under way ends soon, and then the outcome is known
}

// givenUp is the error of a call whose context ended before it was written. Out of time means that the queue was too slow.
func givenUp(ctx context.Context, topic string) error {
	err := fmt.Errorf("publish to %s: nothing written: %w", topic, context.Cause(ctx))
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
	}
	return err
}

func (q *Queue) enqueue(ctx context.Context, c *call) error {
	for {
		change, err := q.tryEnqueue(c)
		if err != nil {
			return err
		}
		if change == nil {
			poke(q.writeWork)
			return nil
		}
		poke(q.drainWork)
		select {
		case <-change:
		case <-ctx.Done():
			return givenUp(ctx, c.topic)
		}
	}
}

// tryEnqueue puts c among the calls that wait to be written. Where there is no room it gives what is closed when that may
// have changed.
func (q *Queue) tryEnqueue(c *call) (change <-chan struct{}, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return nil, queue.ErrClosed
	case q.broken != nil:
		return nil, q.broken
	}
	topic, _ := base(c.topic)
	ok, err := q.room(topic, c.size)
	if err != nil {
		return nil, err
	}
	if !ok {
		q.hurry = true
		return q.progress, nil
	}
	q.hold(topic, c.size)
	q.waiting = append(q.waiting, c)
	return nil, nil
}

func (q *Queue) takeBack(c *call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, w := range q.waiting {
		if w == c {
			q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)
			topic, _ := base(c.topic)
			q.release(topic, c.size)
			q.changed()
			return true
		}
	}
	return false
}

// changed wakes whoever waits for progress. The lock is held.
func (q *Queue) changed() {
	close(q.progress)
	q.progress = make(chan struct{})
}

// poke leaves one sign that there is work.
func poke(work chan struct{}) {
	select {
	case work <- struct{}{}:
	default:
	}
}

// OpenWriter implements queue.Queue. What was confirmed before a commit lies before it in the topic.
func (q *Queue) OpenWriter(ctx context.Context, pipeline, topic string) (queue.Writer, error) {
	w, err := q.Queue.OpenWriter(ctx, pipeline, topic)
	if err != nil {
		return nil, err
	}
	return &writer{w, q, topic}, nil
}

type writer struct {
	queue.Writer
	q     *Queue
	topic string
}

func (w *writer) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	if err := w.q.settled(ctx, w.topic); err != nil {
		return err
	}
	return w.Writer.Commit(ctx, b, next)
}

// Ping implements queue.Queue. The queue behind has the first word: where it is not well, that is why topics are blocked.
func (q *Queue) Ping(ctx context.Context) error {
	err := q.Queue.Ping(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	return errors.Join(err, q.broken, q.blocks())
}

// Close implements queue.Queue: calls under way are confirmed, and what is in the journal reaches its topics. What
// does not within ctx, or is for a topic that does not take it, is there at the next Open.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	again := q.closed
	q.closed = true
	q.mu.Unlock()
	if again {
		return nil
	}
	flushErr := q.flush(ctx)
	q.stop()
	q.done.Wait()
	q.mu.Lock()
	left := q.waiting // flush gave up before they were written
	q.waiting = nil   // who takes a call back now finds it gone, and waits for its answer
	q.mu.Unlock()
	for _, c := range left {
		c.done <- queue.ErrClosed
	}
	var errs []error
	if flushErr != nil {
		errs = append(errs, fmt.Errorf("empty the journal: %w", flushErr))
	}
	for _, w := range q.writers {
		errs = append(errs, w.Close(ctx))
	}
	errs = append(errs, q.file.close(), q.Queue.Close(ctx))
	return errors.Join(errs...)
}
