package kafkaqueue

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kversion"
	"go.uber.org/goleak"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const redelivery = time.Second

// fake starts a cluster in this process that ends with the test. It speaks the protocol; that it keeps what it
// confirms is shown on a real one alone.
func fake(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func fakeConfig(c *kfake.Cluster) Config {
	return Config{Brokers: c.ListenAddrs(), Create: true, Redelivery: redelivery, Timeout: 5 * time.Second}
}

// environment gives a variable's value or skips the test.
func environment(t testing.TB, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Skipf(`%s is not set; start the broker with: scripts/brokers up kafka; eval "$(scripts/brokers env)"`, name)
	}
	return v
}

// realConfig is the configuration for the broker that FERRY_TEST_KAFKA names.
func realConfig(t testing.TB) Config {
	t.Helper()
	return parse(t, environment(t, "FERRY_TEST_KAFKA"))
}

func parse(t testing.TB, url string) Config {
	t.Helper()
	c, err := ParseURL(config.URL(url))
	if err != nil {
		t.Fatal(err)
	}
	c.Create, c.Redelivery = true, redelivery
	return c
}

func open(t testing.TB, c Config) *Queue {
	t.Helper()
	q, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := q.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return q
}

func TestFake(t *testing.T) {
	c := fake(t)
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, fakeConfig(c)) },
		Redelivery: redelivery,
	})
}

// TestFakeOld runs the suite as against older brokers: without an epoch for each transaction (before 4.0), without ids of
// topics, and with the oldest that ferry takes.
func TestFakeOld(t *testing.T) {
	for name, versions := range map[string]*kversion.Versions{"3.9": kversion.V3_9_0(), "2.8": kversion.V2_8_0(), "2.5": kversion.V2_5_0()} {
		t.Run(name, func(t *testing.T) {
			c := fake(t, kfake.MaxVersions(versions))
			queuetest.Run(t, queuetest.Harness{
				Open:       func(t testing.TB) queue.Queue { return open(t, fakeConfig(c)) },
				Redelivery: redelivery,
			})
		})
	}
}

func TestKafka(t *testing.T) {
	c := realConfig(t)
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, c) },
		Restart:    restart(t),
		Redelivery: redelivery,
	})
}

// TestKafkaThree runs the suite on three brokers, every topic on all of them.
func TestKafkaThree(t *testing.T) {
	c := parse(t, environment(t, "FERRY_TEST_KAFKA3"))
	c.Replication, c.MinInSync, c.Timeout = 3, 2, 20*time.Second
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, c) },
		Redelivery: redelivery,
	})
}

func topicName(t testing.TB) string {
	return strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()) + "-" + token()
}
