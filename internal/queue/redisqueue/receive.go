package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
)

// Receivers on all instances are one consumer of one group: what a consumer of its own holds would be lost with its
// name. What was given back is held by a second one until it is delivered again.
const (
	group    = "ferry"
	consumer = "ferry"
	returned = "ferry-returned"
)

const (
	// slice bounds the wait for new records, which does not end when an old one is to be delivered again.
	slice = 500 * time.Millisecond
	// claimSteps bounds how far one Receive looks through what is under way for what has been so for too long.
	claimSteps = 16
)

// Receive implements queue.Reader.
func (q *Queue) Receive(ctx context.Context, name string, max int, wait time.Duration) ([]queue.Delivery, error) {
	t, err := q.enterTopic(name)
	if err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if max <= 0 {
		return nil, nil
	}
	end := time.Now().Add(wait)
	got, err := q.takeSoon(ctx, t, max, 0)
	if err != nil || len(got) > 0 || wait <= 0 {
		return got, err
	}
	if ok, err := q.line(ctx, wait); !ok {
		return nil, err
	}
	defer func() { <-q.waiting }()
	for {
		select {
		case <-q.ending:
			return nil, queue.ErrClosed
		default:
		}
		left := time.Until(end)
		if left < time.Millisecond {
			return nil, nil
		}
		got, err := q.takeSoon(ctx, t, max, min(left, slice, q.cfg.Timeout/2))
		if err != nil || len(got) > 0 {
			return got, err
		}
	}
}

// line takes a place among the receivers that wait, which share a part of the connections. It is false when the time
// is over first.
func (q *Queue) line(ctx context.Context, wait time.Duration) (bool, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case q.waiting <- struct{}{}:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-q.ending:
		return false, queue.ErrClosed
	case <-ctx.Done():
		return false, fmt.Errorf("receive: %w", context.Cause(ctx))
	}
}

// takeSoon is take that ends with the context; what it takes after that is given back.
func (q *Queue) takeSoon(ctx context.Context, t topic, max int, block time.Duration) ([]queue.Delivery, error) {
	return await(ctx, q, "receive from "+t.name, func(ctx context.Context) ([]queue.Delivery, error) {
		got, err := q.take(ctx, t, max, block)
		if redis.HasErrorPrefix(err, "NOGROUP") {
			if err := q.join(ctx, t); err != nil {
				return nil, err
			}
			got, err = q.take(ctx, t, max, block)
		}
		return got, q.mapError("receive from "+t.name, err)
	}, func(late []queue.Delivery) { q.giveBack(t, late) })
}

// take gives what is to be delivered again, then what is new, and waits for new records when there is neither.
func (q *Queue) take(ctx context.Context, t topic, max int, block time.Duration) ([]queue.Delivery, error) {
	got, bytes, err := q.again(ctx, t, max)
	if err != nil || len(got) == max {
		return got, err
	}
	if len(got) > 0 {
		block = 0
	}
	fresh, err := q.fresh(ctx, t, max-len(got), q.readBytes-bytes, block)
	got = append(got, fresh...)
	if len(got) > 0 {
		return got, nil // they are taken; the error comes again
	}
	return nil, err
}

// again takes over deliveries that have been under way for longer than the redelivery time, or were given back.
func (q *Queue) again(ctx context.Context, t topic, max int) (got []queue.Delivery, bytes int, err error) {
	ch := q.channel(t)
	start, _ := ch.claims.Load().(string)
	if start == "" {
		start = "0-0"
	}
	for step := 0; step < claimSteps && len(got) < max && bytes < q.readBytes; step++ {
		next, entries, err := q.claim(ctx, t, start, min(max-len(got), firstPage))
		if err != nil {
			return got, bytes, err
		}
		counts, err := q.attempts(ctx, t, entries)
		if err != nil {
			return got, bytes, err
		}
		for i := range entries {
			got = append(got, delivery(t, &entries[i], counts[i]))
			bytes += entries[i].size()
		}
		ch.claims.Store(next)
		if start = next; next == "0-0" {
			break
		}
	}
	return got, bytes, nil
}

// claim is one XAUTOCLAIM: it answers with where to look next, the entries, and (from Redis 7) those deleted meanwhile.
func (q *Queue) claim(ctx context.Context, t topic, start string, n int) (next string, entries []entry, err error) {
	var answer any
	err = q.on(ctx, t.key(), func(c *redis.Client) error {
		answer, err = answerOf(c.Do(ctx, "XAUTOCLAIM", t.key(), group, consumer, q.cfg.Redelivery.Milliseconds(), start, "COUNT", n))
		return err
	})
	if err != nil {
		return "", nil, err
	}
	list, ok := answer.([]any)
	if !ok || len(list) < 2 {
		return "", nil, fmt.Errorf("the server sent %T for records to deliver again", answer)
	}
	next, _ = list[0].(string)
	entries, err = readEntries(list[1])
	return next, entries, err
}

// attempts asks how often each entry has been delivered.
func (q *Queue) attempts(ctx context.Context, t topic, entries []entry) ([]int, error) {
	counts := make([]int, len(entries))
	if len(entries) == 0 {
		return nil, nil
	}
	err := q.on(ctx, t.key(), func(c *redis.Client) error {
		p := c.Pipeline()
		cmds := make([]*redis.XPendingExtCmd, len(entries))
		for i := range entries {
			id := entries[i].id.String()
			cmds[i] = p.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: t.key(), Group: group, Start: id, End: id, Count: 1})
		}
		if err := execute(ctx, p); err != nil {
			return err
		}
		for i, cmd := range cmds {
			held, err := cmd.Result()
			if err != nil {
				return err
			}
			if len(held) == 1 {
				counts[i] = int(held[0].RetryCount)
			}
		}
		return nil
	})
	return counts, err
}

// fresh takes records that were never delivered. It waits for the first for the time of block.
func (q *Queue) fresh(ctx context.Context, t topic, max, enough int, block time.Duration) ([]queue.Delivery, error) {
	entries, err := pages(max, enough, func(n int) ([]entry, error) {
		args := []any{"XREADGROUP", "GROUP", group, consumer, "COUNT", n}
		if block > 0 {
			args = append(args, "BLOCK", block.Milliseconds())
		}
		block = 0 // for the first page only
		args = append(args, "STREAMS", t.key(), ">")
		var answer any
		err := q.on(ctx, t.key(), func(c *redis.Client) (err error) {
			answer, err = answerOf(c.Do(ctx, args...))
			return err
		})
		list, _ := answer.([]any)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		stream, _ := list[0].([]any) // the stream's name, and its entries
		if len(stream) != 2 {
			return nil, fmt.Errorf("the server sent %d values for a stream", len(stream))
		}
		return readEntries(stream[1])
	})
	got := make([]queue.Delivery, len(entries))
	for i := range entries {
		got[i] = delivery(t, &entries[i], 1)
	}
	return got, err
}

func delivery(t topic, e *entry, attempt int) queue.Delivery {
	return queue.Delivery{Stored: e.stored(), Receipt: receipt(t, e.id, attempt), Attempt: attempt}
}

// join makes the group of receivers, from the oldest record on. Where there are no dead letters yet it makes their
// stream too, if the topic's is there.
func (q *Queue) join(ctx context.Context, t topic) error {
	if err := q.exists(ctx, t); err != nil {
		return err
	}
	return q.make(ctx, t)
}

// giveBack is Nack for what nobody waits for any more. If it fails the redelivery time passes.
func (q *Queue) giveBack(t topic, late []queue.Delivery) {
	ctx, cancel := context.WithTimeout(context.Background(), q.cfg.Timeout)
	defer cancel()
	receipts := make([]string, len(late))
	for i := range late {
		receipts[i] = late[i].Receipt
	}
	_ = q.settle(ctx, t, "nack", receipts)
}

// Ack implements queue.Reader. The record stays in the stream, for other groups.
func (q *Queue) Ack(ctx context.Context, name string, receipts ...string) error {
	return q.answer(ctx, name, "ack", receipts)
}

// Nack implements queue.Reader.
func (q *Queue) Nack(ctx context.Context, name string, receipts ...string) error {
	return q.answer(ctx, name, "nack", receipts)
}

func (q *Queue) answer(ctx context.Context, name, what string, receipts []string) error {
	t, err := q.enterTopic(name)
	if err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(receipts) == 0 {
		return nil
	}
	_, err = await(ctx, q, what, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, q.settle(ctx, t, what, receipts)
	}, nil)
	return err
}

func (q *Queue) settle(ctx context.Context, t topic, what string, receipts []string) error {
	var errs []error
	wrong := func(receipt string) { errs = append(errs, fmt.Errorf("%w: %.80q", queue.ErrReceipt, receipt)) }
	args := []any{group, consumer, returned, q.cfg.Redelivery.Milliseconds() + 1, what}
	var asked []string
	for _, r := range receipts {
		id, attempt, ok := parseReceipt(t, r)
		if !ok {
			wrong(r)
			continue
		}
		args = append(args, id.String(), attempt)
		asked = append(asked, r)
	}
	if len(asked) == 0 {
		return errors.Join(errs...)
	}
	answer, err := q.run(ctx, q.scripts.settle, []string{t.key()}, args)
	if err != nil && strings.Contains(err.Error(), "NOGROUP") { // nothing was ever delivered
		if err := q.exists(ctx, t); err != nil {
			return err
		}
		answer, err = nil, nil
		for _, r := range asked {
			wrong(r)
		}
	}
	if err != nil {
		return q.failure(what, err)
	}
	for _, v := range answer {
		if n, ok := v.(int64); ok && n >= 1 && int(n) <= len(asked) {
			wrong(asked[n-1])
		}
	}
	return errors.Join(errs...)
}
