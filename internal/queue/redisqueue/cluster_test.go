package redisqueue

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// TestReshard moves a topic from one server of a cluster to the other under a writer: the commits follow it, and each
// is there once.
func TestReshard(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: slots of a cluster are moved under a writer")
	}
	ctx := t.Context()
	var nodes []*process
	var clients []*redis.Client
	var ids []string
	c := Config{Mode: cluster, Create: true, Timeout: 3 * time.Second}
	for range 2 {
		bus := freePorts(t, 1)[0]
		p := start(t, "--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000")
		x := bare(t, p.addr)
		id, err := x.Do(ctx, "CLUSTER", "MYID").Text()
		if err != nil {
			t.Fatal(err)
		}
		nodes, clients, ids = append(nodes, p), append(clients, x), append(ids, id)
		c.Hosts = append(c.Hosts, p.addr)
		if len(nodes) == 2 {
			host, port, _ := strings.Cut(nodes[0].addr, ":")
			firstBus := nodes[0].args[argument(nodes[0].args, "--cluster-port")]
			if err := x.Do(ctx, "CLUSTER", "MEET", host, port, firstBus).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, half := range []string{"0 8191", "8192 16383"} {
		from, to, _ := strings.Cut(half, " ")
		if err := clients[i].Do(ctx, "CLUSTER", "ADDSLOTSRANGE", from, to).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range clients {
		until(t, "the cluster is up", func() bool {
			info, err := x.ClusterInfo(ctx).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:2")
		})
	}
	q := open(t, c)
	slot := clients[0].ClusterKeySlot(ctx, "reshard").Val()
	from, to := 0, 1
	if slot > 8191 {
		from, to = 1, 0
	}
	w := writerOf(t, q, "p", "reshard")
	done := 0
	commit := func() error {
		err := w.Commit(ctx, queue.Batch{Records: numbered(3*done, 3), Dead: numbered(done, 1)}, record.Cursor(fmt.Sprint(done+1)))
		if err == nil {
			done++
		}
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		must(commit())
	}
	must(clients[to].Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[from]).Err())
	must(clients[from].Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to]).Err())
	host, port, _ := strings.Cut(nodes[to].addr, ":")
	keys := clients[from].ClusterGetKeysInSlot(ctx, int(slot), 10).Val()
	if len(keys) != 3 {
		t.Fatalf("the topic's keys are %q, want three on one slot", keys)
	}
	for i, key := range keys {
		must(clients[from].Do(ctx, "MIGRATE", host, port, key, 0, 5000).Err())
		// Half moved, a commit is refused whole and can be tried again.
		if err := commit(); !errors.Is(err, queue.ErrUnavailable) {
			t.Fatalf("a commit after %d of the keys were moved: %v", i+1, err)
		}
	}
	for _, x := range []*redis.Client{clients[to], clients[from]} {
		must(x.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", ids[to]).Err())
	}
	for range 20 {
		must(commit())
	}
	must(q.Publish(ctx, "reshard", numbered(3*done, 1)))
	stored, err := q.Browse(ctx, "reshard", 0, 1000)
	must(err)
	for i := range stored {
		if stored[i].ID != fmt.Sprint(i) {
			t.Fatalf("record %d has id %s", i, stored[i].ID)
		}
	}
	if len(stored) != 3*done+1 {
		t.Fatalf("%d records after %d commits of 3 and one more", len(stored), done)
	}
	if n := count(t, q, "reshard.dead"); n != done {
		t.Fatalf("%d dead letters, want %d", n, done)
	}
}

// argument is where the value of an argument stands.
func argument(args []string, name string) int {
	for i, a := range args {
		if a == name {
			return i + 1
		}
	}
	return 0
}
