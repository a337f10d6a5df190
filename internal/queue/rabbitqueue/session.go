package rabbitqueue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

const (
	// flightMax and flightBytes bound what is on its way to the broker without a confirm. Confirms of many records at
	// once cost the client a walk over all that are on their way, so more is not faster.
	flightMax   = 1000
	flightBytes = 16 << 20
	// sendMax is how many records are sent between two looks at what else has happened.
	sendMax = 64
)

// session is one connection that publishes, on one channel in confirm mode, from its handshake to its end. Calls
// stand in line; one goroutine sends their records, another hears what the broker says of them. Nothing waits between
// records: all that fit the flight are on their way at once.
type session struct {
	q    *Queue
	conn connection
	ch   channel

	mu      sync.Mutex
	wake    sync.Cond // of the sender: a call, room, the end of an alarm, the end
	calls   []*call   // with records left to send
	flight  flight
	sent    chan confirmation // of what flies, in the same order
	lanes   map[string]*lane
	blocked string // the alarm's reason, while there is one
	heard   int    // answers so far: whether the broker is at work
	silent  bool   // a call gave up because there were none any more,
	// when there had been so many
	silentAt int
	err      error // why the session has ended
	ended    chan struct{}

	done sync.WaitGroup
}

// call is one Publish on its way. The session's lock guards it.
type call struct {
	route   route
	records []record.Record
	sent    int   // so many are sent, or taken over from an earlier call
	flying  int   // of those without an answer
	durable int   // so many from the first on are confirmed
	err     error // the first that was not
	over    bool
	done    chan struct{} // closed when over
}

// lane is a topic's share of the flight. It is the whole flight until the broker refuses a record: then records go
// one by one, and twice as many after each that is taken. A full queue so gets few records behind one that it
// refused, which would be there before it.
type lane struct{ width, flying int }

func (q *Queue) newSession(ctx context.Context) (*session, error) {
	conn, err := q.dial(ctx, "publisher")
	if err != nil {
		return nil, q.mapError("connect to RabbitMQ", err)
	}
	ch, err := roundTrip(ctx, q, conn, func() (channel, error) {
		ch, err := conn.Channel()
		if err != nil {
			return nil, err
		}
		return ch, ch.Confirm(false)
	}, nil)
	if err != nil {
		conn.Close()
		return nil, q.mapError("open a channel in RabbitMQ", err)
	}
	s := &session{q: q, conn: conn, ch: ch, lanes: make(map[string]*lane), sent: make(chan confirmation, flightMax), ended: make(chan struct{})}
	s.wake.L = &s.mu
	// A return comes before the confirm of the same record. It is handed over without a buffer, so it has been dealt
	// with before the client reads on, and the confirm cannot overtake it.
	heard := hearing{
		returns: ch.NotifyReturn(make(chan amqp.Return)),
		alarms:  conn.NotifyBlocked(make(chan amqp.Blocking, 1)),
		closed:  ch.NotifyClose(make(chan *amqp.Error, 1)),
	}
	s.done.Add(2)
	go func() { defer s.done.Done(); s.send() }()
	go func() { defer s.done.Done(); s.hear(heard) }()
	return s, nil
}

func (s *session) lives() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil
}

// close ends the session and waits for its goroutines.
func (s *session) close() {
	s.fail(queue.ErrClosed)
	s.done.Wait()
}

// publish hands a call over and waits until all its records are durable, one of them cannot be, or the context ends.
// It gives up by itself when the broker has confirmed nothing at all for the configured time.
func (s *session) publish(ctx context.Context, c *call) error {
	if ctx.Err() != nil {
		return fmt.Errorf("nothing written: %w", context.Cause(ctx))
	}
	c.done = make(chan struct{})
	last, err := s.begin(c)
	if err != nil {
		return err
	}
	silent := time.NewTimer(s.q.cfg.Timeout)
	defer silent.Stop()
	for {
		select {
		case <-c.done:
			return c.err
		case <-ctx.Done():
			return s.giveUp(c, context.Cause(ctx))
		case <-silent.C:
			now, alarm := s.progress()
			if now == last {
				if alarm == nil {
					alarm = fmt.Errorf("%w: no confirm for %s", queue.ErrUnavailable, s.q.cfg.Timeout)
					if s.deaf(now) {
						s.fail(alarm)
					}
				}
				return s.giveUp(c, alarm)
			}
			last = now
			silent.Reset(s.q.cfg.Timeout)
		}
	}
}

// deaf tells that the broker has said nothing since the last time that this was asked, on a stream. There a channel can
// have lost the stream's leader for good, after a crash of the broker; a new one finds it. With queues a new channel would
// help nothing, and publish again what is only late.
func (s *session) deaf(heard int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.silent && s.silentAt == heard
	s.silent, s.silentAt = true, heard
	return again && s.q.cfg.Type == typeStream
}

func (s *session) progress() (heard int, alarm error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard, s.alarm()
}

// begin puts a call in line, unless the broker takes nothing now.
func (s *session) begin(c *call) (heard int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	if err := s.alarm(); err != nil {
		return 0, err
	}
	s.takeOver(c)
	if c.sent < len(c.records) {
		s.calls = append(s.calls, c)
	}
	c.settle()
	s.wake.Signal()
	return s.heard, nil
}

// alarm is why the broker blocks this connection, or nil.
func (s *session) alarm() error {
	if s.blocked == "" {
		return nil
	}
	return fmt.Errorf("%w: RabbitMQ takes no records until its alarm clears: %s", queue.ErrFull, s.blocked)
}

func (s *session) blockedError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alarm()
}

// giveUp leaves a call alone. Its records on their way become orphans, which a further try finds again.
func (s *session) giveUp(c *call, why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.over {
		return c.err
	}
	outcome := "nothing written"
	if c.flying > 0 {
		outcome = "outcome unknown"
		s.flight.orphan(c, &s.q.orphans)
	} else if c.durable > 0 {
		outcome = "stopped"
	}
	c.end(fmt.Errorf("%s: %w", outcome, why))
	return c.err
}

// end is final; the lock is held.
func (c *call) end(err error) {
	if !c.over {
		c.over, c.err = true, err
		close(c.done)
	}
}

// settle ends a call when nothing more can come.
func (c *call) settle() {
	if c.flying == 0 && (c.err != nil || c.durable == len(c.records)) {
		c.end(c.err)
	}
}

// fail ends the session: everything under way has an unknown outcome.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	for _, c := range s.calls {
		if c.flying == 0 {
			c.end(fmt.Errorf("nothing written: %w", err))
		}
	}
	for f := range s.flight.all() {
		if f.call != nil {
			f.call.end(fmt.Errorf("outcome unknown: %w", err))
		} else {
			s.q.orphans.lost(f.route.topic, f.id)
		}
	}
	s.calls, s.flight = nil, flight{}
	close(s.ended)
	s.wake.Broadcast()
}

// send sends what stands in line, as fast as the flight and the broker let it.
func (s *session) send() {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := false
	for s.err == nil {
		c, n := s.next()
		if n == 0 && !held {
			s.wake.Wait()
			continue
		}
		if n == 0 {
			held = false
			s.mu.Unlock()
			err := s.conn.Flush()
			s.mu.Lock()
			if err != nil {
				s.failUnlocked(err)
			}
			continue
		}
		batch := c.records[c.sent : c.sent+n]
		for i := range batch { // before they are sent, for the answer may be faster than what follows
			s.flight.push(flying{call: c, index: c.sent + i, id: batch[i].ID, route: c.route, size: batch[i].Size()})
		}
		c.sent += n
		c.flying += n
		s.lane(c.route).flying += n
		s.mu.Unlock()
		if !held {
			held = true
			s.conn.Hold()
		}
		err := s.sendBatch(c.route, batch)
		s.mu.Lock()
		switch {
		case errors.Is(err, amqp.ErrClosed): // why it was closed is told to hear
			for s.err == nil {
				s.wake.Wait()
			}
		case err != nil:
			s.failUnlocked(err)
		}
	}
}

func (s *session) failUnlocked(err error) {
	s.mu.Unlock()
	s.fail(s.q.mapError("publish", err))
	s.mu.Lock()
}

func (s *session) sendBatch(r route, batch []record.Record) error {
	now := time.Now()
	for i := range batch {
		m := encode(&batch[i], now)
		if r.optional {
			m.DeliveryMode = amqp.Transient
		}
		c, err := s.ch.Publish(r.exchange, r.key(&batch[i]), !r.optional, m)
		if err != nil {
			return err
		}
		s.sent <- c // has room for all that may fly
	}
	return nil
}

// next is the first call in line with records that may be sent, and how many.
func (s *session) next() (*call, int) {
	room := flightMax - s.flight.len()
	for i := 0; i < len(s.calls); i++ {
		c := s.calls[i]
		if c.over || c.err != nil || c.sent == len(c.records) {
			s.calls = append(s.calls[:i], s.calls[i+1:]...)
			i--
			continue
		}
		if s.blocked != "" || room <= 0 {
			return nil, 0
		}
		l := s.lane(c.route)
		most := min(len(c.records)-c.sent, room, l.width-l.flying, sendMax)
		n, bytes := 0, s.flight.bytes
		for n < most {
			size := c.records[c.sent+n].Size()
			if bytes+size > flightBytes && bytes > 0 {
				break
			}
			bytes += size
			n++
		}
		if n > 0 {
			return c, n
		}
	}
	return nil, 0
}

func (s *session) lane(r route) *lane {
	l := s.lanes[r.topic]
	if l == nil {
		l = &lane{width: flightMax}
		s.lanes[r.topic] = l
	}
	return l
}

// errNacked is all that a negative confirm says.
var errNacked = errors.New("the broker refused the record: the queue is at its limit, or too few of its nodes are up")

// noTopic explains a returned record.
func (r route) noTopic(said amqp.Return) error {
	fix := "declare the queue, or let ferry do it with create=true in the queue's URL"
	if r.exchange != "" {
		fix = fmt.Sprintf("bind a queue to exchange %s for this routing key", r.exchange)
	}
	return retry.Permanent(fmt.Errorf("%w: RabbitMQ returned a record with routing key %q (%s): %s",
		queue.ErrNoTopic, said.RoutingKey, said.ReplyText, fix))
}
