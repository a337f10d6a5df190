package rabbitqueue

import (
	"fmt"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

const (
	headerKey = "ferry-key" // record.Record.Key

	headerDeliveries = "x-delivery-count" // of quorum queues: deliveries before this one
	headerOffset     = "x-stream-offset"

	// frameMax is the frame that we offer the broker, and RabbitMQ's own.
	frameMax = 128 << 10
	// headerMax is what all properties of a message may weigh: they have to fit one frame (AMQP 0.9.1, 4.2.6.1).
	headerMax = frameMax - 1<<10
	// shortMax is the longest short string (4.2.5.3): names of queues, routing keys, message-id.
	shortMax = 255
)

// checkTopic refuses names that a queue cannot have.
func checkTopic(name string) error {
	switch {
	case name == "":
		return retry.Permanent(fmt.Errorf("%w: a topic has no name", queue.ErrNoTopic))
	case len(name) > shortMax:
		return retry.Permanent(fmt.Errorf("%w: a name of %d bytes is over AMQP's limit of %d", queue.ErrNoTopic, len(name), shortMax))
	case strings.HasPrefix(name, "amq."):
		return retry.Permanent(fmt.Errorf("%w: names with amq. in front belong to the broker", queue.ErrNoTopic))
	}
	return nil
}

// route says where a topic's records are published.
type route struct {
	topic, exchange string
	byKey           bool // the record's key is the routing key
	optional        bool // it need not arrive: a ping
}

func (q *Queue) route(topic string) route {
	r := route{topic: topic}
	if q.cfg.Exchange != "" && !dead(topic) {
		r.exchange, r.byKey = q.cfg.Exchange, q.cfg.KeyRoutes
	}
	return r
}

// nowhere is a route that ends in the broker.
func (q *Queue) nowhere() route { return route{topic: "ferry-ping-" + q.id, optional: true} }

func (r route) key(rec *record.Record) string {
	if r.byKey {
		return rec.Key
	}
	return r.topic
}

// refuse says why a record can never be taken, or nil.
func (q *Queue) refuse(r route, rec *record.Record) error {
	headers := 64 + len(rec.ID)*2 + len(rec.Key) + len(r.topic)
	for _, h := range rec.Headers {
		headers += len(h.Name) + len(h.Value) + 8
		if len(h.Name) > shortMax {
			return retry.Permanent(fmt.Errorf("a header name of %d bytes is over AMQP's limit of %d", len(h.Name), shortMax))
		}
	}
	switch n := rec.Size(); {
	case headers > headerMax:
		return &queue.TooLargeError{Size: headers, Limit: headerMax}
	case n > q.cfg.MaxRecord:
		return &queue.TooLargeError{Size: n, Limit: q.cfg.MaxRecord}
	case r.byKey && len(rec.Key) > shortMax:
		return retry.Permanent(fmt.Errorf("a key of %d bytes cannot be a routing key: AMQP's limit is %d", len(rec.Key), shortMax))
	}
	return nil
}

// encode gives a record as a message that the broker keeps over a restart.
func encode(rec *record.Record, now time.Time) amqp.Publishing {
	headers := make(amqp.Table, len(rec.Headers)+2)
	m := amqp.Publishing{DeliveryMode: amqp.Persistent, AppId: "ferry", Timestamp: now, Body: rec.Data, Headers: headers}
	for _, h := range rec.Headers {
		switch {
		case h.Name == record.HeaderContentType && len(h.Value) <= shortMax:
			m.ContentType = h.Value
		case h.Name == record.HeaderPipeline && len(h.Value) <= shortMax:
			m.Type = h.Value
			headers[h.Name] = h.Value
		default:
			headers[h.Name] = h.Value
		}
	}
	headers[record.HeaderID] = rec.ID
	if len(rec.ID) <= shortMax {
		m.MessageId = rec.ID
	}
	if rec.Key != "" {
		headers[headerKey] = rec.Key
	}
	return m
}

// decode gives a message as a record. Headers come sorted by name: a table has no order.
func decode(m *amqp.Delivery) record.Record {
	r := record.Record{ID: m.MessageId, Data: m.Body}
	if m.ContentType != "" {
		r.Headers = append(r.Headers, record.Header{Name: record.HeaderContentType, Value: m.ContentType})
	}
	for name, value := range m.Headers {
		text, ok := value.(string)
		switch {
		case name == record.HeaderID && ok:
			r.ID = text
		case name == headerKey && ok:
			r.Key = text
		case ofBroker(name):
		case ok:
			r.Headers = append(r.Headers, record.Header{Name: name, Value: text})
		default: // someone else's
			r.Headers = append(r.Headers, record.Header{Name: name, Value: fmt.Sprint(value)})
		}
	}
	slices.SortFunc(r.Headers, func(a, b record.Header) int { return strings.Compare(a.Name, b.Name) })
	return r
}

// ofBroker tells the headers that RabbitMQ adds itself.
func ofBroker(name string) bool {
	switch name {
	case headerDeliveries, headerOffset, "x-acquired-count", "x-death":
		return true
	}
	return strings.HasPrefix(name, "x-first-death-") || strings.HasPrefix(name, "x-last-death-")
}

// attempt counts deliveries of a message, this one included: exactly in a quorum queue, first and later elsewhere.
func attempt(m *amqp.Delivery) int {
	before := 0
	switch n := m.Headers[headerDeliveries].(type) {
	case int64:
		before = int(n)
	case int32:
		before = int(n)
	}
	if m.Redelivered {
		before = max(before, 1)
	}
	return before + 1
}
