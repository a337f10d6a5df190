package natsqueue

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/queue"
)

// receipt is what tells a delivery from all others. As a text it is <when>.<subject>, where the subject is that on which
// NATS awaits the answer: $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>,
// with <domain>.<account> before the stream on newer servers. The time in it is the record's, not the delivery's.
//
// An answer is for a record, to NATS: it looks at the stream sequence alone, so that who comes too late would acknowledge
// or give back what somebody else works on by then. Nor can the server be asked which delivery of a record is its last.
// So a receipt is refused when its record may have been delivered again: because its time has passed, or because it was
// answered before, which is known only on the instance that did it.
type receipt struct {
	consumer string
	seq      uint64 // of the record, in the stream
	delivery uint64 // counted by the consumer
	when     int64  // in milliseconds since 1970 by the server's clock, if anything too early
}

// grace is how much longer than a receipt is good the server waits before it delivers again. It covers that a server that
// was restarted knows only the second of a delivery, the way there and back, and what the clocks of a cluster's members
// differ by.
const grace = 2 * time.Second

// parseReceipt refuses everything that is not this topic's.
func parseReceipt(text string, t topic) (r receipt, subject string, ok bool) {
	when, subject, _ := strings.Cut(text, ".")
	parts := strings.Split(subject, ".")
	switch {
	case len(parts) < 9 || len(parts) > 12 || parts[0] != "$JS" || parts[1] != "ACK" || strings.ContainsAny(subject, " \t\r\n*>"):
		return r, "", false
	case len(parts) >= 11:
		parts = parts[4:]
	default:
		parts = parts[2:]
	}
	if parts[0] != t.stream() || parts[1] != t.consumer() {
		return r, "", false
	}
	var numbers [5]uint64 // delivered, stream sequence, consumer sequence, time, pending
	for i := range numbers {
		n, err := strconv.ParseUint(parts[2+i], 10, 64)
		if err != nil {
			return r, "", false
		}
		numbers[i] = n
	}
	ms, err := strconv.ParseInt(when, 10, 64)
	return receipt{t.consumer(), numbers[1], numbers[2], ms}, subject, err == nil
}

// good tells whether the record is under way, and has not been long enough to be delivered again.
func (r receipt) good(now *jetstream.ConsumerInfo) bool {
	if r.seq <= now.AckFloor.Stream || r.seq > now.Delivered.Stream || now.NumAckPending == 0 {
		return false
	}
	return now.TimeStamp.Sub(time.UnixMilli(r.when)) < now.Config.AckWait-grace
}

// clock is a server's, read at a moment here. Instances need not agree on the time: only the server's counts.
type clock struct{ server, here time.Time }

// stamp completes the receipts of what was delivered after a moment here.
func (c clock) stamp(got []queue.Delivery, since time.Time) {
	when := strconv.FormatInt(c.server.Add(since.Sub(c.here)).UnixMilli(), 10)
	for i := range got {
		got[i].Receipt = when + "." + got[i].Receipt
	}
}

// answered remembers receipts for at least as long as they would be good otherwise: those of two such times at most.
type answered struct {
	mu         sync.Mutex
	young, old map[receipt]struct{}
	turned     time.Time
}

func (a *answered) add(r receipt, good time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); a.young == nil || now.Sub(a.turned) > good {
		a.old, a.young, a.turned = a.young, make(map[receipt]struct{}), now
	}
	a.young[r] = struct{}{}
}

func (a *answered) has(r receipt) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, young := a.young[r]
	_, old := a.old[r]
	return young || old
}
