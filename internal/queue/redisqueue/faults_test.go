package redisqueue

import (
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

// TestFaults breaks the network before every kind of server that there is, and stops and kills those that are the
// test's own.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: each fault waits for real time-outs")
	}
	t.Run("fake", func(t *testing.T) {
		_, c := fake(t)
		faults(t, c, nil)
	})
	t.Run("redis-server", func(t *testing.T) {
		p := start(t)
		faults(t, p.config(), p)
	})
	t.Run("valkey-server", func(t *testing.T) {
		p := valkey(t, "--appendfsync", "everysec") // so every write waits for WAITAOF
		faults(t, p.config(), p)
	})
	t.Run("cluster", func(t *testing.T) { faults(t, broker(t, "FERRY_TEST_REDIS_CLUSTER", "redis-cluster"), nil) })
	t.Run("sentinel", func(t *testing.T) { faults(t, broker(t, "FERRY_TEST_REDIS_SENTINEL", "redis-sentinel"), nil) })
}

// faults runs the suite of faults. p is the server if it may be stopped.
func faults(t *testing.T, c Config, p *process) {
	h := queuetest.FaultHarness{
		Tier: queue.ExactlyOnce,
		Open: func(t testing.TB, n *queuetest.Network) queue.Queue {
			c := c
			c.Dial, c.Timeout = n.Dial, 2*time.Second
			return open(t, c)
		},
		Direct: func(t testing.TB) queue.Queue { return open(t, c) },
	}
	if p != nil {
		h.Stop = func(testing.TB) { p.stop() }
		h.Kill = func(testing.TB) { p.kill() }
		h.Start = func(testing.TB) { p.start() }
	}
	queuetest.RunFaults(t, h)
}
