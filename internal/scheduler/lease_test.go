package scheduler

import (
	"context"
	"errors"
	"testing"
	"time"

	"ferry/internal/state"
)

func acquire(t *testing.T, l Leases) Lease {
	t.Helper()
	lease, err := l.Acquire(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func release(t *testing.T, l Lease) {
	t.Helper()
	if err := l.Release(context.Background()); err != nil {
		t.Error(err)
	}
}

func wantHeld(t *testing.T, l Leases) {
	t.Helper()
	if _, err := l.Acquire(t.Context(), "orders"); !errors.Is(err, ErrHeld) {
		t.Fatalf("err = %v, want ErrHeld", err)
	}
}

func isLost(l Lease) bool {
	select {
	case <-l.Lost():
		return true
	default:
		return false
	}
}

func TestLeaseIsExclusiveAndFencesGrow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		a, b := NewStoreLeases(store, "l/", "a", 0), NewStoreLeases(store, "l/", "b", 0)
		first := acquire(t, a)
		for range 100 { // a live holder keeps it, however long and often one asks
			wantHeld(t, b)
			pass(DefaultTTL / 3)
		}
		if isLost(first) {
			t.Fatal("lost a lease that was renewed in time")
		}
		release(t, first)
		second := acquire(t, b) // at once
		wantHeld(t, a)
		release(t, second)
		third := acquire(t, a)
		release(t, third)
		if f := []uint64{first.Fence(), second.Fence(), third.Fence()}; f[0] != 1 || f[1] != 2 || f[2] != 3 {
			t.Errorf("fences = %v, want 1 2 3", f)
		}
	})
}

func TestLeaseOfTheDeadIsTakenOverAfterItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		link := &dying{Store: store}
		dead, b := NewStoreLeases(link, "l/", "a", 0), NewStoreLeases(store, "l/", "b", 0)
		lease := acquire(t, dead)
		pass(DefaultTTL/3 + time.Second) // renewed once
		link.kill()

		pass(time.Hour) // nobody watches: how long ago it died says nothing to b
		if !isLost(lease) {
			t.Fatal("the dead one still relies on its lease")
		}
		wantHeld(t, b) // the first look
		pass(DefaultTTL - time.Second)
		wantHeld(t, b)
		pass(time.Second)
		mine := acquire(t, b)
		if mine.Fence() != 2 {
			t.Errorf("fence = %d, want 2", mine.Fence())
		}
		release(t, mine)
		release(t, lease) // no error, and changes nothing
		release(t, acquire(t, NewStoreLeases(store, "l/", "c", 0)))
	})
}

// However the store fails, the holder gives up before anybody can take over.
func TestHolderGivesUpFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		link := &dying{Store: store}
		a, b := NewStoreLeases(link, "l/", "a", 0), NewStoreLeases(store, "l/", "b", 0)
		lease := acquire(t, a)
		wantHeld(t, b)
		link.kill()
		var lostAt, takenAt time.Time
		for takenAt.IsZero() {
			pass(100 * time.Millisecond)
			if lostAt.IsZero() && isLost(lease) {
				lostAt = time.Now()
			}
			if l, err := b.Acquire(t.Context(), "orders"); err == nil {
				takenAt = time.Now()
				release(t, l)
			}
		}
		if lostAt.IsZero() || !lostAt.Before(takenAt) {
			t.Errorf("lost at %s, taken over at %s: two holders", lostAt, takenAt)
		}
	})
}

func TestLeaseSurvivesAShortOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		a := NewStoreLeases(store, "l/", "a", 0)
		lease := acquire(t, a)
		for range 20 {
			store.set(func(m *memory) { m.fail = errStore })
			pass(DefaultTTL / 2)
			store.set(func(m *memory) { m.fail = nil })
			pass(DefaultTTL / 2)
		}
		if isLost(lease) {
			t.Error("lost the lease to an outage shorter than its time")
		}
		release(t, lease)
	})
}

func TestRenewalWhoseAnswerIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		a, b := NewStoreLeases(store, "l/", "a", 0), NewStoreLeases(store, "l/", "b", 0)
		lease := acquire(t, a)
		n := 0
		store.set(func(m *memory) { m.lose = func(string) bool { n++; return n%2 == 1 } })
		for range 50 {
			pass(time.Second)
			wantHeld(t, b)
		}
		if isLost(lease) {
			t.Error("lost the lease to its own write")
		}
		store.set(func(m *memory) { m.lose = nil })
		release(t, lease)
	})
}

func TestLeaseUsurpedIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		lease := acquire(t, NewStoreLeases(store, "l/", "a", 0))
		if _, err := store.Put(t.Context(), "l/orders", leaseValue{Owner: "b", Fence: 2}.encode(), state.AnyRevision); err != nil {
			t.Fatal(err)
		}
		pass(DefaultTTL / 3)
		if !isLost(lease) {
			t.Error("did not notice that another holds the lease")
		}
		release(t, lease)
		var v leaseValue
		if _, err := (records{store}).get(t.Context(), "l/orders", &v); err != nil || v.Owner != "b" || v.Released {
			t.Errorf("releasing a lost lease touched the new one: %+v, %v", v, err)
		}
	})
}

// TestSoleLease: what nobody else can take is not lost to time, only to another's writing.
func TestSoleLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		lease := acquire(t, NewSoleLeases(store, "l/", "local", 0))
		store.set(func(m *memory) { m.fail = errStore })
		pass(20 * DefaultTTL)
		store.set(func(m *memory) { m.fail = nil })
		pass(2 * DefaultTTL)
		if isLost(lease) {
			t.Error("lost to an outage of the store")
		}
		release(t, lease)
		lease = acquire(t, NewSoleLeases(store, "l/", "local", 0))
		if lease.Fence() != 2 {
			t.Errorf("fence = %d, want 2", lease.Fence())
		}
		if _, err := store.Put(t.Context(), "l/orders", leaseValue{Owner: "b", Fence: 3}.encode(), state.AnyRevision); err != nil {
			t.Fatal(err)
		}
		pass(DefaultTTL)
		if !isLost(lease) {
			t.Error("did not notice that another holds the lease")
		}
		release(t, lease)
	})
}

func TestSameOwnerTakesOverAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		link := &dying{Store: store}
		before := acquire(t, NewStoreLeases(link, "l/", "local", 0))
		link.kill()
		after := acquire(t, NewStoreLeases(store, "l/", "local", 0))
		if after.Fence() != 2 {
			t.Errorf("fence = %d, want 2", after.Fence())
		}
		release(t, after)
		if err := before.Release(context.Background()); !errors.Is(err, errStore) {
			t.Errorf("err = %v, want the store's", err)
		}
	})
}

func TestLeaseErrors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		store.fail = errStore
		l := NewStoreLeases(store, "l/", "a", 0)
		if _, err := l.Acquire(t.Context(), "orders"); !errors.Is(err, errStore) || errors.Is(err, ErrHeld) {
			t.Errorf("err = %v, want the store's", err)
		}
		store.fail = nil
		store.entries["l/orders"] = state.Entry{Key: "l/orders", Value: []byte("{"), Revision: 1}
		if _, err := l.Acquire(t.Context(), "orders"); err == nil || errors.Is(err, ErrHeld) {
			t.Errorf("err = %v for a damaged lease", err)
		}
	})
}
