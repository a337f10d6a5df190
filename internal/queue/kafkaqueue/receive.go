package kafkaqueue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// Receive, Ack and Nack keep a book for each topic: how far it has been handed out, and which records are out. Kafka's
// own ways do not fit: a consumer group acknowledges offsets, not records, and ties each partition to one member; in a
// share group (KIP-932) a receipt belongs to the member that holds it, so it cannot travel to another instance, and
// a record that was given back five times is dropped. The book lies in the cursor topic, as the cursor of a pipeline
// that no configuration can name, and is written as that pipeline's writer would: instances take turns by claiming it.
// Each call so costs a transaction, or two. It is made for a person, a test and dead-letter replay, not for bulk.

const (
	bookPipeline = "/receive"
	// maxOut bounds the records that are out at a time; the book must fit into one record of the cursor topic.
	maxOut = 5000
	// receiveBytes bounds what one Receive holds in memory (invariant 7).
	receiveBytes = 32 << 20
	// receivePause is how often a Receive that waits looks again.
	receivePause = 100 * time.Millisecond
)

// book is what has been handed out of a topic. It belongs to one incarnation of the topic.
type book struct {
	Topic string            `json:"topic"`
	Parts map[int32]*ledger `json:"partitions"`
}

// ledger is the book of one partition. Everything before Next has been handed out at least once; of that, what is not
// in Out has been acknowledged.
type ledger struct {
	Next int64   `json:"next"`
	Out  []entry `json:"out,omitempty"` // by offset
}

// entry is a record that is out, or was given back (Until 0).
type entry struct {
	Offset   int64  `json:"o"`
	Attempts int    `json:"n"`
	Until    int64  `json:"u"` // milliseconds since 1970: from then on it is handed out again
	Receipt  string `json:"r"` // of the last delivery
}

func (b *book) out() int {
	n := 0
	for _, l := range b.Parts {
		n += len(l.Out)
	}
	return n
}

// decodeBook reads a book; one of another topic of the same name, which has been deleted, counts for nothing.
func decodeBook(c record.Cursor, id string) (*book, error) {
	b := &book{}
	if len(c) > 0 {
		if err := json.Unmarshal(c, b); err != nil {
			return nil, retry.Permanent(fmt.Errorf("read book of deliveries: %w", err))
		}
	}
	if b.Topic != id || b.Parts == nil {
		b = &book{Topic: id, Parts: make(map[int32]*ledger)}
	}
	return b, nil
}

func (q *Queue) readBook(ctx context.Context, name string) (*book, error) {
	l, err := q.layout(ctx, name)
	if err != nil {
		return nil, err
	}
	s, err := q.readCursor(ctx, cursorKey(name, bookPipeline))
	if err != nil {
		return nil, err
	}
	return decodeBook(s.cursor, l.id.String())
}

// reader is this instance's hand on a topic's book.
type reader struct{ w *writer } // guarded by opening's turn for the topic

// change reads the book, lets f change it, and writes it. f is called again, with the book as it is then, when another
// instance was faster; it returns whether there is something to write.
func (q *Queue) change(ctx context.Context, name string, f func(*book) (bool, error)) error {
	done, err := q.opening.wait(ctx, "book of "+name)
	if err != nil {
		return err
	}
	defer done()
	q.mu.Lock()
	r := q.readers[name]
	if r == nil {
		r = &reader{}
		q.readers[name] = r
	}
	q.mu.Unlock()
	l, err := q.layout(ctx, name)
	if err != nil {
		return err
	}
	key := cursorKey(name, bookPipeline)
	for try := 1; ; try++ {
		s, err := q.readCursor(ctx, key)
		if err != nil {
			return err
		}
		if r.w == nil || r.w.commit != s.commit {
			// Not ours, at present. Whether it is worth a claim is told without one.
			b, err := decodeBook(s.cursor, l.id.String())
			if err != nil {
				return err
			}
			if changed, err := f(b); err != nil || !changed {
				return err
			}
			if r.w != nil {
				r.w.drop()
			}
			if r.w, err = q.claim(ctx, bookPipeline, name); err != nil {
				r.w = nil
				return err
			}
		}
		b, err := decodeBook(r.w.cursor, l.id.String())
		if err != nil {
			return err
		}
		changed, ferr := f(b)
		if !changed {
			return ferr
		}
		next, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("write book of deliveries: %w", err)
		}
		err = r.w.Commit(ctx, queue.Batch{}, next)
		if err == nil {
			return ferr
		}
		if !errors.Is(err, queue.ErrFenced) {
			r.w.drop()
			r.w = nil
			return err
		}
		r.w = nil
		if serr := retry.Sleep(ctx, rand.N(min(20*time.Millisecond<<min(try, 5), time.Second))); serr != nil {
			return fmt.Errorf("%w: other receivers were faster: %w", queue.ErrUnavailable, serr)
		}
	}
}

// Receive implements queue.Reader.
func (q *Queue) Receive(ctx context.Context, name string, max int, wait time.Duration) ([]queue.Delivery, error) {
	if err := q.enterReader(ctx, name); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if max <= 0 {
		return nil, nil
	}
	end := time.Now().Add(wait)
	for {
		bound, cancel := q.within(ctx, 3*q.cfg.Timeout)
		got, err := q.take(bound, name, max)
		cancel()
		if err != nil {
			return nil, q.mapError(ctx, "receive from "+name, err)
		}
		left := time.Until(end)
		if len(got) > 0 || left <= 0 {
			return got, nil
		}
		pause, cancel := q.within(ctx, min(left, receivePause))
		<-pause.Done()
		cancel()
		switch {
		case q.ctx.Err() != nil:
			return nil, queue.ErrClosed
		case ctx.Err() != nil:
			return nil, fmt.Errorf("receive from %s: %w", name, context.Cause(ctx))
		}
	}
}

// take hands out up to max records, those that come again first.
func (q *Queue) take(ctx context.Context, name string, max int) (got []queue.Delivery, err error) {
	parts, err := q.settled(ctx, name)
	if err != nil {
		return nil, err
	}
	err = q.change(ctx, name, func(b *book) (bool, error) {
		t := taking{q: q, name: name, max: max, receipt: token(), now: time.Now(), book: b}
		for n, at := range parts {
			if err := t.partition(ctx, n, at); err != nil {
				return false, err
			}
		}
		got = t.got
		return t.changed, nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(got, func(a, b queue.Delivery) int { return cmp.Compare(a.Position, b.Position) })
	return got, nil
}

// taking is one Receive at work on the book.
type taking struct {
	q       *Queue
	name    string
	max     int
	receipt string // what the receipts of this call have in common
	now     time.Time
	book    *book

	got     []queue.Delivery
	bytes   int
	changed bool
}

func (t *taking) full() bool { return len(t.got) >= t.max || t.bytes >= receiveBytes }

func (t *taking) partition(ctx context.Context, n int32, at bounds) error {
	l := t.book.Parts[n]
	if l == nil {
		l = &ledger{Next: at.start}
		t.book.Parts[n] = l
	}
	p := part{t.name, n}
	if err := t.again(ctx, p, l); err != nil {
		return err
	}
	if l.Next < at.start {
		l.Next = at.start
	}
	room := maxOut - t.book.out()
	if t.full() || room <= 0 || l.Next >= at.end {
		return nil
	}
	next, err := t.q.walk(ctx, p, l.Next, at.end, committed, func(m *kgo.Record) bool {
		l.Out = append(l.Out, t.deliver(m, 1))
		room--
		return room > 0 && !t.full()
	})
	l.Next = max(l.Next, next)
	return err
}

// again hands out records that were given back or not acknowledged in time.
func (t *taking) again(ctx context.Context, p part, l *ledger) error {
	due := make(map[int64]int) // offset → place in l.Out
	from, to := int64(0), int64(0)
	for i := range l.Out {
		if e := &l.Out[i]; e.Until <= t.now.UnixMilli() && len(t.got)+len(due) < t.max {
			if len(due) == 0 {
				from = e.Offset
			}
			due[e.Offset], to = i, e.Offset+1
		}
	}
	reached, err := t.q.walk(ctx, p, from, to, committed, func(m *kgo.Record) bool {
		if t.full() {
			return false
		}
		if i, ok := due[m.Offset]; ok {
			l.Out[i] = t.deliver(m, l.Out[i].Attempts+1)
			delete(due, m.Offset)
		}
		return true
	})
	if err != nil || t.full() || len(due) == 0 || reached < to {
		return err
	}
	// What is left has been taken away by retention.
	l.Out = slices.DeleteFunc(l.Out, func(e entry) bool { _, gone := due[e.Offset]; return gone })
	t.changed = true
	return nil
}

func (t *taking) deliver(m *kgo.Record, attempt int) entry {
	e := entry{Offset: m.Offset, Attempts: attempt, Until: t.now.Add(t.q.cfg.Redelivery).UnixMilli(), Receipt: t.receipt}
	t.got = append(t.got, queue.Delivery{Stored: stored(m), Receipt: receipt(m.Partition, e), Attempt: attempt})
	t.bytes += len(m.Key) + len(m.Value)
	t.changed = true
	return e
}

// receipt is <partition>.<offset>.<what the delivery is called in the book>.
func receipt(partition int32, e entry) string {
	return strconv.FormatInt(int64(partition), 10) + "." + strconv.FormatInt(e.Offset, 10) + "." + e.Receipt
}

// readReceipt takes a receipt apart. It takes only what receipt has written.
func readReceipt(s string) (partition int32, e entry, ok bool) {
	first, rest, _ := strings.Cut(s, ".")
	second, name, _ := strings.Cut(rest, ".")
	p, err1 := strconv.ParseInt(first, 10, 32)
	offset, err2 := strconv.ParseInt(second, 10, 64)
	if err1 != nil || err2 != nil || name == "" {
		return 0, entry{}, false
	}
	e = entry{Offset: offset, Receipt: name}
	return int32(p), e, receipt(int32(p), e) == s
}

// find gives the place of a receipt's record in the book.
func (b *book) find(s string) (l *ledger, at int, ok bool) {
	p, e, ok := readReceipt(s)
	if !ok {
		return nil, 0, false
	}
	if l = b.Parts[p]; l == nil {
		return nil, 0, false
	}
	at, ok = slices.BinarySearchFunc(l.Out, e.Offset, func(have entry, want int64) int { return cmp.Compare(have.Offset, want) })
	return l, at, ok && l.Out[at].Receipt == e.Receipt && l.Out[at].Until != 0
}

// Ack implements queue.Reader.
func (q *Queue) Ack(ctx context.Context, name string, receipts ...string) error {
	return q.answer(ctx, name, "acknowledge", receipts, func(l *ledger, at int) { l.Out = slices.Delete(l.Out, at, at+1) })
}

// Nack implements queue.Reader.
func (q *Queue) Nack(ctx context.Context, name string, receipts ...string) error {
	return q.answer(ctx, name, "give back", receipts, func(l *ledger, at int) { l.Out[at].Until = 0 })
}

func (q *Queue) answer(ctx context.Context, name, what string, receipts []string, f func(*ledger, int)) error {
	if err := q.enterReader(ctx, name); err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(receipts) == 0 {
		return nil
	}
	bound, cancel := q.within(ctx, 3*q.cfg.Timeout)
	defer cancel()
	var unknown error
	err := q.change(bound, name, func(b *book) (changed bool, _ error) {
		var errs []error
		for _, r := range receipts {
			l, at, ok := b.find(r)
			if !ok {
				errs = append(errs, fmt.Errorf("%w: %.80q", queue.ErrReceipt, r))
				continue
			}
			f(l, at)
			changed = true
		}
		unknown = errors.Join(errs...)
		return changed, nil
	})
	if err != nil {
		return q.mapError(ctx, fmt.Sprintf("%s records of %s", what, name), err)
	}
	return unknown
}
