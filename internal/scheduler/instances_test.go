package scheduler

import (
	"testing"
	"time"
)

func TestInstances(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		ps := []Pipeline{{Name: "orders"}, {Name: "users"}}
		a := startInstance(t, store, "a-1", takes(10*time.Second), ps...)
		b := startInstance(t, store, "b-1", takes(10*time.Second), ps...)
		for name, i := range map[string]*instance{"a": a, "b": b} {
			if err := i.Announce(t.Context(), Self{Name: name, URL: "http://" + name, Version: "1", Queue: "nats://q", Started: utc(time.Now())}); err != nil {
				t.Fatal(err)
			}
		}
		run, _, err := a.Trigger(t.Context(), "orders", "request")
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		list := func() []Instance {
			t.Helper()
			l, err := b.Instances(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := list()
		if len(l) != 2 || l[0].ID != "a-1" || l[0].Name != "a" || l[0].URL != "http://a" || !l[0].Alive || !l[1].Alive {
			t.Fatalf("instances = %+v", l)
		}
		if len(l[0].Holds) != 1 || l[0].Holds[0] != (Holding{Pipeline: "orders", Fence: 1, Run: run.ID}) || l[1].Holds != nil {
			t.Errorf("holds = %+v, %+v, want the run of orders at a", l[0].Holds, l[1].Holds)
		}
		pass(time.Minute)
		if l = list(); len(l[0].Holds) != 0 || !l[0].Alive {
			t.Errorf("after the run: %+v", l[0])
		}

		a.link.kill()
		pass(DefaultTTL + time.Second)
		if l = list(); len(l) != 2 || l[0].Alive || !l[1].Alive {
			t.Errorf("after a was killed: %+v", l)
		}
		pass(forgetAfter)
		if l = list(); len(l) != 1 || l[0].ID != "b-1" {
			t.Errorf("an hour later: %+v", l)
		}
		stop(t, b.Scheduler)
		if l = list(); len(l) != 0 {
			t.Errorf("after b has stopped: %+v", l)
		}
	})
}
