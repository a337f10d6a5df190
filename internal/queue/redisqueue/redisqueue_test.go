package redisqueue

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/goleak"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const redelivery = 400 * time.Millisecond

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

// broker gives the configuration of a running broker, or skips.
func broker(t testing.TB, variable, name string) Config {
	t.Helper()
	url := os.Getenv(variable)
	if url == "" {
		t.Skipf(`%s is not set: scripts/brokers up %s; eval "$(scripts/brokers env)"`, variable, name)
	}
	c, err := ParseURL(config.URL(url))
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	c.Create, c.Redelivery = true, redelivery
	return c
}

// suite runs the conformance suite.
func suite(t *testing.T, c Config) {
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, c) },
		Redelivery: redelivery,
	})
}

func TestRedis(t *testing.T) { suite(t, broker(t, "FERRY_TEST_REDIS", "redis")) }

func TestValkey(t *testing.T) { suite(t, broker(t, "FERRY_TEST_VALKEY", "valkey")) }

func TestCluster(t *testing.T) { suite(t, broker(t, "FERRY_TEST_REDIS_CLUSTER", "redis-cluster")) }

func TestSentinel(t *testing.T) { suite(t, broker(t, "FERRY_TEST_REDIS_SENTINEL", "redis-sentinel")) }

// TestRestart runs the suite against a server of its own, which is killed under open queues.
func TestRestart(t *testing.T) {
	p := start(t)
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, p.config()) },
		Restart:    func(testing.TB) { p.kill(); p.start() },
		Redelivery: redelivery,
	})
}

// fake is a Redis in this process: true enough for the suite, and proof of nothing about a real one.
func fake(t testing.TB) (*miniredis.Miniredis, Config) {
	t.Helper()
	m := miniredis.RunT(t)
	return m, Config{Hosts: []string{m.Addr()}, Create: true, Redelivery: redelivery}
}

func TestFake(t *testing.T) {
	_, c := fake(t)
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, c) },
		Redelivery: redelivery,
		Lacks:      queuetest.Lacks{Stats: true}, // its XINFO GROUPS counts records under way as lag
	})
}
