package redisqueue

import (
	"errors"
	"strings"
	"testing"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

func TestNote(t *testing.T) {
	always := server{version: "9.1.2 (Valkey)", redis: "7.2.4", aof: "1", fsync: "always", waitAOF: true, policy: "noeviction"}
	everysec := always
	everysec.fsync = "everysec"
	old := everysec
	old.waitAOF = false
	debian := server{version: "7.0.15", aof: "1", fsync: "always"}
	none := server{redis: "7.0.15", aof: "0", policy: "volatile-lru"}
	for _, tt := range []struct {
		s    server
		c    Config
		want string
		sure confirmation
	}{
		{always, Config{Mode: single}, "every confirmed record is synced to the server's disk", confirmation{}},
		{always, Config{Mode: cluster}, "every confirmed record is synced to the server's disk; a failover loses what the replica had not received yet, unless the URL says wait=1", confirmation{}},
		{always, Config{Mode: sentinel, Wait: 2}, "every confirmed record is synced to the server's disk; confirmed on the disks of 2 replicas too", confirmation{true, 2}},
		{everysec, Config{Mode: single}, "every confirmed record is synced to the server's disk, and because the server syncs once a second a write takes that long; appendfsync always makes it quick", confirmation{aof: true}},
		{everysec, Config{Mode: single, Unsafe: true}, "the server confirms before it syncs (appendfsync everysec): a power cut can lose the last second; set appendfsync always", confirmation{}},
		{old, Config{Mode: single, Wait: 1}, "the server confirms before it syncs (appendfsync everysec): a power cut can lose the last second; set appendfsync always; confirmed in the memory of 1 replicas too", confirmation{false, 1}},
		{debian, Config{Mode: single}, "every confirmed record is synced to the server's disk; after a crash that cut its append-only file (its log says short read) run BGREWRITEAOF, or the next restart can bring back the first records of a commit that had not been finished", confirmation{}},
		{none, Config{Mode: single}, "the server keeps no append-only file: a restart loses what came since its last snapshot; set appendonly yes and appendfsync always", confirmation{}},
		{server{}, Config{Mode: single}, "whether the server keeps what it has confirmed over a restart is not known: it does not say", confirmation{}},
		{server{version: "10.0 (Valkey)", aof: "1"}, Config{Mode: single}, "the server keeps an append-only file, and how often it syncs that is not known", confirmation{}},
		{server{version: "9.2.0 (Valkey)", aof: "1", fsync: "always", policy: "allkeys-lru"}, Config{Mode: single}, "every confirmed record is synced to the server's disk; the server may delete topics and cursors when its memory is full (maxmemory-policy allkeys-lru)", confirmation{}},
	} {
		if got := tt.s.note(tt.c); got != tt.want {
			t.Errorf("%+v\nnote %q\nwant %q", tt.s, got, tt.want)
		}
		if got := tt.s.confirmation(tt.c); got != tt.sure {
			t.Errorf("%+v waits for %+v, want %+v", tt.s, got, tt.sure)
		}
	}
}

func TestCheckServer(t *testing.T) {
	for _, tt := range []struct {
		s    server
		c    Config
		want string
	}{
		{server{}, Config{Mode: single}, ""},
		{server{redis: "6.2.0", mode: "standalone", policy: "volatile-lru", memory: "1"}, Config{Mode: single}, ""},
		{server{redis: "6.0.16", version: "6.0.16"}, Config{Mode: single}, "ferry needs Redis 6.2 or newer"},
		{server{mode: "sentinel"}, Config{Mode: single}, "write mode=sentinel&master=NAME"},
		{server{mode: "cluster"}, Config{Mode: single}, "write mode=cluster"},
		{server{mode: "standalone"}, Config{Mode: cluster}, "leave mode=cluster out"},
		{server{policy: "allkeys-lfu", memory: "100"}, Config{Mode: single}, "set noeviction, so that it pushes back, or take the loss with unsafe=true"},
		{server{policy: "allkeys-lfu", memory: "100"}, Config{Mode: single, Unsafe: true}, ""},
		{server{policy: "allkeys-lfu", memory: "0"}, Config{Mode: single}, ""},
	} {
		err := tt.s.check(tt.c)
		if tt.want == "" && err == nil {
			continue
		}
		if err == nil || tt.want == "" || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.s, err, tt.want)
		}
	}
}

// rights are what a login needs beside the keys ~TOPIC ~{TOPIC}.* ~ferry.*, as docs/queues.md says; +waitaof where the
// server has it.
const rights = "+ping +hello +auth +select +client|setname +info +config|get +command|info +cluster|slots +cluster|shards +wait " +
	"+eval +evalsha +script|load +type +exists +xadd +xsetid +xlen +xrange +xrevrange +xdel +xack +xpending +xclaim +xautoclaim +xreadgroup " +
	"+xgroup|create +xinfo|groups +memory|usage +hget +hset +hmget +hincrby +sadd +smembers +lpushx"

// TestServers opens real servers that ferry should know for what they are.
func TestServers(t *testing.T) {
	ctx := t.Context()
	p := start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	if _, err := Open(ctx, p.config()); err == nil || !retry.IsPermanent(err) || !strings.Contains(err.Error(), "maxmemory-policy allkeys-lru") {
		t.Errorf("a server that deletes topics: %v", err)
	}
	loose := p.config()
	loose.Unsafe = true
	if note := open(t, loose).Info().Note; !strings.Contains(note, "may delete topics") {
		t.Errorf("note %q", note)
	}
	if err := bare(t, p.addr).ConfigSet(ctx, "maxmemory-policy", "noeviction").Err(); err != nil {
		t.Fatal(err)
	}
	q := open(t, p.config())
	if i := q.Info(); !strings.HasPrefix(i.Note, "every confirmed record is synced to the server's disk") || i.Server == "" {
		t.Errorf("%+v", i)
	}
	wrong := p.config()
	wrong.Mode = cluster
	if _, err := Open(ctx, wrong); err == nil || !retry.IsPermanent(err) || !strings.Contains(err.Error(), "leave mode=cluster out") {
		t.Errorf("a server on its own as a cluster: %v", err)
	}

	locked := start(t, "--requirepass", "right")
	for _, password := range []string{"", "wrong"} {
		c := locked.config()
		c.Password = config.Secret(password)
		if _, err := Open(ctx, c); err == nil || !retry.IsPermanent(err) || !strings.Contains(err.Error(), "is the login in the queue's URL right?") {
			t.Errorf("password %q: %v", password, err)
		}
	}
	c := locked.config()
	c.Password = "right"
	if err := open(t, c).Ping(ctx); err != nil {
		t.Error(err)
	}
	// What ferry needs, and no more: the rights in the docs.
	admin := p.client()
	defer admin.Close()
	user := append([]any{"ACL", "SETUSER", "ferry", "on", ">pw"}, toAny(strings.Fields(rights))...)
	if err := admin.Do(ctx, append(user, "~orders", "~{orders}.*", "~ferry.*")...).Err(); err != nil {
		t.Fatal(err)
	}
	c = p.config()
	c.User, c.Password = "ferry", "pw"
	narrow := open(t, c)
	everything(t, narrow, "orders")
	if err := narrow.Publish(ctx, "others", payload(1, 10)); err == nil || !retry.IsPermanent(err) {
		t.Errorf("a topic that the login may not write: %v", err)
	}
}

func toAny(words []string) []any {
	all := make([]any, len(words))
	for i, w := range words {
		all[i] = w
	}
	return all
}

// everything calls all there is.
func everything(t *testing.T, q *Queue, topic string) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(q.Ping(ctx))
	must(q.Prepare(ctx, topic))
	must(q.Publish(ctx, topic, payload(30, 10)))
	w := writerOf(t, q, "p", topic)
	must(w.Commit(ctx, queue.Batch{Records: payload(10, 10), Dead: payload(5, 10)}, record.Cursor("x")))
	_, err := q.Cursor(ctx, "p", topic)
	must(err)
	dead, err := q.Browse(ctx, queue.DeadTopic(topic), -3, 10)
	must(err)
	must(q.Remove(ctx, queue.DeadTopic(topic), dead[0].Position))
	d, err := q.Receive(ctx, topic, 3, 0)
	must(err)
	must(q.Nack(ctx, topic, d[0].Receipt))
	if err := q.Ack(ctx, topic, d[0].Receipt); !errors.Is(err, queue.ErrReceipt) {
		t.Fatalf("ack of what was given back: %v", err)
	}
	must(q.Ack(ctx, topic, d[1].Receipt))
	again, err := q.Receive(ctx, topic, 1, 0)
	must(err)
	if len(again) != 1 || again[0].ID != d[0].ID || again[0].Attempt != 2 {
		t.Fatalf("given back, and received %+v", again)
	}
	if err := q.Ack(ctx, topic, d[0].Receipt); !errors.Is(err, queue.ErrReceipt) {
		t.Fatalf("an outdated receipt: %v", err)
	}
	st, err := q.Stats(ctx, topic)
	must(err)
	if st.Records != 40 || st.Waiting != 39 {
		t.Fatalf("%+v", st)
	}
	topics, err := q.Topics(ctx)
	must(err)
	if len(topics) != 2 {
		t.Fatalf("topics %q", topics)
	}
}

func TestAtLeast(t *testing.T) {
	for version, want := range map[string]bool{
		"9.1.2": true, "9.1.3": true, "9.2": true, "10.0.0": true, "9.1": true, "": true, "unstable": true, "9.x": true,
		"9.1.1": false, "9.0.9": false, "8.2.3": false, "7.0.15": false,
	} {
		if got := atLeast(version, 9, 1, 2); got != want {
			t.Errorf("%q is at least 9.1.2: %t", version, got)
		}
	}
}
