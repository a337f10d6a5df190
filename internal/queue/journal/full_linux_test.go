package journal_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
)

// TestFullDiskKeepsThePosition: a file that a kill left without a record outlives the failure to fill it, since its name
// is all that tells where the numbering goes on.
func TestFullDiskKeepsThePosition(t *testing.T) {
	dir, store := t.TempDir(), &queuetest.Store{}
	behind := func() queue.Queue { return queuetest.NewMemory(queuetest.MemoryOptions{Store: store}) }
	q := open(t, dir, behind())
	publish(t, q, "orders", 0, 11) // the first made the topic; positions 1 to 10
	closeNow(t, q)
	if err := os.Remove(filepath.Join(dir, fmt.Sprintf("%016x.journal", 1))); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(dir, fmt.Sprintf("%016x.journal", 11))
	if err := os.WriteFile(next, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	q = open(t, dir, behind())
	publish(t, q, "orders", 11, 12)
	onFullDisk(t, func() {
		if err := q.Publish(t.Context(), "orders", []record.Record{rec(12)}); err == nil {
			t.Error("published on a full disk")
		}
	})
	closeNow(t, q)
	if s, err := os.Stat(next); err != nil || s.Size() != 0 {
		t.Fatalf("%v, %v: want the file, without what was written of it", s, err)
	}

	q = open(t, dir, behind())
	defer closeNow(t, q)
	publish(t, q, "orders", 12, 20)
	want(t, q, "orders", 20)
}

// onFullDisk calls f while no file can grow over 2 MiB.
func onFullDisk(t *testing.T, f func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 2 << 20, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Error(err)
		}
	}()
	f()
}
