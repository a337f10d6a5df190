package natsqueue

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ferry/internal/embedded"
	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts an embedded server that ends with the test.
func serve(t testing.TB, o embedded.Options) *embedded.Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := embedded.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// embeddedConfig is what app makes of "embedded:".
func embeddedConfig(s *embedded.Server) Config {
	return Config{Embedded: true, Create: true, Connect: s.Connect, Health: s.Healthy, MaxBatch: s.MaxBatch()}
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

const redelivery = time.Second

// lacks is what NATS cannot do by its nature.
var lacks = queuetest.Lacks{
	GivenBack: true, // it takes an answer to any delivery of a record for one to the last, and does not tell which that is
}

func TestEmbedded(t *testing.T) {
	s := serve(t, embedded.Options{})
	queuetest.Run(t, queuetest.Harness{
		Open: func(t testing.TB) queue.Queue {
			c := embeddedConfig(s)
			c.Redelivery = redelivery
			return open(t, c)
		},
		Restart: func(t testing.TB) {
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		Redelivery: redelivery,
		Lacks:      lacks,
	})
}

// TestOutside runs the suite over TCP against a server with a NATS server's own limits.
func TestOutside(t *testing.T) {
	s := serve(t, embedded.Options{Listen: "127.0.0.1:0", MaxBatch: 1000, MaxPayload: 1 << 20})
	queuetest.Run(t, queuetest.Harness{
		Open: func(t testing.TB) queue.Queue {
			return open(t, Config{Servers: "nats://" + s.Addr(), Create: true, Redelivery: redelivery})
		},
		Redelivery: redelivery,
		Lacks:      lacks,
	})
}

// TestWithoutAtomicBatches runs the suite as against a server before 2.12.
func TestWithoutAtomicBatches(t *testing.T) {
	s := serve(t, embedded.Options{})
	queuetest.Run(t, queuetest.Harness{
		Open: func(t testing.TB) queue.Queue {
			c := embeddedConfig(s)
			c.plain, c.Redelivery = true, redelivery
			q := open(t, c)
			if tier := q.Info().Tier; tier != queue.Deduplicated {
				t.Fatalf("tier %s", tier)
			}
			return q
		},
		Redelivery: redelivery,
		Lacks:      lacks,
	})
}
