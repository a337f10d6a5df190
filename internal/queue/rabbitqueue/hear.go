package rabbitqueue

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
)

// hearing is what the client tells of a session besides confirms. It drops what is not taken within seconds, so the
// goroutine that takes it must never wait for anything else.
type hearing struct {
	returns <-chan amqp.Return
	alarms  <-chan amqp.Blocking
	closed  <-chan *amqp.Error
}

// hear takes the broker's answers until the session ends, then lets go of the connection.
func (s *session) hear(h hearing) {
	defer s.hangUp(h)
	var next confirmation // of the oldest record on its way
	for {
		sent, answered := s.sent, (<-chan struct{})(nil)
		if next != nil {
			sent, answered = nil, next.Done()
		}
		select {
		case next = <-sent:
		case <-answered:
			if !next.Acked() && s.ch.IsClosed() {
				s.fail(s.q.mapError("publish", reason(<-h.closed))) // told or closed before the confirms are
				return
			}
			s.confirmed(next.Acked())
			next = nil
		case r, ok := <-h.returns:
			if !ok {
				h.returns = nil
				continue
			}
			s.returned(r)
		case b, ok := <-h.alarms:
			if !ok {
				h.alarms = nil
				continue
			}
			s.alarmed(b)
		case why := <-h.closed:
			s.settleRest(next)
			s.fail(s.q.mapError("publish", reason(why)))
			return
		case <-s.ended:
			return
		}
	}
}

// settleRest notes what was confirmed before the channel was closed, so that it is not published again.
func (s *session) settleRest(next confirmation) {
	for {
		if next == nil {
			select {
			case next = <-s.sent:
			default:
				return
			}
		}
		if !next.Acked() {
			return
		}
		s.confirmed(true)
		next = nil
	}
}

// hangUp closes the connection. Until that is done it takes what the client still has to tell, or the client would hold
// everything up for it.
func (s *session) hangUp(h hearing) {
	gone := make(chan struct{})
	go func() { s.conn.Close(); close(gone) }()
	for {
		select {
		case _, ok := <-h.returns:
			if !ok {
				h.returns = nil
			}
		case _, ok := <-h.alarms:
			if !ok {
				h.alarms = nil
			}
		case <-gone:
			return
		}
	}
}

// reason is why the broker closed the channel or the connection.
func reason(why *amqp.Error) error {
	switch {
	case why == nil:
		return errLost
	case why.Code == amqp.NotFound: // no exchange; of queues it says so with a return
		return fmt.Errorf("%w: declare the exchange, or mend its name in the queue's URL", why)
	}
	return why
}

// returned marks a record that no queue took. Its confirm is still to come, and is no proof of anything then.
func (s *session) returned(r amqp.Return) {
	id, _ := r.Headers["ferry-id"].(string)
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.flight.all() {
		if f.lost == nil && f.id == id && f.route.exchange == r.Exchange && (f.route.byKey || f.route.topic == r.RoutingKey) {
			f.lost = f.route.noTopic(r)
			s.q.forget(f.route.topic)
			if f.call != nil && f.call.err == nil {
				f.call.err = f.lost // send no more of it
			}
			return
		}
	}
}

// confirmed deals with the answer for the oldest record on its way.
func (s *session) confirmed(ack bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard++
	f, ok := s.flight.pop()
	if !ok {
		return // the session has ended
	}
	l := s.lane(f.route)
	l.flying--
	err := f.lost
	switch {
	case err != nil:
	case !ack:
		err = fmt.Errorf("%w: %w", queue.ErrFull, errNacked)
		l.width = 1
	default:
		l.width = min(2*l.width, flightMax)
	}
	if f.call == nil {
		s.q.orphans.settled(f.route.topic, f.id, err == nil)
	} else {
		f.call.answered(f.index, err)
	}
	s.wake.Signal()
}

// answered notes the outcome of one record. What follows the first failure is not counted, durable or not: it will be
// published again behind it, so that the last copies are in order.
func (c *call) answered(index int, err error) {
	c.flying--
	switch {
	case err != nil && c.err == nil:
		c.err = err
	case err == nil && index == c.durable:
		c.durable++
	}
	c.settle()
}

// alarmed notes the beginning or the end of an alarm. Calls of which nothing is on its way are told at once; the others
// wait, for what is on its way is taken when the alarm clears.
func (s *session) alarmed(b amqp.Blocking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocked = ""
	if b.Active {
		s.blocked = b.Reason
		if s.blocked == "" {
			s.blocked = "no reason given"
		}
		for _, c := range s.calls {
			if c.flying == 0 && c.err == nil {
				c.end(fmt.Errorf("nothing written: %w", s.alarm()))
			}
		}
		for f := range s.flight.all() {
			if f.route.optional && f.call != nil { // a ping has its answer
				f.call.end(s.alarm())
				f.call = nil
			}
		}
	}
	s.wake.Signal()
}
