package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/scheduler"
	"ferry/internal/state"
)

// handsOut is a queue that hands records out and cannot be looked into, such as SQS.
type handsOut struct{ queue.Queue }

func (handsOut) Browse(context.Context, string, int64, int) ([]queue.Stored, error) {
	return nil, fmt.Errorf("browse: %w", errors.ErrUnsupported)
}

const deadConfig = `
data: %s
pipelines:
  p:
    source: {base: "mock:", get: /v1/orders, key: .id}
    transform: [{map: 'if .bad then error("still bad") else . end'}]
  other:
    source: {base: "mock:", get: /v1/orders, key: .id}
    topic: p
`

func openApp(t *testing.T, text string) *App {
	t.Helper()
	cfg, err := config.Parse(fmt.Appendf(nil, text, t.TempDir()), "test", config.Options{Checks: checks()})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), Options{Config: cfg, Command: "serve", Version: "test", Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func letter(pipeline, id, data string) record.Record {
	return record.Record{
		ID: id, Data: []byte(data),
		Headers: []record.Header{{Name: record.HeaderPipeline, Value: pipeline}, {Name: record.HeaderDeadReason, Value: "bad"}},
	}
}

// TestSchemesInCapitals: a scheme is the same in any case (RFC 3986, 3.1), for all who look at it.
func TestSchemesInCapitals(t *testing.T) {
	a := openApp(t, "queue: \"EMBEDDED:\"\nstate: \"Embedded:\"\n"+deadConfig[1:])
	if err := a.queue.Publish(t.Context(), "p", []record.Record{{ID: "1", Data: []byte(`1`)}}); err != nil {
		t.Fatal(err)
	}
}

// TestReplayWithoutBrowsing: each letter of the pipeline is replayed once, what fails again and what belongs to another
// pipeline stays.
func TestReplayWithoutBrowsing(t *testing.T) {
	a := openApp(t, deadConfig)
	a.queue = handsOut{a.queue}
	letters := []record.Record{letter("p", "1", `{"n":1}`), letter("other", "2", `{}`), letter("p", "3", `{"bad":true}`)}
	for i := range 120 { // more than one batch
		letters = append(letters, letter("p", fmt.Sprint("n", i), `{"n":2}`))
	}
	if err := a.queue.Publish(t.Context(), "p.dead", letters); err != nil {
		t.Fatal(err)
	}
	dead, err := a.Dead(t.Context(), "p", 0, 100)
	if err != nil || len(dead) == 0 || dead[0].ID != "1" || dead[0].Reason != "bad" {
		t.Fatalf("listed %d dead letters, %v", len(dead), err)
	}
	out, err := a.Replay(t.Context(), "p", nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Read != 122 || out.Published != 121 || out.Dead != 1 {
		t.Errorf("replayed %+v, want 122 read, 121 published, 1 dead", out)
	}
	left := map[string]bool{}
	got, err := a.take(t.Context(), "p.dead", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		left[got[i].ID] = true
	}
	if len(got) != 2 || !left["2"] || !left["3"] {
		t.Errorf("%d letters are left: %v, want 2 and 3", len(got), left)
	}
	if _, err := a.Replay(t.Context(), "p", []int64{1}); err == nil {
		t.Error("a single position was replayed")
	}
}

// window is a queue that knows records by their ids for a while.
type window struct{ queue.Queue }

func (w window) Info() queue.Info {
	info := w.Queue.Info()
	info.Tier = queue.Deduplicated
	return info
}

func (w window) Remove(ctx context.Context, topic string, positions ...int64) error {
	return w.Queue.(remover).Remove(ctx, topic, positions...)
}

// TestReplayWithinTheWindow: a letter that fails again is the one that was there, since the queue would drop a new one.
func TestReplayWithinTheWindow(t *testing.T) {
	for name, wrap := range map[string]func(queue.Queue) queue.Queue{
		"browsed":    func(q queue.Queue) queue.Queue { return q },
		"handed out": func(q queue.Queue) queue.Queue { return handsOut{q} },
	} {
		t.Run(name, func(t *testing.T) {
			a := openApp(t, deadConfig)
			a.queue = wrap(window{a.queue})
			if err := a.queue.Publish(t.Context(), "p.dead", []record.Record{letter("p", "1", `{"n":1}`), letter("p", "2", `{"bad":true}`), letter("p", "3", `{"n":2}`)}); err != nil {
				t.Fatal(err)
			}
			for _, want := range []api.Replayed{{Pipeline: "p", Read: 3, Published: 2, Dead: 1}, {Pipeline: "p", Read: 1, Dead: 1}} {
				if out, err := a.Replay(t.Context(), "p", nil); err != nil || out != want {
					t.Fatalf("replayed %+v, %v; want %+v", out, err, want)
				}
				if left, err := a.Dead(t.Context(), "p", 0, 10); err != nil || len(left) != 1 || left[0].ID != "2" || left[0].Reason != "bad" {
					t.Fatalf("left are %+v, %v; want the one that failed again", left, err)
				}
			}
		})
	}
}

// counted is a queue that counts the letters which were looked at and not yet taken out.
type counted struct {
	queue.Queue
	held, most int
}

func (c *counted) Browse(ctx context.Context, topic string, from int64, limit int) ([]queue.Stored, error) {
	got, err := c.Queue.Browse(ctx, topic, from, limit)
	c.held += len(got)
	c.most = max(c.most, c.held)
	return got, err
}

func (c *counted) Remove(ctx context.Context, topic string, positions ...int64) error {
	c.held -= len(positions)
	return c.Queue.(remover).Remove(ctx, topic, positions...)
}

// TestReplayHoldsOneBatch: to replay all letters takes no more memory than to replay a few (invariant 7), and what dies
// again is not replayed a second time.
func TestReplayHoldsOneBatch(t *testing.T) {
	a := openApp(t, deadConfig)
	letters := []record.Record{letter("p", "bad", `{"bad":true}`), letter("other", "other", `{}`)}
	for i := range 5*deadBatch + 7 {
		letters = append(letters, letter("p", fmt.Sprint(i), `{}`))
	}
	if err := a.queue.Publish(t.Context(), "p.dead", letters); err != nil {
		t.Fatal(err)
	}
	q := &counted{Queue: a.queue}
	a.queue = q
	n := len(letters) - 1
	out, err := a.Replay(t.Context(), "p", nil)
	if want := (api.Replayed{Pipeline: "p", Read: n, Published: n - 1, Dead: 1}); err != nil || out != want {
		t.Errorf("replayed %+v, %v; want %+v", out, err, want)
	}
	if q.most > deadBatch+1 { // and the other pipeline's
		t.Errorf("held %d letters at once, want one batch of %d", q.most, deadBatch)
	}
	if s, err := a.queue.Stats(t.Context(), "p.dead"); err != nil || s.Records != 2 {
		t.Errorf("%d letters are left, %v; want 2", s.Records, err)
	}
}

// TestCutLettersAreNotReplayed: what holds only the beginning of a record is never published as if it were the record, nor
// lost, whoever cut it.
func TestCutLettersAreNotReplayed(t *testing.T) {
	const whole = `{"id":1,"bad":true}`
	big := func(n int) string { return `{"id":"` + strings.Repeat("x", n<<20) + `"}` }
	for _, c := range []struct{ name, contentType, body, stage, size string }{
		{"too large for the queue", "application/json", big(10), "queue", "10485769"},
		{"larger than limits.record", "application/json", big(12), "source", "12582921"},
		{"no JSON", "application/x-ndjson", "{}\n{no}\n", "source", "5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := openApp(t, `
data: %s
pipelines:
  p: {source: {push: true, limits: {record: 11MiB}}, transform: [{where: ". != {}"}]}
`)
			if out, err := a.Push(t.Context(), "p", c.contentType, []byte(c.body)); err != nil || out.Dead != 1 {
				t.Fatalf("pushed %+v, %v", out, err)
			}
			if err := a.queue.Publish(t.Context(), "p.dead", []record.Record{letter("p", "whole", whole)}); err != nil {
				t.Fatal(err)
			}
			dead, err := a.Dead(t.Context(), "p", 0, 10)
			if err != nil || len(dead) != 2 {
				t.Fatalf("%d dead letters, %v", len(dead), err)
			}
			if dead[0].Stage != c.stage || dead[0].Headers[record.HeaderDeadSize] != c.size ||
				!strings.Contains(dead[0].Reason, "only its beginning was kept") || strings.Contains(dead[1].Reason, "beginning") {
				t.Errorf("dead letter %s: %s, %v", dead[0].Stage, dead[0].Reason, dead[0].Headers)
			}
			if out, err := a.Replay(t.Context(), "p", []int64{dead[0].Position}); err != nil || out != (api.Replayed{Pipeline: "p", Read: 1, Cut: 1}) {
				t.Errorf("replayed one: %+v, %v", out, err)
			}
			if out, err := a.Replay(t.Context(), "p", nil); err != nil || out != (api.Replayed{Pipeline: "p", Read: 2, Published: 1, Cut: 1}) {
				t.Errorf("replayed all: %+v, %v", out, err)
			}
			a.queue = handsOut{a.queue}
			if out, err := a.Replay(t.Context(), "p", nil); err != nil || out != (api.Replayed{Pipeline: "p", Read: 1, Cut: 1}) {
				t.Errorf("replayed as they are handed out: %+v, %v", out, err)
			}
			left, err := a.take(t.Context(), "p.dead", 10)
			if err != nil || len(left) != 1 || left[0].ID != dead[0].ID || left[0].Header(record.HeaderDeadSize) != c.size {
				t.Errorf("%d letters are left, %v; want the cut one", len(left), err)
			}
			if s, err := a.queue.Stats(t.Context(), "p"); err != nil || s.Records != 1 {
				t.Errorf("the topic holds %d records, %v; want the whole one", s.Records, err)
			}
		})
	}
}

// TestDiscard: what is discarded is gone, single ones or all, cut ones too; other pipelines' letters stay.
func TestDiscard(t *testing.T) {
	for name, wrap := range map[string]func(queue.Queue) queue.Queue{
		"browsed":    func(q queue.Queue) queue.Queue { return q },
		"handed out": func(q queue.Queue) queue.Queue { return handsOut{q} },
	} {
		t.Run(name, func(t *testing.T) {
			a := openApp(t, deadConfig)
			letters := []record.Record{letter("other", "other", `{}`), letter("p", "cut", `"{no"`)}
			letters[1].Headers = append(letters[1].Headers, record.Header{Name: record.HeaderDeadSize, Value: "3"})
			for i := range 2 * deadBatch {
				letters = append(letters, letter("p", fmt.Sprint(i), `{}`))
			}
			if err := a.queue.Publish(t.Context(), "p.dead", letters); err != nil {
				t.Fatal(err)
			}
			before, err := a.Dead(t.Context(), "p", 0, len(letters))
			if err != nil || len(before) != len(letters)-1 {
				t.Fatalf("%d letters, %v", len(before), err)
			}
			a.queue = wrap(a.queue)
			one, last := before[0].Position, before[len(before)-1].Position
			out, err := a.Discard(t.Context(), "p", []int64{last, one, last})
			left := len(letters) - 1
			if _, ok := a.queue.(remover); ok {
				if left -= 2; err != nil || out != (api.Discarded{Pipeline: "p", Discarded: 2}) {
					t.Errorf("discarded %+v, %v; want the two", out, err)
				}
				var e *api.Error
				if out, err := a.Discard(t.Context(), "p", []int64{one + 1, one}); !errors.As(err, &e) || e.Code != api.CodeNotFound || out.Discarded != 0 {
					t.Errorf("discarded one that is gone: %+v, %v; want not found, and nothing touched", out, err)
				}
			} else if err == nil {
				t.Error("discarded single letters of a queue that hands them out")
			}
			if out, err := a.Discard(t.Context(), "p", nil); err != nil || out != (api.Discarded{Pipeline: "p", Discarded: left}) {
				t.Errorf("discarded %+v, %v; want %d", out, err, left)
			}
			rest, err := a.take(t.Context(), "p.dead", 10)
			if err != nil || len(rest) != 1 || rest[0].ID != "other" {
				t.Errorf("%d letters are left, %v; want the other pipeline's", len(rest), err)
			}
			if out, err := a.Discard(t.Context(), "q", nil); err == nil {
				t.Errorf("a pipeline that there is not: %+v", out)
			}
		})
	}
}

// TestReplayOfRecordsWithoutKey: what has no key is never published, and stays a letter, under whatever id.
func TestReplayOfRecordsWithoutKey(t *testing.T) {
	for name, wrap := range map[string]func(queue.Queue) queue.Queue{
		"exactly once": func(q queue.Queue) queue.Queue { return q },
		"deduplicated": func(q queue.Queue) queue.Queue { return window{q} },
	} {
		t.Run(name, func(t *testing.T) {
			a := openApp(t, deadConfig)
			a.queue = wrap(a.queue)
			of := func(id, data string) record.Record {
				r := letter("p", id, data)
				r.Headers = append(r.Headers, record.Header{Name: record.HeaderDeadStage, Value: "source"})
				return r
			}
			letters := []record.Record{of("old", `{"n":1}`), of("mended", `{"id":7}`), of("worse", `{"id":8,"bad":true}`)}
			if err := a.queue.Publish(t.Context(), "p.dead", letters); err != nil {
				t.Fatal(err)
			}
			if out, err := a.Replay(t.Context(), "p", nil); err != nil || out != (api.Replayed{Pipeline: "p", Read: 3, Published: 1, Dead: 2}) {
				t.Errorf("replayed %+v, %v", out, err)
			}
			got, err := a.queue.Browse(t.Context(), "p", 0, 10)
			if err != nil || len(got) != 1 || got[0].Key != "7" || got[0].ID == "mended" {
				t.Errorf("records %+v, %v; want the one that has a key", got, err)
			}
			if left, err := a.Dead(t.Context(), "p", 0, 10); err != nil || len(left) != 2 || left[0].Stage != "source" {
				t.Errorf("letters %+v, %v", left, err)
			}
		})
	}
}

// gated is a queue that waits to be let through before it takes letters out for the first time.
type gated struct {
	queue.Queue
	waited        atomic.Bool
	inside, leave chan struct{}
}

func (g *gated) Remove(ctx context.Context, topic string, positions ...int64) error {
	if g.waited.CompareAndSwap(false, true) {
		close(g.inside)
		<-g.leave
	}
	return g.Queue.(remover).Remove(ctx, topic, positions...)
}

// TestReplaysWaitForEachOther: who comes while letters are being taken out waits, and touches none of them.
func TestReplaysWaitForEachOther(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		t.Run(fmt.Sprint("on another instance: ", elsewhere), func(t *testing.T) {
			a := openApp(t, deadConfig)
			b := a
			if elsewhere {
				b = openApp(t, deadConfig)
				store := state.NewMemory()
				a.letters = scheduler.NewStoreLeases(store, lettersPrefix, "a", 0)
				b.letters = scheduler.NewStoreLeases(store, lettersPrefix, "b", 0)
			}
			q := a.queue
			if err := q.Publish(t.Context(), "p.dead", []record.Record{letter("p", "1", `{}`), letter("p", "2", `{}`)}); err != nil {
				t.Fatal(err)
			}
			g := &gated{Queue: q, inside: make(chan struct{}), leave: make(chan struct{})}
			own := b.queue
			a.queue, b.queue = g, g
			defer func() { a.queue, b.queue = q, own }()
			first := make(chan error, 1)
			go func() {
				_, err := a.Replay(t.Context(), "p", nil)
				first <- err
			}()
			<-g.inside
			short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			var known *api.Error
			if out, err := b.Replay(short, "p", nil); !errors.As(err, &known) || known.Code != api.CodeConflict || known.RetryAfter == 0 || out.Read != 0 {
				t.Errorf("replayed %+v, %v; want it to wait", out, err)
			}
			if out, err := b.Discard(short, "other", nil); !errors.Is(err, context.DeadlineExceeded) || out.Discarded != 0 {
				t.Errorf("discarded %+v, %v; want it to wait", out, err)
			}
			close(g.leave)
			out, err := b.Replay(t.Context(), "p", nil) // its turn comes when the first is done
			if err != nil || out.Read != 0 {
				t.Errorf("replayed %+v, %v; want nothing left", out, err)
			}
			if err := <-first; err != nil {
				t.Error(err)
			}
			if s, err := q.Stats(t.Context(), "p"); err != nil || s.Records != 2 {
				t.Errorf("%d records, %v; want each letter once", s.Records, err)
			}
		})
	}
}

// failsSecond is a queue out of which letters can be taken once.
type failsSecond struct {
	window
	times int
}

func (f *failsSecond) Remove(ctx context.Context, topic string, positions ...int64) error {
	if f.times++; f.times > 1 {
		return context.DeadlineExceeded
	}
	return f.window.Remove(ctx, topic, positions...)
}

// TestHowFarItCame: what ends in the middle says how much is done.
func TestHowFarItCame(t *testing.T) {
	a := openApp(t, deadConfig)
	var letters []record.Record
	for i := range deadBatch + 20 {
		letters = append(letters, letter("p", fmt.Sprint(i), `{}`))
	}
	if err := a.queue.Publish(t.Context(), "p.dead", letters); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"replay":  func() error { _, err := a.Replay(t.Context(), "p", nil); return err },
		"discard": func() error { _, err := a.Discard(t.Context(), "p", nil); return err },
	} {
		q := a.queue
		a.queue = &failsSecond{window: window{q}}
		err := f()
		a.queue = q
		var known *api.Error
		if !errors.As(err, &known) || known.Code != api.CodeTimeout || !strings.Contains(known.Detail, " dead letters had been gone through") {
			t.Errorf("%s: %v", name, err)
		}
		if err := a.queue.Publish(t.Context(), "p.dead", letters); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNotAloneAnyMore: a replay stops when its lease is lost.
func TestNotAloneAnyMore(t *testing.T) {
	a := openApp(t, deadConfig)
	store := state.NewMemory()
	a.letters = scheduler.NewStoreLeases(store, lettersPrefix, "a", time.Millisecond)
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := a.alone(soon, "p.dead", func(ctx context.Context) error {
		if _, err := store.Put(ctx, lettersPrefix+"p.dead", []byte(`{"owner":"b","fence":9}`), state.AnyRevision); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, errNotAlone) {
		t.Errorf("err %v", err)
	}
}
