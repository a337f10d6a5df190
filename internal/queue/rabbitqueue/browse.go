package rabbitqueue

import (
	"context"
	"fmt"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// Browse implements queue.Reader for streams; a position is the stream's offset and one, for offsets begin at 0. A queue
// cannot be looked at without taking: giving records back would change their order and count as a delivery.
func (q *Queue) Browse(ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if q.cfg.Type != typeStream {
		return nil, q.unsupported(ctx, "browse", topic, "a RabbitMQ queue cannot be looked at without taking records out: receive them, or use type=stream")
	}
	if _, err := q.inspect(ctx, topic); err != nil || max <= 0 {
		return nil, err
	}
	var got []queue.Stored
	err := q.onStream(ctx, topic, func(s *streamReader) error {
		start := uint64(0)
		if from > 0 {
			start = uint64(from - 1)
		}
		if from < 0 {
			first, last, err := s.ends()
			if err != nil || last < first {
				return err
			}
			start = first
			if n := uint64(-from); n > 0 && n <= last-first {
				start = last + 1 - n
			}
		}
		bytes := 0
		return s.read(streamOffset, start, func(c chunk) (more bool, err error) {
			return c.records(func(offset uint64, m []byte) (more bool, err error) {
				if offset < start {
					return true, nil // a chunk is read from its beginning
				}
				at := int64(offset) + 1
				r, err := decodeStream(m)
				switch {
				case err != nil && len(got) > 0:
					return false, nil // those before it first
				case err != nil:
					return false, retry.Permanent(fmt.Errorf("read record %d of %s: %w; go on behind it, from %d", at, topic, err, at+1))
				}
				got = append(got, queue.Stored{Record: r, Position: at, Time: c.time})
				bytes += r.Size()
				return len(got) < max && bytes < receiveBytes, nil
			})
		})
	})
	return got, err
}

func (q *Queue) streamStats(ctx context.Context, topic string) (st queue.Stats, err error) {
	err = q.onStream(ctx, topic, func(s *streamReader) error {
		first, last, err := s.ends()
		if err == nil && last >= first {
			n := int64(last - first + 1)
			st = queue.Stats{Records: n, Waiting: n, First: int64(first) + 1, Last: int64(last) + 1}
		}
		return err
	})
	return st, err
}
