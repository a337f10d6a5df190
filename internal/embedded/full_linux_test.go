package embedded_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ferry/internal/embedded"
)

// TestFullDisk fills a small disk, frees it, and sees the server take writes again by itself, with all that it had
// confirmed.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("needs to mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, embedded.Options{Dir: dir, CheckEvery: 30 * time.Millisecond})
	_, js := connect(t, s)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	publish := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := js.Publish(ctx, "s", make([]byte, 32<<10))
		return err
	}
	confirmed := uint64(0)
	var err error
	for ; err == nil && confirmed < 2000; err = publish() {
		confirmed++
	}
	confirmed-- // the last round failed
	if err == nil {
		t.Fatal("the disk does not fill up")
	}
	wait(t, "the health check to see the full disk", func() bool { return s.Healthy() != nil })
	wait(t, "words for a person", func() bool {
		err := s.Healthy()
		return err != nil && strings.Contains(err.Error(), "free some space")
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	wait(t, "the server to take writes again", func() bool { return s.Healthy() == nil && publish() == nil })
	str, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if n := str.CachedInfo().State.Msgs; n < confirmed+1 {
		t.Fatalf("%d messages, but %d were confirmed", n, confirmed+1)
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
		<-time.After(20 * time.Millisecond)
	}
}
