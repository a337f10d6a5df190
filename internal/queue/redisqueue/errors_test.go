package redisqueue

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// TestErrors has a server answer what a real one says in trouble, and looks at what every call makes of it.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		says string
		want error // nil: permanent
		text string
	}{
		{"OOM command not allowed when used memory > 'maxmemory'.", queue.ErrFull, "the server is at its limit of memory"},
		{"MISCONF Errors writing to the AOF file: No space left on device", queue.ErrFull, "the server's disk is full"},
		{"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", queue.ErrUnavailable, "cannot write to its disk"},
		{"LOADING Redis is loading the dataset in memory", queue.ErrUnavailable, "loading its data"},
		{"READONLY You can't write against a read only replica.", queue.ErrUnavailable, "a replica, perhaps since a failover"},
		{"CLUSTERDOWN The cluster is down", queue.ErrUnavailable, "not every slot has a server"},
		{"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", queue.ErrUnavailable, "lost its master"},
		{"NOREPLICAS Not enough good replicas to write.", queue.ErrUnavailable, "too few replicas"},
		{"TRYAGAIN Multiple keys request during rehashing of slot", queue.ErrUnavailable, "moving the topic"},
		{"BUSY Redis is busy running a script.", queue.ErrUnavailable, "busy with a script"},
		{"ERR max number of clients reached", queue.ErrUnavailable, "maxclients"},
		{"NOAUTH Authentication required.", nil, "is the login in the queue's URL right?"},
		{"WRONGPASS invalid username-password pair or user is disabled.", nil, "is the login in the queue's URL right?"},
		{"NOPERM this user has no permissions to run the 'evalsha' command", nil, "docs/queues.md"},
		{"WRONGTYPE Operation against a key holding the wrong kind of value", nil, "WRONGTYPE"},
		{"ERR unknown command 'EVALSHA'", nil, "unknown command"},
	} {
		m, c := fake(t)
		q := open(t, c)
		w := writerOf(t, q, "p", "orders")
		m.SetError(tt.says)
		ctx := t.Context()
		_, errBrowse := q.Browse(ctx, "orders", 0, 1)
		_, errReceive := q.Receive(ctx, "orders", 1, 0)
		_, errStats := q.Stats(ctx, "orders")
		_, errTopics := q.Topics(ctx)
		_, errWriter := q.OpenWriter(ctx, "p", "orders")
		_, errCursor := q.Cursor(ctx, "p", "orders")
		orders, _ := parseTopic("orders")
		calls := map[string]error{
			"publish": q.Publish(ctx, "orders", payload(1, 10)),
			"commit":  w.Commit(ctx, queue.Batch{Records: payload(1, 10)}, record.Cursor("a")),
			"ack":     q.Ack(ctx, "orders", receipt(orders, entryID{1, 1}, 1)),
			"remove":  q.Remove(ctx, "orders", 7),
			"prepare": q.Prepare(ctx, "orders"),
			"ping":    q.Ping(ctx),
			"browse":  errBrowse, "receive": errReceive, "stats": errStats, "topics": errTopics, "open writer": errWriter, "cursor": errCursor,
		}
		for what, err := range calls {
			switch {
			case err == nil || !strings.Contains(err.Error(), tt.text):
				t.Errorf("%s, %q: error %v, want %q in it", what, tt.says, err, tt.text)
			case tt.want == nil && !retry.IsPermanent(err), tt.want != nil && retry.IsPermanent(err):
				t.Errorf("%s, %q: permanent is %t: %v", what, tt.says, retry.IsPermanent(err), err)
			case tt.want != nil && !errors.Is(err, tt.want):
				t.Errorf("%s, %q: error %v, want %v", what, tt.says, err, tt.want)
			}
		}
		m.SetError("")
		if err := w.Commit(ctx, queue.Batch{Records: payload(1, 10)}, record.Cursor("a")); err != nil {
			t.Errorf("commit after %q is over: %v", tt.says, err)
		}
		if n := count(t, q, "orders"); n != 1 {
			t.Errorf("%d records after %q", n, tt.says)
		}
	}
}

// TestConnectionErrors: what the network says can clear by itself.
func TestConnectionErrors(t *testing.T) {
	q := &Queue{cfg: Config{Mode: single}}
	for _, err := range []error{io.EOF, net.ErrClosed, context.DeadlineExceeded, &net.OpError{Op: "dial", Err: errors.New("refused")}, redis.ErrPoolTimeout} {
		if got := q.mapError("publish", err); !errors.Is(got, queue.ErrUnavailable) || retry.IsPermanent(got) {
			t.Errorf("%v becomes %v", err, got)
		}
	}
	if got := q.mapError("publish", redis.ErrClosed); !errors.Is(got, queue.ErrClosed) {
		t.Errorf("closed becomes %v", got)
	}
}

// TestForgottenScripts: somebody flushes the server's scripts.
func TestForgottenScripts(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		q := open(t, c)
		ctx := t.Context()
		w := writerOf(t, q, "p", "orders")
		for i := range 3 {
			if err := bare(t, c.Hosts[0]).ScriptFlush(ctx).Err(); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(ctx, queue.Batch{Records: payload(2, 10)}, record.Cursor("a")); err != nil {
				t.Fatal(err)
			}
			if n := count(t, q, "orders"); n != 2*(i+1) {
				t.Fatalf("%d records after %d commits of 2", n, i+1)
			}
		}
	})
}

// TestMovedTopic: a cluster answers from another server than it did; the write goes there.
func TestMovedTopic(t *testing.T) {
	m := miniredis.RunT(t)
	q := &Queue{cfg: Config{Timeout: time.Second}, client: bare(t, m.Addr())}
	tries := 0
	err := q.on(t.Context(), "orders", func(*redis.Client) error {
		if tries++; tries < 4 {
			return movedError{}
		}
		return nil
	})
	if err != nil || tries != 4 {
		t.Fatalf("%d tries, %v", tries, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.on(short, "orders", func(*redis.Client) error { return movedError{} }); err == nil {
		t.Fatal("no error")
	}
}

type movedError struct{}

func (movedError) Error() string { return "MOVED 3999 127.0.0.1:6381" }
func (movedError) RedisError()   {}
