package rabbitqueue

import (
	"context"
	"errors"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/record"
)

// fakeBroker is as much of RabbitMQ as this package uses, in memory: queues with limits, confirms, returns, alarms,
// redelivery. It proves nothing about RabbitMQ; it lets the package's own logic be tested at every moment.
type fakeBroker struct {
	mu        sync.Mutex
	down      bool
	alarm     string // not empty: publishers are blocked
	queues    map[string]*fakeQueue
	exchanges map[string]bool
	conns     []*fakeConn
	published int

	// verdict, when not nil, decides on the n-th message published, from 1.
	verdict func(n int, m amqp.Publishing) verdict
	// beforeGet, when not nil, runs before a message is handed out.
	beforeGet func()
	// streamed takes what is published to streams.
	streamed func(stream string, r record.Record)
}

// verdict is what happens to a message that is published.
type verdict int

const (
	keep       verdict = iota
	nack               // refuse it
	loseAnswer         // store it and never say so
	cutBefore          // break the connection before it is stored
	cutAfter           // break the connection after it is stored, before the confirm
)

type fakeQueue struct {
	name      string
	durable   bool
	args      amqp.Table
	messages  []*fakeMessage // in order; also those that are delivered
	consumers []*fakeConsumer
}

type fakeMessage struct {
	amqp.Publishing
	owner      *fakeChannel // who has it now
	tag        uint64
	deliveries int
}

type fakeConsumer struct {
	ch    *fakeChannel
	tag   string
	limit int
	out   chan amqp.Delivery
	has   int
}

func newFakeBroker() *fakeBroker {
	return &fakeBroker{queues: make(map[string]*fakeQueue), exchanges: make(map[string]bool)}
}

func (b *fakeBroker) config() Config { return Config{Create: true, connect: b.connect} }

func (b *fakeBroker) connect(ctx context.Context, role string) (connection, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if b.down {
		return nil, errors.New("connection refused")
	}
	c := &fakeConn{b: b, role: role}
	c.wake.L = &c.mu
	b.conns = append(b.conns, c)
	go c.tell()
	return c, nil
}

// cut breaks every connection; with down it stays so.
func (b *fakeBroker) cut(down bool) {
	b.mu.Lock()
	b.down = down
	conns := b.conns
	b.conns = nil
	b.mu.Unlock()
	for _, c := range conns {
		c.end(&amqp.Error{Code: 320, Reason: "CONNECTION_FORCED - broker stops", Server: true})
	}
}

// setAlarm begins an alarm, or ends it and takes what has come meanwhile.
func (b *fakeBroker) setAlarm(reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.alarm = reason
	for _, c := range b.conns {
		if reason == "" && c.blocked {
			c.blocked = false
			c.say(func() { c.alarms <- amqp.Blocking{} })
			waiting := c.waiting
			c.waiting = nil
			for _, f := range waiting {
				f()
			}
		}
	}
}

func (b *fakeBroker) ids(topic string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []string
	if q := b.queues[topic]; q != nil {
		for _, m := range q.messages {
			ids = append(ids, m.MessageId)
		}
	}
	return ids
}

// fakeConn is connection. Its goroutine tells the client things in order, as the client's own reader does.
type fakeConn struct {
	b    *fakeBroker
	role string

	mu       sync.Mutex
	wake     sync.Cond
	things   []func()
	gone     bool
	channels []*fakeChannel
	alarms   chan amqp.Blocking
	closes   []chan *amqp.Error

	blocked bool     // under the broker's lock
	waiting []func() // published while blocked
}

func (c *fakeConn) say(f func()) {
	c.mu.Lock()
	c.things = append(c.things, f)
	c.mu.Unlock()
	c.wake.Signal()
}

func (c *fakeConn) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.things) == 0 && !c.gone {
			c.wake.Wait()
		}
		if c.gone {
			for _, ch := range c.channels {
				ch.closeListeners()
			}
			if c.alarms != nil {
				close(c.alarms)
			}
			for _, l := range c.closes {
				close(l)
			}
			return
		}
		f := c.things[0]
		c.things = c.things[1:]
		c.mu.Unlock()
		f()
		c.mu.Lock()
	}
}

func (c *fakeConn) end(why *amqp.Error) {
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return
	}
	c.gone = true
	if why != nil {
		for _, l := range c.closes {
			l <- why
		}
		for _, ch := range c.channels {
			ch.closed(why)
		}
	}
	channels := c.channels
	c.mu.Unlock()
	c.wake.Signal()
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	for _, ch := range channels {
		ch.release()
	}
}

func (c *fakeConn) Close()          { c.end(nil) }
func (c *fakeConn) Hold()           {}
func (c *fakeConn) Flush() error    { return nil }
func (c *fakeConn) Version() string { return "4.0.0-fake" }

func (c *fakeConn) NotifyBlocked(l chan amqp.Blocking) chan amqp.Blocking { c.alarms = l; return l }
func (c *fakeConn) NotifyClose(l chan *amqp.Error) chan *amqp.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closes = append(c.closes, l)
	return l
}

func (c *fakeConn) Channel() (channel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil, amqp.ErrClosed
	}
	ch := &fakeChannel{c: c, b: c.b}
	c.channels = append(c.channels, ch)
	return ch, nil
}
