package rabbitqueue

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

// TestFaults breaks the network before a real broker, and stops and kills it: queues are at least once, streams exactly
// once.
func TestFaults(t *testing.T) {
	for name, k := range map[string]struct {
		variable string
		tier     queue.Tier
		lacks    queuetest.Lacks
	}{
		"quorum": {"FERRY_TEST_RABBITMQ", queue.AtLeastOnce, lacks},
		"stream": {"FERRY_TEST_RABBITMQ_STREAM", queue.ExactlyOnce, queuetest.Lacks{Receive: true, Stats: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c := parse(t, address(t, k.variable))
			cursors := queuetest.NewCursors()
			queuetest.RunFaults(t, queuetest.FaultHarness{
				Tier: k.tier,
				Open: func(t testing.TB, n *queuetest.Network) queue.Queue {
					c := c
					c.Dial, c.Timeout = n.Dial, 2*time.Second
					return open(t, c).WithCursors(cursors)
				},
				Direct: func(t testing.TB) queue.Queue { return open(t, c).WithCursors(cursors) },
				Stop:   broker("stop"), Kill: broker("kill"), Start: broker("start"),
				Lacks: k.lacks,
			})
		})
	}
}

// broker calls scripts/brokers, which runs the real one.
func broker(verb string) func(testing.TB) {
	return func(t testing.TB) {
		t.Helper()
		script := os.Getenv("FERRY_TEST_BROKERS")
		if script == "" {
			t.Skip(`FERRY_TEST_BROKERS is not set: eval "$(scripts/brokers env)"`)
		}
		if out, err := exec.CommandContext(t.Context(), script, verb, "rabbitmq").CombinedOutput(); err != nil {
			t.Fatalf("scripts/brokers %s rabbitmq: %v\n%s", verb, err, out)
		}
	}
}
