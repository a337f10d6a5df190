package kafkaqueue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// writer commits for one run. It belongs to one goroutine, except that Close of the queue may drop its client.
//
// Two things keep a pipeline to one writer (invariant 6). Kafka's transactional id makes each step atomic: whoever
// claims it (InitProducerID) aborts what the one before had open and fences it. The newest record in the cursor topic
// says whose the pipeline is: a claim writes one. The second is needed because the first alone says only who came
// last to the id, and a writer must come to it again after every failure of its own.
type writer struct {
	q               *Queue
	pipeline, topic string
	key             string // in the cursor topic
	id              string // transactional id
	name            string // of this writer, unique

	mu sync.Mutex
	cl *kgo.Client // nil after a failure, and after Close

	cursor  record.Cursor
	commit  string         // this writer's newest record in the cursor topic, as far as is known
	unknown *queue.Attempt // a commit that may or may not have been written
	fenced  bool

	narrow map[string]int32 // bytes of a batch, by topic, where a broker refused a larger one
}

// OpenWriter implements queue.Queue.
func (q *Queue) OpenWriter(ctx context.Context, pipeline, topic string) (queue.Writer, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if isDead(topic) {
		return nil, retry.Permanent(fmt.Errorf("topic %q is for dead letters; a pipeline cannot write to it", topic))
	}
	for _, name := range []string{topic, queue.DeadTopic(topic)} {
		if _, err := q.ensure(ctx, name, true); err != nil {
			return nil, err
		}
	}
	w, err := q.claim(ctx, pipeline, topic)
	if err != nil {
		return nil, err // not w, which is not nil as an interface
	}
	return w, nil
}

// claim makes the caller the pipeline's writer.
func (q *Queue) claim(ctx context.Context, pipeline, topic string) (*writer, error) {
	if _, err := q.ensure(ctx, q.cfg.Cursors, true); err != nil {
		return nil, err
	}
	key := cursorKey(topic, pipeline)
	w := &writer{q: q, pipeline: pipeline, topic: topic, key: key, id: q.cfg.Prefix + "-" + key, name: token()}
	done, err := q.opening.wait(ctx, key)
	if err != nil {
		return nil, err
	}
	defer done()
	bound, cancel := q.within(ctx, 3*q.cfg.Timeout)
	defer cancel()
	for try := 1; ; try++ {
		err := w.tryClaim(bound)
		if err == nil {
			return w, nil
		}
		w.drop()
		if !isUnsettled(err) {
			return nil, q.mapError(ctx, "claim pipeline "+pipeline, err)
		}
		// Another instance claims it in the same moment. One of them comes last; with growing waits they soon differ.
		wait := rand.N(min(20*time.Millisecond<<min(try, 6), time.Second))
		if serr := retry.Sleep(bound, wait); serr != nil {
			return nil, q.mapError(ctx, "claim pipeline "+pipeline, err)
		}
	}
}

// tryClaim fences the writer before, then reads what it has left, then says whose the pipeline is now.
func (w *writer) tryClaim(ctx context.Context) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	last, err := w.q.readCursor(ctx, w.key)
	if err != nil {
		return err
	}
	claim := saved{cursor: last.cursor, writer: w.name, commit: token()}
	if err := w.transact(ctx, queue.Batch{}, claim); err != nil {
		return err
	}
	w.cursor, w.commit = last.cursor, claim.commit
	return nil
}

// connect makes a client and claims the transactional id.
func (w *writer) connect(ctx context.Context) error {
	cl, err := w.q.transactional(w.id, maps.Clone(w.narrow))
	if err != nil {
		return retry.Permanent(err)
	}
	w.q.mu.Lock()
	w.q.writers[w] = struct{}{}
	w.q.mu.Unlock()
	w.mu.Lock()
	w.cl = cl
	w.mu.Unlock()
	_, _, err = cl.ProducerID(ctx)
	return err
}

// drop lets go of the client; what it had under way fails.
func (w *writer) drop() {
	w.q.mu.Lock()
	delete(w.q.writers, w)
	w.q.mu.Unlock()
	w.mu.Lock()
	cl := w.cl
	w.cl = nil
	w.mu.Unlock()
	if cl != nil {
		cl.Close()
	}
}

// abort drops the client as well, and ends what it had under way first: find would wait for that.
func (w *writer) abort(ctx context.Context) {
	if cl := w.client(); cl != nil && cl.AbortBufferedRecords(ctx) == nil {
		_ = cl.EndTransaction(ctx, kgo.TryAbort) // if it fails, the next claim of the id does it
	}
	w.drop()
}

func (w *writer) client() *kgo.Client {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cl
}

// Cursor implements queue.Writer.
func (w *writer) Cursor() record.Cursor { return w.cursor }

// Close implements queue.Writer. A commit that was given up is aborted, so that nobody has to wait for its time-out.
func (w *writer) Close(ctx context.Context) error {
	w.drop()
	if w.unknown == nil || w.fenced || w.q.calls.Enter() != nil {
		return nil
	}
	defer w.q.calls.Leave()
	bound, cancel := w.q.within(ctx, min(w.q.cfg.Timeout, 3*time.Second))
	defer cancel()
	_, _ = w.find(bound) // whether it succeeds or not, the next claim finds out
	w.drop()
	return nil
}

// Commit implements queue.Writer: one transaction of records, dead letters and cursor (invariants 1 and 6).
func (w *writer) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	if err := w.q.calls.Enter(); err != nil {
		return err
	}
	defer w.q.calls.Leave()
	if w.fenced {
		return queue.ErrFenced
	}
	if err := w.check(ctx, b, next); err != nil {
		return err
	}
	w.widen(b)
	bound, cancel := w.q.within(ctx, 2*w.q.cfg.Timeout)
	defer cancel()
	for tries := 1; ; tries++ {
		written, err := w.try(bound, b, next)
		switch {
		case written:
			return err
		case err == nil:
			w.settle()
			return nil
		case errors.Is(err, queue.ErrFenced):
			w.fenced = true
			w.drop()
			return queue.ErrFenced
		}
		if w.narrower(b, err) {
			w.abort(bound)
			tries = 0
			continue
		}
		w.drop()
		if !isUnsettled(err) || tries == 3 || bound.Err() != nil {
			return w.failure(ctx, b, err)
		}
		// Someone is about to claim the pipeline, or the cluster has ended the transaction because it took too long.
		// Who claims says so in a moment.
		if err := w.awaitClaim(bound); err != nil {
			if errors.Is(err, queue.ErrFenced) {
				w.fenced = true
				return queue.ErrFenced
			}
			return w.failure(ctx, b, err)
		}
	}
}

// try finds out about a commit before, then makes this one. written says that the former was written; err is then what
// Commit has to say.
func (w *writer) try(ctx context.Context, b queue.Batch, next record.Cursor) (written bool, err error) {
	if w.client() == nil {
		before, err := w.find(ctx)
		if err != nil {
			return false, err
		}
		if before {
			same := w.unknown.Is(b, next)
			w.settle()
			if same {
				return true, nil
			}
			return true, queue.ErrWritten
		}
	}
	if !w.unknown.Is(b, next) {
		w.unknown = queue.NewAttempt(token(), b, next)
	}
	return false, w.transact(ctx, b, saved{cursor: next, writer: w.name, commit: w.unknown.ID})
}

func (w *writer) settle() {
	w.cursor, w.commit, w.unknown = w.unknown.Next, w.unknown.ID, nil
}

// find claims the transactional id again, which ends whatever was open, and learns from the cursor topic what became
// of the unknown commit, or that the pipeline is someone else's (ErrFenced). It looks before it claims: a writer that
// is not the newest any more must not disturb the one that is.
func (w *writer) find(ctx context.Context) (written bool, err error) {
	if _, err := w.mine(ctx); err != nil {
		return false, err
	}
	if err := w.connect(ctx); err != nil {
		return false, err
	}
	last, err := w.mine(ctx)
	return err == nil && w.unknown != nil && last.commit == w.unknown.ID, err
}

// mine reads the pipeline's newest record; it is ErrFenced when another writer wrote it.
func (w *writer) mine(ctx context.Context) (saved, error) {
	last, err := w.q.readCursor(ctx, w.key)
	if err == nil && last.writer != w.name {
		err = queue.ErrFenced
		if last.open && w.client() == nil {
			err = nil // what is open may be this writer's own; a claim decides it
		}
	}
	return last, err
}

// awaitClaim waits for a claim that may be under way, up to a second.
func (w *writer) awaitClaim(ctx context.Context) error {
	for begin := time.Now(); time.Since(begin) < time.Second; {
		if _, err := w.mine(ctx); err != nil {
			return err
		}
		if err := retry.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// transact writes batch and cursor in one transaction. After an error its outcome is unknown.
func (w *writer) transact(ctx context.Context, b queue.Batch, s saved) error {
	cl := w.client()
	if cl == nil {
		return kgo.ErrClientClosed
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := cl.BeginTransaction(); err != nil {
		return err
	}
	messages := make([]kgo.Record, 0, b.Len()+1)
	messages = encodeAll(messages, w.topic, b.Records)
	messages = encodeAll(messages, queue.DeadTopic(w.topic), b.Dead)
	messages = append(messages, w.q.cursorMessage(w.key, s))
	if err := produce(ctx, cl, messages); err != nil {
		return err
	}
	if err := noted(ctx, cl, &messages[len(messages)-1]); err != nil {
		return err
	}
	if w.q.cfg.beforeEnd != nil {
		w.q.cfg.beforeEnd()
	}
	return cl.EndTransaction(ctx, kgo.TryCommit)
}

// produce sends the messages and waits until all are confirmed, or one is not, or the context ends.
func produce(ctx context.Context, cl *kgo.Client, messages []kgo.Record) error {
	left := len(messages) // counted by the library's goroutine, which calls back one by one
	result := make(chan error, len(messages)+1)
	back := func(m *kgo.Record, err error) {
		if err != nil {
			result <- &produceError{m, err}
		}
		if left--; left == 0 {
			result <- nil
		}
	}
	for i := range messages {
		cl.Produce(ctx, &messages[i], back)
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// noted waits until the client has noted the partition of a message that was confirmed, which takes it microseconds, or
// longer on a busy machine. franz-go (1.22.2) sends the first messages to a topic before it stores the topic's partitions.
// When it is asked to end the transaction in between, it finds no partition in it, aborts it and says nil, as if it had
// committed.
func noted(ctx context.Context, cl leaders, m *kgo.Record) error {
	for {
		// In the meantime the partition may have lost its leader; then it waits for the next one.
		if leader, _, _ := cl.PartitionLeader(m.Topic, m.Partition); leader >= 0 {
			return nil
		}
		if err := retry.Sleep(ctx, 50*time.Microsecond); err != nil {
			return fmt.Errorf("wait for partition %d of topic %s: %w", m.Partition, m.Topic, err)
		}
	}
}

// leaders is what noted asks of a client: a partition's leader, below 0 when there is none or the partition is not known.
type leaders interface {
	PartitionLeader(topic string, partition int32) (leader, epoch int32, err error)
}

// produceError is an error with the message that it came back for.
type produceError struct {
	m   *kgo.Record
	err error
}

func (e *produceError) Error() string { return fmt.Sprintf("topic %s: %v", e.m.Topic, e.err) }
func (e *produceError) Unwrap() error { return e.err }

// check refuses what can never be written, before anything is.
func (w *writer) check(ctx context.Context, b queue.Batch, next record.Cursor) error {
	failed, err := w.q.tooLarge(ctx, w.topic, b.Records, nil, 0)
	if err == nil {
		failed, err = w.q.tooLarge(ctx, queue.DeadTopic(w.topic), b.Dead, failed, len(b.Records))
	}
	if err != nil {
		return err
	}
	if failed != nil {
		return &queue.BatchError{Failed: failed, Total: b.Len()}
	}
	if err := w.q.info.Limits.Check(b); err != nil {
		return err
	}
	if n, limit := len(next)+len(w.key)+256, int(w.q.batchBytes(w.q.cfg.Cursors)); n > limit {
		return retry.Permanent(fmt.Errorf("cursor of %d bytes is over the limit of topic %s, max.message.bytes %d", len(next), w.q.cfg.Cursors, limit))
	}
	return nil
}

// part is what of a batch goes to a topic, and where that begins in the batch.
func (w *writer) part(b queue.Batch, topic string) (records []record.Record, first int) {
	if topic == w.topic {
		return b.Records, 0
	}
	return b.Dead, len(b.Records)
}

// narrower makes the batches of a topic smaller, when a broker refused one whose limit could not be asked for: half as
// large, and in the end as large as the largest record. It is false when another try cannot help.
func (w *writer) narrower(b queue.Batch, err error) bool {
	topic, ok := tooLargeFor(err)
	if !ok || topic == w.q.cfg.Cursors {
		return false
	}
	now, bounded := w.narrow[topic]
	if !bounded {
		now = w.q.batchBytes(topic)
	}
	records, _ := w.part(b, topic)
	least := int32(size(&records[largest(records)]))
	if now <= least {
		return false
	}
	if w.narrow == nil {
		w.narrow = make(map[string]int32)
	}
	w.narrow[topic] = max(least, now/2)
	return true
}

// widen makes room for a record that is larger than the batches which were made smaller.
func (w *writer) widen(b queue.Batch) {
	for topic, now := range w.narrow {
		records, _ := w.part(b, topic)
		if len(records) == 0 {
			continue
		}
		if n := int32(size(&records[largest(records)])); n > now {
			w.narrow[topic] = n
			w.drop() // a client asks once
		}
	}
}

// tooLargeFor gives the topic of which a broker refused a batch by its size.
func tooLargeFor(err error) (topic string, ok bool) {
	var refused *produceError
	if !errors.Is(err, kerr.MessageTooLarge) || !errors.As(err, &refused) {
		return "", false
	}
	return refused.m.Topic, true
}

// failure maps an error of a commit. A record that is larger than a broker takes, though its limit could not be asked
// for, is the largest one of its topic: batches are not larger than that any more.
func (w *writer) failure(ctx context.Context, b queue.Batch, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return w.q.mapError(ctx, "commit", w.q.why(w.topic, err))
	}
	if topic, ok := tooLargeFor(err); ok && topic != w.q.cfg.Cursors {
		records, first := w.part(b, topic)
		i := largest(records)
		return &queue.BatchError{Failed: map[int]error{first + i: refusedSize(&records[i])}, Total: b.Len()}
	}
	var refused *produceError
	if errors.As(err, &refused) && (errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID)) {
		return w.q.gone(refused.m.Topic)
	}
	return w.q.mapError(ctx, "commit", err)
}
