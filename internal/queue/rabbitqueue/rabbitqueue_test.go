package rabbitqueue

import (
	"context"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const redelivery = 400 * time.Millisecond

// address is a broker's URL from the environment, or the test is skipped.
func address(t testing.TB, name string) string {
	t.Helper()
	u := os.Getenv(name)
	if u == "" {
		t.Skipf(`%s is not set: start the broker with scripts/brokers up rabbitmq; eval "$(scripts/brokers env)"`, name)
	}
	return u
}

func parse(t testing.TB, u string) Config {
	t.Helper()
	c, err := ParseURL(config.URL(u))
	if err != nil {
		t.Fatal(err)
	}
	c.Create = true
	return c
}

func open(t testing.TB, c Config) *Queue {
	t.Helper()
	q, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return q
}

// restart stops the broker's application and starts it again: every connection is closed, and what is not durable gone.
func restart(t testing.TB) {
	ctl(t, "stop_app")
	ctl(t, "start_app")
}

// lacks is what RabbitMQ's queues cannot do by their nature.
var lacks = queuetest.Lacks{
	Browse: true, // a look would be a delivery, and change the order
	Travel: true, // AMQP 0.9.1 takes an acknowledgement on the channel of the delivery only
	Stats:  true, // bytes and positions cannot be asked for
}

func conformance(t *testing.T, c Config) {
	c.Redelivery = redelivery
	store := queuetest.NewCursors()
	queuetest.Run(t, queuetest.Harness{
		Restart:    restart,
		Open:       func(t testing.TB) queue.Queue { return queue.WithCursors(open(t, c), store) },
		Redelivery: redelivery,
		Lacks:      lacks,
	})
}

func TestQuorum(t *testing.T) { conformance(t, parse(t, address(t, "FERRY_TEST_RABBITMQ"))) }

func TestClassic(t *testing.T) {
	c := parse(t, address(t, "FERRY_TEST_RABBITMQ"))
	c.Type = typeClassic
	conformance(t, c)
}

func TestStream(t *testing.T) { streamBrokers(t, testStream) }

func testStream(t *testing.T, c Config) {
	real := restart
	if c.connect != nil {
		real = nil
	}
	cursors := queuetest.NewCursors()
	queuetest.Run(t, queuetest.Harness{
		Open:    func(t testing.TB) queue.Queue { return open(t, c).WithCursors(cursors) },
		Restart: real,
		Lacks:   queuetest.Lacks{Receive: true, Stats: true}, // a stream hands no records out; bytes cannot be asked for
	})
}
