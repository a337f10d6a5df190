package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// rounds is how often the server is killed.
const rounds = 40

// TestKill kills the server in the middle of commits and publishes, again and again: after every start records and
// cursor agree, what was confirmed is there, and nothing of the pipeline is there twice.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: servers are killed 40 times")
	}
	t.Run("redis-server", func(t *testing.T) {
		p := start(t)
		killed(t, p, p.mend)
	})
	t.Run("valkey-server", func(t *testing.T) { killed(t, valkey(t), func() {}) })
}

// killed is TestKill; afterwards is what has to be done after each start.
func killed(t *testing.T, p *process, afterwards func()) {
	q := open(t, p.config())
	check := bare(t, p.addr)
	ctx := t.Context()
	// The cursor counts the pipeline's records by its length.
	run := func(stop <-chan struct{}) error {
		w, err := q.OpenWriter(ctx, "p", "kill")
		if errors.Is(err, queue.ErrUnavailable) {
			return nil
		}
		if err != nil {
			return err
		}
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			from := len(w.Cursor())
			batch := queue.Batch{Records: numbered(from, 1+rand.IntN(200))}
			if rand.IntN(3) == 0 {
				batch.Dead = numbered(from, 1+rand.IntN(5))
			}
			next := record.Cursor(strings.Repeat("x", from+len(batch.Records)))
			if err := w.Commit(ctx, batch, next); err != nil {
				if !errors.Is(err, queue.ErrUnavailable) {
					return err
				}
				return nil // the next round begins anew, like a run after a crash
			}
		}
	}
	confirmed, unknown := 0, 0
	for round := range rounds {
		stop := make(chan struct{})
		done := make(chan error, 2)
		go func() { done <- run(stop) }()
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				err := q.Publish(ctx, "kill.requests", numbered(confirmed+unknown, 1))
				switch {
				case err == nil:
					confirmed++
				case errors.Is(err, queue.ErrUnavailable):
					unknown++
					done <- nil
					return
				default:
					done <- err
					return
				}
			}
		}()
		<-time.After(time.Duration(10+rand.IntN(60)) * time.Millisecond)
		p.kill()
		close(stop)
		if err := errors.Join(<-done, <-done); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		p.start()
		afterwards()
		cursor, err := check.HGet(ctx, "{kill}.ferry.cursor.p", "cursor").Result()
		if err != nil && round > 3 {
			t.Fatal(err)
		}
		entries, err := check.XRange(ctx, "kill", "-", "+").Result()
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != len(cursor) {
			t.Fatalf("round %d: %d records, and the cursor stands at %d", round, len(entries), len(cursor))
		}
		for i, e := range entries {
			if e.Values["ferry-id"] != fmt.Sprint(i) {
				t.Fatalf("round %d: record %d has id %v", round, i, e.Values["ferry-id"])
			}
		}
		n, err := check.XLen(ctx, "kill.requests").Result()
		if err != nil || int(n) < confirmed || int(n) > confirmed+unknown {
			t.Fatalf("round %d: %d requests' records, %d were confirmed and the outcome of %d is unknown (%v)", round, n, confirmed, unknown, err)
		}
	}
	n := check.XLen(ctx, "kill").Val()
	t.Logf("%d kills; %d records of the pipeline, each once; %d of requests confirmed, all there; the outcome of %d unknown", rounds, n, confirmed, unknown)
	if n == 0 || confirmed == 0 {
		t.Fatal("nothing was written")
	}
}

// TestCutFile cuts the server's append-only file in the middle of a commit, as a crash can, and goes on writing: what is
// confirmed after that is there after the next restart. See lua/append.lua; before that was so, it was not.
func TestCutFile(t *testing.T) {
	for what, write := range map[string]func(q *Queue, idle queue.Writer) error{
		"publish": func(q *Queue, _ queue.Writer) error { return q.Publish(t.Context(), "cut", numbered(100, 1)) },
		"commit": func(_ *Queue, idle queue.Writer) error {
			return idle.Commit(t.Context(), queue.Batch{Records: numbered(100, 1)}, record.Cursor("b"))
		},
		"empty commit": func(_ *Queue, idle queue.Writer) error {
			return idle.Commit(t.Context(), queue.Batch{}, record.Cursor("b"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			p := start(t)
			q := open(t, p.config())
			ctx := t.Context()
			w, idle := writerOf(t, q, "p", "cut"), writerOf(t, q, "idle", "cut")
			if err := w.Commit(ctx, queue.Batch{Records: numbered(0, 10)}, record.Cursor("a")); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(ctx, queue.Batch{Records: numbered(10, 10)}, record.Cursor("torn")); err != nil {
				t.Fatal(err)
			}
			p.kill()
			p.cut(1000)
			p.start()
			if n := count(t, q, "cut"); n != 10 {
				t.Fatalf("%d records after half a commit was cut off, want 10", n)
			}
			until(t, "the write goes through", func() bool { return write(q, idle) == nil })
			p.kill()
			p.start()
			check := bare(t, p.addr)
			if what != "empty commit" {
				last, err := check.XRevRangeN(ctx, "cut", "+", "-", 1).Result()
				if err != nil || len(last) != 1 || last[0].Values["ferry-id"] != "100" {
					t.Fatalf("what was confirmed is not there after the next restart: the last record is %v (%v)", last, err)
				}
			}
			if cursor := check.HGet(ctx, "{cut}.ferry.cursor.idle", "cursor").Val(); what != "publish" && cursor != "b" {
				t.Fatalf("what was confirmed is not there after the next restart: the cursor is %q, want b", cursor)
			}
		})
	}
}

// TestMended: with a rewrite of the file after the crash nothing of the cut commit ever comes back.
func TestMended(t *testing.T) {
	p := start(t)
	q := open(t, p.config())
	ctx := t.Context()
	if err := writerOf(t, q, "p", "cut").Commit(ctx, queue.Batch{Records: numbered(0, 10)}, record.Cursor("torn")); err != nil {
		t.Fatal(err)
	}
	p.kill()
	p.cut(1000)
	p.start()
	p.mend()
	for range 2 {
		until(t, "the claim goes through", func() bool { _, err := q.OpenWriter(ctx, "p", "cut"); return err == nil })
		p.kill()
		p.start()
	}
	if _, err := q.Browse(ctx, "cut", 0, 10); !errors.Is(err, queue.ErrNoTopic) {
		t.Fatalf("of a commit that was cut off something came back: %v", err)
	}
}

// numbered makes records whose id is their number.
func numbered(from, n int) []record.Record {
	all := payload(n, 200)
	for i := range all {
		all[i].ID = fmt.Sprint(from + i)
	}
	return all
}

// TestOutage stops the server under publishers and a writer for a while; they go on by themselves.
func TestOutage(t *testing.T) {
	p := start(t)
	q := open(t, p.config())
	ctx := t.Context()
	w := writerOf(t, q, "p", "outage")
	if err := q.Publish(ctx, "outage", numbered(0, 1)); err != nil {
		t.Fatal(err)
	}
	p.kill()
	if err := q.Ping(ctx); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("ping without a server: %v", err)
	}
	if err := q.Publish(ctx, "outage", numbered(1, 1)); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("publish without a server: %v", err)
	}
	batch := queue.Batch{Records: numbered(1, 3)}
	if err := w.Commit(ctx, batch, record.Cursor("a")); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("commit without a server: %v", err)
	}
	p.start()
	if err := w.Commit(ctx, batch, record.Cursor("a")); err != nil {
		t.Fatalf("commit after the outage: %v", err)
	}
	if err := q.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if n := count(t, q, "outage"); n != 4 {
		t.Fatalf("%d records, want 4", n)
	}
}

// TestHungServer: the server takes the connection and says nothing.
func TestHungServer(t *testing.T) {
	p := start(t)
	c := p.config()
	c.Timeout = 200 * time.Millisecond
	q := open(t, c)
	pause := bare(t, p.addr)
	if err := pause.Do(t.Context(), "CLIENT", "PAUSE", 1500, "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := q.Publish(t.Context(), "hung", numbered(0, 1)); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("publish to a server that hangs: %v", err)
	}
	gone, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := q.Browse(gone, "hung", 0, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("browse whose context ends: %v", err)
	}
	if d := time.Since(begin); d > time.Second {
		t.Fatalf("that took %s", d)
	}
}
