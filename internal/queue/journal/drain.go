package journal

import (
	"context"
	"errors"
	"fmt"
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
		select {
		case <-q.drainWork:
		case <-q.stopped.Done():
			return
		}
		wait.Reset(linger)
		for !q.worthwhile() {
			select {
			case <-q.drainWork:
				continue
			case <-wait.C:
			case <-q.stopped.Done():
				return
			}
			break
		}
		q.empty()
	}
}

// worthwhile tells whether a commit should not wait any longer.
func (q *Queue) worthwhile() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.hurry || len(q.pending) >= enough
}

// empty commits what is pending when it is called, unless the journal is stopped. What comes meanwhile gathers for the
// next time: to go on until nothing is left would, under load, be an endless row of small commits.
func (q *Queue) empty() {
	q.mu.Lock()
	until := q.last
	q.hurry = false // who is in a hurry waits for a position up to this one
	q.mu.Unlock()
	policy := retry.Policy{Base: 20 * time.Millisecond, Max: retryMax}
	for try := 1; q.stopped.Err() == nil; {
		topic, ok := q.first(until)
		if !ok {
			return
		}
		taken, err := q.commit(topic)
		if err == nil {
			try = 1
			q.settle(taken)
			continue
		}
		if errors.Is(err, errBuried) {
			continue
		}
		if !errors.Is(err, queue.ErrFenced) { // who is fenced only has to open its writer anew
			q.mu.Lock()
			q.blocked = fmt.Errorf("commit journal to %s: %w", topic, err)
			q.changed()
			q.mu.Unlock()
		}
		_ = retry.Sleep(q.stopped, policy.Wait(try)) // ends early only when the journal is stopped
		try++
	}
}

// first is the topic of the first pending record up to a position. What is pending after it is left for another time.
func (q *Queue) first(until uint64) (topic string, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) == 0 {
		return "", false
	}
	if q.pending[0].position > until {
		poke(q.drainWork)
		return "", false
	}
	return q.pending[0].topic, true
}

// commit writes as many of the topic's records as one commit holds, together with their place in the journal, and
// returns their places in pending. After an error the writer is opened anew, which tells what was written.
func (q *Queue) commit(topic string) (taken []int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	w := q.writers[topic]
	if w == nil {
		if w, err = q.Queue.OpenWriter(ctx, q.pipeline, topic); err != nil {
			return nil, err
		}
		q.writers[topic] = w
	}
	done := position(w.Cursor())
	batch, taken, last := q.next(topic, done)
	if last <= done {
		return taken, nil // an answer was lost, and the records are there
	}
	err = w.Commit(ctx, batch, cursorAt(last))
	var refused *queue.BatchError
	switch {
	case errors.As(err, &refused):
		q.bury(taken, done, refused)
		return nil, errBuried
	case err != nil:
		delete(q.writers, topic)
		return nil, errors.Join(err, w.Close(ctx))
	}
	return taken, nil
}

// next gathers one commit of the topic's records. taken are their places in pending, which only settle shortens; those
// up to position done are in the topic already and not in the batch.
func (q *Queue) next(topic string, done uint64) (b queue.Batch, taken []int, last uint64) {
	limits := q.Info().Limits
	q.mu.Lock()
	defer q.mu.Unlock()
	size := 0
	for i := range q.pending {
		it := &q.pending[i]
		if it.topic != topic {
			continue
		}
		if it.position <= done {
			taken = append(taken, i)
			last = it.position
			continue
		}
		n := it.record.Size()
		if b.Len() > 0 && (limits.CommitRecords > 0 && b.Len() == limits.CommitRecords ||
			limits.CommitBytes > 0 && size+n > limits.CommitBytes || size+n > segmentBytes/2) {
			break
		}
		size += n
		taken = append(taken, i)
		last = it.position
		if it.dead {
			b.Dead = append(b.Dead, it.record)
		} else {
			b.Records = append(b.Records, it.record)
		}
	}
	return b, taken, last
}

// errBuried: records were refused for good, and are dead letters now; the commit can be tried again.
var errBuried = errors.New("refused records are dead letters now")

// keep is how much of a record that is refused for good its dead letter holds.
const keep = 16 << 10

// bury makes dead letters, cut to their beginning, of records that the queue behind refuses for good although they were
// within its limit: they are confirmed and must not vanish, nor hold up the others.
func (q *Queue) bury(taken []int, done uint64, refused *queue.BatchError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var records, dead []int // places in pending of the batch's two parts
	for _, at := range taken {
		switch it := &q.pending[at]; {
		case it.position <= done: // was not in the batch
		case it.dead:
			dead = append(dead, at)
		default:
			records = append(records, at)
		}
	}
	order := slices.Concat(records, dead)
	for i, err := range refused.Failed {
		it := &q.pending[order[i]]
		if !it.dead { // a letter has its reason
			it.dead = true
			it.record.Headers = append(slices.Clip(it.record.Headers),
				record.Header{Name: record.HeaderDeadStage, Value: "queue"}, record.Header{Name: record.HeaderDeadReason, Value: err.Error()})
		}
		it.record = it.record.Cut(min(keep, len(it.record.Data)/2))
	}
}

// settle takes the committed records out of pending.
func (q *Queue) settle(taken []int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.blocked = nil
	kept := q.pending[:0]
	k := 0
	for i := range q.pending {
		if k < len(taken) && taken[k] == i {
			q.bytes -= q.pending[i].size
			k++
			continue
		}
		kept = append(kept, q.pending[i])
	}
	clear(q.pending[len(kept):]) // let go of the records
	q.pending = kept
	q.forget()
	q.changed()
}

// errBlocked: the topics do not take what is in the journal.
var errBlocked = errors.New("the topics do not take what is in the journal")

// flush waits until everything confirmed before the call is in its topic; with all, until nothing is under way. It
// gives up with errBlocked when the topics do not take it.
func (q *Queue) flush(ctx context.Context, all bool) error {
	q.mu.Lock()
	until := q.last
	for {
		drained := len(q.pending) == 0 || !all && q.pending[0].position > until
		if drained && (!all || len(q.waiting) == 0 && !q.writing) {
			q.mu.Unlock()
			return nil
		}
		if q.blocked != nil || q.broken != nil {
			q.mu.Unlock()
			return errBlocked
		}
		q.hurry = true
		change := q.progress
		q.mu.Unlock()
		poke(q.drainWork)
		select {
		case <-change:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		q.mu.Lock()
	}
}
