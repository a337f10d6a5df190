package journal_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/journal"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
)

// fullTopic is a queue of which one topic can be full: the one of the records that are called "full".
func fullTopic(full func() error) queue.Queue {
	return queuetest.NewMemory(queuetest.MemoryOptions{Hooks: queuetest.Hooks{
		BeforeCommit: func(_ context.Context, _ string, b queue.Batch, _ record.Cursor) error {
			if len(b.Records) > 0 && b.Records[0].ID == "full" {
				return full()
			}
			return nil
		},
	}})
}

func waitBlocked(t *testing.T, q *journal.Queue) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !errors.Is(q.Ping(t.Context()), queue.ErrFull); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("ping does not say that a topic is full")
		}
	}
}

func count(t *testing.T, q queue.Queue, topic string, n int) {
	t.Helper()
	got, err := q.Browse(t.Context(), topic, 0, 10_000)
	if err != nil || len(got) != n {
		t.Fatalf("%d records in %s, %v; want %d", len(got), topic, err, n)
	}
}

// TestFullTopicAlone: a topic that takes nothing holds up its own requests and readers, and nobody else's.
func TestFullTopicAlone(t *testing.T) {
	var full atomic.Bool
	q := open(t, t.TempDir(), fullTopic(func() error {
		if full.Load() {
			return queue.ErrFull
		}
		return nil
	}))
	defer closeNow(t, q)
	one := []record.Record{{ID: "full", Data: []byte("1")}}
	publish(t, q, "orders", 0, 1) // makes the topics
	publish(t, q, "orders.dead", 0, 1)
	if err := q.Publish(t.Context(), "a", one); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	if err := q.Publish(t.Context(), "a", one); err != nil {
		t.Fatal(err)
	}
	waitBlocked(t, q)
	if err := q.Publish(t.Context(), "a", one); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("publish to the full topic: %v, want the reason", err)
	}
	count(t, q, "a", 1) // what it holds is shown
	publish(t, q, "orders", 1, 50)
	publish(t, q, "orders.dead", 1, 3)
	want(t, q, "orders", 50)
	want(t, q, "orders.dead", 3)
	w, err := q.OpenWriter(t.Context(), "p", "orders")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), queue.Batch{Records: []record.Record{rec(50)}}, record.Cursor("1")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, q, "orders", 51)

	full.Store(false)
	for deadline := time.Now().Add(10 * time.Second); q.Ping(t.Context()) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("there is room again, and the topic is still blocked")
		}
	}
	count(t, q, "a", 2)
}

// TestRoomForAPart: what a full topic has room for arrives, in order, although not all that waits for it fits.
func TestRoomForAPart(t *testing.T) {
	var full atomic.Bool
	var room atomic.Int64 // records that the topic takes beside
	store := &queuetest.Store{}
	behind := func() queue.Queue {
		return queuetest.NewMemory(queuetest.MemoryOptions{Store: store, Hooks: queuetest.Hooks{
			BeforeCommit: func(_ context.Context, _ string, b queue.Batch, _ record.Cursor) error {
				if full.Load() && room.Add(-int64(b.Len())) < 0 {
					room.Add(int64(b.Len()))
					return queue.ErrFull
				}
				return nil
			},
		}})
	}
	dir := t.TempDir()
	q := open(t, dir, behind())
	publish(t, q, "orders", 0, 1) // makes the topic
	full.Store(true)
	var batch []record.Record
	for i := 1; i <= 100; i++ {
		batch = append(batch, rec(i))
	}
	if err := q.Publish(t.Context(), "orders", batch); err != nil {
		t.Fatal(err)
	}
	arrive := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			got, err := q.Browse(t.Context(), "orders", 0, 1000)
			if err != nil && !errors.Is(err, queue.ErrFull) {
				t.Fatal(err)
			}
			if len(got) == n {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d records have arrived, want %d", len(got), n)
			}
		}
		waitBlocked(t, q)
		want(t, q, "orders", n)
	}
	arrive(1)
	room.Store(37)
	arrive(38)
	room.Store(1)
	arrive(39)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.Close(ctx); err != nil {
		t.Fatal(err)
	}
	q = open(t, dir, behind())
	defer closeNow(t, q)
	room.Store(3)
	arrive(42)
	full.Store(false)
	for deadline := time.Now().Add(20 * time.Second); q.Ping(t.Context()) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("there is room, and the topic is still blocked")
		}
	}
	want(t, q, "orders", 101)
}

// TestPingTellsTheCauseFirst: where a topic is blocked because the queue behind is not well, what that says comes first.
func TestPingTellsTheCauseFirst(t *testing.T) {
	var down atomic.Bool
	q := open(t, t.TempDir(), queuetest.NewMemory(queuetest.MemoryOptions{Hooks: queuetest.Hooks{
		BeforeCommit: func(context.Context, string, queue.Batch, record.Cursor) error {
			if down.Load() {
				return queue.ErrUnavailable
			}
			return nil
		},
		OnPing: func(context.Context) error {
			if down.Load() {
				return errors.New("the disk takes no writes")
			}
			return nil
		},
	}}))
	publish(t, q, "orders", 0, 1) // makes the topic
	down.Store(true)
	publish(t, q, "orders", 1, 2)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		err := q.Ping(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), "the disk takes no writes") {
			t.Fatalf("ping says %v", err)
		}
		if errors.Is(err, queue.ErrUnavailable) {
			break // the topic is blocked by now, and that is said too
		}
		if time.Now().After(deadline) {
			t.Fatal("ping does not say that the topic is blocked")
		}
	}
	down.Store(false)
	closeNow(t, q)
}

// TestFullTopicLeavesRoom: what is held for a full topic is bounded, and neither takes the room of the others nor keeps
// their files.
func TestFullTopicLeavesRoom(t *testing.T) {
	dir := t.TempDir()
	gate := make(chan struct{})
	q := open(t, dir, fullTopic(func() error { <-gate; return queue.ErrFull }))
	defer closeNow(t, q)
	big := func(id string) []record.Record {
		return []record.Record{{ID: id, Data: []byte(`"` + strings.Repeat("x", 900<<10) + `"`)}}
	}
	for _, topic := range []string{"a", "b", "c"} {
		publish(t, q, topic, 0, 1)
	}
	// The commit under way holds on, so that this is confirmed until there is no more room for one topic.
	fill := func(topic string) (n int) {
		t.Helper()
		for ; n < 40; n++ {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			err := q.Publish(ctx, topic, big("full"))
			cancel()
			if err != nil {
				if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, queue.ErrUnavailable) {
					t.Fatal(err)
				}
				break
			}
		}
		return n
	}
	a, b := fill("a"), fill("b")
	if a < 10 || a > 18 || b < 5 || b > 9 {
		t.Errorf("%d and %d records of 900 KiB were taken for the topics, want half of the room and half of the rest", a, b)
	}
	close(gate)
	waitBlocked(t, q)
	for range 60 {
		if err := q.Publish(t.Context(), "c", big("c")); err != nil {
			t.Fatal(err)
		}
	}
	count(t, q, "c", 61)
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil || len(files) > 5 { // 8 MiB each; what is pending lies in four at most
		t.Errorf("%d files are left, %v", len(files), err)
	}
	// More than what is left has to wait for the full topics, which may take for ever.
	huge := record.Record{ID: "c", Data: []byte(`"` + strings.Repeat("x", 1000<<10) + `"`)}
	var batch []record.Record
	for range 20 {
		batch = append(batch, huge)
	}
	if err := q.Publish(t.Context(), "c", batch); !errors.Is(err, queue.ErrFull) {
		t.Errorf("a batch for which there is no room: %v, want why", err)
	}
}
