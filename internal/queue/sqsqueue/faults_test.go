package sqsqueue

import (
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

// TestFaults breaks the network before the fake and before a real server. The server itself is not stopped under load:
// ElasticMQ confirms before it writes to its disk, and puts messages of one millisecond back in any order, which SQS
// does not.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: each fault waits for real time-outs")
	}
	t.Run("fake", func(t *testing.T) {
		for name, k := range sorts {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				queuetest.RunFaults(t, k.faults(newFake(t).url("")))
			})
		}
	})
	t.Run("server", func(t *testing.T) {
		url := server(t)
		for name, k := range sorts {
			t.Run(name, func(t *testing.T) {
				queuetest.RunFaults(t, k.faults(url))
			})
		}
	})
}

func (k sort) faults(url string) queuetest.FaultHarness {
	cursors := queuetest.NewCursors()
	return queuetest.FaultHarness{
		Tier: k.tier, Lacks: k.lacks,
		Unordered: k.parameters == "&fifo=false", OrderByKey: k.parameters == "&group=key",
		Open: func(t testing.TB, n *queuetest.Network) queue.Queue {
			c := parse(t, url+k.parameters)
			c.Dial, c.Timeout = n.Dial, 2*time.Second
			return queue.WithCursors(open(t, c), cursors)
		},
		Direct: func(t testing.TB) queue.Queue {
			return queue.WithCursors(open(t, parse(t, url+"&redelivery=10s"+k.parameters)), cursors)
		},
	}
}
