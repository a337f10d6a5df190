package servicebusqueue

import (
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/queue/servicebusqueue/servicebustest"
)

// TestFaults carries records over a network that breaks and a server that stops.
func TestFaults(t *testing.T) {
	t.Parallel()
	s := serve(t, servicebustest.Options{})
	c := parse(t, s.ConnectionString()+"?create=true")
	c.Timeout = time.Second
	store := queuetest.NewCursors()
	start := func(t testing.TB) {
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	queuetest.RunFaults(t, queuetest.FaultHarness{
		Open: func(t testing.TB, n *queuetest.Network) queue.Queue {
			c := c
			c.Dial = n.Dial
			return queue.WithCursors(open(t, c), store)
		},
		Direct: func(t testing.TB) queue.Queue { return queue.WithCursors(open(t, c), store) },
		Stop:   func(testing.TB) { s.Stop() },
		Kill:   func(testing.TB) { s.Stop() },
		Start:  start,
		Tier:   queue.Deduplicated,
		Lacks:  lacks,
	})
}
