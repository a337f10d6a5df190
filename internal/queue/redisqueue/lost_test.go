package redisqueue

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// wire is a network that can lose a script's answer and the connection with it, or hold a script back.
type wire struct {
	deaf atomic.Bool   // the answer to the next script is lost
	mute chan struct{} // when not nil the next script leaves once this is closed
	held atomic.Bool
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return &wireConn{Conn: c, w: w}, err
}

type wireConn struct {
	net.Conn
	w      *wire
	script atomic.Bool // the last thing sent was a script
}

func (c *wireConn) Write(p []byte) (int, error) {
	c.script.Store(bytes.Contains(p, []byte("\r\neval")))
	if c.script.Load() && c.w.mute != nil && c.w.held.CompareAndSwap(false, true) {
		<-c.w.mute
	}
	return c.Conn.Write(p)
}

func (c *wireConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.script.Load() && c.w.deaf.CompareAndSwap(true, false) {
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// known has the server know the scripts, so that the first answer is one to a script that ran.
func known(t *testing.T, q *Queue) {
	t.Helper()
	w := writerOf(t, q, "known", "known")
	if err := w.Commit(t.Context(), queue.Batch{Records: payload(1, 10)}, record.Cursor("x")); err != nil {
		t.Fatal(err)
	}
	if err := q.Publish(t.Context(), "known", payload(1, 10)); err != nil {
		t.Fatal(err)
	}
}

// TestLostAnswer: the commit is written, its answer is lost with the connection.
func TestLostAnswer(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		line := &wire{}
		sound := open(t, c)
		c.Dial = line.dial
		q := open(t, c)
		known(t, q)
		w := writerOf(t, q, "p", "lost")
		want := 0
		for i, batch := range []queue.Batch{{Records: payload(30, 100)}, {Records: payload(3, 100), Dead: payload(2, 10)}, {}} {
			next := record.Cursor(strings.Repeat("x", i+1))
			line.deaf.Store(true)
			if err := w.Commit(t.Context(), batch, next); !errors.Is(err, queue.ErrUnavailable) {
				t.Fatalf("commit %d whose answer is lost: %v, want ErrUnavailable", i, err)
			}
			if string(w.Cursor()) == string(next) {
				t.Fatal("the cursor moved without an answer")
			}
			if err := w.Commit(t.Context(), batch, next); err != nil {
				t.Fatalf("commit %d again: %v", i, err)
			}
			want += len(batch.Records)
			if n := count(t, sound, "lost"); n != want {
				t.Fatalf("%d records after commit %d and its repetition, want %d", n, i, want)
			}
			if string(w.Cursor()) != string(next) {
				t.Fatalf("cursor %q, want %q", w.Cursor(), next)
			}
		}
		if n := count(t, sound, "lost.dead"); n != 2 {
			t.Fatalf("%d dead letters, want 2", n)
		}
	})
}

// TestLostAnswerThenFenced: the answer is lost, and before the commit is repeated another writer takes over.
func TestLostAnswerThenFenced(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		line := &wire{}
		sound := open(t, c)
		c.Dial = line.dial
		q := open(t, c)
		known(t, q)
		w := writerOf(t, q, "p", "lost")
		batch := queue.Batch{Records: payload(30, 100)}
		line.deaf.Store(true)
		if err := w.Commit(t.Context(), batch, record.Cursor("a")); !errors.Is(err, queue.ErrUnavailable) {
			t.Fatal(err)
		}
		young := writerOf(t, sound, "p", "lost")
		if string(young.Cursor()) != "a" {
			t.Fatalf("the next writer begins at %q: the commit had come through", young.Cursor())
		}
		for range 2 {
			if err := w.Commit(t.Context(), batch, record.Cursor("a")); !errors.Is(err, queue.ErrFenced) {
				t.Fatalf("repetition after another writer's claim: %v, want ErrFenced", err)
			}
		}
		if n := count(t, sound, "lost"); n != 30 {
			t.Fatalf("%d records, want 30", n)
		}
	})
}

// TestDifferentBatchAfterUnknown: what was written must not be written again in another shape.
func TestDifferentBatchAfterUnknown(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		line := &wire{}
		c.Dial = line.dial
		q := open(t, c)
		known(t, q)
		w := writerOf(t, q, "p", "lost")
		line.deaf.Store(true)
		if err := w.Commit(t.Context(), queue.Batch{Records: payload(30, 100)}, record.Cursor("a")); !errors.Is(err, queue.ErrUnavailable) {
			t.Fatal(err)
		}
		err := w.Commit(t.Context(), queue.Batch{Records: payload(20, 100)}, record.Cursor("b"))
		if !errors.Is(err, queue.ErrWritten) || string(w.Cursor()) != "a" || count(t, q, "lost") != 30 {
			t.Fatalf("%d records, cursor %q, error %v", count(t, q, "lost"), w.Cursor(), err)
		}
	})
}

// TestLateCommit: a commit is given up, another one is made in its place, and the first one arrives.
func TestLateCommit(t *testing.T) {
	p := start(t)
	c := p.config()
	c.Timeout = 300 * time.Millisecond
	sound := open(t, c)
	line := &wire{mute: make(chan struct{})}
	line.held.Store(true) // not yet
	c.Dial = line.dial
	q := open(t, c)
	known(t, q)
	w := writerOf(t, q, "p", "late")
	line.held.Store(false)
	gone, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Commit(gone, queue.Batch{Records: payload(3, 50)}, record.Cursor("first")) }()
	until(t, "the first commit is under way", line.held.Load)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("a commit whose context ends: %v", err)
	}
	// The writer waits for what it has sent before it sends anything else.
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := w.Commit(short, queue.Batch{Records: payload(2, 50)}, record.Cursor("second")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a commit behind one that hangs: %v", err)
	}
	// Another run takes the pipeline over and commits; then the first commit arrives.
	young := writerOf(t, sound, "p", "late")
	if err := young.Commit(t.Context(), queue.Batch{Records: payload(5, 50)}, record.Cursor("young")); err != nil {
		t.Fatal(err)
	}
	close(line.mute)
	err := w.Commit(t.Context(), queue.Batch{Records: payload(2, 50)}, record.Cursor("second"))
	if !errors.Is(err, queue.ErrFenced) && !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("the fenced writer: %v", err)
	}
	if n := count(t, sound, "late"); n != 5 {
		t.Fatalf("%d records, want the 5 of the later writer", n)
	}
}

// TestPublishStopsPartWay: of a publish in several scripts one loses its answer.
func TestPublishStopsPartWay(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		line := &wire{}
		c.MaxLen = 1000
		sound := open(t, c)
		c.Dial = line.dial
		q := open(t, c)
		known(t, q)
		if err := q.Publish(t.Context(), "part", payload(200, 20)); err != nil {
			t.Fatal(err)
		}
		// 1000 at a time: the second script finds the topic full.
		batch := payload(850, 20)
		batch[100].Data = make([]byte, recordBytes+1)
		err := q.Publish(t.Context(), "part", append(batch, payload(850, 20)...))
		if !errors.Is(err, queue.ErrFull) {
			t.Fatalf("publish over max_len: %v", err)
		}
		var part *queue.PartError
		if errors.As(err, &part) || count(t, sound, "part") != 200 {
			t.Fatalf("nothing fits, but: %v, %d records", err, count(t, sound, "part"))
		}
		if err := q.Publish(t.Context(), "one", payload(1500, 20)); !errors.As(err, &part) || part.Done != 1000 || !errors.Is(err, queue.ErrFull) {
			t.Fatalf("a publish of which the first 1000 records fit: %v", err)
		}
		batch = payload(1500, 20)
		batch[100].Data = make([]byte, recordBytes+1)
		if err := q.Publish(t.Context(), "two", batch); !errors.As(err, &part) || part.Done != 100 {
			t.Fatalf("a publish of which the first 100 records are durable, and one after them is too large: %v", err)
		}
		if n := count(t, sound, "one"); n != 1000 {
			t.Fatalf("%d records", n)
		}
		line.deaf.Store(true)
		if err := q.Publish(t.Context(), "three", payload(5, 20)); !errors.Is(err, queue.ErrUnavailable) {
			t.Fatalf("a publish whose answer is lost: %v", err)
		}
	})
}
