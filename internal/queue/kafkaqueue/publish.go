package kafkaqueue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// Publish implements queue.Queue. All calls share one idempotent producer, which puts into a batch what waits for the
// same partition.
func (q *Queue) Publish(ctx context.Context, name string, batch []record.Record) error {
	if err := q.enterTopic(name); err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(batch) == 0 {
		return nil
	}
	failed, err := q.tooLarge(ctx, name, batch, nil, 0)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("publish to %s: nothing written: %w", name, context.Cause(ctx))
	}
	settled := make([]bool, len(batch)) // written, or never to be
	for i := range failed {
		settled[i] = true
	}
	single := false
	for at := 0; at < len(batch); {
		n := chunk(batch[at:])
		if single {
			n = 1
		}
		done, err := q.send(ctx, name, batch[at:at+n], settled[at:at+n])
		switch {
		case err == nil:
			at += n
		case !errors.Is(err, kerr.MessageTooLarge):
			return queue.Partly(at+done, failed, err)
		case !single:
			// A broker that does not tell its limit refused a batch. One by one shows which record it is. What came after
			// that batch on its own may be written already.
			single = true
			at += done
		default:
			if failed == nil {
				failed = make(map[int]error)
			}
			failed[at] = refusedSize(&batch[at])
			at++
		}
	}
	if failed != nil {
		return &queue.BatchError{Failed: failed, Total: len(batch)}
	}
	return nil
}

// chunk says how many records go into the producer at once, so that one call never wants more room than there is.
func chunk(batch []record.Record) int {
	bytes := 0
	for n := range batch {
		if bytes += weight(&batch[n]); n > 0 && (bytes > bufferedBytes/4 || n == commitRecords) {
			return n
		}
	}
	return len(batch)
}

// weight is what a record takes of the producer's memory.
func weight(r *record.Record) int { return r.Size() + 512 }

// outcome collects what the producer says of a call's records.
type outcome struct {
	mu      sync.Mutex
	first   int // index of the first record that was not confirmed
	err     error
	settled []bool // by index; the caller's again once done is closed
	left    int
	done    chan struct{}
}

// back takes the producer's word on the i-th record, and tells whether it was the last that was waited for.
func (o *outcome) back(i int, err error) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case i == len(o.settled): // nothing but that all were handed over
	case err == nil:
		o.settled[i] = true
	case i < o.first:
		o.first, o.err = i, err
	}
	o.left--
	return o.left == 0
}

// send publishes the records that are not settled, and returns how many before the first failure are. What is confirmed it
// marks as settled; the marks are the caller's to read only when it came back without an error or with the broker's own.
func (q *Queue) send(ctx context.Context, name string, batch []record.Record, settled []bool) (int, error) {
	need := 0
	for i := range batch {
		need += weight(&batch[i])
	}
	room := int64(min(need, bufferedBytes)) // a single record may be larger than that
	if err := q.acquire(ctx, name, room); err != nil {
		return 0, err
	}
	messages := encodeAll(make([]kgo.Record, 0, len(batch)), name, batch)
	o := &outcome{first: len(batch), settled: settled, left: 1, done: make(chan struct{})}
	for i := range batch {
		if !settled[i] {
			o.left++
		}
	}
	back := func(i int, err error) {
		if o.back(i, err) {
			q.room.Release(room)
			close(o.done)
		}
	}
	for i := range messages {
		if !settled[i] {
			// Not under the caller's context: taking back a record that is on its way would disturb the others'.
			q.cl.Produce(q.ctx, &messages[i], func(_ *kgo.Record, err error) { back(i, err) })
		}
	}
	back(len(batch), nil)
	// The producer's own time ends first and gives the reason; this is for a producer that hangs.
	limit := time.NewTimer(3 * q.cfg.Timeout)
	defer limit.Stop()
	select {
	case <-o.done:
	case <-limit.C:
		return 0, q.mapError(ctx, "publish to "+name, context.DeadlineExceeded)
	case <-ctx.Done():
		return 0, fmt.Errorf("publish to %s: outcome unknown: %w", name, context.Cause(ctx))
	}
	if o.err == nil {
		return len(batch), nil
	}
	return o.first, q.publishFailure(ctx, name, o.err)
}

// acquire waits for room among the records under way.
func (q *Queue) acquire(ctx context.Context, name string, room int64) error {
	if q.room.TryAcquire(room) {
		return nil
	}
	bound, cancel := q.within(ctx, 3*q.cfg.Timeout)
	defer cancel()
	err := q.room.Acquire(bound, room)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("publish to %s: nothing written: %w", name, context.Cause(ctx))
	}
	return q.mapError(ctx, "publish to "+name, fmt.Errorf("wait for room among the records under way: %w", q.why(name, err)))
}

func (q *Queue) publishFailure(ctx context.Context, name string, err error) error {
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return q.gone(name)
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries):
		err = q.why(name, err)
	}
	return q.mapError(ctx, "publish to "+name, err)
}

// why looks for what keeps a topic from being written, for the producer knows only that time was up.
func (q *Queue) why(name string, err error) error {
	ctx, cancel := q.within(context.Background(), min(q.cfg.Timeout, time.Second))
	defer cancel()
	seen, merr := q.metadata(ctx, name)
	if merr != nil {
		return fmt.Errorf("%w; no broker tells why: %w", err, merr)
	}
	if werr := q.writable(seen.Topics[name], name); werr != nil {
		return fmt.Errorf("%w: %w", werr, err)
	}
	return err
}

// tooLarge finds the records that no batch can hold and adds them to failed, by index from first on. It asks for the
// topic, which must be there.
func (q *Queue) tooLarge(ctx context.Context, name string, batch []record.Record, failed map[int]error, first int) (map[int]error, error) {
	t, err := q.ensure(ctx, name, true)
	if err != nil {
		return nil, err
	}
	for i := range batch {
		if n := size(&batch[i]); n > int(t.limit) {
			if failed == nil {
				failed = make(map[int]error)
			}
			failed[first+i] = &queue.TooLargeError{Size: n, Limit: int(t.limit)}
		}
	}
	return failed, nil
}

// largest gives the index of the largest record.
func largest(batch []record.Record) int {
	most := 0
	for i := range batch {
		if size(&batch[i]) > size(&batch[most]) {
			most = i
		}
	}
	return most
}

// refusedSize is for a record that a broker refused without saying its limit.
func refusedSize(r *record.Record) error {
	return &queue.TooLargeError{Size: size(r), Limit: size(r) - 1}
}
