package rabbitqueue

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// Prepare implements queue.Preparer. A queue that is there is asked what it was declared with, and refused when it
// could lose records by that: not durable, exclusive, deleted with its last consumer, dropping its oldest at a limit,
// or letting records expire. Two things cannot be seen by AMQP 0.9.1: what a policy of the broker adds to a queue, and
// anything where the login has no right to configure.
func (q *Queue) Prepare(ctx context.Context, topics ...string) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	var errs []error
	for _, topic := range topics {
		if err := checkTopic(queue.DeadTopic(topic)); err != nil {
			errs = append(errs, fmt.Errorf("prepare %s: %w", topic, err))
			continue
		}
		names := []string{topic, queue.DeadTopic(topic)}
		if q.cfg.Exchange != "" {
			names = names[1:] // what takes the records behind an exchange is not ferry's business
		}
		for _, name := range names {
			if err := q.prepare(ctx, name); err != nil {
				if !retry.IsPermanent(err) {
					return fmt.Errorf("prepare %s: %w", name, err) // it would be the same with the others
				}
				errs = append(errs, fmt.Errorf("prepare %s: %w", name, err))
			}
		}
	}
	if q.cfg.Exchange != "" {
		if err := q.findExchange(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (q *Queue) prepare(ctx context.Context, name string) error {
	_, err := q.inspect(ctx, name)
	switch {
	case err == nil:
		if err := q.examine(ctx, name); err != nil {
			return err
		}
		q.know(name)
		return nil
	case !errors.Is(err, queue.ErrNoTopic):
		return err
	case !q.cfg.Create:
		return retry.Permanent(fmt.Errorf("%w: declare queue %s as durable (x-queue-type: %s), or add create=true to the queue's URL", queue.ErrNoTopic, name, q.cfg.Type))
	}
	return q.ensure(ctx, name)
}

// ensure makes a topic and its dead letters before the first publish to it, when the URL allows that. Otherwise the
// broker's return of the first record tells.
func (q *Queue) ensure(ctx context.Context, topic string) error {
	if !q.cfg.Create {
		return nil
	}
	var names []string
	if q.cfg.Exchange == "" || dead(topic) {
		names = append(names, topic)
	}
	if !dead(topic) {
		names = append(names, queue.DeadTopic(topic))
	}
	if q.knows(names...) {
		return nil
	}
	select { // many may come at once to a new topic
	case q.making <- struct{}{}:
		defer func() { <-q.making }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, name := range names {
		if q.knows(name) {
			continue
		}
		_, err := q.inspect(ctx, name)
		if errors.Is(err, queue.ErrNoTopic) {
			err = q.declare(ctx, name)
		}
		if err == nil && q.cfg.Type == typeStream {
			err = q.awaitStream(ctx, name)
		}
		if err != nil {
			return err
		}
		q.know(name)
	}
	return nil
}

// awaitStream waits until a stream can be written. One that was made a moment ago, here or on another instance, is found
// before it has a leader: RabbitMQ 3.10 then closes the connection of who publishes to it.
func (q *Queue) awaitStream(ctx context.Context, name string) error {
	return retry.Do(ctx, retry.Policy{Retries: 6, Base: 50 * time.Millisecond}, func(ctx context.Context) error {
		return q.onStream(ctx, name, func(s *streamReader) error { return s.c.declarePublisher(0, "", name) })
	})
}

func (q *Queue) knows(topics ...string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, topic := range topics {
		if !q.topics[topic] {
			return false
		}
	}
	return true
}

func (q *Queue) know(topic string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.topics[topic] = true
}

// wrote remembers a topic, for Topics.
func (q *Queue) wrote(topic string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.topics[topic] {
		q.topics[topic] = false
	}
}

// forget makes ensure look again: somebody has deleted the queue.
func (q *Queue) forget(topic string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.topics, topic)
}

// arguments of a queue that ferry declares.
func (q *Queue) arguments() amqp.Table {
	args := amqp.Table{"x-queue-type": q.cfg.Type}
	if q.cfg.MaxBytes > 0 {
		args["x-max-length-bytes"] = q.cfg.MaxBytes
	}
	switch q.cfg.Type {
	case typeStream:
		if q.cfg.MaxAge > 0 {
			args["x-max-age"] = strconv.FormatInt(int64(q.cfg.MaxAge.Seconds()), 10) + "s"
		}
		return args
	case typeQuorum:
		// From RabbitMQ 4 on a record given back 20 times is dropped unless the queue says otherwise.
		if major(q.info.Server) >= 4 {
			args["x-delivery-limit"] = -1
		}
	}
	if q.cfg.MaxLength > 0 {
		args["x-max-length"] = int64(q.cfg.MaxLength)
	}
	if q.cfg.MaxLength > 0 || q.cfg.MaxBytes > 0 {
		args["x-overflow"] = "reject-publish" // the default drops the oldest record
	}
	return args
}

func (q *Queue) declare(ctx context.Context, name string) error {
	_, err := aside(ctx, q, "declare queue "+name, func(ch channel) (amqp.Queue, error) {
		return ch.QueueDeclare(name, true, false, false, false, q.arguments())
	})
	return err
}

// inspect counts the records of a queue that nobody has received; a missing queue is queue.ErrNoTopic.
func (q *Queue) inspect(ctx context.Context, name string) (amqp.Queue, error) {
	found, err := aside(ctx, q, "look for queue "+name, func(ch channel) (amqp.Queue, error) {
		return ch.QueueDeclarePassive(name, true, false, false, false, nil)
	})
	if errors.Is(err, queue.ErrNoTopic) {
		q.forget(name)
	}
	return found, err
}

func (q *Queue) findExchange(ctx context.Context) error {
	_, err := aside(ctx, q, "look for exchange "+q.cfg.Exchange, func(ch channel) (struct{}, error) {
		return struct{}{}, ch.ExchangeDeclarePassive(q.cfg.Exchange, "topic", true, false, false, false, nil)
	})
	if errors.Is(err, queue.ErrNoTopic) {
		return fmt.Errorf("%w: declare the exchange and bind queues to it; ferry makes none", err)
	}
	return err
}

// aside asks the broker something on a channel of its own, for an error closes the channel.
func aside[T any](ctx context.Context, q *Queue, what string, f func(channel) (T, error)) (T, error) {
	var none T
	r, err := q.reader.get(ctx)
	if err != nil {
		return none, err
	}
	value, err := roundTrip(ctx, q, r.conn, func() (T, error) {
		ch, err := r.conn.Channel()
		if err != nil {
			return none, err
		}
		value, err := f(ch)
		if err != nil {
			return none, err // the broker has closed the channel
		}
		return value, ch.Close()
	}, nil)
	return value, q.mapError(what, err)
}

// inequivalent is RabbitMQ's answer to a declaration that differs from the queue's.
var inequivalent = regexp.MustCompile(`inequivalent arg '([^']+)' for queue .*(?:current is the value '([^']*)' of type '([^']*)'|current is (?:'([^']*)'|none|(\w+)))`)

// examine finds out what a queue was declared with. AMQP has no question for that, but a declaration that differs is
// refused with the first difference named, and changes nothing; so examine declares, learns, and declares again. The
// type that it declares does not exist, so that not even a queue deleted meanwhile can be made by it.
func (q *Queue) examine(ctx context.Context, name string) error {
	durable, autoDelete, exclusive := true, false, false
	args := amqp.Table{"x-queue-type": "none of them"}
	found := map[string]string{}
	for range 16 { // there are not that many
		_, err := aside(ctx, q, "examine queue "+name, func(ch channel) (amqp.Queue, error) {
			return ch.QueueDeclare(name, durable, autoDelete, exclusive, false, args)
		})
		var said *amqp.Error
		switch {
		case err == nil:
			return q.judge(name, found)
		case !errors.As(err, &said):
			return err
		case said.Code == amqp.ResourceLocked:
			return retry.Permanent(fmt.Errorf("queue %s is exclusive: it belongs to another connection, and goes with it", name))
		case said.Code != amqp.PreconditionFailed:
			return nil // not ours to see
		}
		m := inequivalent.FindStringSubmatch(said.Reason)
		if m == nil {
			return q.judge(name, found) // the type that does not exist, or an answer of a newer broker
		}
		arg, value := m[1], m[2]+m[4]+m[5]
		found[arg] = value
		switch {
		case arg == "durable":
			durable = value == "true"
		case arg == "auto_delete":
			autoDelete = value == "true"
		case arg == "exclusive":
			exclusive = value == "true"
		case arg == "x-queue-type":
			args[arg] = value
		case value == "":
			delete(args, arg)
		default:
			args[arg] = typed(value, m[3])
		}
	}
	return q.judge(name, found)
}

func typed(value, kind string) any {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil && kind != "longstr" {
		return n
	}
	return value
}

// judge refuses a queue that could lose a confirmed record.
func (q *Queue) judge(name string, found map[string]string) error {
	var why []string
	if found["durable"] == "false" {
		why = append(why, "it is not durable")
	}
	if found["auto_delete"] == "true" {
		why = append(why, "it is deleted with its last consumer (auto-delete)")
	}
	if found["exclusive"] == "true" {
		why = append(why, "it is exclusive")
	}
	if found["x-queue-type"] != typeStream {
		limited := found["x-max-length"] != "" || found["x-max-length-bytes"] != ""
		if limited && !strings.HasPrefix(found["x-overflow"], "reject-publish") {
			why = append(why, "at its limit it drops the oldest record (x-overflow is not reject-publish)")
		}
		if found["x-message-ttl"] != "" {
			why = append(why, "its records expire (x-message-ttl)")
		}
	}
	if found["x-expires"] != "" {
		why = append(why, "it is deleted when nobody uses it for a while (x-expires)")
	}
	if (q.cfg.Type == typeStream) != (found["x-queue-type"] == typeStream) && found["x-queue-type"] != "" {
		why = append(why, fmt.Sprintf("it is of type %s, and the queue's URL says %s", found["x-queue-type"], q.cfg.Type))
	}
	if len(why) == 0 {
		return nil
	}
	slices.Sort(why)
	return retry.Permanent(fmt.Errorf("queue %s cannot keep what is confirmed: %s; declare it anew without that", name, strings.Join(why, ", and ")))
}
