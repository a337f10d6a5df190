package natsqueue

import (
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ferry/internal/embedded"
	"ferry/internal/queue"
	"ferry/internal/record"
)

// wire connects to the embedded server by connections that can lose the server's answers and then break.
type wire struct {
	*embedded.Server
	deaf atomic.Bool // the next answer is lost, and the connection with it
}

func (w *wire) InProcessConn() (net.Conn, error) {
	c, err := w.Server.InProcessConn()
	return &wireConn{c, w}, err
}

func (w *wire) connect(opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("", append([]nats.Option{nats.InProcessServer(w), nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0)}, opts...)...)
}

type wireConn struct {
	net.Conn
	w *wire
}

func (c *wireConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.w.deaf.CompareAndSwap(true, false) {
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// eventually calls f until its error is no longer that the queue is unavailable.
func eventually(t *testing.T, f func() error) error {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		err := f()
		if !errors.Is(err, queue.ErrUnavailable) || time.Now().After(end) {
			return err
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestLostAnswer: the commit is written, its answer is lost with the connection.
func TestLostAnswer(t *testing.T) {
	s := serve(t, embedded.Options{})
	line := &wire{Server: s}
	c := embeddedConfig(s)
	c.Connect = line.connect
	q, sound := open(t, c), open(t, embeddedConfig(s))
	var want int
	w, err := q.OpenWriter(t.Context(), "p", "lost")
	if err != nil {
		t.Fatal(err)
	}
	for i, batch := range []queue.Batch{{Records: payload(30, 100)}, {Records: payload(3, 100), Dead: payload(2, 10)}, {}} {
		next := record.Cursor(strings.Repeat("x", i+1))
		line.deaf.Store(true)
		begin := time.Now()
		if err := w.Commit(t.Context(), batch, next); !errors.Is(err, queue.ErrUnavailable) {
			t.Fatalf("commit %d whose answer is lost: %v, want ErrUnavailable", i, err)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Fatalf("it took %s to notice the lost connection", d)
		}
		if err := eventually(t, func() error { return w.Commit(t.Context(), batch, next) }); err != nil {
			t.Fatalf("commit %d again: %v", i, err)
		}
		want += len(batch.Records)
		if st, err := sound.Stats(t.Context(), "lost"); err != nil || st.Records != int64(want) {
			t.Fatalf("%d records after commit %d and its repetition (%v), want %d", st.Records, i, err, want)
		}
		if string(w.Cursor()) != string(next) {
			t.Fatalf("cursor %q, want %q", w.Cursor(), next)
		}
	}
}

// TestLostAnswerOfPublish: what was published is written, the answer is lost, and it is there once all the same.
func TestLostAnswerOfPublish(t *testing.T) {
	s := serve(t, embedded.Options{})
	line := &wire{Server: s}
	c := embeddedConfig(s)
	c.Connect = line.connect
	q, sound := open(t, c), open(t, embeddedConfig(s))
	want := 1
	if err := q.Publish(t.Context(), "lost", payload(1, 100)); err != nil {
		t.Fatal(err)
	}
	for i, n := range []int{1, 5, 40, 1, 2000} {
		if err := eventually(t, func() error { return q.Ping(t.Context()) }); err != nil {
			t.Fatal(err)
		}
		line.deaf.Store(true)
		if err := q.Publish(t.Context(), "lost", payload(n, 100)); err != nil {
			t.Fatalf("publish %d of %d records: %v", i, n, err)
		}
		if line.deaf.Load() {
			t.Fatal("no answer was lost")
		}
		want += n
		if st, err := sound.Stats(t.Context(), "lost"); err != nil || st.Records != int64(want) {
			t.Fatalf("%d records after publish %d of %d (%v), want %d", st.Records, i, n, err, want)
		}
	}
}

// TestLostAnswerThenFenced: the answer is lost, and before the commit is repeated another writer takes over.
func TestLostAnswerThenFenced(t *testing.T) {
	s := serve(t, embedded.Options{})
	line := &wire{Server: s}
	c := embeddedConfig(s)
	c.Connect = line.connect
	q, sound := open(t, c), open(t, embeddedConfig(s))
	w, err := q.OpenWriter(t.Context(), "p", "lost")
	if err != nil {
		t.Fatal(err)
	}
	batch := queue.Batch{Records: payload(30, 100)}
	line.deaf.Store(true)
	if err := w.Commit(t.Context(), batch, record.Cursor("a")); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatal(err)
	}
	young, err := sound.OpenWriter(t.Context(), "p", "lost")
	if err != nil {
		t.Fatal(err)
	}
	if err := eventually(t, func() error { return w.Commit(t.Context(), batch, record.Cursor("a")) }); !errors.Is(err, queue.ErrFenced) {
		t.Fatalf("repetition after another writer's claim: %v, want ErrFenced", err)
	}
	// Whether the lost commit came through is told by the cursor, and the records agree with it.
	st, err := sound.Stats(t.Context(), "lost")
	if err != nil {
		t.Fatal(err)
	}
	if landed := string(young.Cursor()) == "a"; landed != (st.Records == 30) || !landed && st.Records != 0 {
		t.Fatalf("cursor %q with %d records", young.Cursor(), st.Records)
	}
}

// TestDifferentBatchAfterUnknown: what was written must not be written again in another shape.
func TestDifferentBatchAfterUnknown(t *testing.T) {
	s := serve(t, embedded.Options{})
	line := &wire{Server: s}
	c := embeddedConfig(s)
	c.Connect = line.connect
	q := open(t, c)
	w, err := q.OpenWriter(t.Context(), "p", "lost")
	if err != nil {
		t.Fatal(err)
	}
	line.deaf.Store(true)
	if err := w.Commit(t.Context(), queue.Batch{Records: payload(30, 100)}, record.Cursor("a")); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatal(err)
	}
	err = eventually(t, func() error {
		return w.Commit(t.Context(), queue.Batch{Records: payload(20, 100)}, record.Cursor("b"))
	})
	st, serr := q.Stats(t.Context(), "lost")
	if serr != nil {
		t.Fatal(serr)
	}
	switch {
	case err == nil && st.Records == 20: // the first one had not come through
	case err != nil && st.Records == 30 && string(w.Cursor()) == "a":
	default:
		t.Fatalf("%d records, cursor %q, error %v", st.Records, w.Cursor(), err)
	}
}
