// Package statetest holds the conformance suite that every state.Store passes.
package statetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/state"
)

// Run runs the suite. open gives one more instance on the same store each time; the suite uses keys of its own.
func Run(t *testing.T, open func(t testing.TB) state.Store) {
	for name, run := range map[string]func(*suite){
		"get, put, delete":                   basics,
		"put only over the expected":         compareAndSet,
		"delete only the expected":           conditionalDelete,
		"any revision":                       anyRevision,
		"a key deleted may be made again":    again,
		"values are kept byte for byte":      values,
		"list by prefix":                     list,
		"keys that differ little":            keys,
		"bad keys":                           badKeys,
		"instances see each other":           instances,
		"of many writers one wins":           contention,
		"of many makers one wins":            makers,
		"revisions grow whoever writes":      growth,
		"a long list":                        longList,
		"a cancelled context writes nothing": cancelled,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			run(&suite{t, ctx, open, fmt.Sprintf("t%08x", rand.Uint32())})
		})
	}
}

type suite struct {
	testing.TB
	ctx  context.Context
	open func(testing.TB) state.Store
	base string // first part of every key of this case
}

func (s *suite) key(name string) string { return s.base + "/" + name }

func (s *suite) put(st state.Store, key, value string, rev uint64) uint64 {
	s.Helper()
	r, err := st.Put(s.ctx, key, []byte(value), rev)
	if err != nil {
		s.Fatalf("put %s over %d: %v", key, rev, err)
	}
	return r
}

func (s *suite) want(st state.Store, key, value string, rev uint64) {
	s.Helper()
	e, err := st.Get(s.ctx, key)
	if err != nil {
		s.Fatalf("get %s: %v", key, err)
	}
	if e.Key != key || string(e.Value) != value || e.Revision != rev {
		s.Fatalf("got %s = %.80q at %d, want %s = %.80q at %d", e.Key, e.Value, e.Revision, key, value, rev)
	}
}

func (s *suite) wantErr(err, want error, what string) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

func (s *suite) conflict(st state.Store, key string, rev uint64) {
	s.Helper()
	_, err := st.Put(s.ctx, key, []byte("wrong"), rev)
	s.wantErr(err, state.ErrConflict, fmt.Sprintf("put over %d", rev))
}

func basics(s *suite) {
	st, k := s.open(s), s.key("a")
	_, err := st.Get(s.ctx, k)
	s.wantErr(err, state.ErrNotFound, "get of nothing")
	r := s.put(st, k, "one", 0)
	s.want(st, k, "one", r)
	r2 := s.put(st, k, "two", r)
	if r2 <= r {
		s.Fatalf("revision %d after %d", r2, r)
	}
	s.want(st, k, "two", r2)
	if err := st.Delete(s.ctx, k, r2); err != nil {
		s.Fatal(err)
	}
	_, err = st.Get(s.ctx, k)
	s.wantErr(err, state.ErrNotFound, "get of a deleted key")
}

func compareAndSet(s *suite) {
	st, k := s.open(s), s.key("cas")
	s.conflict(st, k, 7)
	r := s.put(st, k, "one", 0)
	s.conflict(st, k, 0)
	s.conflict(st, k, r+1)
	r2 := s.put(st, k, "two", r)
	s.conflict(st, k, r)
	s.want(st, k, "two", r2)
}

func conditionalDelete(s *suite) {
	st, k := s.open(s), s.key("del")
	if err := st.Delete(s.ctx, k, 0); err != nil {
		s.Fatalf("delete of nothing where nothing is expected: %v", err)
	}
	s.wantErr(st.Delete(s.ctx, k, 5), state.ErrConflict, "delete of nothing at 5")
	r := s.put(st, k, "one", 0)
	r2 := s.put(st, k, "two", r)
	s.wantErr(st.Delete(s.ctx, k, r), state.ErrConflict, "delete of an old revision")
	s.wantErr(st.Delete(s.ctx, k, 0), state.ErrConflict, "delete where nothing is expected")
	s.want(st, k, "two", r2)
}

func anyRevision(s *suite) {
	st, k := s.open(s), s.key("any")
	if err := st.Delete(s.ctx, k, state.AnyRevision); err != nil {
		s.Fatalf("delete of nothing: %v", err)
	}
	s.put(st, k, "one", state.AnyRevision)
	r := s.put(st, k, "two", state.AnyRevision)
	s.want(st, k, "two", r)
	if err := st.Delete(s.ctx, k, state.AnyRevision); err != nil {
		s.Fatal(err)
	}
	_, err := st.Get(s.ctx, k)
	s.wantErr(err, state.ErrNotFound, "get of a deleted key")
}

func again(s *suite) {
	st, k := s.open(s), s.key("again")
	var last uint64
	for range 3 {
		r := s.put(st, k, "x", 0)
		if r <= last {
			s.Fatalf("revision %d after %d", r, last)
		}
		s.conflict(st, k, last)
		if err := st.Delete(s.ctx, k, r); err != nil {
			s.Fatal(err)
		}
		s.conflict(st, k, r) // it is gone, so only 0 is right
		last = r
	}
}

func values(s *suite) {
	st, k := s.open(s), s.key("values")
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, v := range []string{"", "\n", string(all), string(make([]byte, 200_000))} {
		r := s.put(st, k, v, state.AnyRevision)
		s.want(st, k, v, r)
	}
}

func (s *suite) wantKeys(st state.Store, prefix string, want ...string) {
	s.Helper()
	list, err := st.List(s.ctx, prefix)
	if err != nil {
		s.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Key)
		s.want(st, e.Key, string(e.Value), e.Revision)
	}
	if !slices.Equal(got, want) {
		s.Fatalf("list of %q: %q, want %q", prefix, got, want)
	}
}

func list(s *suite) {
	st := s.open(s)
	s.wantKeys(st, s.key(""))
	for i, k := range []string{"runs/b", "runs/a/2", "runs/a/1", "runs.x", "run", "lease/a"} {
		s.put(st, s.key(k), fmt.Sprint(i), 0)
	}
	s.put(st, s.key("runs/gone"), "", 0)
	if err := st.Delete(s.ctx, s.key("runs/gone"), state.AnyRevision); err != nil {
		s.Fatal(err)
	}
	s.wantKeys(st, s.key("runs/"), s.key("runs/a/1"), s.key("runs/a/2"), s.key("runs/b"))
	s.wantKeys(st, s.key("runs/a"), s.key("runs/a/1"), s.key("runs/a/2"))
	s.wantKeys(st, s.key("runs"), s.key("runs.x"), s.key("runs/a/1"), s.key("runs/a/2"), s.key("runs/b"))
	s.wantKeys(st, s.key("run"), s.key("run"), s.key("runs.x"), s.key("runs/a/1"), s.key("runs/a/2"), s.key("runs/b"))
	s.wantKeys(st, s.key("none/"))
	all, err := st.List(s.ctx, "")
	if err != nil || len(all) < 6 {
		s.Fatalf("list of everything: %d entries, %v", len(all), err)
	}
}

func keys(s *suite) {
	st := s.open(s)
	names := []string{"a/b", "a.b", "a-b", "a_b", "A/b", "a/b/c", "a/b.c", "a.b/c", "a..b", "0"}
	revs := map[string]uint64{}
	for _, k := range names {
		revs[k] = s.put(st, s.key(k), k, 0)
	}
	for _, k := range names {
		s.want(st, s.key(k), k, revs[k])
	}
}

func badKeys(s *suite) {
	st := s.open(s)
	for _, k := range []string{"", "/a", "a/", ".a", "a.", "a b", "a*", "a>", "a//b", "ä", "a\n"} {
		if _, err := st.Put(s.ctx, k, nil, state.AnyRevision); err == nil {
			s.Errorf("key %q was taken", k)
		}
		if _, err := st.Get(s.ctx, k); err == nil || errors.Is(err, state.ErrNotFound) {
			s.Errorf("get of the bad key %q: %v", k, err)
		}
	}
}

func instances(s *suite) {
	a, b, k := s.open(s), s.open(s), s.key("shared")
	r := s.put(a, k, "one", 0)
	s.want(b, k, "one", r)
	s.conflict(b, k, 0)
	r = s.put(b, k, "two", r)
	s.want(a, k, "two", r)
	s.want(s.open(s), k, "two", r)
}

func contention(s *suite) {
	a, b, k := s.open(s), s.open(s), s.key("count")
	s.put(a, k, "", 0)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for g := range errs {
		st := []state.Store{a, b}[g%2]
		wg.Go(func() {
			for done := 0; done < 5; {
				e, err := st.Get(s.ctx, k)
				if err == nil {
					_, err = st.Put(s.ctx, k, append(e.Value, 'x'), e.Revision)
				}
				switch {
				case err == nil:
					done++
				case !errors.Is(err, state.ErrConflict):
					errs[g] = err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		s.Fatal(err)
	}
	e, err := a.Get(s.ctx, k)
	if err != nil || len(e.Value) != 40 {
		s.Fatalf("%d of 40 increments are there (%v)", len(e.Value), err)
	}
}

// makers: a lease nobody has had yet is taken by one instance, however many reach for it at the same moment.
func makers(s *suite) {
	a, b := s.open(s), s.open(s)
	for round := range 10 {
		k := s.key(fmt.Sprint("free", round))
		var wg sync.WaitGroup
		revs, errs := make([]uint64, 16), make([]error, 16)
		for g := range errs {
			st := []state.Store{a, b}[g%2]
			wg.Go(func() { revs[g], errs[g] = st.Put(s.ctx, k, fmt.Append(nil, g), 0) })
		}
		wg.Wait()
		won := -1
		for g, err := range errs {
			switch {
			case err == nil && won >= 0:
				s.Fatalf("%d and %d have both made %s", won, g, k)
			case err == nil:
				won = g
			case !errors.Is(err, state.ErrConflict):
				s.Fatal(err)
			}
		}
		if won < 0 {
			s.Fatalf("nobody has made %s", k)
		}
		s.want(b, k, fmt.Sprint(won), revs[won])
	}
}

// growth: a key is made and deleted again and again by many, and who looks on sees its revision grow.
func growth(s *suite) {
	a, b, k := s.open(s), s.open(s), s.key("grows")
	var last uint64
	for n := range 6 { // one after the other, each time another instance
		st := []state.Store{a, b}[n%2]
		r := s.put(st, k, "x", 0)
		if r <= last {
			s.Fatalf("revision %d after %d, which another instance wrote", r, last)
		}
		last = r
		if err := []state.Store{b, a}[n%2].Delete(s.ctx, k, r); err != nil {
			s.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for g := range errs {
		st := []state.Store{a, b}[g%2]
		wg.Go(func() {
			for range 40 {
				if _, err := st.Put(s.ctx, k, []byte("x"), state.AnyRevision); err != nil {
					errs[g] = err
					return
				}
				if err := st.Delete(s.ctx, k, state.AnyRevision); err != nil {
					errs[g] = err
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for look := true; look; {
		select {
		case <-done:
			look = false
		default:
		}
		e, err := a.Get(s.ctx, k)
		switch {
		case errors.Is(err, state.ErrNotFound):
		case err != nil:
			s.Error(err)
			look = false
		case e.Revision < last:
			s.Errorf("revision %d was seen after %d", e.Revision, last)
			look = false
		default:
			last = e.Revision
		}
	}
	<-done
	if err := errors.Join(errs...); err != nil {
		s.Fatal(err)
	}
}

// longList: run histories of many pipelines, with what lies beside them.
func longList(s *suite) {
	st := s.open(s)
	const entries = 1200
	value := strings.Repeat("v", 500)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for g := range errs {
		wg.Go(func() {
			for i := g; i < entries && errs[g] == nil; i += len(errs) {
				_, errs[g] = st.Put(s.ctx, s.key(fmt.Sprintf("runs/%04d", i)), []byte(value), 0)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		s.Fatal(err)
	}
	s.put(st, s.key("runs-"), "", 0)
	s.put(st, s.key("runs0"), "", 0)
	list, err := st.List(s.ctx, s.key("runs/"))
	if err != nil || len(list) != entries {
		s.Fatalf("%d of %d entries, %v", len(list), entries, err)
	}
	for i, e := range list {
		if e.Key != s.key(fmt.Sprintf("runs/%04d", i)) || string(e.Value) != value {
			s.Fatalf("entry %d is %s = %.80q", i, e.Key, e.Value)
		}
	}
}

func cancelled(s *suite) {
	st, k := s.open(s), s.key("cancelled")
	r := s.put(st, k, "one", 0)
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := st.Put(ctx, k, []byte("two"), r)
	s.wantErr(err, context.Canceled, "put")
	_, err = st.Get(ctx, k)
	s.wantErr(err, context.Canceled, "get")
	_, err = st.List(ctx, s.key(""))
	s.wantErr(err, context.Canceled, "list")
	s.wantErr(st.Delete(ctx, k, r), context.Canceled, "delete")
	s.want(st, k, "one", r)
}

// Bench measures a store that is open: one key written over and over, and many leases renewed at once, each by its holder.
func Bench(b *testing.B, s state.Store) {
	value := []byte(`{"holder":"a"}`)
	b.Run("put", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Put(b.Context(), "lease/x", value, state.AnyRevision); err != nil {
				b.Fatal(err)
			}
		}
	})
	var holders atomic.Int64 // over all rounds, since the store stays
	b.Run("compare and set", func(b *testing.B) {
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			key := fmt.Sprint("lease/", holders.Add(1))
			var rev uint64
			var err error
			for pb.Next() {
				if rev, err = s.Put(b.Context(), key, value, rev); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
