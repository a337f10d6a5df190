package rabbitqueue

import (
	"iter"
	"sync"
	"time"
)

// flying is a record on its way, sent and not answered.
type flying struct {
	call  *call // nil: nobody waits for it any more
	index int   // in the call
	id    string
	route route
	size  int
	lost  error // no queue took it
}

// flight is what is on its way, oldest first, as the answers come.
type flight struct {
	list  []flying
	first int
	bytes int
}

func (f *flight) len() int { return len(f.list) - f.first }

func (f *flight) push(one flying) {
	if f.first > 0 && len(f.list) == cap(f.list) {
		f.list = f.list[:copy(f.list, f.list[f.first:])]
		f.first = 0
	}
	f.list = append(f.list, one)
	f.bytes += one.size
}

func (f *flight) pop() (flying, bool) {
	if f.len() == 0 {
		return flying{}, false
	}
	one := f.list[f.first]
	f.list[f.first] = flying{}
	f.first++
	f.bytes -= one.size
	return one, true
}

// all goes through them, oldest first.
func (f *flight) all() iter.Seq[*flying] {
	return func(yield func(*flying) bool) {
		for i := f.first; i < len(f.list); i++ {
			if !yield(&f.list[i]) {
				return
			}
		}
	}
}

// orphan takes a call's records away from it.
func (f *flight) orphan(c *call, orphans *orphans) {
	for one := range f.all() {
		if one.call == c {
			one.call = nil
			orphans.add(one.route.topic, one.id)
		}
	}
}

// takeOver finds the first records of a call among those that an earlier call left on their way when it gave up: a
// retry then waits for them instead of sending them again. The lock is held.
func (s *session) takeOver(c *call) {
	if s.q.orphans.none() {
		return
	}
	from := s.flight.first
	for i := range c.records {
		id := c.records[i].ID
		switch s.q.orphans.claim(c.route.topic, id) {
		case orphanDurable:
			if c.durable != i {
				return // behind one that is still on its way: it was taken over out of order
			}
			c.sent, c.durable = i+1, i+1
			continue
		case orphanFlying:
			for from < len(s.flight.list) {
				f := &s.flight.list[from]
				from++
				if f.call == nil && f.id == id && f.route.topic == c.route.topic {
					f.call, f.index = c, i
					c.sent, c.flying = i+1, c.flying+1
					break
				}
			}
			if c.sent == i+1 {
				continue
			}
		}
		return
	}
}

const (
	// orphansKept is how long the outcome of a record is kept for a retry of the call that did not wait for it. It is
	// longer than the longest pause between two tries.
	orphansKept = time.Minute
	orphansMax  = 4 * flightMax
)

type orphanState int

const (
	orphanUnknown orphanState = iota
	orphanFlying
	orphanDurable
)

// orphans are records whose call gave up (its context ended, an alarm lasted) while they were on their way. Without
// them every retry would publish a second time what the broker takes once its alarm clears.
type orphans struct {
	mu    sync.Mutex
	known map[[2]string]orphan // by topic and id
}

type orphan struct {
	state orphanState
	since time.Time
}

func (o *orphans) none() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.known) == 0
}

func (o *orphans) add(topic, id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil {
		o.known = make(map[[2]string]orphan)
	}
	if len(o.known) >= orphansMax {
		o.expire()
	}
	if len(o.known) < orphansMax {
		o.known[[2]string{topic, id}] = orphan{orphanFlying, time.Now()}
	}
}

func (o *orphans) expire() {
	for key, one := range o.known {
		if one.state == orphanDurable && time.Since(one.since) > orphansKept {
			delete(o.known, key)
		}
	}
}

// settled notes how one ended.
func (o *orphans) settled(topic, id string, durable bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := [2]string{topic, id}
	if _, ok := o.known[key]; !ok {
		return
	}
	delete(o.known, key)
	if durable {
		o.known[key] = orphan{orphanDurable, time.Now()}
	}
}

// lost forgets one whose connection has gone.
func (o *orphans) lost(topic, id string) { o.settled(topic, id, false) }

// claim takes one out.
func (o *orphans) claim(topic, id string) orphanState {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := [2]string{topic, id}
	one, ok := o.known[key]
	if !ok {
		return orphanUnknown
	}
	delete(o.known, key)
	if one.state == orphanDurable && time.Since(one.since) > orphansKept {
		return orphanUnknown
	}
	return one.state
}
