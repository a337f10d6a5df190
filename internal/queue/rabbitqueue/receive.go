package rabbitqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// receiveBytes bounds what one Receive or Browse holds in memory (invariant 7).
const receiveBytes = 64 << 20

// Receive implements queue.Reader. Records come by basic.get, one round trip each, so none is taken that the caller
// did not ask for; while there is none, a consumer waits for the first.
func (q *Queue) Receive(ctx context.Context, topic string, max int, wait time.Duration) ([]queue.Delivery, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if q.cfg.Type == typeStream {
		return nil, q.unsupported(ctx, "receive from", topic, "a stream keeps its records and hands none out: look at them by browsing")
	}
	r, err := q.reader.get(ctx)
	if err != nil {
		return nil, err
	}
	got, err := r.get(ctx, topic, max)
	if err != nil || len(got) > 0 || max <= 0 || wait <= 0 {
		return got, err
	}
	first, err := r.await(ctx, topic, wait)
	if err != nil || len(first) == 0 || max == 1 {
		return first, err
	}
	more, err := r.get(ctx, topic, max-1)
	if err != nil {
		return first, nil // it is handed out; whoever comes for more will hear of it
	}
	return append(first, more...), nil
}

// get takes up to max records that are there.
func (r *reading) get(ctx context.Context, topic string, max int) ([]queue.Delivery, error) {
	t, err := r.take(ctx, topic)
	if err != nil {
		return nil, err
	}
	got, err := roundTrip(ctx, r.q, r.conn, func() (got []amqp.Delivery, err error) {
		defer func() { <-t.turn }()
		// Half the time of a round trip for all: what is there is better handed out than asked for more.
		enough := time.Now().Add(r.q.cfg.Timeout / 2)
		for bytes := 0; len(got) < max && bytes < receiveBytes && (len(got) == 0 || time.Now().Before(enough)); {
			m, ok, err := t.ch.Get(topic, false)
			if err != nil {
				r.drop(topic, t)
				return nil, err // what came before it goes back with the channel
			}
			if !ok {
				break
			}
			got = append(got, m)
			bytes += len(m.Body)
		}
		if max <= 0 { // find out whether the topic is there
			if _, err := t.ch.QueueDeclarePassive(topic, true, false, false, false, nil); err != nil {
				r.drop(topic, t)
				return nil, err
			}
		}
		return got, nil
	}, func(got []amqp.Delivery) { giveBack(t, got) })
	if err != nil {
		return nil, r.q.mapError("receive from "+topic, err)
	}
	return r.deliver(topic, t, got), nil
}

func giveBack(t *taker, got []amqp.Delivery) {
	for i := range got {
		_ = t.ch.Nack(got[i].DeliveryTag, false, true) // fails with its connection, which gives it back too
	}
}

func (r *reading) deliver(topic string, t *taker, got []amqp.Delivery) []queue.Delivery {
	if len(got) == 0 {
		return nil
	}
	tags := make([]uint64, len(got))
	for i := range got {
		tags[i] = got[i].DeliveryTag
	}
	receipts := r.hold(topic, t, tags)
	all := make([]queue.Delivery, len(got))
	for i := range got {
		m := &got[i]
		all[i] = queue.Delivery{
			Stored:  queue.Stored{Record: decode(m), Time: m.Timestamp},
			Receipt: receipts[i], Attempt: attempt(m),
		}
	}
	return all
}

// await waits for the first record with a consumer that takes one and no more.
func (r *reading) await(ctx context.Context, topic string, wait time.Duration) ([]queue.Delivery, error) {
	t, err := r.take(ctx, topic)
	if err != nil {
		return nil, err
	}
	tag := fmt.Sprintf("%s.%d", r.id, r.q.readings.Add(1))
	stop := func(records <-chan amqp.Delivery) (left []amqp.Delivery, err error) {
		defer func() { <-t.turn }()
		if err := t.ch.Cancel(tag, false); err != nil {
			r.drop(topic, t)
			return nil, err
		}
		for m := range records { // closed by the cancel
			left = append(left, m)
		}
		return left, nil
	}
	records, err := roundTrip(ctx, r.q, r.conn, func() (<-chan amqp.Delivery, error) {
		defer func() { <-t.turn }()
		err := t.ch.Qos(1, 0, false)
		var records <-chan amqp.Delivery
		if err == nil {
			records, err = t.ch.Consume(topic, tag, false, false, false, false, nil)
		}
		if err != nil {
			r.drop(topic, t)
		}
		return records, err
	}, func(records <-chan amqp.Delivery) {
		t.turn <- struct{}{}
		left, _ := stop(records) // fails with its connection
		giveBack(t, left)
	})
	if err != nil {
		return nil, r.q.mapError("receive from "+topic, err)
	}
	var got []amqp.Delivery
	limit := time.NewTimer(wait)
	defer limit.Stop()
	select {
	case m, ok := <-records:
		if ok {
			got = append(got, m)
		}
	case <-limit.C:
	case <-r.stopped:
	case <-ctx.Done():
	}
	// The cancel must be told in any case, or the consumer would take the next record and keep it.
	again := context.WithoutCancel(ctx)
	select {
	case t.turn <- struct{}{}:
	case <-r.dead():
		return nil, r.q.mapError("receive from "+topic, errLost)
	}
	left, err := roundTrip(again, r.q, r.conn, func() ([]amqp.Delivery, error) { return stop(records) }, nil)
	if err != nil {
		return nil, r.q.mapError("receive from "+topic, err)
	}
	got = append(got, left...)
	if err := ctx.Err(); err != nil {
		giveBack(t, got)
		return nil, fmt.Errorf("receive from %s: %w", topic, context.Cause(ctx))
	}
	return r.deliver(topic, t, got), nil
}

// Ack implements queue.Reader. RabbitMQ does not answer an acknowledgement; Ack returns after a question asked behind
// it on the same channel has been answered. A receipt is good on the instance that received, as long as its connection
// lives: AMQP takes an acknowledgement only where the delivery came. Others are queue.ErrReceipt.
func (q *Queue) Ack(ctx context.Context, topic string, receipts ...string) error {
	return q.answer(ctx, topic, receipts, func(h holding) error { return h.taker.ch.Ack(h.tag, false) })
}

// Nack implements queue.Reader. See Ack.
func (q *Queue) Nack(ctx context.Context, topic string, receipts ...string) error {
	return q.answer(ctx, topic, receipts, func(h holding) error { return h.taker.ch.Nack(h.tag, false, true) })
}

func (q *Queue) answer(ctx context.Context, topic string, receipts []string, say func(holding) error) error {
	if err := q.enterTopic(topic); err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(receipts) == 0 {
		return nil
	}
	r, err := q.reader.get(ctx)
	if err != nil {
		return err
	}
	var errs []error
	var good []holding
	for _, receipt := range receipts {
		h, ok := r.release(topic, receipt)
		switch {
		case ok:
			good = append(good, h)
		case q.foreign(receipt):
			errs = append(errs, fmt.Errorf("%w: it was received by another instance, or before this one lost its connection", queue.ErrReceipt))
		default:
			errs = append(errs, fmt.Errorf("%w: %.80q", queue.ErrReceipt, receipt))
		}
	}
	if len(good) > 0 {
		if err := r.tell(ctx, topic, good, say); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// tell answers deliveries, all of the same channel, and waits until the broker has heard it.
func (r *reading) tell(ctx context.Context, topic string, good []holding, say func(holding) error) error {
	t := good[0].taker
	select {
	case t.turn <- struct{}{}:
	case <-r.dead():
		return r.q.mapError("acknowledge in "+topic, errLost)
	}
	_, err := roundTrip(ctx, r.q, r.conn, func() (struct{}, error) {
		defer func() { <-t.turn }()
		for _, h := range good {
			if err := say(h); err != nil {
				r.drop(topic, t)
				return struct{}{}, err
			}
		}
		return struct{}{}, t.ch.Qos(1, 0, false)
	}, nil)
	return r.q.mapError("acknowledge in "+topic, err)
}

// Stats implements queue.Reader. Waiting are the records in the queue and those that this instance has received and
// not answered; what other consumers hold cannot be seen, nor can bytes and positions.
func (q *Queue) Stats(ctx context.Context, topic string) (queue.Stats, error) {
	if err := q.enterTopic(topic); err != nil {
		return queue.Stats{}, err
	}
	defer q.calls.Leave()
	found, err := q.inspect(ctx, topic)
	if err != nil {
		return queue.Stats{}, err
	}
	if q.cfg.Type == typeStream { // the broker counts the records of a stream every few seconds only
		return q.streamStats(ctx, topic)
	}
	n := int64(found.Messages)
	if r := q.reader.now(); r != nil {
		n += r.holds(topic)
	}
	return queue.Stats{Records: n, Waiting: n}, nil
}

// unsupported is the answer to what this kind of queue cannot do, once the topic is known to be there.
func (q *Queue) unsupported(ctx context.Context, verb, topic, why string) error {
	if _, err := q.inspect(ctx, topic); err != nil {
		return err
	}
	return retry.Permanent(fmt.Errorf("%s %s: %w: %s", verb, topic, errors.ErrUnsupported, why))
}
