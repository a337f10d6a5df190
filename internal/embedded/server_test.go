package embedded_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"ferry/internal/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t testing.TB, o embedded.Options) *embedded.Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := embedded.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

func connect(t testing.TB, s *embedded.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func TestWhatWasAcknowledgedIsThereAfterRestart(t *testing.T) {
	s := start(t, embedded.Options{})
	_, js := connect(t, s)
	ctx := t.Context()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "s", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(); err != nil {
		t.Fatal(err)
	}
	// The same connection goes on by itself.
	deadline := time.Now().Add(5 * time.Second)
	for {
		try, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		_, err := js.Publish(try, "s", []byte("2"))
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("connection did not come back:", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	st, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	if n := st.CachedInfo().State.Msgs; n < 2 {
		t.Fatalf("%d messages after restart, want 2", n)
	}
}

func TestListen(t *testing.T) {
	s := start(t, embedded.Options{Listen: "127.0.0.1:0"})
	nc, err := nats.Connect("nats://" + s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if a := start(t, embedded.Options{}).Addr(); a != "" {
		t.Fatalf("a server without listen= listens on %s", a)
	}
}

func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx  context.Context
		o    embedded.Options
		want string
	}{
		"no folder":       {t.Context(), embedded.Options{}, "no folder"},
		"folder is file":  {t.Context(), embedded.Options{Dir: file}, "make folder"},
		"taken port":      {t.Context(), embedded.Options{Dir: t.TempDir(), Listen: taken.Addr().String()}, taken.Addr().String()},
		"no port":         {t.Context(), embedded.Options{Dir: t.TempDir(), Listen: "localhost"}, "host:port"},
		"bad port":        {t.Context(), embedded.Options{Dir: t.TempDir(), Listen: "localhost:x"}, "0 to 65535"},
		"cancelled":       {cancelled, embedded.Options{Dir: t.TempDir()}, "canceled"},
		"batch too small": {t.Context(), embedded.Options{Dir: t.TempDir(), MaxBatch: 1}, "too small"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := embedded.Start(tt.ctx, tt.o)
			if err == nil {
				s.Close(t.Context())
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %q does not say %q", err, tt.want)
			}
		})
	}
}

func TestDamagedStore(t *testing.T) {
	dir := t.TempDir()
	s, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	js, _ := jetstream.New(nc)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	meta := filepath.Join(dir, "jetstream", "$G", "streams", "S", "meta.inf")
	if err := os.WriteFile(meta, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err = embedded.Start(t.Context(), embedded.Options{Dir: dir})
	if err == nil {
		s.Close(t.Context())
		t.Fatal("a damaged store was started as if it were empty")
	}
	if !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "'S'") && !strings.Contains(err.Error(), "S'") {
		t.Fatalf("error does not say what is damaged: %v", err)
	}
}

func TestClosed(t *testing.T) {
	s := start(t, embedded.Options{})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal("second close:", err)
	}
	if err := s.Healthy(); err != embedded.ErrClosed {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != embedded.ErrClosed {
		t.Fatal(err)
	}
	if _, err := s.Connect(); err == nil {
		t.Fatal("connected to a closed server")
	}
}

// BenchmarkStart starts on an existing store of 100,000 messages.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	s, err := embedded.Start(b.Context(), embedded.Options{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	nc, _ := s.Connect()
	js, _ := jetstream.New(nc)
	if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, AllowAtomicPublish: true}); err != nil {
		b.Fatal(err)
	}
	for i := range 20 {
		for j := 1; j <= 5000; j++ {
			m := nats.NewMsg("s")
			m.Data = make([]byte, 800)
			m.Header.Set("Nats-Batch-Id", string(rune('a'+i)))
			m.Header.Set("Nats-Batch-Sequence", itoa(j))
			if j < 5000 {
				if err := nc.PublishMsg(m); err != nil {
					b.Fatal(err)
				}
				continue
			}
			m.Header.Set("Nats-Batch-Commit", "1")
			if r, err := nc.RequestMsg(m, 10*time.Second); err != nil || strings.Contains(string(r.Data), "error") {
				b.Fatal(err, string(r.Data))
			}
		}
	}
	nc.Close()
	s.Close(b.Context())
	for b.Loop() {
		s, err := embedded.Start(b.Context(), embedded.Options{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close(b.Context())
		b.StartTimer()
	}
}

func itoa(i int) string {
	if i == 0 {
		return ""
	}
	return itoa(i/10) + string(rune('0'+i%10))
}
