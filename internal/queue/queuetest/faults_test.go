package queuetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// recorder runs a case without failing the test that watches it.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failed   []string
	cleanups []func()
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}
func (r *recorder) Error(args ...any)                 { r.Errorf("%s", fmt.Sprint(args...)) }
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }

func (r *recorder) Fatal(args ...any) { r.Errorf("%s", fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Skip(...any)       { runtime.Goexit() }
func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// watch runs one case against a harness and tells how it failed.
func watch(t *testing.T, c testCase, h Harness) []string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, f := range slices.Backward(r.cleanups) {
				f()
			}
		}()
		c.run(&suite{TB: r, h: h})
	}()
	<-done
	return r.failed
}

// faulty is a right queue with parts replaced; nil parts are right.
type faulty struct {
	*Memory
	publish func(f *faulty, ctx context.Context, topic string, batch []record.Record) error
	commit  func(w *faultyWriter, ctx context.Context, b queue.Batch, next record.Cursor) error
	open    func(f *faulty, ctx context.Context, pipeline, topic string) (queue.Writer, error)
	cursor  func(f *faulty, ctx context.Context, pipeline, topic string) (record.Cursor, error)
	browse  func(f *faulty, ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error)
	receive func(f *faulty, ctx context.Context, topic string, max int, wait time.Duration) ([]queue.Delivery, error)
	ack     func(f *faulty, ctx context.Context, topic string, receipts []string) error
	nack    func(f *faulty, ctx context.Context, topic string, receipts []string) error
	stats   func(f *faulty, ctx context.Context, topic string) (queue.Stats, error)
	topics  func(f *faulty, ctx context.Context) ([]string, error)
	closing func(f *faulty, ctx context.Context) error
	ping    func(f *faulty, ctx context.Context) error
}

type faultyWriter struct {
	queue.Writer
	f               *faulty
	pipeline, topic string
}

func (f *faulty) Publish(ctx context.Context, topic string, batch []record.Record) error {
	if f.publish != nil {
		return f.publish(f, ctx, topic, batch)
	}
	return f.Memory.Publish(ctx, topic, batch)
}

func (f *faulty) OpenWriter(ctx context.Context, pipeline, topic string) (queue.Writer, error) {
	if f.open != nil {
		return f.open(f, ctx, pipeline, topic)
	}
	w, err := f.Memory.OpenWriter(ctx, pipeline, topic)
	if err != nil || f.commit == nil {
		return w, err
	}
	return &faultyWriter{w, f, pipeline, topic}, nil
}

func (w *faultyWriter) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	return w.f.commit(w, ctx, b, next)
}

func (f *faulty) Cursor(ctx context.Context, pipeline, topic string) (record.Cursor, error) {
	if f.cursor != nil {
		return f.cursor(f, ctx, pipeline, topic)
	}
	return f.Memory.Cursor(ctx, pipeline, topic)
}

func (f *faulty) Browse(ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error) {
	if f.browse != nil {
		return f.browse(f, ctx, topic, from, max)
	}
	return f.Memory.Browse(ctx, topic, from, max)
}

func (f *faulty) Receive(ctx context.Context, topic string, max int, wait time.Duration) ([]queue.Delivery, error) {
	if f.receive != nil {
		return f.receive(f, ctx, topic, max, wait)
	}
	return f.Memory.Receive(ctx, topic, max, wait)
}

func (f *faulty) Ack(ctx context.Context, topic string, receipts ...string) error {
	if f.ack != nil {
		return f.ack(f, ctx, topic, receipts)
	}
	return f.Memory.Ack(ctx, topic, receipts...)
}

func (f *faulty) Nack(ctx context.Context, topic string, receipts ...string) error {
	if f.nack != nil {
		return f.nack(f, ctx, topic, receipts)
	}
	return f.Memory.Nack(ctx, topic, receipts...)
}

func (f *faulty) Stats(ctx context.Context, topic string) (queue.Stats, error) {
	if f.stats != nil {
		return f.stats(f, ctx, topic)
	}
	return f.Memory.Stats(ctx, topic)
}

func (f *faulty) Topics(ctx context.Context) ([]string, error) {
	if f.topics != nil {
		return f.topics(f, ctx)
	}
	return f.Memory.Topics(ctx)
}

func (f *faulty) Close(ctx context.Context) error {
	if f.closing != nil {
		return f.closing(f, ctx)
	}
	return f.Memory.Close(ctx)
}

func (f *faulty) Ping(ctx context.Context) error {
	if f.ping != nil {
		return f.ping(f, ctx)
	}
	return f.Memory.Ping(ctx)
}

// write puts a batch behind the writer's back.
func (f *faulty) write(topic string, b queue.Batch) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.s.append(topic, b.Records, nil)
	if len(b.Dead) > 0 {
		f.s.append(queue.DeadTopic(topic), b.Dead, nil)
	}
}

func changed(batch []record.Record, change func(*record.Record)) []record.Record {
	out := slices.Clone(batch)
	for i := range out {
		change(&out[i])
	}
	return out
}

// TestFaultsAreCaught shows that the suite fails for a queue with any of these faults.
func TestFaultsAreCaught(t *testing.T) {
	bg := context.Background()
	altered := func(change func(*record.Record)) faulty {
		return faulty{publish: func(f *faulty, ctx context.Context, topic string, batch []record.Record) error {
			return f.Memory.Publish(ctx, topic, changed(batch, change))
		}}
	}
	faults := map[string]faulty{
		"the last record of a batch is lost": {publish: func(f *faulty, ctx context.Context, topic string, b []record.Record) error {
			return f.Memory.Publish(ctx, topic, b[:max(0, len(b)-1)])
		}},
		"batches are written backwards": {publish: func(f *faulty, ctx context.Context, topic string, b []record.Record) error {
			b = slices.Clone(b)
			slices.Reverse(b)
			return f.Memory.Publish(ctx, topic, b)
		}},
		"batches are written twice": {publish: func(f *faulty, ctx context.Context, topic string, b []record.Record) error {
			_ = f.Memory.Publish(ctx, topic, b)
			return f.Memory.Publish(ctx, topic, b)
		}},
		"keys are lost":    altered(func(r *record.Record) { r.Key = "" }),
		"keys are trimmed": altered(func(r *record.Record) { r.Key = strings.TrimSpace(r.Key) }),
		"ids are changed":  altered(func(r *record.Record) { r.ID = strings.ToUpper(r.ID) }),
		"headers are lost": altered(func(r *record.Record) { r.Headers = nil }),
		"headers lose line breaks": altered(func(r *record.Record) {
			r.Headers = slices.Clone(r.Headers)
			for i := range r.Headers {
				r.Headers[i].Value = strings.ReplaceAll(r.Headers[i].Value, "\n", " ")
			}
		}),
		"data is compacted": altered(func(r *record.Record) { r.Data = []byte(strings.ReplaceAll(string(r.Data), "\n", "")) }),
		"data is cut":       altered(func(r *record.Record) { r.Data = r.Data[:min(len(r.Data), 65_536)] }),
		"confirmed before it is written": {publish: func(f *faulty, ctx context.Context, topic string, b []record.Record) error {
			if err := f.Memory.Ping(ctx); err != nil {
				return err
			}
			b = slices.Clone(b)
			go func() { pause(5 * time.Millisecond); _ = f.Memory.Publish(bg, topic, b) }()
			return nil
		}},
		"an oversize record blocks its batch": {publish: func(f *faulty, ctx context.Context, topic string, b []record.Record) error {
			failed := map[int]error{}
			f.tooLarge(b, failed, 0)
			if len(failed) > 0 {
				return &queue.BatchError{Failed: failed, Total: len(b)}
			}
			return f.Memory.Publish(ctx, topic, b)
		}},
		"an oversize record is dropped silently": {publish: func(f *faulty, ctx context.Context, topic string, b []record.Record) error {
			_ = f.Memory.Publish(ctx, topic, b)
			return ctx.Err()
		}},
		"a cancelled context is not looked at": {publish: func(f *faulty, _ context.Context, topic string, b []record.Record) error {
			return f.Memory.Publish(bg, topic, b)
		}},
		"no fencing": {open: func(f *faulty, ctx context.Context, pipeline, topic string) (queue.Writer, error) {
			w, err := f.Memory.OpenWriter(ctx, pipeline, topic)
			if err == nil {
				f.s.mu.Lock()
				f.s.cursor(pipeline, topic).epoch--
				w.(*memoryWriter).epoch--
				f.s.mu.Unlock()
			}
			return w, err
		}},
		"a fenced writer still writes": {commit: func(w *faultyWriter, ctx context.Context, b queue.Batch, next record.Cursor) error {
			err := w.Writer.Commit(ctx, b, next)
			if err == queue.ErrFenced {
				w.f.write(w.topic, b)
			}
			return err
		}},
		"fencing across pipelines": {open: func(f *faulty, ctx context.Context, pipeline, topic string) (queue.Writer, error) {
			w, err := f.Memory.OpenWriter(ctx, pipeline, topic)
			f.s.mu.Lock()
			for key, c := range f.s.cursors {
				if strings.HasPrefix(key, topic+"/") && key != topic+"/"+pipeline {
					c.epoch++
				}
			}
			f.s.mu.Unlock()
			return w, err
		}},
		"the cursor is not moved": {commit: func(w *faultyWriter, ctx context.Context, b queue.Batch, _ record.Cursor) error {
			return w.Writer.Commit(ctx, b, w.Cursor())
		}},
		"records without their cursor": {commit: func(w *faultyWriter, ctx context.Context, b queue.Batch, next record.Cursor) error {
			err := w.Writer.Commit(ctx, b, next)
			if err != nil && err != queue.ErrFenced && ctx.Err() == nil && w.f.Memory.Ping(ctx) == nil {
				w.f.write(w.topic, queue.Batch{Records: b.Records[:1]})
			}
			return err
		}},
		"a cursor without its records": {commit: func(w *faultyWriter, ctx context.Context, b queue.Batch, next record.Cursor) error {
			err := w.Writer.Commit(ctx, b, next)
			if _, ok := err.(*queue.BatchError); ok {
				_ = w.Writer.Commit(ctx, queue.Batch{}, next)
			}
			return err
		}},
		"dead letters are forgotten": {commit: func(w *faultyWriter, ctx context.Context, b queue.Batch, next record.Cursor) error {
			return w.Writer.Commit(ctx, queue.Batch{Records: b.Records}, next)
		}},
		"failed dead letters are counted from zero": {commit: func(w *faultyWriter, ctx context.Context, b queue.Batch, next record.Cursor) error {
			err := w.Writer.Commit(ctx, b, next)
			if be, ok := err.(*queue.BatchError); ok {
				moved := map[int]error{}
				for i, e := range be.Failed {
					moved[i%max(1, len(b.Records))] = e
				}
				return &queue.BatchError{Failed: moved, Total: be.Total}
			}
			return err
		}},
		"a large commit is cut": {commit: func(w *faultyWriter, ctx context.Context, b queue.Batch, next record.Cursor) error {
			if b.Len() <= w.f.o.Limits.CommitRecords {
				b.Records = b.Records[:min(len(b.Records), 500)]
			}
			return w.Writer.Commit(ctx, b, next)
		}},
		"a commit tried again is written again": {commit: func(w *faultyWriter, ctx context.Context, b queue.Batch, next record.Cursor) error {
			err := w.Writer.Commit(ctx, b, next)
			if ctx.Err() != nil && err != nil {
				w.f.write(w.topic, b)
			}
			return err
		}},
		"the cursor is a text": {cursor: func(f *faulty, ctx context.Context, pipeline, topic string) (record.Cursor, error) {
			c, err := f.Memory.Cursor(ctx, pipeline, topic)
			return record.Cursor(strings.TrimSpace(string(c))), err
		}},
		"reading a cursor makes the topic": {cursor: func(f *faulty, ctx context.Context, pipeline, topic string) (record.Cursor, error) {
			f.s.mu.Lock()
			f.s.topic(topic)
			f.s.mu.Unlock()
			return f.Memory.Cursor(ctx, pipeline, topic)
		}},
		"an unknown topic reads as empty": {browse: func(f *faulty, ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error) {
			s, err := f.Memory.Browse(ctx, topic, from, max)
			if err != nil && f.Memory.Ping(ctx) == nil {
				err = nil
			}
			return s, err
		}},
		"browsing back is one short": {browse: func(f *faulty, ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error) {
			if from < -1 {
				from++
			}
			return f.Memory.Browse(ctx, topic, from, max)
		}},
		"browsing is exclusive": {browse: func(f *faulty, ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error) {
			if from > 0 {
				from++
			}
			return f.Memory.Browse(ctx, topic, from, max)
		}},
		"receive waits for a full batch": {receive: func(f *faulty, ctx context.Context, topic string, max int, wait time.Duration) ([]queue.Delivery, error) {
			got, err := f.Memory.Receive(ctx, topic, max, wait)
			if wait > 6*time.Second && len(got) < max {
				pause(5100 * time.Millisecond)
			}
			return got, err
		}},
		"receive gives what is taken": {receive: func(f *faulty, ctx context.Context, topic string, max int, wait time.Duration) ([]queue.Delivery, error) {
			f.s.mu.Lock()
			if m := f.s.topics[topic]; m != nil {
				for _, k := range m.taken {
					k.until = time.Time{}
				}
			}
			f.s.mu.Unlock()
			return f.Memory.Receive(ctx, topic, max, wait)
		}},
		"acks are lost": {ack: func(f *faulty, ctx context.Context, topic string, receipts []string) error {
			f.s.mu.Lock()
			defer f.s.mu.Unlock()
			known := f.s.topics[topic]
			if known == nil {
				return queue.ErrNoTopic
			}
			var err error
			for _, r := range receipts {
				found := false
				for _, k := range known.taken {
					found = found || k.receipt == r
				}
				if !found {
					err = queue.ErrReceipt
				}
			}
			return err
		}},
		"any receipt will do": {ack: func(f *faulty, ctx context.Context, topic string, receipts []string) error {
			if err := f.Memory.Ack(ctx, topic, receipts...); !errors.Is(err, queue.ErrReceipt) {
				return err
			}
			return nil
		}},
		"nack does nothing": {nack: func(f *faulty, ctx context.Context, topic string, receipts []string) error {
			return f.Memory.Ping(ctx)
		}},
		"nack acknowledges": {nack: func(f *faulty, ctx context.Context, topic string, receipts []string) error {
			return f.Memory.Ack(ctx, topic, receipts...)
		}},
		"stats count what is acknowledged as waiting": {stats: func(f *faulty, ctx context.Context, topic string) (queue.Stats, error) {
			st, err := f.Memory.Stats(ctx, topic)
			st.Waiting = st.Records
			return st, err
		}},
		"topics without dead letters": {topics: func(f *faulty, ctx context.Context) ([]string, error) {
			all, err := f.Memory.Topics(ctx)
			return slices.DeleteFunc(all, func(t string) bool { return strings.HasSuffix(t, ".dead") }), err
		}},
		"closing does not close": {closing: func(*faulty, context.Context) error { return nil }},
		"ping always fails":      {ping: func(*faulty, context.Context) error { return queue.ErrUnavailable }},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &Store{}
			h := Harness{
				Open: func(testing.TB) queue.Queue {
					f := fault
					f.Memory = NewMemory(MemoryOptions{Store: store, Redelivery: 60 * time.Millisecond})
					return &f
				},
				Redelivery: 60 * time.Millisecond,
			}
			for _, c := range cases {
				if failed := watch(t, c, h); len(failed) > 0 {
					return
				}
			}
			t.Error("no case fails for this fault")
		})
	}
}

// TestStoreMustOutlive shows that a queue that forgets when it is closed, or keeps nothing for other instances, fails.
func TestStoreMustOutlive(t *testing.T) {
	h := Harness{Open: func(testing.TB) queue.Queue { return NewMemory() }}
	for _, c := range cases {
		if c.name == "what is confirmed is there after reopening" {
			if failed := watch(t, c, h); len(failed) == 0 {
				t.Fatal("a queue that forgets passes")
			}
		}
	}
}

// TestRedeliveryMustCome shows the same for a queue that never delivers again.
func TestRedeliveryMustCome(t *testing.T) {
	store := &Store{}
	h := Harness{
		Open:       func(testing.TB) queue.Queue { return NewMemory(MemoryOptions{Store: store}) }, // 30 s
		Redelivery: 20 * time.Millisecond,
	}
	for _, c := range cases {
		if c.name == "what is not acknowledged comes again" {
			if failed := watch(t, c, h); len(failed) == 0 {
				t.Fatal("a queue that does not deliver again passes")
			}
		}
	}
}
