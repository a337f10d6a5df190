// Package queuetest holds the conformance suite that every queue passes (Run), and an in-memory queue that is right
// by the same suite, for the tests of other packages (NewMemory).
package queuetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// Store is what a Memory queue keeps: the broker, so to say. Several Memory queues on one Store are several
// instances. The zero value is empty and ready.
type Store struct {
	mu      sync.Mutex
	topics  map[string]*memoryTopic
	cursors map[string]*memoryCursor
	changed chan struct{} // closed and replaced when a record comes or is given back
}

type memoryTopic struct {
	last    int64
	records []queue.Stored
	taken   map[int64]*taking // by position; gone once acknowledged
	acked   map[int64]bool
}

type taking struct {
	receipt string
	attempt int
	until   time.Time // zero: given back
}

type memoryCursor struct {
	epoch  int
	cursor record.Cursor
}

// Hooks let a test make a Memory queue fail or wait. A nil hook does nothing; hooks are called without locks held, so
// they may block and may call the queue.
type Hooks struct {
	// BeforePublish runs before records are written; an error is returned instead of writing.
	BeforePublish func(ctx context.Context, topic string, batch []record.Record) error
	// BeforeCommit likewise, in Writer.Commit.
	BeforeCommit func(ctx context.Context, pipeline string, b queue.Batch, next record.Cursor) error
	// AfterCommit runs when a commit has been written; its error is returned although all is durable, as when the
	// broker's answer is lost.
	AfterCommit func(ctx context.Context, pipeline string, b queue.Batch, next record.Cursor) error
	// BeforeOpen runs in OpenWriter before the claim.
	BeforeOpen func(ctx context.Context, pipeline, topic string) error
	// OnPing is Ping's answer.
	OnPing func(ctx context.Context) error
}

// MemoryOptions of NewMemory; the zero value is good.
type MemoryOptions struct {
	Store      *Store        // default: one of its own
	Limits     queue.Limits  // default: 1000 records and 8 MiB a commit, 1 MiB a record
	Redelivery time.Duration // default: 30 s
	Hooks      Hooks
}

// Memory is a queue.Queue in memory, of tier ExactlyOnce. It is durable as long as its Store is.
type Memory struct {
	o    MemoryOptions
	s    *Store
	mu   sync.RWMutex // held for reading by every call, so that Close waits
	gone bool
}

var _ queue.Queue = (*Memory)(nil)

// NewMemory makes a queue on the options' store.
func NewMemory(o ...MemoryOptions) *Memory {
	m := &Memory{}
	if len(o) > 0 {
		m.o = o[0]
	}
	if m.o.Store == nil {
		m.o.Store = &Store{}
	}
	if m.o.Limits == (queue.Limits{}) {
		m.o.Limits = queue.Limits{CommitRecords: 1000, CommitBytes: 8 << 20, RecordBytes: 1 << 20}
	}
	if m.o.Redelivery == 0 {
		m.o.Redelivery = 30 * time.Second
	}
	m.s = m.o.Store
	m.s.init()
	return m
}

func (s *Store) init() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics == nil {
		s.topics, s.cursors, s.changed = map[string]*memoryTopic{}, map[string]*memoryCursor{}, make(chan struct{})
	}
}

// enter holds the queue open until leave is called.
func (m *Memory) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("nothing written: %w", context.Cause(ctx))
	}
	m.mu.RLock()
	if m.gone {
		m.mu.RUnlock()
		return nil, queue.ErrClosed
	}
	return m.mu.RUnlock, nil
}

// Info implements queue.Queue.
func (m *Memory) Info() queue.Info {
	return queue.Info{Name: "memory", Tier: queue.ExactlyOnce, Limits: m.o.Limits, Note: "for tests"}
}

// Prepare implements queue.Preparer. Topics are made by their first record.
func (m *Memory) Prepare(ctx context.Context, _ ...string) error {
	leave, err := m.enter(ctx)
	if err == nil {
		leave()
	}
	return err
}

// Ping implements queue.Queue.
func (m *Memory) Ping(ctx context.Context) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if m.o.Hooks.OnPing != nil {
		return m.o.Hooks.OnPing(ctx)
	}
	return nil
}

// Close implements queue.Queue.
func (m *Memory) Close(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.notify() // who waits finds the queue closed
	return nil
}

// tooLarge adds what is over the limit to failed, by index from first on.
func (m *Memory) tooLarge(batch []record.Record, failed map[int]error, first int) {
	for i := range batch {
		if n := batch[i].Size(); n > m.o.Limits.RecordBytes {
			failed[first+i] = &queue.TooLargeError{Size: n, Limit: m.o.Limits.RecordBytes}
		}
	}
}

// Publish implements queue.Queue.
func (m *Memory) Publish(ctx context.Context, topic string, batch []record.Record) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if h := m.o.Hooks.BeforePublish; h != nil {
		if err := h(ctx, topic, batch); err != nil {
			return err
		}
	}
	failed := map[int]error{}
	m.tooLarge(batch, failed, 0)
	m.s.mu.Lock()
	m.s.append(topic, batch, failed)
	m.s.mu.Unlock()
	if len(failed) > 0 {
		return &queue.BatchError{Failed: failed, Total: len(batch)}
	}
	return nil
}

// append writes records but the failed ones. The lock is held.
func (s *Store) append(topic string, batch []record.Record, failed map[int]error) {
	t := s.topic(topic)
	for i := range batch {
		if failed[i] != nil {
			continue
		}
		t.last++
		r := batch[i]
		r.Data, r.Headers = bytes.Clone(r.Data), slices.Clone(r.Headers)
		t.records = append(t.records, queue.Stored{Record: r, Position: t.last, Time: time.Now()})
	}
	s.notify()
}

func (s *Store) topic(name string) *memoryTopic {
	t := s.topics[name]
	if t == nil {
		t = &memoryTopic{taken: map[int64]*taking{}, acked: map[int64]bool{}}
		s.topics[name] = t
	}
	return t
}

func (s *Store) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Store) cursor(pipeline, topic string) *memoryCursor {
	key := topic + "/" + pipeline
	c := s.cursors[key]
	if c == nil {
		c = &memoryCursor{}
		s.cursors[key] = c
	}
	return c
}

// Cursor implements queue.Queue.
func (m *Memory) Cursor(ctx context.Context, pipeline, topic string) (record.Cursor, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	return bytes.Clone(m.s.cursor(pipeline, topic).cursor), nil
}

// OpenWriter implements queue.Queue.
func (m *Memory) OpenWriter(ctx context.Context, pipeline, topic string) (queue.Writer, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if h := m.o.Hooks.BeforeOpen; h != nil {
		if err := h(ctx, pipeline, topic); err != nil {
			return nil, err
		}
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.topic(topic)
	c := m.s.cursor(pipeline, topic)
	c.epoch++
	return &memoryWriter{m: m, pipeline: pipeline, topic: topic, epoch: c.epoch, cursor: bytes.Clone(c.cursor)}, nil
}

type memoryWriter struct {
	m               *Memory
	pipeline, topic string
	epoch           int
	cursor          record.Cursor
	lost            record.Cursor // of a commit that was written and answered with an error
	unknown         bool
}

func (w *memoryWriter) Cursor() record.Cursor       { return w.cursor }
func (w *memoryWriter) Close(context.Context) error { return nil }

// Commit implements queue.Writer.
func (w *memoryWriter) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	m := w.m
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if h := m.o.Hooks.BeforeCommit; h != nil {
		if err := h(ctx, w.pipeline, b, next); err != nil {
			return err
		}
	}
	failed := map[int]error{}
	m.tooLarge(b.Records, failed, 0)
	m.tooLarge(b.Dead, failed, len(b.Records))
	if len(failed) > 0 {
		return &queue.BatchError{Failed: failed, Total: b.Len()}
	}
	if err := m.o.Limits.Check(b); err != nil {
		return err
	}
	if err := w.write(b, next); err != nil {
		return err
	}
	if h := m.o.Hooks.AfterCommit; h != nil {
		if err := h(ctx, w.pipeline, b, next); err != nil {
			w.lost, w.unknown = bytes.Clone(next), true
			return err
		}
	}
	w.cursor = bytes.Clone(next)
	return nil
}

func (w *memoryWriter) write(b queue.Batch, next record.Cursor) error {
	s := w.m.s
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cursor(w.pipeline, w.topic)
	if c.epoch != w.epoch {
		return queue.ErrFenced
	}
	if w.unknown {
		w.unknown = false
		if bytes.Equal(w.lost, next) {
			return nil // it was written the first time
		}
	}
	s.append(w.topic, b.Records, nil)
	if len(b.Dead) > 0 {
		s.append(queue.DeadTopic(w.topic), b.Dead, nil)
	}
	c.cursor = bytes.Clone(next)
	return nil
}

// find gives a topic that exists. The lock is held.
func (s *Store) find(name string) (*memoryTopic, error) {
	if t := s.topics[name]; t != nil {
		return t, nil
	}
	if base, ok := strings.CutSuffix(name, ".dead"); ok && s.topics[base] != nil {
		return &memoryTopic{}, nil // without dead letters so far
	}
	return nil, fmt.Errorf("%w: %s", queue.ErrNoTopic, name)
}

// Browse implements queue.Reader.
func (m *Memory) Browse(ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	t, err := m.s.find(topic)
	if err != nil {
		return nil, err
	}
	first := 0
	if from > 0 {
		first, _ = slices.BinarySearchFunc(t.records, from, func(r queue.Stored, p int64) int { return int(r.Position - p) })
	} else if from < 0 {
		first = len(t.records) - int(min(-from, int64(len(t.records))))
	}
	rest := t.records[first:]
	return slices.Clone(rest[:min(len(rest), maxInt(max))]), nil
}

func maxInt(n int) int { return max(n, 0) }

// Receive implements queue.Reader. Closing ends the wait.
func (m *Memory) Receive(ctx context.Context, topic string, max int, wait time.Duration) ([]queue.Delivery, error) {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	again := time.NewTicker(m.o.Redelivery/4 + time.Millisecond)
	defer again.Stop()
	for last := wait <= 0 || max <= 0; ; {
		leave, err := m.enter(ctx)
		if err != nil {
			return nil, err
		}
		got, changed, err := m.s.take(topic, max, m.o.Redelivery)
		leave()
		if err != nil || len(got) > 0 || last {
			return got, err
		}
		select {
		case <-changed:
		case <-again.C:
		case <-limit.C:
			last = true
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *Store) take(topic string, max int, redelivery time.Duration) ([]queue.Delivery, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.find(topic)
	if err != nil {
		return nil, nil, err
	}
	var got []queue.Delivery
	now := time.Now()
	for _, r := range t.records {
		if len(got) >= max {
			break
		}
		k := t.taken[r.Position]
		if t.acked[r.Position] || k != nil && now.Before(k.until) {
			continue
		}
		if k == nil {
			k = &taking{}
			t.taken[r.Position] = k
		}
		k.attempt++
		k.until = now.Add(redelivery)
		k.receipt = fmt.Sprintf("%s %d %d", topic, r.Position, k.attempt)
		got = append(got, queue.Delivery{Stored: r, Receipt: k.receipt, Attempt: k.attempt})
	}
	return got, s.changed, nil
}

// Ack implements queue.Reader.
func (m *Memory) Ack(ctx context.Context, topic string, receipts ...string) error {
	return m.answer(ctx, topic, receipts, func(t *memoryTopic, p int64) {
		t.acked[p] = true
		delete(t.taken, p)
	})
}

// Nack implements queue.Reader.
func (m *Memory) Nack(ctx context.Context, topic string, receipts ...string) error {
	return m.answer(ctx, topic, receipts, func(t *memoryTopic, p int64) {
		t.taken[p].until, t.taken[p].receipt = time.Time{}, ""
	})
}

func (m *Memory) answer(ctx context.Context, topic string, receipts []string, do func(*memoryTopic, int64)) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	t, err := m.s.find(topic)
	if err != nil {
		return err
	}
	for _, receipt := range receipts {
		found := false
		for p, k := range t.taken {
			if k.receipt == receipt && receipt != "" {
				do(t, p)
				found = true
				break
			}
		}
		if !found {
			err = fmt.Errorf("%w: %q", queue.ErrReceipt, receipt)
		}
	}
	m.s.notify()
	return err
}

// Stats implements queue.Reader.
func (m *Memory) Stats(ctx context.Context, topic string) (queue.Stats, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return queue.Stats{}, err
	}
	defer leave()
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	t, err := m.s.find(topic)
	if err != nil || len(t.records) == 0 {
		return queue.Stats{}, err
	}
	st := queue.Stats{
		Records: int64(len(t.records)),
		Waiting: int64(len(t.records) - len(t.acked)),
		First:   t.records[0].Position,
		Last:    t.records[len(t.records)-1].Position,
	}
	for i := range t.records {
		st.Bytes += int64(t.records[i].Size())
	}
	return st, nil
}

// Topics implements queue.Reader.
func (m *Memory) Topics(ctx context.Context) ([]string, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	var names []string
	for name := range m.s.topics {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}
