package servicebusqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"ferry/internal/queue"
)

const (
	// receiveBytes bounds what one Receive or Browse holds in memory (invariant 7); receiveMost is how many records
	// may be on their way to it.
	receiveBytes = 64 << 20
	receiveMost  = 1000
	// usualPatience is how long a receive that need not wait gives the broker to answer.
	usualPatience = 200 * time.Millisecond
)

// taker is a receiver of the SDK, with or without a session.
type taker interface {
	ReceiveMessages(ctx context.Context, max int, o *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	CompleteMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.CompleteMessageOptions) error
	AbandonMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.AbandonMessageOptions) error
	Close(ctx context.Context) error
}

// receiver receives from one topic on one connection.
type receiver struct {
	c     *connection
	topic string

	opening slot                   // guards plain
	plain   *azservicebus.Receiver // of a topic without sessions, once the broker has confirmed it

	turn     slot                            // the SDK receives for one caller at a time; guards what follows
	sessions []*azservicebus.SessionReceiver // that are locked, because receipts of them are out or were a moment ago
}

func (c *connection) receiver(topic string) *receiver {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.receivers[topic]
	if r == nil {
		r = &receiver{c: c, topic: topic, opening: make(slot, 1), turn: make(slot, 1)}
		c.receivers[topic] = r
	}
	return r
}

// slot is a mutex that can be waited for no longer than a context says.
type slot chan struct{}

func (s slot) take(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s slot) leave() { <-s }

// open gives the receiver of a topic without sessions. Its first look at the topic makes the links, and tells whether
// the topic is there.
func (r *receiver) open(ctx context.Context) (*azservicebus.Receiver, error) {
	if err := r.opening.take(ctx); err != nil {
		return nil, err
	}
	defer r.opening.leave()
	if r.plain != nil {
		return r.plain, nil
	}
	plain, err := r.c.client.NewReceiverForQueue(r.topic, nil)
	if err != nil {
		return nil, err
	}
	if _, err := plain.PeekMessages(ctx, 1, &azservicebus.PeekMessagesOptions{FromSequenceNumber: new(int64)}); err != nil {
		_ = plain.Close(ctx)
		return nil, err
	}
	r.plain = plain
	return plain, nil
}

// renew lets go of a receiver that has failed: the SDK reopens its link for some reasons only, see connection.drop.
func (r *receiver) renew(q *Queue, failed *azservicebus.Receiver) {
	r.opening <- struct{}{}
	defer r.opening.leave()
	if failed != nil && r.plain == failed {
		r.plain = nil
		q.closeLater(failed.Close)
	}
}

// Receive implements queue.Reader. Records are locked for this instance until they are acknowledged, given back, or
// the queue's lock duration is over; of a topic with sessions, the whole session is.
func (q *Queue) Receive(ctx context.Context, topic string, max int, wait time.Duration) ([]queue.Delivery, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	c, err := q.conn()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(q.alive, cancel)()

	r := c.receiver(topic)
	if err := r.turn.take(ctx); err != nil {
		return nil, q.unlessClosed(mapError("receive from "+topic, err))
	}
	defer r.turn.leave()
	got, err := q.receive(ctx, r, min(max, receiveMost, receiveBytes/q.maxMessage+1), wait)
	if err != nil && len(got) == 0 {
		q.lose(ctx, c, err)
		return nil, q.unlessClosed(mapError("receive from "+topic, err))
	}
	return got, nil
}

// unlessClosed says that the queue is closed when that is why a wait ended.
func (q *Queue) unlessClosed(err error) error {
	if q.alive.Err() != nil {
		return queue.ErrClosed
	}
	return err
}

func (q *Queue) receive(ctx context.Context, r *receiver, most int, wait time.Duration) ([]queue.Delivery, error) {
	if q.sessions(r.topic) {
		return q.receiveSession(ctx, r, most, wait)
	}
	opening, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	p, err := r.open(opening)
	cancel()
	if err != nil || most <= 0 {
		return nil, err
	}
	end := time.Now().Add(max(wait, q.cfg.patience))
	for {
		messages, err := takeUntil(ctx, p, most, end)
		if len(messages) > 0 {
			return q.held.take(r, p, messages), nil
		}
		if err != nil {
			r.renew(q, p)
			return nil, err
		}
		if !time.Now().Before(end) { // it comes back sooner when it has mended its link
			return nil, nil
		}
	}
}

// takeUntil receives up to most messages, and waits for the first until the time given: nothing is no error.
func takeUntil(ctx context.Context, t taker, most int, end time.Time) ([]*azservicebus.ReceivedMessage, error) {
	waiting, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	messages, err := t.ReceiveMessages(waiting, most, nil)
	switch {
	case len(messages) > 0:
		return messages, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, nil
	}
	return nil, err
}

// Browse implements queue.Reader. Positions are sequence numbers. Service Bus shows a queue from a number on, and only
// one without sessions.
func (q *Queue) Browse(ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if q.sessions(topic) {
		if _, err := q.look(ctx, topic); err != nil {
			return nil, err
		}
		return nil, unsupported("look at", topic, "Service Bus shows a queue with sessions only session by session: receive from it, or look at its dead letters")
	}
	c, err := q.conn()
	if err != nil {
		return nil, err
	}
	all, err := await(ctx, q, func(ctx context.Context) ([]queue.Stored, error) {
		r := c.receiver(topic)
		p, err := r.open(ctx)
		if err != nil {
			return nil, err
		}
		var all []queue.Stored
		if from < 0 {
			all, err = last(ctx, p, -from, max)
		} else {
			all, err = peek(ctx, p, from, max)
		}
		if err != nil {
			r.renew(q, p)
		}
		return all, err
	})
	q.lose(ctx, c, err)
	if err != nil {
		return nil, mapError(fmt.Sprintf("look at %s", topic), err)
	}
	return all, nil
}
