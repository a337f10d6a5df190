package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ferry/internal/queue"
	"ferry/internal/queue/journal"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, dir string, behind queue.Queue) *journal.Queue {
	t.Helper()
	q, err := journal.Open(t.Context(), dir, behind)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func closeNow(t testing.TB, q queue.Queue) {
	t.Helper()
	if err := q.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestSuite: what is behind a journal keeps every promise of a queue.
func TestSuite(t *testing.T) {
	store := &queuetest.Store{}
	const redelivery = 300 * time.Millisecond
	queuetest.Run(t, queuetest.Harness{
		Open: func(t testing.TB) queue.Queue {
			q := open(t, t.TempDir(), queuetest.NewMemory(queuetest.MemoryOptions{Store: store, Redelivery: redelivery}))
			t.Cleanup(func() { closeNow(t, q) })
			return q
		},
		Redelivery: redelivery,
	})
}

func rec(i int) record.Record {
	return record.Record{
		ID: fmt.Sprintf("id-%d", i), Key: fmt.Sprint(i), Data: fmt.Appendf(nil, `{"n":%d}`, i),
		Headers: []record.Header{{Name: "ferry-run", Value: "r"}},
	}
}

func publish(t testing.TB, q queue.Queue, topic string, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := q.Publish(t.Context(), topic, []record.Record{rec(i)}); err != nil {
			t.Fatal(err)
		}
	}
}

func want(t testing.TB, q queue.Queue, topic string, n int) {
	t.Helper()
	got, err := q.Browse(t.Context(), topic, 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != n {
		t.Fatalf("%d records in %s, want %d", len(got), topic, n)
	}
	for i, s := range got {
		if w := rec(i); s.ID != w.ID || s.Key != w.Key || !bytes.Equal(s.Data, w.Data) || s.Header("ferry-run") != "r" {
			t.Fatalf("record %d is %+v", i, s.Record)
		}
	}
}

var errDown = errors.New("down")

// TestConfirmedWhileTheTopicsAreDown: what is in the journal outlives the process, and arrives once, in order.
func TestConfirmedWhileTheTopicsAreDown(t *testing.T) {
	dir, store := t.TempDir(), &queuetest.Store{}
	var mu sync.Mutex
	down := false
	setDown := func(d bool) { mu.Lock(); down = d; mu.Unlock() }
	behind := func() queue.Queue {
		return queuetest.NewMemory(queuetest.MemoryOptions{Store: store, Hooks: queuetest.Hooks{
			BeforeCommit: func(context.Context, string, queue.Batch, record.Cursor) error {
				mu.Lock()
				defer mu.Unlock()
				if down {
					return errDown
				}
				return nil
			},
		}})
	}
	q := open(t, dir, behind())
	publish(t, q, "orders", 0, 1) // makes the topic
	publish(t, q, "orders.dead", 0, 1)
	setDown(true)
	publish(t, q, "orders", 1, 2) // confirmed: the journal has it
	deadline := time.Now().Add(5 * time.Second)
	for q.Ping(t.Context()) == nil {
		if time.Now().After(deadline) {
			t.Fatal("ping does not say that the topics are down")
		}
		time.Sleep(time.Millisecond)
	}
	if err := q.Publish(t.Context(), "orders", []record.Record{rec(99)}); !errors.Is(err, errDown) {
		t.Fatalf("publish while down: %v, want the reason", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.Close(ctx); err != nil {
		t.Fatal(err)
	}

	setDown(false)
	q = open(t, dir, behind())
	want(t, q, "orders", 2)
	publish(t, q, "orders", 2, 3)
	publish(t, q, "orders.dead", 1, 3)
	want(t, q, "orders", 3)
	want(t, q, "orders.dead", 3)
	closeNow(t, q)
	q = open(t, dir, behind()) // and nothing comes twice
	want(t, q, "orders", 3)
	closeNow(t, q)
}

// TestLostAnswers: the commit is written and its answer lost, in every other case, while more records come.
func TestLostAnswers(t *testing.T) {
	n := 0
	q := open(t, t.TempDir(), queuetest.NewMemory(queuetest.MemoryOptions{Hooks: queuetest.Hooks{
		AfterCommit: func(context.Context, string, queue.Batch, record.Cursor) error {
			if n++; n%2 == 0 {
				return errDown
			}
			return nil
		},
	}}))
	defer closeNow(t, q)
	for i := range 30 {
		for {
			err := q.Publish(t.Context(), "orders", []record.Record{rec(i)})
			if err == nil {
				break
			}
			if !errors.Is(err, errDown) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // blocked for a moment: nothing was written
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		got, err := q.Browse(t.Context(), "orders", 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) >= 30 || time.Now().After(deadline) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	want(t, q, "orders", 30)
}

// TestTornTail: half a record at the end of a file, as a power cut leaves it, was never confirmed.
func TestTornTail(t *testing.T) {
	for _, cut := range []string{"half a record", "zeros", "a flipped bit", "nothing"} {
		t.Run(cut, func(t *testing.T) {
			dir, store := t.TempDir(), &queuetest.Store{}
			down := true
			var mu sync.Mutex
			behind := func() queue.Queue {
				return queuetest.NewMemory(queuetest.MemoryOptions{Store: store, Hooks: queuetest.Hooks{
					BeforeCommit: func(context.Context, string, queue.Batch, record.Cursor) error {
						mu.Lock()
						defer mu.Unlock()
						if down {
							return errDown
						}
						return nil
					},
				}})
			}
			q := open(t, dir, behind())
			publish(t, q, "orders", 0, 1)
			if err := q.Publish(t.Context(), "orders", []record.Record{rec(1), rec(2), rec(3)}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := q.Close(ctx); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			b, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			b = bytes.TrimRight(b, "\x00") // the file is filled with zeros beforehand
			expect := 4
			switch cut {
			case "half a record":
				b, expect = b[:len(b)-7], 3
			case "zeros":
				b = append(b, make([]byte, 4096)...)
			case "a flipped bit":
				b[len(b)-3] ^= 1
				expect = 3
			}
			if err := os.WriteFile(files[0], b, 0o600); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			down = false
			mu.Unlock()
			q = open(t, dir, behind())
			defer closeNow(t, q)
			want(t, q, "orders", expect)
			publish(t, q, "orders", expect, expect+2)
			want(t, q, "orders", expect+2)
		})
	}
}

// TestKilledBeforeTheFirstRecord: a file that a kill left without a record has the name of the next one. What is
// confirmed after that lies in a file that is there.
func TestKilledBeforeTheFirstRecord(t *testing.T) {
	for _, left := range []int{0, 1 << 20, 8 << 20} {
		t.Run(fmt.Sprint(left), func(t *testing.T) {
			dir, store := t.TempDir(), &queuetest.Store{}
			if err := os.WriteFile(filepath.Join(dir, "0000000000000001.journal"), make([]byte, left), 0o600); err != nil {
				t.Fatal(err)
			}
			q := open(t, dir, queuetest.NewMemory(queuetest.MemoryOptions{Store: store, Hooks: queuetest.Hooks{
				BeforeCommit: func(context.Context, string, queue.Batch, record.Cursor) error { return errDown },
			}}))
			publish(t, q, "orders", 0, 1) // makes the topic
			if err := q.Publish(t.Context(), "orders", []record.Record{rec(1), rec(2)}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := q.Close(ctx); err != nil {
				t.Fatal(err)
			}
			q = open(t, dir, queuetest.NewMemory(queuetest.MemoryOptions{Store: store}))
			defer closeNow(t, q)
			want(t, q, "orders", 3)
		})
	}
}

// TestDamagedID: a file of the id that a power cut left without what was written must not stand for another journal,
// whose cursors are elsewhere: all that is in the files would come again.
func TestDamagedID(t *testing.T) {
	for _, content := range []string{"", "\x00\x00\x00", "abcdefgh2345", "abcdefgh2345\n\n", "../orders2345\n"} {
		t.Run(fmt.Sprintf("%q", content), func(t *testing.T) {
			dir, store := t.TempDir(), &queuetest.Store{}
			behind := func() queue.Queue { return queuetest.NewMemory(queuetest.MemoryOptions{Store: store}) }
			damage := func() {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, "id"), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			damage()
			q := open(t, dir, behind()) // without records a new id is as good
			publish(t, q, "orders", 0, 3)
			closeNow(t, q)
			good, err := os.ReadFile(filepath.Join(dir, "id"))
			if err != nil {
				t.Fatal(err)
			}

			damage()
			if _, err := journal.Open(t.Context(), dir, behind()); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "id")) {
				t.Fatalf("opened with a damaged id: %v, want an error that names the file", err)
			}
			if err := os.WriteFile(filepath.Join(dir, "id"), good, 0o600); err != nil {
				t.Fatal(err)
			}
			q = open(t, dir, behind())
			defer closeNow(t, q)
			want(t, q, "orders", 3)
		})
	}
}

// TestLostFiles: where the topics' cursors are above all that the journal knows, new records are numbered above them.
func TestLostFiles(t *testing.T) {
	dir, store := t.TempDir(), &queuetest.Store{}
	behind := func() queue.Queue { return queuetest.NewMemory(queuetest.MemoryOptions{Store: store}) }
	q := open(t, dir, behind())
	publish(t, q, "orders", 0, 11)
	publish(t, q, "orders.dead", 0, 11)
	closeNow(t, q)
	removeFiles(t, dir)
	q = open(t, dir, behind())
	publish(t, q, "orders.dead", 11, 15)
	publish(t, q, "orders", 11, 15)
	closeNow(t, q)
	q = open(t, dir, behind())
	defer closeNow(t, q)
	publish(t, q, "orders", 15, 17)
	want(t, q, "orders", 17)
	want(t, q, "orders.dead", 15)
}

func removeFiles(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFilesBelowTheCursor: records that lie below their topic's cursor because the numbering has begun anew are
// delivered, and once.
func TestFilesBelowTheCursor(t *testing.T) {
	dir, store := t.TempDir(), &queuetest.Store{}
	behind := func(commit error) queue.Queue {
		return queuetest.NewMemory(queuetest.MemoryOptions{Store: store, Hooks: queuetest.Hooks{
			BeforeCommit: func(context.Context, string, queue.Batch, record.Cursor) error { return commit },
		}})
	}
	q := open(t, dir, behind(nil))
	publish(t, q, "orders", 0, 11)
	publish(t, q, "returns", 0, 1)
	closeNow(t, q)
	removeFiles(t, dir)

	other := t.TempDir() // makes the file that counts from the beginning
	q = open(t, other, queuetest.NewMemory(queuetest.MemoryOptions{Hooks: queuetest.Hooks{
		BeforeCommit: func(context.Context, string, queue.Batch, record.Cursor) error { return errDown },
	}}))
	publish(t, q, "returns", 0, 1)
	publish(t, q, "orders", 0, 1)
	if err := q.Publish(t.Context(), "orders", []record.Record{rec(11), rec(12)}); err != nil {
		t.Fatal(err)
	}
	if err := q.Publish(t.Context(), "returns", []record.Record{rec(1)}); err != nil {
		t.Fatal(err)
	}
	closeNow(t, q)
	name := fmt.Sprintf("%016x.journal", 1)
	b, err := os.ReadFile(filepath.Join(other, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}

	closeNow(t, open(t, dir, behind(errDown))) // the topics do not take it yet
	for range 2 {
		q = open(t, dir, behind(nil))
		want(t, q, "orders", 13)
		want(t, q, "returns", 2)
		closeNow(t, q)
	}
	q = open(t, dir, behind(nil))
	defer closeNow(t, q)
	publish(t, q, "orders", 13, 15)
	want(t, q, "orders", 15)
}

// TestOrderAfterARestart: a request comes behind what was confirmed before the restart, or not at all.
func TestOrderAfterARestart(t *testing.T) {
	dir, store := t.TempDir(), &queuetest.Store{}
	var down atomic.Bool
	gate := make(chan struct{})
	behind := func() queue.Queue {
		return queuetest.NewMemory(queuetest.MemoryOptions{Store: store, Hooks: queuetest.Hooks{
			BeforeCommit: func(context.Context, string, queue.Batch, record.Cursor) error {
				if down.Load() {
					return errDown
				}
				<-gate
				return nil
			},
		}})
	}
	down.Store(true)
	q := open(t, dir, behind())
	publish(t, q, "orders", 0, 1)
	publish(t, q, "orders", 1, 2) // confirmed, in the journal
	closeNow(t, q)

	q = open(t, dir, behind())
	if err := q.Publish(t.Context(), "orders", []record.Record{rec(99)}); !errors.Is(err, errDown) {
		t.Errorf("publish while the topic is down: %v, want the reason", err)
	}
	publish(t, q, "returns", 0, 1) // which has nothing to wait for
	closeNow(t, q)

	down.Store(false)
	q = open(t, dir, behind())
	defer closeNow(t, q)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.Publish(ctx, "orders", []record.Record{rec(99)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish while the commit is under way: %v, want the end of the context", err)
	}
	close(gate)
	publish(t, q, "orders", 2, 4)
	want(t, q, "orders", 4)
	want(t, q, "returns", 1)
}

func TestFilesGoWhenDrained(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queuetest.NewMemory(queuetest.MemoryOptions{}))
	defer closeNow(t, q)
	big := record.Record{ID: "big", Data: []byte(`"` + strings.Repeat("x", 900<<10) + `"`)}
	for range 40 {
		if err := q.Publish(t.Context(), "orders", []record.Record{big}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := q.Browse(t.Context(), "orders", 0, 100); err != nil || len(got) != 40 {
		t.Fatal(len(got), err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil || len(files) != 1 {
		t.Errorf("%d files are left, %v; want the present one", len(files), err)
	}
}

// TestRefusedForGood: a record that the topic refuses although it was confirmed becomes a dead letter, and the others
// go on.
func TestRefusedForGood(t *testing.T) {
	q := open(t, t.TempDir(), queuetest.NewMemory(queuetest.MemoryOptions{Hooks: queuetest.Hooks{
		BeforeCommit: func(_ context.Context, _ string, b queue.Batch, _ record.Cursor) error {
			for i := range b.Records {
				if b.Records[i].ID == "id-2" {
					return &queue.BatchError{Failed: map[int]error{i: &queue.TooLargeError{Size: 9, Limit: 8}}, Total: b.Len()}
				}
			}
			return nil
		},
	}}))
	defer closeNow(t, q)
	publish(t, q, "orders", 0, 1)
	publish(t, q, "orders.dead", 0, 1)
	if err := q.Publish(t.Context(), "orders", []record.Record{rec(1), rec(2), rec(3)}); err != nil {
		t.Fatal(err)
	}
	got, err := q.Browse(t.Context(), "orders", 0, 10)
	if err != nil || len(got) != 3 || got[2].ID != "id-3" {
		t.Fatalf("%v, %v", got, err)
	}
	dead, err := q.Browse(t.Context(), "orders.dead", 0, 10)
	if err != nil || len(dead) != 2 || dead[1].ID != "id-2" || dead[1].Header("ferry-dead-stage") != "queue" ||
		dead[1].Header("ferry-dead-size") != fmt.Sprint(len(rec(2).Data)) {
		t.Fatalf("%+v, %v", dead, err)
	}
}

func FuzzReadSegment(f *testing.F) {
	dir := f.TempDir()
	q := open(f, dir, queuetest.NewMemory(queuetest.MemoryOptions{}))
	publish(f, q, "orders", 0, 3)
	closeNow(f, q)
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil || len(files) != 1 {
		f.Fatal(files, err)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		f.Fatal(err)
	}
	good = bytes.TrimRight(good, "\x00")
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{0xff, 0xff, 0xff, 0x03, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000000000001.journal"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		q, err := journal.Open(t.Context(), dir, queuetest.NewMemory(queuetest.MemoryOptions{}))
		if err != nil {
			return // refused is fine, a panic is not
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_ = q.Close(ctx) // a made-up topic may not take its records
	})
}
