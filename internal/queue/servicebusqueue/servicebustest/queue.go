package servicebustest

import (
	"container/heap"
	"crypto/rand"
	"slices"
	"time"
)

// QueueOptions are what Service Bus calls the queue's description. Zero values are Service Bus's defaults.
type QueueOptions struct {
	// DuplicateDetection is the history window; 0: none.
	DuplicateDetection time.Duration
	// Sessions: every message must have a session, and is received by who has locked that.
	Sessions bool
	// Lock is how long a message or session is locked. Default 1 minute.
	Lock time.Duration
	// MaxBytes is the quota. Default 1 GiB.
	MaxBytes int64
	// MaxDeliveries is after how many a message goes to the dead-letter queue. Default 10.
	MaxDeliveries int
}

func (o QueueOptions) withDefaults() QueueOptions {
	if o.Lock == 0 {
		o.Lock = time.Minute
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 30
	}
	if o.MaxDeliveries == 0 {
		o.MaxDeliveries = 10
	}
	return o
}

// queue is one entity. The server's lock guards it.
type queue struct {
	s       *Server
	name    string
	options QueueOptions
	made    time.Time

	sequence int64
	all      []*message // in order of sequence; those that are gone are swept now and then
	gone     int
	bytes    int64
	locked   map[uuid]*message

	lanes     map[string]*lane // by session; all in "" where there are none
	receivers []*link          // without session, served in turn
	waiting   []*link          // for whichever session comes

	seen    map[string]time.Time // message ids of the duplicate detection history
	history []remembered         // oldest first

	dead *queue // its $DeadLetterQueue; nil for one of those
}

type remembered struct {
	id string
	at time.Time
}

// lane holds what can be received now, in order of sequence.
type lane struct {
	ready messageHeap
	owner *link // who has locked the session
	until time.Time
}

type messageHeap []*message

func (h messageHeap) Len() int           { return len(h) }
func (h messageHeap) Less(i, j int) bool { return h[i].sequence < h[j].sequence }
func (h messageHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *messageHeap) Push(x any)        { *h = append(*h, x.(*message)) }
func (h *messageHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

const deadSuffix = "/$DeadLetterQueue"

func newQueue(s *Server, name string, o QueueOptions) *queue {
	q := &queue{
		s: s, name: name, options: o.withDefaults(), made: s.now(),
		locked: make(map[uuid]*message), lanes: make(map[string]*lane), seen: make(map[string]time.Time),
	}
	return q
}

func (q *queue) lane(session string) *lane {
	if !q.options.Sessions {
		session = ""
	}
	l := q.lanes[session]
	if l == nil {
		l = new(lane)
		q.lanes[session] = l
	}
	return l
}

func (q *queue) live() int { return len(q.all) - q.gone }

// store takes the messages of one transfer: all of them or none.
func (q *queue) store(batch []*message) *Error {
	size := int64(0)
	for _, m := range batch {
		size += int64(m.size)
		if q.options.Sessions && m.session == "" {
			return &Error{NotAllowed, "The SessionId was not set on a message, and it cannot be sent to the entity. Entities that have session support enabled can only receive messages that have the SessionId set to a valid value."}
		}
		if q.options.Sessions && m.session != batch[0].session {
			return &Error{NotAllowed, "The batch contains messages of several sessions."}
		}
	}
	if q.bytes+size > q.options.MaxBytes {
		return &Error{QuotaExceeded, "The maximum entity size has been reached or exceeded for queue '" + q.name + "'."}
	}
	for _, m := range batch {
		if q.duplicate(m.id) {
			continue
		}
		q.add(m)
	}
	q.pump()
	return nil
}

func (q *queue) add(m *message) {
	q.sequence++
	m.sequence, m.enqueued = q.sequence, q.s.now()
	q.all = append(q.all, m)
	q.bytes += int64(m.size)
	heap.Push(&q.lane(m.session).ready, m)
}

// duplicate tells whether an id was there within the window, and remembers it if it was not.
func (q *queue) duplicate(id string) bool {
	window := q.options.DuplicateDetection
	if window == 0 || id == "" {
		return false
	}
	now := q.s.now()
	for len(q.history) > 0 && now.Sub(q.history[0].at) >= window {
		delete(q.seen, q.history[0].id)
		q.history = q.history[1:]
	}
	if _, ok := q.seen[id]; ok {
		return true
	}
	q.seen[id] = now
	q.history = append(q.history, remembered{id, now})
	return false
}

// pump hands out what can be handed out.
func (q *queue) pump() {
	if !q.options.Sessions {
		l := q.lane("")
		for len(l.ready) > 0 {
			r := q.next(l.ready[0])
			if r == nil {
				return
			}
			r.deliver(heap.Pop(&l.ready).(*message))
		}
		return
	}
	for session, l := range q.lanes {
		if l.owner == nil && len(l.ready) > 0 && len(q.waiting) > 0 {
			w := q.waiting[0]
			q.waiting = q.waiting[1:]
			w.acceptSession(session)
		}
		for l.owner != nil && len(l.ready) > 0 && l.owner.canTake(l.ready[0]) {
			l.owner.deliver(heap.Pop(&l.ready).(*message))
		}
	}
}

// next is the receiver whose turn it is, among those that can take the message.
func (q *queue) next(m *message) *link {
	for i, r := range q.receivers {
		if r.canTake(m) {
			q.receivers = append(append(q.receivers[:i:i], q.receivers[i+1:]...), r)
			return r
		}
	}
	return nil
}

// lock gives the message to a receiver until the lock ends.
func (q *queue) lock(m *message, holder *link) {
	_, _ = rand.Read(m.token[:])
	m.holder, m.until = holder, q.s.now().Add(q.options.Lock)
	q.locked[m.token] = m
}

func (q *queue) unlock(m *message) {
	delete(q.locked, m.token)
	m.token, m.holder = uuid{}, nil
}

// What a receiver can say of a message.
type outcome int

const (
	complete outcome = iota
	release          // back, and not counted
	abandon          // back, and counted as a delivery
	deadLetter
)

// settle ends the lock of a message.
func (q *queue) settle(token uuid, o outcome, reason, description string) *Error {
	m := q.locked[token]
	if m == nil {
		return &Error{LockLost, "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the queue."}
	}
	q.unlock(m)
	switch o {
	case complete:
		q.remove(m)
	case release:
		q.giveBack(m)
	case abandon:
		q.failed(m)
	case deadLetter:
		q.bury(m, reason, description)
	}
	q.pump()
	return nil
}

// giveBack puts a message to where it was: its sequence number says so.
func (q *queue) giveBack(m *message) { heap.Push(&q.lane(m.session).ready, m) }

// failed counts a delivery that came to nothing.
func (q *queue) failed(m *message) {
	if m.count++; q.dead != nil && int(m.count) >= q.options.MaxDeliveries {
		q.bury(m, "MaxDeliveryCountExceeded", "Message could not be consumed after too many delivery attempts.")
		return
	}
	q.giveBack(m)
}

func (q *queue) bury(m *message, reason, description string) {
	q.remove(m)
	if q.dead == nil {
		return
	}
	moved := *m
	moved.gone, moved.count = false, 0
	moved.note("DeadLetterReason", reason)
	moved.note("DeadLetterErrorDescription", description)
	q.dead.add(&moved)
	q.dead.pump()
}

// remove takes a message out for good.
func (q *queue) remove(m *message) {
	m.gone = true
	q.gone++
	q.bytes -= int64(m.size)
	if q.gone > 1000 && q.gone > len(q.all)/2 {
		q.all = slices.DeleteFunc(q.all, func(m *message) bool { return m.gone })
		q.gone = 0
	}
}

// expire ends locks whose time is over.
func (q *queue) expire(now time.Time) {
	ended := false
	for _, m := range q.locked {
		if !q.options.Sessions && !now.Before(m.until) {
			q.unlock(m)
			q.failed(m)
			ended = true
		}
	}
	for _, l := range q.lanes {
		if l.owner != nil && !now.Before(l.until) {
			owner := l.owner
			q.leaveSession(l)
			owner.detach(&Error{SessionLockLost, "The session lock has expired on the MessageSession."})
			ended = true
		}
	}
	for _, w := range slices.Clone(q.waiting) {
		if !now.Before(w.giveUp) {
			q.forget(w)
			w.refuse(&Error{Timeout, "The operation did not complete within the allotted timeout."})
		}
	}
	if ended {
		q.pump()
	}
}

// leaveSession gives back what the owner of a session had locked. It counts as a delivery, whether the lock has ended
// or the session was closed.
func (q *queue) leaveSession(l *lane) {
	owner := l.owner
	l.owner = nil
	for _, m := range q.locked {
		if m.holder == owner {
			q.unlock(m)
			q.failed(m)
		}
	}
}

// forget lets go of a receiver. What it has locked stays locked until the lock ends, unless it had a session.
func (q *queue) forget(r *link) {
	is := func(l *link) bool { return l == r }
	q.receivers = slices.DeleteFunc(q.receivers, is)
	q.waiting = slices.DeleteFunc(q.waiting, is)
	for _, l := range q.lanes {
		if l.owner == r {
			q.leaveSession(l)
			q.pump()
		}
	}
}

// peek gives up to n messages from a sequence number on, locked or not.
func (q *queue) peek(from int64, n int, session *string) []*message {
	at, _ := slices.BinarySearchFunc(q.all, from, func(m *message, n int64) int {
		return int(min(max(m.sequence-n, -1), 1))
	})
	var found []*message
	for _, m := range q.all[at:] {
		if len(found) == n {
			break
		}
		if !m.gone && (session == nil || m.session == *session) {
			found = append(found, m)
		}
	}
	return found
}
