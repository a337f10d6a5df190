package kafkaqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// How cursors lie in Kafka. The cursor topic is compacted: of each key the newest record is kept, for good. The key is
// <topic>/<pipeline>, which is unambiguous, for no topic's name holds a slash; the value is the cursor as it is; two
// headers say who wrote it and which commit it is. Whoever wrote a key's newest committed record is the pipeline's
// writer: a claim is such a record too, with the cursor as it was.
const (
	headerWriter = "ferry-writer"
	headerCommit = "ferry-commit"
)

func cursorKey(topic, pipeline string) string { return topic + "/" + pipeline }

// saved is a pipeline's newest record in the cursor topic; its zero value means that there is none.
type saved struct {
	cursor         record.Cursor
	writer, commit string
	open           bool // behind it lies another whose transaction was not decided in time
}

func (q *Queue) cursorMessage(key string, s saved) kgo.Record {
	value := []byte(s.cursor)
	if value == nil {
		value = []byte{} // no value at all would be a tombstone
	}
	return kgo.Record{
		Topic: q.cfg.Cursors, Key: []byte(key), Value: value,
		Headers: []kgo.RecordHeader{{Key: headerWriter, Value: []byte(s.writer)}, {Key: headerCommit, Value: []byte(s.commit)}},
	}
}

func readSaved(m *kgo.Record) saved {
	s := saved{cursor: m.Value}
	for _, h := range m.Headers {
		switch h.Key {
		case headerWriter:
			s.writer = string(h.Value)
		case headerCommit:
			s.commit = string(h.Value)
		}
	}
	return s
}

// readCursor finds a key's newest committed record. It waits up to settleTime for one that is being decided; open says
// that this was not enough. To whoever has claimed the key's transactional id nothing is open: the claim ends it.
func (q *Queue) readCursor(ctx context.Context, key string) (saved, error) {
	// Not from memory: once the topic has more partitions, the newest record may lie in another one.
	l, err := q.freshLayout(ctx, q.cfg.Cursors)
	if errors.Is(err, queue.ErrNoTopic) {
		return saved{}, nil
	}
	if err != nil {
		return saved{}, err
	}
	home := int32(q.partitioner().ForTopic(q.cfg.Cursors).Partition(&kgo.Record{Key: []byte(key)}, len(l.leaders)))
	s, found, err := q.lastOf(ctx, part{q.cfg.Cursors, home}, key)
	open := s.open
	// When the topic was given more partitions, the newest record lies where the key belonged before.
	for n := int32(0); err == nil && !found && int(n) < len(l.leaders); n++ {
		if n != home {
			s, found, err = q.lastOf(ctx, part{q.cfg.Cursors, n}, key)
		}
	}
	s.open = s.open || open
	return s, err
}

// lastOf reads one partition backwards. Readers of committed records see a partition only up to its first open
// transaction, and the cursor topic is shared: behind another pipeline's open commit lies what this one has committed
// since. So that part is read with the marks that end transactions.
func (q *Queue) lastOf(ctx context.Context, p part, key string) (saved, bool, error) {
	begin := time.Now()
	for {
		s, found, err := q.lastOfOnce(ctx, p, key)
		if err != nil || !s.open || time.Since(begin) > q.patience() {
			return s, found, err
		}
		if err := retry.Sleep(ctx, 5*time.Millisecond); err != nil {
			return saved{}, false, fmt.Errorf("wait for a commit: %w", err)
		}
	}
}

func (q *Queue) lastOfOnce(ctx context.Context, p part, key string) (s saved, found bool, err error) {
	ends, err := q.offsets(ctx, p.topic, q.adm.ListEndOffsets)
	if err != nil {
		return s, false, err
	}
	stables, err := q.offsets(ctx, p.topic, q.adm.ListCommittedOffsets)
	if err != nil {
		return s, false, err
	}
	end, stable := ends[p.n], stables[p.n]

	open := false
	if stable < end {
		undecided := make(map[int64]saved) // by producer
		_, err = q.walk(ctx, p, stable, end, all, func(m *kgo.Record) bool {
			switch {
			case m.Attrs.IsControl():
				if last, ok := undecided[m.ProducerID]; ok && isCommitMark(m) {
					s, found = last, true
				}
				delete(undecided, m.ProducerID)
			case string(m.Key) != key:
			case m.Attrs.IsTransactional():
				undecided[m.ProducerID] = readSaved(m)
			default:
				s, found = readSaved(m), true
			}
			return true
		})
		if err != nil {
			return saved{}, false, err
		}
		open = len(undecided) > 0
	}

	start, err := q.start(ctx, p)
	if err != nil {
		return saved{}, false, err
	}
	high := stable
	for window := int64(64); !found && high > start; window *= 8 {
		low := max(start, high-window)
		_, err = q.walk(ctx, p, low, high, committed, func(m *kgo.Record) bool {
			if string(m.Key) == key {
				s, found = readSaved(m), true
			}
			return true
		})
		if err != nil {
			return saved{}, false, err
		}
		high = low
	}
	s.open = open
	return s, found, nil
}

// isCommitMark reads the key of a record that ends a transaction: version and type, two bytes each; 1 is a commit.
func isCommitMark(m *kgo.Record) bool { return len(m.Key) >= 4 && m.Key[2] == 0 && m.Key[3] == 1 }

// Cursor implements queue.Queue.
func (q *Queue) Cursor(ctx context.Context, pipeline, topic string) (record.Cursor, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	bound, cancel := q.roundTrip(ctx)
	defer cancel()
	s, err := q.readCursor(bound, cursorKey(topic, pipeline))
	if err != nil {
		return nil, q.mapError(ctx, "read cursor of "+pipeline, err)
	}
	return s.cursor, nil
}
