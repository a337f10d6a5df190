package natsqueue

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
func TestServer(t *testing.T) { onServer(t, "FERRY_TEST_NATS", "nats", queue.ExactlyOnce) }

// TestOldServer does the same with a server from before atomic batches.
func TestOldServer(t *testing.T) { onServer(t, "FERRY_TEST_NATS211", "nats211", queue.Deduplicated) }

func onServer(t *testing.T, variable, name string, tier queue.Tier) {
	c := realServer(t, variable, name)
	c.Redelivery = redelivery
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, c) },
		Restart:    scripted("restart", name),
		Redelivery: redelivery,
		Lacks:      lacks,
	})
	queuetest.RunFaults(t, queuetest.FaultHarness{
		Tier:   tier,
		Open:   func(t testing.TB, n *queuetest.Network) queue.Queue { return throughNetwork(t, c, n) },
		Direct: func(t testing.TB) queue.Queue { return open(t, c) },
		Stop:   scripted("stop", name), Kill: scripted("kill", name), Start: scripted("start", name),
	})
}

// TestCluster runs the suite and the faults against three nodes: all of them stopped and killed, and the one that leads
// the topic.
func TestCluster(t *testing.T) {
	c := realServer(t, "FERRY_TEST_NATS3", "nats3")
	c.Redelivery = redelivery
	queuetest.Run(t, queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return open(t, c) },
		Redelivery: redelivery,
		Lacks:      lacks,
	})
	h := queuetest.FaultHarness{
		Tier:   queue.ExactlyOnce,
		Open:   func(t testing.TB, n *queuetest.Network) queue.Queue { return throughNetwork(t, c, n) },
		Direct: func(t testing.TB) queue.Queue { return open(t, c) },
	}
	t.Run("all nodes", func(t *testing.T) {
		h.Stop, h.Kill, h.Start = scripted("stop", "nats3"), scripted("kill", "nats3"), scripted("start", "nats3")
		queuetest.RunFaults(t, h)
	})
	t.Run("the leader", func(t *testing.T) {
		var leader string
		end := func(verb string) func(t testing.TB) {
			return func(t testing.TB) {
				leader = leaderOfNewest(t, c)
				t.Logf("%s %s", verb, leader)
				scripted(verb, leader)(t)
			}
		}
		h.Stop, h.Kill = end("stop"), end("kill")
		h.Start = func(t testing.TB) { scripted("start", leader)(t) }
		queuetest.RunFaults(t, h)
	})
}

// leaderOfNewest tells which node leads the stream that was made last; the nodes are called as scripts/brokers calls
// them.
func leaderOfNewest(t testing.TB, c Config) string {
	t.Helper()
	all := open(t, c).js.ListStreams(t.Context())
	var newest *jetstream.StreamInfo
	for info := range all.Info() {
		if newest == nil || info.Created.After(newest.Created) {
			newest = info
		}
	}
	if err := all.Err(); err != nil || newest == nil || newest.Cluster == nil || newest.Cluster.Leader == "" {
		t.Fatalf("no leader of the newest stream: %v %+v", err, newest)
	}
	return newest.Cluster.Leader
}
