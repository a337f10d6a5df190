package rabbitqueue

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// remove deletes a topic's queue behind the adapter's back.
func remove(t testing.TB, q *Queue, topic string) {
	t.Helper()
	r, err := q.reader.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ch, err := r.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	if _, err := ch.(interface {
		QueueDelete(name string, ifUnused, ifEmpty, noWait bool) (int, error)
	}).QueueDelete(topic, false, false, false); err != nil {
		t.Fatal(err)
	}
}

// declare makes a queue with other arguments than the adapter would.
func declare(t testing.TB, q *Queue, topic string, durable bool, args amqp.Table) {
	t.Helper()
	r, err := q.reader.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ch, err := r.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	if _, err := ch.QueueDeclare(topic, durable, false, false, false, args); err != nil {
		t.Fatal(err)
	}
}
