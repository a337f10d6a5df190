package natsstate

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"ferry/internal/embedded"
	"ferry/internal/state"
	"ferry/internal/state/statetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t testing.TB, dir string) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

func open(t testing.TB, s *embedded.Server) *Store {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	st, err := Open(t.Context(), nc, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestStore(t *testing.T) {
	s := serve(t, t.TempDir())
	statetest.Run(t, func(t testing.TB) state.Store { return open(t, s) })
}

func TestKeptOverRestart(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	rev, err := open(t, s).Put(t.Context(), "a/b", []byte("v"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, err := open(t, serve(t, dir)).Get(t.Context(), "a/b")
	if err != nil || string(e.Value) != "v" || e.Revision != rev {
		t.Fatalf("after a restart: %+v, %v", e, err)
	}
}

// TestListIsWhole: keys that are written while a list is made are in it, each once.
func TestListIsWhole(t *testing.T) {
	const keys, writers = 300, 4
	st := open(t, serve(t, t.TempDir()))
	key := func(i int) string { return fmt.Sprintf("runs/k%03d", i%keys) }
	put := func(i int) {
		if _, err := st.Put(t.Context(), key(i), []byte("v"), state.AnyRevision); err != nil {
			t.Error(err)
		}
	}
	for i := range keys {
		put(i)
	}
	var writing sync.WaitGroup
	var done atomic.Bool
	for w := range writers {
		writing.Go(func() {
			for i := w; !done.Load(); i += 7 {
				put(i)
			}
		})
	}
	for range 100 {
		list, err := st.List(t.Context(), "runs/")
		if err != nil {
			t.Error(err)
			break
		}
		whole := len(list) == keys
		for i := 0; whole && i < keys; i++ {
			whole = list[i].Key == key(i)
		}
		if !whole {
			t.Errorf("the list holds %d entries of %d keys, or other keys", len(list), keys)
			break
		}
	}
	done.Store(true)
	writing.Wait()
}

func BenchmarkStore(b *testing.B) { statetest.Bench(b, open(b, serve(b, b.TempDir()))) }
