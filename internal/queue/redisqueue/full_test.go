package redisqueue

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// TestOutOfMemory fills a server: a commit is written whole or refused whole, and goes on once there is room.
func TestOutOfMemory(t *testing.T) {
	p := start(t, "--maxmemory", "24mb", "--maxmemory-policy", "noeviction")
	q := open(t, p.config())
	w := writerOf(t, q, "p", "oom")
	ctx := t.Context()
	done := 0
	next := func() record.Cursor { return record.Cursor(fmt.Sprint(done + 1)) }
	batch := queue.Batch{Records: payload(500, 1000), Dead: payload(3, 100)}
	var err error
	for range 200 {
		if err = w.Commit(ctx, batch, next()); err != nil {
			break
		}
		done++
	}
	if !errors.Is(err, queue.ErrFull) || retry.IsPermanent(err) {
		t.Fatalf("after %d commits: %v, want ErrFull", done, err)
	}
	agree := func() {
		t.Helper()
		if n, dead := count(t, q, "oom"), count(t, q, "oom.dead"); n != 500*done || dead != 3*done {
			t.Fatalf("%d records and %d dead letters after %d commits: part of a commit was written", n, dead, done)
		}
		if c, err := q.Cursor(ctx, "p", "oom"); err != nil || string(c) != fmt.Sprint(done) {
			t.Fatalf("cursor %q after %d commits (%v)", c, done, err)
		}
	}
	agree()
	for range 5 {
		if err := w.Commit(ctx, batch, next()); !errors.Is(err, queue.ErrFull) {
			t.Fatalf("again: %v", err)
		}
	}
	agree()
	// A commit's own weight counts too while the server reads it. Now nothing fits any more.
	if err := bare(t, p.addr).ConfigSet(ctx, "maxmemory", "16mb").Err(); err != nil {
		t.Fatal(err)
	}
	if err := q.Publish(ctx, "oom", payload(1, 10)); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("publish: %v", err)
	}
	if err := q.Ping(ctx); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("ping: %v", err)
	}
	if _, err := q.OpenWriter(ctx, "other", "oom"); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("open writer: %v", err)
	}
	agree()
	// What is there can be read and taken out.
	if d, err := q.Browse(ctx, "oom", 0, 1); err != nil || len(d) != 1 {
		t.Fatalf("browse: %v", err)
	}
	if err := bare(t, p.addr).ConfigSet(ctx, "maxmemory", "200mb").Err(); err != nil {
		t.Fatal(err)
	}
	if err := q.Ping(ctx); err != nil {
		t.Fatalf("ping after there is room: %v", err)
	}
	if err := w.Commit(ctx, batch, next()); err != nil {
		t.Fatalf("commit after there is room: %v", err)
	}
	done++
	agree()
}

// TestLimits: at max_len and max_bytes a topic pushes back, and drops nothing.
func TestLimits(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		ctx := t.Context()
		c.MaxLen = 10
		q := open(t, c)
		if n := q.Info().Limits.CommitRecords; n != 10 {
			t.Errorf("commits of up to %d records, which no topic of 10 could ever take", n)
		}
		w := writerOf(t, q, "p", "short")
		if err := w.Commit(ctx, queue.Batch{Records: payload(8, 10)}, record.Cursor("a")); err != nil {
			t.Fatal(err)
		}
		err := w.Commit(ctx, queue.Batch{Records: payload(3, 10)}, record.Cursor("b"))
		if !errors.Is(err, queue.ErrFull) || !strings.Contains(err.Error(), "topic short holds 8 records, and the queue's URL says max_len=10") {
			t.Fatalf("a commit over the limit: %v", err)
		}
		if err := w.Commit(ctx, queue.Batch{Records: payload(2, 10), Dead: payload(5, 10)}, record.Cursor("b")); err != nil {
			t.Fatal(err)
		}
		// The dead letters' limit holds back the records too: nothing is lost, nothing is written by half.
		w2 := writerOf(t, q, "p", "other")
		if err := w2.Commit(ctx, queue.Batch{Dead: payload(9, 10)}, record.Cursor("a")); err != nil {
			t.Fatal(err)
		}
		err = w2.Commit(ctx, queue.Batch{Records: payload(2, 10), Dead: payload(2, 10)}, record.Cursor("b"))
		if !errors.Is(err, queue.ErrFull) || !strings.Contains(err.Error(), "topic other.dead holds 9 records") {
			t.Fatalf("a commit over the limit of dead letters: %v", err)
		}
		if _, err := q.Browse(ctx, "other", 0, 1); err != nil && !errors.Is(err, queue.ErrNoTopic) {
			t.Fatal(err)
		}

		c.MaxLen, c.MaxBytes = 0, 100_000
		q = open(t, c)
		if l := q.Info().Limits; l.CommitBytes != 50_000 || l.RecordBytes != 50_000 {
			t.Errorf("limits %+v, of which a topic of 100000 bytes could never take everything", l)
		}
		for done := 0; ; done++ {
			err := q.Publish(ctx, "heavy", payload(10, 1000))
			if err == nil && done < 20 {
				continue
			}
			if !errors.Is(err, queue.ErrFull) || done < 3 {
				t.Fatalf("after %d publishes of 10 kB: %v", done, err)
			}
			return
		}
	})
}

// TestNotAStream: a key that holds something else is refused, before anything is written.
func TestNotAStream(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		ctx := t.Context()
		if err := bare(t, c.Hosts[0]).Set(ctx, "{taken}.dead", "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
		q := open(t, c)
		w := writerOf(t, q, "p", "taken")
		err := w.Commit(ctx, queue.Batch{Records: payload(3, 10), Dead: payload(1, 10)}, record.Cursor("a"))
		if want := "topic taken.dead cannot lie under the key {taken}.dead: a string lies there already; choose another topic"; err == nil || err.Error() != want || !retry.IsPermanent(err) {
			t.Fatalf("error %v, want %s", err, want)
		}
		if _, err := q.Browse(ctx, "taken", 0, 1); !errors.Is(err, queue.ErrNoTopic) {
			t.Fatalf("the records were written without their dead letters: %v", err)
		}
		if err := q.Prepare(ctx, "taken"); err == nil || !strings.Contains(err.Error(), "a string lies there already") {
			t.Fatalf("prepare: %v", err)
		}
	})
}
