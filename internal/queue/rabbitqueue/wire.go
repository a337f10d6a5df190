package rabbitqueue

import (
	amqp "github.com/rabbitmq/amqp091-go"
)

// connection is what this package needs of an *amqp.Connection.
type connection interface {
	// Channel opens a channel of the connection.
	Channel() (channel, error)
	// NotifyBlocked and NotifyClose as of *amqp.Connection; both channels are closed with the connection.
	NotifyBlocked(chan amqp.Blocking) chan amqp.Blocking
	NotifyClose(chan *amqp.Error) chan *amqp.Error
	// Version of the broker, or "".
	Version() string
	// Hold keeps what is written from now on back until Flush or until a buffer is full: the client flushes after
	// every message, which costs a system call each.
	Hold()
	Flush() error
	// Close says goodbye, within a second or two, and lets go of the socket in any case.
	Close()
}

// channel is what this package needs of an *amqp.Channel.
type channel interface {
	Confirm(noWait bool) error
	NotifyReturn(chan amqp.Return) chan amqp.Return
	NotifyClose(chan *amqp.Error) chan *amqp.Error
	Publish(exchange, key string, mandatory bool, m amqp.Publishing) (confirmation, error)
	IsClosed() bool

	QueueDeclare(name string, durable, autoDelete, exclusive, noWait bool, args amqp.Table) (amqp.Queue, error)
	QueueDeclarePassive(name string, durable, autoDelete, exclusive, noWait bool, args amqp.Table) (amqp.Queue, error)
	ExchangeDeclarePassive(name, kind string, durable, autoDelete, internal, noWait bool, args amqp.Table) error

	Get(queue string, autoAck bool) (amqp.Delivery, bool, error)
	Qos(prefetchCount, prefetchSize int, global bool) error
	Consume(queue, consumer string, autoAck, exclusive, noLocal, noWait bool, args amqp.Table) (<-chan amqp.Delivery, error)
	Cancel(consumer string, noWait bool) error
	Ack(tag uint64, multiple bool) error
	Nack(tag uint64, multiple, requeue bool) error
	Close() error
}

// confirmation is the broker's answer to one message. It is done when the broker has answered, or when the channel is
// closed; then, and when the broker refuses the message, Acked is false.
//
// amqp091 also tells of confirms by NotifyPublish, in order. That must not be used: a message that was refused ahead of
// others before it is told as confirmed when a confirm of several follows that covers those (version 1.16.0).
type confirmation interface {
	Done() <-chan struct{}
	Acked() bool
}

// brokerChannel is channel over the real client.
type brokerChannel struct{ *amqp.Channel }

var _ channel = brokerChannel{}

func (ch brokerChannel) Publish(exchange, key string, mandatory bool, m amqp.Publishing) (confirmation, error) {
	c, err := ch.PublishWithDeferredConfirm(exchange, key, mandatory, false, m)
	if err != nil {
		return nil, err // not a typed nil
	}
	return c, nil
}
