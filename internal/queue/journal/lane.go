package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ferry/internal/queue"
)

// A lane is what the journal holds for one topic and its dead letters. A topic that takes nothing, as when it has reached
// its max_bytes, holds up its own lane and no other.
type lane struct {
	pending []item    // written and confirmed, not in the topic yet, in order
	bytes   int       // of pending and of the calls that wait to be written; a lane without any is gone
	blocked error     // why the topic does not take what is pending; nil when it does
	tries   int       // that have failed in a row
	again   time.Time // when the next try is due; zero when none has failed
	most    int       // records in one commit, while the topic is too full for what would go into one; 0 when it is not
}

// behind tells whether something up to a position is not in the topic yet.
func (l *lane) behind(until uint64) bool {
	return l != nil && len(l.pending) > 0 && l.pending[0].position <= until
}

// base parts a topic's name into the pipeline's topic and whether it is the one for its dead letters.
func base(topic string) (name string, dead bool) {
	return strings.CutSuffix(topic, queue.DeadTopic(""))
}

// hold counts bytes in a topic's lane, making it. The lock is held, or nobody else is there yet.
func (q *Queue) hold(topic string, bytes int) *lane {
	l := q.lanes[topic]
	if l == nil {
		l = &lane{}
		q.lanes[topic] = l
	}
	l.bytes += bytes
	q.bytes += bytes
	return l
}

// release is the other way round.
func (q *Queue) release(topic string, bytes int) {
	if l := q.hold(topic, -bytes); l.bytes == 0 {
		delete(q.lanes, topic)
	}
}

// room tells whether size more bytes may be held for a topic: as many as are left free after that. So one topic alone has
// half of the room, and however many are blocked, there is some left for another. When those that are blocked have what
// is missing, nobody can say how long that takes, and the error says why. The lock is held.
func (q *Queue) room(topic string, size int) (bool, error) {
	used := 0
	if l := q.lanes[topic]; l != nil {
		if l.blocked != nil { // confirming more would only make the heap higher
			return false, l.blocked
		}
		used = l.bytes
	}
	if q.bytes == 0 || used+size <= held-q.bytes {
		return true, nil
	}
	for _, l := range q.lanes {
		if l.blocked == nil {
			return false, nil // it will make room
		}
	}
	return false, fmt.Errorf("the journal has no room: %w", q.blocks())
}

// blocks joins what the topics that are blocked say. The lock is held.
func (q *Queue) blocks() error {
	var errs []error
	for _, topic := range slices.Sorted(maps.Keys(q.lanes)) {
		errs = append(errs, q.lanes[topic].blocked)
	}
	return errors.Join(errs...)
}

// await waits until ready says so, or gives an error. It is called with the lock held.
func (q *Queue) await(ctx context.Context, ready func() (bool, error)) error {
	for {
		q.mu.Lock()
		ok, err := ready()
		if ok || err != nil {
			q.mu.Unlock()
			return err
		}
		q.hurry = true
		change := q.progress
		q.mu.Unlock()
		poke(q.drainWork)
		select {
		case <-change:
		case <-q.stopped.Done():
			return queue.ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errBlocked: the topic does not take what is in the journal.
var errBlocked = errors.New("the topic does not take what is in the journal")

// arrived waits until what was confirmed for a topic, up to a position, is in the topic. It gives up with errBlocked and
// the reason when the topic does not take it.
func (q *Queue) arrived(ctx context.Context, topic string, until uint64) error {
	topic, _ = base(topic)
	return q.await(ctx, func() (bool, error) {
		l := q.lanes[topic]
		if !l.behind(until) {
			return true, nil
		}
		if l.blocked != nil {
			return false, fmt.Errorf("%w: %w", errBlocked, l.blocked)
		}
		return false, nil
	})
}

// flush waits until no call is under way and everything is in its topic that the topics take.
func (q *Queue) flush(ctx context.Context) error {
	return q.await(ctx, func() (bool, error) {
		if len(q.waiting) > 0 || q.writing {
			return false, nil
		}
		for _, l := range q.lanes {
			if len(l.pending) > 0 && l.blocked == nil {
				return false, nil
			}
		}
		return true, nil
	})
}
