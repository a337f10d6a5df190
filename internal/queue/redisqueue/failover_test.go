package redisqueue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// watched starts a master, a replica and three sentinels that watch them.
func watched(t *testing.T) (master, replica *process, c Config) {
	t.Helper()
	master = start(t)
	replica = start(t, "--replicaof", strings.Replace(master.addr, ":", " ", 1))
	x := bare(t, replica.addr)
	until(t, "the replica follows", func() bool {
		info, err := x.Info(t.Context(), "replication").Result()
		return err == nil && parseInfo(info)["master_link_status"] == "up"
	})
	host, port, _ := strings.Cut(master.addr, ":")
	c = Config{Mode: sentinel, Master: "m", Create: true, Redelivery: redelivery, Timeout: time.Second, Wait: 1}
	for _, p := range freePorts(t, 3) {
		file := filepath.Join(t.TempDir(), "sentinel.conf")
		text := fmt.Sprintf("sentinel monitor m %s %s 2\nsentinel down-after-milliseconds m 300\nsentinel failover-timeout m 2000\n", host, port)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &process{t: t, path: master.path, addr: "127.0.0.1:" + p}
		s.args = []string{file, "--sentinel", "--port", p, "--bind", "127.0.0.1", "--dir", t.TempDir()}
		t.Cleanup(s.kill)
		s.start()
		c.Hosts = append(c.Hosts, s.addr)
		x := bare(t, s.addr)
		until(t, "the sentinel knows the replica", func() bool {
			got, err := x.Do(t.Context(), "SENTINEL", "REPLICAS", "m").Slice()
			return err == nil && len(got) == 1
		})
	}
	for _, addr := range c.Hosts {
		x := bare(t, addr)
		until(t, "the sentinels know each other", func() bool {
			got, err := x.Do(t.Context(), "SENTINEL", "SENTINELS", "m").Slice()
			return err == nil && len(got) == 2
		})
	}
	return master, replica, c
}

// TestFailover kills the master under a writer and a publisher that wait for a replica: the replica takes over, they
// find it, and nothing that was confirmed is missing.
func TestFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: the sentinels take seconds to elect")
	}
	master, replica, c := watched(t)
	q := open(t, c)
	ctx := t.Context()
	w := writerOf(t, q, "p", "failover")
	done, confirmed, unknown := 0, 0, 0
	commit := func() error {
		batch := queue.Batch{Records: numbered(10*done, 10)}
		err := w.Commit(ctx, batch, record.Cursor(fmt.Sprint(done+1)))
		if err == nil {
			done++
		}
		return err
	}
	for range 20 {
		if err := commit(); err != nil {
			t.Fatal(err)
		}
		if err := q.Publish(ctx, "failover.requests", numbered(confirmed, 1)); err != nil {
			t.Fatal(err)
		}
		confirmed++
	}
	master.kill()
	begin := time.Now()
	// There is nobody to confirm a second copy, so nothing is confirmed until there is.
	until(t, "the replica is the master", func() bool {
		err := commit()
		if err == nil {
			t.Fatal("confirmed without a replica")
		}
		if !errors.Is(err, queue.ErrUnavailable) {
			t.Fatalf("commit during the failover: %v", err)
		}
		info, err := bare(t, replica.addr).Info(ctx, "replication").Result()
		return err == nil && parseInfo(info)["role"] == "master"
	})
	t.Logf("failover after %s", time.Since(begin).Round(time.Millisecond))
	until(t, "a publish finds the new master, and says that it has no replica", func() bool {
		err := q.Publish(ctx, "failover.requests", numbered(confirmed, 1))
		if !errors.Is(err, queue.ErrUnavailable) {
			t.Fatalf("publish without a replica: %v", err)
		}
		if !strings.Contains(err.Error(), "nothing written") {
			unknown++
		}
		return strings.Contains(err.Error(), "nothing written: queue is unavailable: the server has 0 replicas, and the queue's URL says wait=1")
	})
	if err := q.Ping(ctx); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("ping without a replica: %v", err)
	}
	// The old master comes back and follows the new one.
	master.args = append(master.args, "--replicaof", strings.Replace(replica.addr, ":", " ", 1))
	master.start()
	until(t, "commits are confirmed again", func() bool { return commit() == nil })
	until(t, "publishes are confirmed again", func() bool {
		err := q.Publish(ctx, "failover.requests", numbered(confirmed, 1))
		if err != nil && !strings.Contains(err.Error(), "nothing written") {
			unknown++
		}
		return err == nil
	})
	confirmed++
	if err := q.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	stored, err := q.Browse(ctx, "failover", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range stored {
		if stored[i].ID != fmt.Sprint(i) {
			t.Fatalf("record %d has id %s", i, stored[i].ID)
		}
	}
	if len(stored) != 10*done {
		t.Fatalf("%d records, %d were confirmed", len(stored), 10*done)
	}
	if n := count(t, q, "failover.requests"); n < confirmed || n > confirmed+unknown {
		t.Fatalf("%d records of requests, %d were confirmed, and the outcome of %d is unknown", n, confirmed, unknown)
	}
}

// TestUnconfirmed: a commit that no replica has confirmed is written once however often it is repeated.
func TestUnconfirmed(t *testing.T) {
	p := start(t)
	c := p.config()
	c.Timeout = 800 * time.Millisecond
	w := writerOf(t, open(t, c), "p", "alone")
	lonely := c
	lonely.Wait = 1
	q := open(t, lonely)
	ctx := t.Context()
	if _, err := q.OpenWriter(ctx, "other", "alone"); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "written, but not confirmed: only 0 of 1 replicas have it in time") {
		t.Fatalf("a claim without a replica: %v", err)
	}
	w.(*writer).q = q
	batch := queue.Batch{Records: numbered(0, 3)}
	for range 3 {
		if err := w.Commit(ctx, batch, record.Cursor("a")); !errors.Is(err, queue.ErrUnavailable) || retry.IsPermanent(err) {
			t.Fatalf("a commit without a replica: %v", err)
		}
	}
	for range 3 {
		if err := q.Publish(ctx, "alone", numbered(3, 1)); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "nothing written") {
			t.Fatalf("a publish without a replica: %v", err)
		}
	}
	if n := count(t, q, "alone"); n != 3 {
		t.Fatalf("%d records, want 3", n)
	}
	follower := start(t, "--replicaof", strings.Replace(p.addr, ":", " ", 1))
	until(t, "the commit is confirmed", func() bool { return w.Commit(ctx, batch, record.Cursor("a")) == nil })
	got, err := bare(t, follower.addr).XLen(ctx, "alone").Result()
	if err != nil || got != 3 {
		t.Fatalf("the replica has %d records when the commit is confirmed, want 3 (%v)", got, err)
	}
}

// TestLostByServer: a server comes back without what it had confirmed, as after a failover that nobody waited for. The
// writer notices, and the next run begins where the records end.
func TestLostByServer(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		q := open(t, c)
		ctx := t.Context()
		x := bare(t, c.Hosts[0])
		w := writerOf(t, q, "p", "lost")
		if err := w.Commit(ctx, queue.Batch{Records: numbered(0, 3)}, record.Cursor("1")); err != nil {
			t.Fatal(err)
		}
		before := x.HGetAll(ctx, "{lost}.ferry.cursor.p").Val()
		if err := w.Commit(ctx, queue.Batch{Records: numbered(3, 3)}, record.Cursor("2")); err != nil {
			t.Fatal(err)
		}
		if err := x.HSet(ctx, "{lost}.ferry.cursor.p", before).Err(); err != nil { // the second commit is gone
			t.Fatal(err)
		}
		for range 2 {
			if err := w.Commit(ctx, queue.Batch{Records: numbered(6, 3)}, record.Cursor("3")); !errors.Is(err, errLost) || !retry.IsPermanent(err) {
				t.Fatalf("a commit on one that the server has lost: %v", err)
			}
		}
		if n := count(t, q, "lost"); n != 6 {
			t.Fatalf("%d records: it was written all the same", n)
		}
		w = writerOf(t, q, "p", "lost")
		if string(w.Cursor()) != "1" {
			t.Fatalf("the next run begins at %q", w.Cursor())
		}
		if err := x.Del(ctx, "{lost}.ferry.cursor.p").Err(); err != nil { // even the claim
			t.Fatal(err)
		}
		if err := w.Commit(ctx, queue.Batch{}, record.Cursor("2")); !errors.Is(err, errLost) {
			t.Fatalf("a commit when all is lost: %v", err)
		}
	})
}
