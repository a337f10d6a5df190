package natsqueue

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"ferry/internal/config"
	"ferry/internal/embedded"
	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

// TestFaults breaks the network before a server in this process, which can be stopped but not killed.
func TestFaults(t *testing.T) {
	for _, tier := range []queue.Tier{queue.ExactlyOnce, queue.Deduplicated} {
		t.Run(string(tier), func(t *testing.T) {
			o := embedded.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", MaxBatch: 1000, MaxPayload: 1 << 20}
			start := func(t testing.TB) *embedded.Server {
				s, err := embedded.Start(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := start(t)
			o.Listen = s.Addr()
			c := Config{Servers: "nats://" + s.Addr(), Create: true, plain: tier == queue.Deduplicated}
			queuetest.RunFaults(t, queuetest.FaultHarness{
				Tier:   tier,
				Open:   func(t testing.TB, n *queuetest.Network) queue.Queue { return throughNetwork(t, c, n) },
				Direct: func(t testing.TB) queue.Queue { return open(t, c) },
				Stop: func(t testing.TB) {
					if err := s.Close(context.Background()); err != nil {
						t.Error(err)
					}
				},
				Start: func(t testing.TB) { s = start(t) },
			})
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// throughNetwork opens a queue over a network that a test breaks, with little patience.
func throughNetwork(t testing.TB, c Config, n *queuetest.Network) *Queue {
	c.DialContext, c.Timeout, c.reconnect = n.Dial, time.Second, 20*time.Millisecond
	return open(t, c)
}

// realServer gives the configuration of a server outside this process, by the environment variable that holds its URL.
func realServer(t *testing.T, variable, name string) Config {
	t.Helper()
	u := os.Getenv(variable)
	if u == "" {
		t.Skipf(`%s is not set: scripts/brokers up %s; eval "$(scripts/brokers env)"`, variable, name)
	}
	c, err := ParseURL(config.URL(u))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// scripted does something to a broker that scripts/brokers has started.
func scripted(verb, name string) func(t testing.TB) {
	return func(t testing.TB) {
		t.Helper()
		script := os.Getenv("FERRY_TEST_BROKERS")
		if script == "" {
			t.Skip(`FERRY_TEST_BROKERS is not set: eval "$(scripts/brokers env)"`)
		}
		if out, err := exec.CommandContext(t.Context(), script, verb, name).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", verb, name, err, out)
		}
	}
}

// TestServer runs the suite and the faults against a nats-server of its own process, which is killed too.
func TestServer(t *testing.T) {
	c := realServer(t, "FERRY_TEST_NATS", "nats")
	c.Redelivery = redelivery
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, c) },
		Restart:    scripted("restart", "nats"),
		Redelivery: redelivery,
	})
	queuetest.RunFaults(t, queuetest.FaultHarness{
		Tier:   queue.ExactlyOnce,
		Open:   func(t testing.TB, n *queuetest.Network) queue.Queue { return throughNetwork(t, c, n) },
		Direct: func(t testing.TB) queue.Queue { return open(t, c) },
		Stop:   scripted("stop", "nats"), Kill: scripted("kill", "nats"), Start: scripted("start", "nats"),
	})
}

// TestCluster runs the suite and the faults against three nodes. The node that is killed leads the topic or follows,
// as it comes.
func TestCluster(t *testing.T) {
	c := realServer(t, "FERRY_TEST_NATS3", "nats3")
	c.Redelivery = redelivery
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, c) },
		Redelivery: redelivery,
	})
	queuetest.RunFaults(t, queuetest.FaultHarness{
		Tier:   queue.ExactlyOnce,
		Open:   func(t testing.TB, n *queuetest.Network) queue.Queue { return throughNetwork(t, c, n) },
		Direct: func(t testing.TB) queue.Queue { return open(t, c) },
		Stop:   scripted("stop", "nats3"), Kill: scripted("kill", "nats3"), Start: scripted("start", "nats3"),
	})
}
