package natsstate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
	return openReplicas(t, s, 1)
}

func openReplicas(t testing.TB, s *embedded.Server, replicas int) *Store {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	for end := time.Now().Add(time.Minute); ; {
		st, err := Open(t.Context(), nc, Options{Replicas: replicas})
		if err == nil {
			return st
		}
		if replicas == 1 || time.Now().After(end) { // members may still be finding each other
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

func TestStore(t *testing.T) {
	s := serve(t, t.TempDir())
	statetest.Run(t, func(t testing.TB) state.Store { return open(t, s) })
}

// TestCluster: the promises hold for every member, also for those that are behind the one that leads.
func TestCluster(t *testing.T) {
	servers := cluster(t)
	var next atomic.Int64
	statetest.Run(t, func(t testing.TB) state.Store {
		return openReplicas(t, servers[next.Add(1)%int64(len(servers))], len(servers))
	})
	t.Run("own writes are seen", func(t *testing.T) {
		for i, server := range servers {
			st := openReplicas(t, server, len(servers))
			key := fmt.Sprintf("own/%d", i)
			var rev uint64
			for n := range 100 {
				var err error
				if rev, err = st.Put(t.Context(), key, fmt.Append(nil, n), rev); err != nil {
					t.Fatalf("member %d, write %d: %v", i, n, err)
				}
				if e, err := st.Get(t.Context(), key); err != nil || e.Revision != rev {
					t.Fatalf("member %d wrote revision %d and reads %d, %v", i, rev, e.Revision, err)
				}
				if l, err := st.List(t.Context(), "own/"); err != nil || len(l) != i+1 || l[i].Revision != rev {
					t.Fatalf("member %d wrote revision %d and lists %+v, %v", i, rev, l, err)
				}
				if n%10 == 9 {
					if err := st.Delete(t.Context(), key, state.AnyRevision); err != nil {
						t.Fatalf("member %d, delete %d: %v", i, n, err)
					}
					if e, err := st.Get(t.Context(), key); !errors.Is(err, state.ErrNotFound) {
						t.Fatalf("member %d deleted the key and reads revision %d, %v", i, e.Revision, err)
					}
					rev = 0
				}
			}
			if _, err := st.Put(t.Context(), key, nil, state.AnyRevision); err != nil { // for the next member's list
				t.Fatal(err)
			}
		}
	})
}

// cluster is three members on loopback.
func cluster(t testing.TB) []*embedded.Server {
	t.Helper()
	listeners := make([]net.Listener, 3) // all at once, so that no port comes twice
	members := make([]string, len(listeners))
	for i := range listeners {
		var err error
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		members[i] = listeners[i].Addr().String()
	}
	for _, l := range listeners {
		l.Close()
	}
	servers := make([]*embedded.Server, len(members))
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i := range members { // each waits for the others
		wg.Go(func() {
			servers[i], errs[i] = embedded.Start(t.Context(), embedded.Options{
				Dir: t.TempDir(), StartTimeout: time.Minute,
				Cluster: &embedded.Cluster{Members: members, Self: members[i], Secret: "0123456789abcdef"},
			})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		t.Cleanup(func() { s.Close(context.Background()) })
	}
	return servers
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
