package rabbitqueue

import (
	"fmt"
	"maps"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"
)

// fakeChannel is channel. The broker's lock guards what is not said to be its connection's.
type fakeChannel struct {
	c *fakeConn
	b *fakeBroker

	unsettled map[*fakeConfirm]bool // under the connection's lock
	returns   chan amqp.Return
	closes    chan *amqp.Error
	over      bool // under the connection's lock

	tag       uint64
	dead      bool
	prefetch  int
	consumers map[string]*fakeConsumer
}

func (ch *fakeChannel) closed(why *amqp.Error) {
	if ch.closes != nil && !ch.over {
		ch.closes <- why
	}
}

func (ch *fakeChannel) closeListeners() {
	if ch.over {
		return
	}
	ch.over = true
	if ch.returns != nil {
		close(ch.returns)
	}
	for c := range ch.unsettled {
		close(c.done)
	}
	if ch.closes != nil {
		close(ch.closes)
	}
}

// refuse closes the channel, as RabbitMQ does for every error. The broker's lock is held.
func (ch *fakeChannel) refuse(code int, format string, args ...any) error {
	err := &amqp.Error{Code: code, Reason: fmt.Sprintf(format, args...), Server: true}
	ch.release()
	return err
}

// release gives back what the channel has. The broker's lock is held.
func (ch *fakeChannel) release() {
	if ch.dead {
		return
	}
	ch.dead = true
	for _, q := range ch.b.queues {
		for _, m := range q.messages {
			if m.owner == ch {
				m.owner = nil
			}
		}
		q.consumers = slices.DeleteFunc(q.consumers, func(c *fakeConsumer) bool { return c.ch == ch })
	}
	for _, c := range ch.consumers {
		close(c.out)
	}
	ch.consumers = nil
	for _, q := range ch.b.queues {
		q.deliver()
	}
}

func (ch *fakeChannel) Confirm(bool) error { return nil }

// fakeConfirm is confirmation.
type fakeConfirm struct {
	ack  bool
	done chan struct{}
}

func (c *fakeConfirm) Done() <-chan struct{} { return c.done }
func (c *fakeConfirm) Acked() bool {
	select {
	case <-c.done:
		return c.ack
	default:
		return false
	}
}

// confirm settles a message; it is told in order with everything else.
func (ch *fakeChannel) confirm(c *fakeConfirm, ack bool) {
	ch.c.say(func() {
		ch.c.mu.Lock()
		defer ch.c.mu.Unlock()
		if ch.unsettled[c] {
			delete(ch.unsettled, c)
			c.ack = ack
			close(c.done)
		}
	})
}

func (ch *fakeChannel) IsClosed() bool {
	ch.c.mu.Lock()
	defer ch.c.mu.Unlock()
	return ch.c.gone || ch.over
}

func (ch *fakeChannel) NotifyReturn(l chan amqp.Return) chan amqp.Return { ch.returns = l; return l }
func (ch *fakeChannel) NotifyClose(l chan *amqp.Error) chan *amqp.Error  { ch.closes = l; return l }

// lock takes the broker's lock, unless the channel has died.
func (ch *fakeChannel) lock() error {
	ch.c.mu.Lock()
	gone := ch.c.gone
	ch.c.mu.Unlock()
	ch.b.mu.Lock()
	if gone || ch.dead {
		ch.b.mu.Unlock()
		return amqp.ErrClosed
	}
	return nil
}

func (ch *fakeChannel) Publish(exchange, key string, mandatory bool, m amqp.Publishing) (confirmation, error) {
	if err := ch.lock(); err != nil {
		return nil, err
	}
	defer ch.b.mu.Unlock()
	c := &fakeConfirm{done: make(chan struct{})}
	ch.c.mu.Lock()
	if ch.unsettled == nil {
		ch.unsettled = make(map[*fakeConfirm]bool)
	}
	ch.unsettled[c] = true
	if ch.over {
		close(c.done)
	}
	ch.c.mu.Unlock()
	arrive := func() { ch.arrive(c, exchange, key, mandatory, m) }
	if ch.b.alarm != "" {
		if !ch.c.blocked {
			ch.c.blocked = true
			reason := ch.b.alarm
			ch.c.say(func() { ch.c.alarms <- amqp.Blocking{Active: true, Reason: reason} })
		}
		ch.c.waiting = append(ch.c.waiting, arrive)
		return c, nil
	}
	arrive()
	return c, nil
}

// arrive is a message's arrival in the broker, whose lock is held.
func (ch *fakeChannel) arrive(c *fakeConfirm, exchange, key string, mandatory bool, m amqp.Publishing) {
	if ch.dead {
		return
	}
	ch.b.published++
	v := keep
	if ch.b.verdict != nil {
		v = ch.b.verdict(ch.b.published, m)
	}
	confirm := func(ack bool) { ch.confirm(c, ack) }
	q := ch.b.queues[key]
	switch {
	case v == cutBefore:
		go ch.c.end(&amqp.Error{Code: 501, Reason: "reset"})
		ch.release()
		return
	case q == nil || exchange != "":
		if mandatory {
			r := amqp.Return{ReplyCode: 312, ReplyText: "NO_ROUTE", Exchange: exchange, RoutingKey: key, Headers: m.Headers, MessageId: m.MessageId}
			ch.c.say(func() { ch.returns <- r })
		}
		confirm(true)
		return
	case v == nack, q.full():
		confirm(false)
		return
	}
	m.Body = slices.Clone(m.Body)
	if q.args["x-queue-type"] == typeStream {
		r := decode(&amqp.Delivery{Headers: m.Headers, MessageId: m.MessageId, ContentType: m.ContentType, Body: m.Body})
		ch.b.streamed(q.name, r)
		confirm(true)
		return
	}
	q.messages = append(q.messages, &fakeMessage{Publishing: m})
	q.deliver()
	switch v {
	case keep:
		confirm(true)
	case cutAfter:
		go ch.c.end(&amqp.Error{Code: 501, Reason: "reset"})
		ch.release()
	}
}

func (q *fakeQueue) full() bool {
	limit, _ := q.args["x-max-length"].(int64)
	return limit > 0 && int64(q.ready()) >= limit
}

func (q *fakeQueue) ready() int {
	n := 0
	for _, m := range q.messages {
		if m.owner == nil {
			n++
		}
	}
	return n
}

// next hands the oldest free message to a channel.
func (q *fakeQueue) next(ch *fakeChannel, consumer string) (amqp.Delivery, bool) {
	for _, m := range q.messages {
		if m.owner != nil {
			continue
		}
		ch.tag++
		m.owner, m.tag = ch, ch.tag
		headers := maps.Clone(m.Headers)
		if m.deliveries > 0 {
			headers[headerDeliveries] = int64(m.deliveries)
		}
		m.deliveries++
		return amqp.Delivery{
			Headers: headers, ContentType: m.ContentType, DeliveryMode: m.DeliveryMode, MessageId: m.MessageId, Type: m.Type,
			Timestamp: m.Timestamp, DeliveryTag: ch.tag, Redelivered: m.deliveries > 1, Body: m.Body, ConsumerTag: consumer,
		}, true
	}
	return amqp.Delivery{}, false
}

func (q *fakeQueue) deliver() {
	for _, c := range q.consumers {
		for c.has < c.limit {
			m, ok := q.next(c.ch, c.tag)
			if !ok {
				return
			}
			c.has++
			c.out <- m // has room for its limit
		}
	}
}

func (ch *fakeChannel) QueueDeclare(name string, durable, _, _, _ bool, args amqp.Table) (amqp.Queue, error) {
	if err := ch.lock(); err != nil {
		return amqp.Queue{}, err
	}
	defer ch.b.mu.Unlock()
	q := ch.b.queues[name]
	if q == nil {
		if args["x-queue-type"] == "none of them" {
			return amqp.Queue{}, ch.refuse(amqp.PreconditionFailed, "PRECONDITION_FAILED - invalid arg 'x-queue-type'")
		}
		q = &fakeQueue{name: name, durable: durable, args: args}
		ch.b.queues[name] = q
	}
	differs := func(arg, was, is string) error {
		return ch.refuse(amqp.PreconditionFailed, "PRECONDITION_FAILED - inequivalent arg '%s' for queue '%s' in vhost '/': received %s but current is %s", arg, name, was, is)
	}
	if q.durable != durable {
		return amqp.Queue{}, differs("durable", fmt.Sprintf("'%t'", durable), fmt.Sprintf("'%t'", q.durable))
	}
	all := maps.Clone(args)
	maps.Copy(all, q.args)
	for _, arg := range slices.Backward(slices.Sorted(maps.Keys(all))) { // the type last but for its name
		if fmt.Sprint(args[arg]) == fmt.Sprint(q.args[arg]) {
			continue
		}
		switch is := q.args[arg].(type) {
		case nil:
			return amqp.Queue{}, differs(arg, fmt.Sprintf("'%v'", args[arg]), "none")
		case string:
			return amqp.Queue{}, differs(arg, "none", fmt.Sprintf("the value '%s' of type 'longstr'", is))
		default:
			return amqp.Queue{}, differs(arg, "none", fmt.Sprintf("the value '%v' of type 'signedint'", is))
		}
	}
	return amqp.Queue{Name: name, Messages: q.ready()}, nil
}

func (ch *fakeChannel) find(name string) (*fakeQueue, error) {
	if q := ch.b.queues[name]; q != nil {
		return q, nil
	}
	return nil, ch.refuse(amqp.NotFound, "NOT_FOUND - no queue '%s' in vhost '/'", name)
}

func (ch *fakeChannel) QueueDeclarePassive(name string, _, _, _, _ bool, _ amqp.Table) (amqp.Queue, error) {
	if err := ch.lock(); err != nil {
		return amqp.Queue{}, err
	}
	defer ch.b.mu.Unlock()
	q, err := ch.find(name)
	if err != nil {
		return amqp.Queue{}, err
	}
	return amqp.Queue{Name: name, Messages: q.ready()}, nil
}

func (ch *fakeChannel) QueueDelete(name string, _, _, _ bool) (int, error) {
	ch.b.mu.Lock()
	defer ch.b.mu.Unlock()
	delete(ch.b.queues, name)
	return 0, nil
}

func (ch *fakeChannel) ExchangeDeclarePassive(name, _ string, _, _, _, _ bool, _ amqp.Table) error {
	if err := ch.lock(); err != nil {
		return err
	}
	defer ch.b.mu.Unlock()
	if !ch.b.exchanges[name] {
		return ch.refuse(amqp.NotFound, "NOT_FOUND - no exchange '%s' in vhost '/'", name)
	}
	return nil
}

func (ch *fakeChannel) Get(name string, _ bool) (amqp.Delivery, bool, error) {
	ch.b.mu.Lock()
	before := ch.b.beforeGet
	ch.b.mu.Unlock()
	if before != nil {
		before()
	}
	if err := ch.lock(); err != nil {
		return amqp.Delivery{}, false, err
	}
	defer ch.b.mu.Unlock()
	q, err := ch.find(name)
	if err != nil {
		return amqp.Delivery{}, false, err
	}
	m, ok := q.next(ch, "")
	return m, ok, nil
}

func (ch *fakeChannel) Qos(n, _ int, _ bool) error {
	if err := ch.lock(); err != nil {
		return err
	}
	defer ch.b.mu.Unlock()
	ch.prefetch = n
	return nil
}

func (ch *fakeChannel) Consume(name, tag string, _, _, _, _ bool, _ amqp.Table) (<-chan amqp.Delivery, error) {
	if err := ch.lock(); err != nil {
		return nil, err
	}
	defer ch.b.mu.Unlock()
	q, err := ch.find(name)
	if err != nil {
		return nil, err
	}
	c := &fakeConsumer{ch: ch, tag: tag, limit: ch.prefetch, out: make(chan amqp.Delivery, ch.prefetch)}
	q.consumers = append(q.consumers, c)
	if ch.consumers == nil {
		ch.consumers = make(map[string]*fakeConsumer)
	}
	ch.consumers[tag] = c
	q.deliver()
	return c.out, nil
}

func (ch *fakeChannel) Cancel(tag string, _ bool) error {
	if err := ch.lock(); err != nil {
		return err
	}
	defer ch.b.mu.Unlock()
	c := ch.consumers[tag]
	delete(ch.consumers, tag)
	for _, q := range ch.b.queues {
		q.consumers = slices.DeleteFunc(q.consumers, func(one *fakeConsumer) bool { return one == c })
	}
	close(c.out)
	return nil
}

func (ch *fakeChannel) Ack(tag uint64, _ bool) error {
	if err := ch.lock(); err != nil {
		return err
	}
	defer ch.b.mu.Unlock()
	for _, q := range ch.b.queues {
		q.messages = slices.DeleteFunc(q.messages, func(m *fakeMessage) bool { return m.owner == ch && m.tag == tag })
	}
	return nil
}

func (ch *fakeChannel) Nack(tag uint64, _, _ bool) error {
	if err := ch.lock(); err != nil {
		return err
	}
	defer ch.b.mu.Unlock()
	for _, q := range ch.b.queues {
		for _, m := range q.messages {
			if m.owner == ch && m.tag == tag {
				m.owner = nil
			}
		}
		q.deliver()
	}
	return nil
}

func (ch *fakeChannel) Close() error {
	if err := ch.lock(); err != nil {
		return nil
	}
	defer ch.b.mu.Unlock()
	ch.release()
	return nil
}
