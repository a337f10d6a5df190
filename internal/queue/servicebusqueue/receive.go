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
	// usualPatience is how long a receive that need not wait gives the broker to answer. A session has three times as
	// long to be locked, which takes more round trips.
	usualPatience   = 200 * time.Millisecond
	sessionPatience = 3
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

	turn    slot                            // the SDK receives for one caller at a time; guards what follows
	session *azservicebus.SessionReceiver   // the one that is received from
	parked  []*azservicebus.SessionReceiver // kept for the receipts that are out
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
// the queue's lock duration is over. Of a topic with sessions one session is received from at a time, and others are
// only asked for when that has nothing more.
func (q *Queue) Receive(ctx context.Context, topic string, max int, wait time.Duration) ([]queue.Delivery, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.busy.Done()
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
	var plain *azservicebus.Receiver
	withSessions := q.sessions(r.topic)
	if !withSessions {
		opening, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
		p, err := r.open(opening)
		cancel()
		if err != nil {
			return nil, err
		}
		plain = p
	}
	if most <= 0 {
		return nil, nil
	}
	end := time.Now().Add(max(wait, q.cfg.patience))
	old := r.session != nil
	if withSessions && !old {
		end = later(end, time.Now().Add(sessionPatience*q.cfg.patience))
	}
	for {
		var t taker = plain
		limit := end
		if withSessions {
			if err := q.accept(ctx, r, end); err != nil || r.session == nil {
				return nil, err
			}
			// Whether a session has more shows soon, and there may be others.
			t, limit = r.session, time.Now().Add(q.cfg.patience)
		}
		waiting, cancel := context.WithDeadline(ctx, limit)
		messages, err := t.ReceiveMessages(waiting, most, nil)
		cancel()
		if len(messages) > 0 {
			return q.held.take(q, r, t, messages), nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if withSessions {
			q.leave(r)
			if old { // the next gets a time of its own
				old = false
				end = later(end, time.Now().Add(sessionPatience*q.cfg.patience))
			}
			if err == nil || sessionOver(err) || errors.Is(err, context.DeadlineExceeded) {
				continue // accept says when there is no other
			}
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			r.renew(q, plain)
			return nil, err
		}
		if !time.Now().Before(end) {
			return nil, nil
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// accept locks the next session that has something, unless there is one at hand. It leaves r.session nil when none came
// until the end.
func (q *Queue) accept(ctx context.Context, r *receiver, end time.Time) error {
	if r.session != nil {
		return nil
	}
	waiting, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	s, err := r.c.client.AcceptNextSessionForQueue(waiting, r.topic, nil)
	var said *azservicebus.Error
	switch {
	case err == nil:
		r.session = s
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &said) && said.Code == azservicebus.CodeTimeout:
		return nil
	}
	return err
}

// sessionOver tells whether an error says no more than that the lock of a session has ended.
func sessionOver(err error) bool {
	var said *azservicebus.Error
	return errors.As(err, &said) && (said.Code == azservicebus.CodeLockLost || said.Code == azservicebus.CodeConnectionLost)
}

// leave lets go of the present session, once no receipt of it is out: closing it gives its records back.
func (q *Queue) leave(r *receiver) {
	parked := append(r.parked, r.session)
	r.session, r.parked = nil, nil
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	for _, s := range parked {
		if q.held.out(s) && time.Now().Before(s.LockedUntil()) {
			r.parked = append(r.parked, s)
			continue
		}
		_ = s.Close(ctx) // its lock ends in any case
	}
}

// Browse implements queue.Reader. Positions are sequence numbers. Service Bus shows a queue from a number on, and only
// one without sessions.
func (q *Queue) Browse(ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.busy.Done()
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
	}, nil)
	q.lose(ctx, c, err)
	if err != nil {
		return nil, mapError(fmt.Sprintf("look at %s", topic), err)
	}
	return all, nil
}
