package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// commitTimeout is how long one try of a commit may take. It runs to its end also when the journal is stopped.
const commitTimeout = 30 * time.Second

// A journal's cursor in a topic is the position of its last record there, as JSON.
func cursorAt(position uint64) record.Cursor { return strconv.AppendUint(nil, position, 10) }

func position(c record.Cursor) uint64 {
	n, err := strconv.ParseUint(string(c), 10, 64)
	if err != nil {
		return 0 // no cursor yet
	}
	return n
}

// drain is the goroutine that commits what is confirmed to the topics.
func (q *Queue) drain() {
	wait := time.NewTimer(time.Hour)
	defer wait.Stop()
	for {
		wait.Reset(q.rest())
		select {
		case <-q.drainWork:
			q.gather(wait)
		case <-wait.C: // a topic that failed has its next try
		case <-q.stopped.Done():
			return
		}
		q.empty()
	}
}

// rest is how long there is nothing to do when nothing comes: until the next try of a topic that failed.
func (q *Queue) rest() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	rest := time.Hour
	for _, l := range q.lanes {
		if !l.again.IsZero() {
			rest = min(rest, max(time.Until(l.again), 0))
		}
	}
	return rest
}

// gather lets company come for what is there, unless somebody is in a hurry.
func (q *Queue) gather(wait *time.Timer) {
	wait.Reset(linger)
	for !q.worthwhile() {
		select {
		case <-q.drainWork:
		case <-wait.C:
			return
		case <-q.stopped.Done():
			return
		}
	}
}

// worthwhile tells whether a commit should not wait any longer.
func (q *Queue) worthwhile() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, l := range q.lanes {
		if l.again.IsZero() {
			n += len(l.pending)
		}
	}
	return q.hurry || n >= enough
}

// empty commits what is pending when it is called, unless the journal is stopped. What comes meanwhile gathers for the
// next time: to go on until nothing is left would, under load, be an endless row of small commits.
func (q *Queue) empty() {
	q.mu.Lock()
	until := q.last
	q.hurry = false // who is in a hurry waits for a position up to this one
	q.mu.Unlock()
	for q.stopped.Err() == nil {
		topic, ok := q.first(until)
		if !ok {
			return
		}
		n, err := q.commit(topic)
		switch {
		case err == nil:
			q.settle(topic, n)
		case !errors.Is(err, errBuried) && !errors.Is(err, errHalved):
			q.postpone(topic, err)
		}
	}
}

// first is the topic of the first pending record up to a position, leaving out the topics whose next try is not due. What
// is pending after that position is left for another time.
func (q *Queue) first(until uint64) (topic string, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	least := uint64(math.MaxUint64)
	for name, l := range q.lanes {
		if len(l.pending) > 0 && l.pending[0].position < least && !now.Before(l.again) {
			topic, least = name, l.pending[0].position
		}
	}
	if topic != "" && least > until {
		poke(q.drainWork)
	}
	return topic, least <= until
}

// patience is that with a topic that fails.
var patience = retry.Policy{Base: 20 * time.Millisecond, Max: retryMax}

// postpone leaves a topic alone for a while. Who is fenced only has to open its writer anew, and is not blocked.
func (q *Queue) postpone(topic string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[topic]
	l.tries++
	l.again = time.Now().Add(patience.Wait(l.tries))
	if !errors.Is(err, queue.ErrFenced) {
		l.blocked = fmt.Errorf("commit journal to %s: %w", topic, err)
		q.changed()
	}
}

// commit writes as many of the topic's records as one commit holds, together with their place in the journal, and
// returns how many of those pending are in the topic now. After an error the writer is opened anew, which tells what was
// written.
func (q *Queue) commit(topic string) (n int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	w := q.writers[topic]
	if w == nil {
		if w, err = q.Queue.OpenWriter(ctx, q.pipeline, topic); err != nil {
			return 0, err
		}
		q.writers[topic] = w
	}
	done := position(w.Cursor())
	batch, n, last := q.next(topic, done)
	if last <= done {
		return n, nil // an answer was lost, and the records are there
	}
	err = w.Commit(ctx, batch, cursorAt(last))
	var refused *queue.BatchError
	switch {
	case errors.As(err, &refused):
		q.bury(topic, n, done, refused)
		return 0, errBuried
	case err != nil:
		delete(q.writers, topic)
		if errors.Is(err, queue.ErrFull) && q.halve(topic, batch.Len()) {
			err = errHalved
		}
		return 0, errors.Join(err, w.Close(ctx))
	}
	return n, nil
}

// next gathers one commit of the topic's records. n is how many of those pending it reaches over, which only settle
// shortens; those up to position done are in the topic already and not in the batch.
func (q *Queue) next(topic string, done uint64) (b queue.Batch, n int, last uint64) {
	limits := q.Info().Limits
	q.mu.Lock()
	defer q.mu.Unlock()
	size := 0
	l := q.lanes[topic]
	for i := range l.pending {
		it := &l.pending[i]
		if it.position > done {
			s := it.record.Size()
			if b.Len() > 0 && (b.Len() == l.most || limits.CommitRecords > 0 && b.Len() == limits.CommitRecords ||
				limits.CommitBytes > 0 && size+s > limits.CommitBytes || size+s > segmentBytes/2) {
				break
			}
			size += s
			if it.dead {
				b.Dead = append(b.Dead, it.record)
			} else {
				b.Records = append(b.Records, it.record)
			}
		}
		n, last = i+1, it.position
	}
	return b, n, last
}

// errHalved: the topic had no room for a commit, and the next one is smaller.
var errHalved = errors.New("the topic has no room for so many records")

// halve makes the next commit of a topic half as large as one of n records for which it had no room: what fits arrives, and
// does not wait until everything would. It tells whether that is smaller.
func (q *Queue) halve(topic string, n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lanes[topic].most = max(n/2, 1)
	return n > 1
}

// errBuried: records were refused for good, and are dead letters now; the commit can be tried again.
var errBuried = errors.New("refused records are dead letters now")

// keep is how much of a record that is refused for good its dead letter holds.
const keep = 16 << 10

// bury makes dead letters, cut to their beginning, of records that the queue behind refuses for good although they were
// within its limit: they are confirmed and must not vanish, nor hold up the others. The batch was made of the first n.
func (q *Queue) bury(topic string, n int, done uint64, refused *queue.BatchError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pending := q.lanes[topic].pending
	var records, dead []int // places in pending of the batch's two parts
	for at := range n {
		switch it := &pending[at]; {
		case it.position <= done: // was not in the batch
		case it.dead:
			dead = append(dead, at)
		default:
			records = append(records, at)
		}
	}
	order := slices.Concat(records, dead)
	for i, err := range refused.Failed {
		it := &pending[order[i]]
		if !it.dead { // a letter has its reason
			it.dead = true
			it.record.Headers = append(slices.Clip(it.record.Headers),
				record.Header{Name: record.HeaderDeadStage, Value: "queue"}, record.Header{Name: record.HeaderDeadReason, Value: err.Error()})
		}
		it.record = it.record.Cut(min(keep, len(it.record.Data)/2))
	}
}

// settle takes the first n records of a topic, which are committed, out of pending.
func (q *Queue) settle(topic string, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[topic]
	l.blocked, l.tries, l.again = nil, 0, time.Time{}
	if l.most *= 2; n < l.most/2 {
		l.most = 0 // it did not bound this commit
	}
	size := 0
	for i := range n {
		size += l.pending[i].size
	}
	clear(l.pending[:n]) // let go of the records
	l.pending = l.pending[n:]
	q.release(topic, size)
	q.forget()
	q.changed()
}
