package embedded_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ferry/internal/embedded"
)

// TestFullDisk fills a small disk, frees it, and sees the server take writes again by itself, with all that it had
// confirmed.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, "40m")
	free := fill(t, filepath.Join(dir, "ballast"), 18<<20)
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
	free()
	wait(t, "the server to take writes again", func() bool { return s.Healthy() == nil && publish() == nil })
	str, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if n := str.CachedInfo().State.Msgs; n < confirmed+1 {
		t.Fatalf("%d messages, but %d were confirmed", n, confirmed+1)
	}
}

// TestDiskGetsShort fills the disk beside a server that has nothing to write: a commit that fails then leaves no trace in
// the server's own health, so this has to be seen, and told, without one.
func TestDiskGetsShort(t *testing.T) {
	dir := smallDisk(t, "64m")
	var log logged
	s := start(t, embedded.Options{Dir: filepath.Join(dir, "queue"), CheckEvery: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	_, js := connect(t, s)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	healthy := func() bool { return s.Healthy() == nil }
	<-time.After(200 * time.Millisecond) // some checks
	if !healthy() || log.has("disk") {
		t.Fatalf("%v, with most of the disk free; the log: %s", s.Healthy(), log.text())
	}
	freeMost := fill(t, filepath.Join(dir, "ballast"), 50<<20)
	wait(t, "the health check to see the full disk", func() bool {
		err := s.Healthy()
		return err != nil && strings.Contains(err.Error(), "takes no writes") && strings.Contains(err.Error(), "MiB more must fit")
	})
	wait(t, "the log to tell it", func() bool { return log.has("takes no writes") })
	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Errorf("what still fits is not taken: %v", err)
	}
	freeMost()
	wait(t, "the health check to see the space", healthy)
	wait(t, "the log to tell it", func() bool { return log.has("takes writes again") })
	if n := strings.Count(log.text(), "takes no writes"); n != 1 {
		t.Errorf("the log tells it %d times, want once:\n%s", n, log.text())
	}
	if log.has("restarting") {
		t.Errorf("the server was restarted, which nothing asked for:\n%s", log.text())
	}
}

// logged is a log to look at while it is written.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) has(text string) bool { return strings.Contains(l.text(), text) }

// smallDisk gives a folder on a disk of its own.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("needs to mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes that much of a disk, and gives what frees it again.
func fill(t *testing.T, name string, size int) (free func()) {
	t.Helper()
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDiskWithinACommit fills the disk in the middle of a commit: it lies beside its stream as a whole, and in the
// stream a part of it. As long as there is no room for the rest the server must not start, for it would throw away what lies
// beside and the part would stay.
func TestFullDiskWithinACommit(t *testing.T) {
	const messages, size = 160, 100 << 10
	for name, tt := range map[string]struct {
		little  bool // free a little space first
		restart bool // stop on the full disk and start there
	}{
		"all space at once":     {},
		"a little space first":  {little: true},
		"started on full disk":  {restart: true},
		"started with a little": {restart: true, little: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := smallDisk(t, "96m")
			o := embedded.Options{Dir: filepath.Join(dir, "queue"), CheckEvery: 20 * time.Millisecond}
			if tt.restart {
				o.CheckEvery = time.Hour
			}
			s := start(t, o)
			nc, js := connect(t, s)
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, AllowAtomicPublish: true}); err != nil {
				t.Fatal(err)
			}
			freeAll := fill(t, filepath.Join(dir, "ballast"), 58<<20)
			freeLittle := fill(t, filepath.Join(dir, "little"), 17<<20) // more than a probe without a commit
			for i := 1; i <= messages; i++ {
				m := nats.NewMsg("s")
				m.Data = make([]byte, size)
				m.Header.Set("Nats-Batch-Id", "b")
				m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i))
				if i < messages {
					if err := nc.PublishMsg(m); err != nil {
						t.Fatal(err)
					}
					continue
				}
				m.Header.Set("Nats-Batch-Commit", "1")
				if r, err := nc.RequestMsg(m, time.Second); err == nil && !strings.Contains(string(r.Data), "error") {
					t.Fatalf("the disk has room for the commit: %s", r.Data)
				}
			}

			if tt.restart {
				if err := s.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				if tt.little {
					freeLittle()
				}
				again, err := embedded.Start(t.Context(), o)
				if err == nil {
					again.Close(t.Context())
					t.Fatal("started without room for the commit")
				}
				if !strings.Contains(err.Error(), "free some space") || strings.Contains(err.Error(), "damaged") {
					t.Fatalf("the error does not say what to do: %v", err)
				}
				freeAll()
				s = start(t, o)
				_, js = connect(t, s)
			} else {
				wait(t, "the health check to see the full disk", func() bool {
					err := s.Healthy()
					return err != nil && strings.Contains(err.Error(), "free some space")
				})
				if tt.little {
					freeLittle()
					<-time.After(300 * time.Millisecond) // long enough for a restart
					if s.Healthy() == nil {
						t.Fatal("healthy without room for the commit")
					}
				}
				freeAll()
				wait(t, "the server to take writes again", func() bool { return s.Healthy() == nil })
			}
			str, err := js.Stream(t.Context(), "S")
			if err != nil {
				t.Fatal(err)
			}
			if n := str.CachedInfo().State.Msgs; n != messages {
				t.Fatalf("%d messages of a commit of %d", n, messages)
			}
			if _, err := js.Publish(t.Context(), "s", nil); err != nil {
				t.Fatal(err)
			}
		})
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
