package kafkaqueue

import (
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

// TestFaults breaks the network before a real broker, and stops and kills it.
func TestFaults(t *testing.T) {
	c := realConfig(t)
	do := func(verb string) func(testing.TB) {
		return func(t testing.TB) { brokers(t, verb, "kafka") }
	}
	queuetest.RunFaults(t, queuetest.FaultHarness{
		Tier: queue.ExactlyOnce,
		Open: func(t testing.TB, n *queuetest.Network) queue.Queue {
			c := c
			c.Dial, c.Timeout = n.Dial, 3*time.Second
			return open(t, c)
		},
		Direct: func(t testing.TB) queue.Queue { return open(t, c) },
		Stop:   do("stop"), Kill: do("kill"), Start: do("start"),
	})
}
