package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ferry/internal/pipeline"
	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

var who = pipeline.Context{ID: "run-1", Traceparent: "00-aa-bb-01"}

// TestTotal: what the source says comes behind a page makes the total, together with what was read.
func TestTotal(t *testing.T) {
	src := &pages{parts: [][]string{{"a", "b"}, {"c", "d", "e"}, {"f"}}}
	for _, src.says = range []bool{true, false} {
		most := int64(0)
		if _, err := newPipeline(t, src, newBroker()).Run(t.Context(), who, func(c pipeline.Counters, total int64) {
			most = max(most, total)
			if total != 0 && total != 6 {
				t.Errorf("a total of %d after %d records, want 6", total, c.Read)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if (most == 6) != src.says {
			t.Errorf("a total of %d; the source says it: %v", most, src.says)
		}
	}
}

func TestRunCarriesEverything(t *testing.T) {
	src := &pages{
		parts: [][]string{{"a", "drop1", "many3-b"}, {}, {"poison1", "c"}, {"keyless", "many0-x", "d"}},
		bad:   map[string]error{"keyless": errors.New("no key")},
	}
	b := newBroker()
	var last pipeline.Counters
	got, err := newPipeline(t, src, b).Run(t.Context(), who, func(c pipeline.Counters, _ int64) { last = c })
	if err != nil {
		t.Fatal(err)
	}
	want := pipeline.Counters{Pages: 3, Read: 8, Published: 4, Filtered: 2, Dead: 2, RecordsOut: 6}
	if got != want || last != want {
		t.Errorf("counters %+v (last progress %+v), want %+v", got, last, want)
	}
	if d := cmp.Diff([]string{"a", "many3-b#0", "many3-b#1", "many3-b#2", "c", "d"}, b.ids("orders")); d != "" {
		t.Error("records", d)
	}
	if d := cmp.Diff([]string{"poison1", "keyless"}, b.ids("orders.dead")); d != "" {
		t.Error("dead letters", d)
	}
	if string(b.cursor) != "8" {
		t.Errorf("cursor %s, want 8", b.cursor)
	}
	wantHeaders := []record.Header{
		{Name: "ferry-pipeline", Value: "orders"},
		{Name: "ferry-run", Value: "run-1"},
		{Name: "content-type", Value: "application/json"},
		{Name: "traceparent", Value: "00-aa-bb-01"},
	}
	if d := cmp.Diff(wantHeaders, b.topics["orders"][0].Headers); d != "" {
		t.Error("headers", d)
	}
	letter := b.topics["orders.dead"][0]
	if letter.Header("ferry-dead-stage") != "map" || letter.Header("ferry-dead-reason") != "cannot map poison1" || string(letter.Data) != `"poison1"` {
		t.Errorf("dead letter %+v", letter)
	}
	if stage := b.topics["orders.dead"][1].Header("ferry-dead-stage"); stage != "source" {
		t.Errorf("stage %q, want source", stage)
	}
}

func TestSecondRunHasNothingToDo(t *testing.T) {
	src, b := &pages{parts: [][]string{{"a", "b"}}}, newBroker()
	p := newPipeline(t, src, b)
	for i := range 2 {
		if _, err := p.Run(t.Context(), who, nil); err != nil {
			t.Fatal(i, err)
		}
	}
	if len(b.commits) != 1 {
		t.Errorf("%d commits, want 1: an unmoved cursor needs none", len(b.commits))
	}
}

func TestCommitsStayWithinTheLimits(t *testing.T) {
	var part []string
	for i := range 10 {
		part = append(part, fmt.Sprintf("many%d-%d", i%4, i))
	}
	src, b := &pages{parts: [][]string{part, part[:3], part}}, newBroker()
	b.limits = queue.Limits{CommitRecords: 4}
	got, err := newPipeline(t, src, b).Run(t.Context(), who, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.commits) < 7 {
		t.Errorf("%d commits", len(b.commits))
	}
	if got.RecordsOut != int64(len(b.ids("orders"))) || got.Read != 23 {
		t.Errorf("counters %+v", got)
	}
}

func TestSmallPagesShareACommit(t *testing.T) {
	src, b := &pages{}, newBroker()
	for i := range 50 {
		src.parts = append(src.parts, []string{fmt.Sprint("r", i)})
	}
	gate := make(chan struct{})
	first := true
	b.onCommit = func(queue.Batch) error {
		if first { // while the first commit is under way, more pages arrive
			first = false
			<-gate
		}
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		gate = make(chan struct{})
		go func() { time.Sleep(time.Second); close(gate) }()
		if _, err := newPipeline(t, src, b, func(c *pipeline.Config) { c.Linger = time.Second }).Run(t.Context(), who, nil); err != nil {
			t.Fatal(err)
		}
	})
	if len(b.commits) > 5 {
		t.Errorf("%d commits for 50 small pages, want few", len(b.commits))
	}
}

func TestOversizeAndRefusedRecordsDoNotBlockTheRest(t *testing.T) {
	big := "big" + strings.Repeat("x", 3000)
	src, b := &pages{parts: [][]string{{"a", big, "many2-refuse", "b", "many9-c"}}}, newBroker()
	b.limits = queue.Limits{RecordBytes: 1000, CommitRecords: 8}
	got, err := newPipeline(t, src, b).Run(t.Context(), who, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (pipeline.Counters{Pages: 1, Read: 5, Published: 2, Dead: 3, RecordsOut: 2}); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
	var reasons []string
	for _, l := range b.topics["orders.dead"] {
		reasons = append(reasons, l.Header("ferry-dead-stage")+": "+l.Header("ferry-dead-reason"))
		if l.Size() > 1000 {
			t.Errorf("dead letter of %d bytes is over the limit itself", l.Size())
		}
		want := "" // the others are whole
		if l.ID == rec(big).ID {
			want = "3005"
		}
		if got := l.Header("ferry-dead-size"); got != want {
			t.Errorf("letter %s has the size %q, want %q", l.ID, got, want)
		}
	}
	slices.Sort(reasons)
	want := []string{
		"queue: record of 6115 bytes is over the queue's limit of 1000 bytes",
		"queue: record of 9 bytes is over the queue's limit of 8 bytes",
		"queue: the map gave 9 results for one record; one commit holds 8",
	}
	if d := cmp.Diff(want, reasons); d != "" {
		t.Error("reasons", d)
	}
}

// TestRefusedLetterIsCut: a dead letter that the queue refuses itself is cut, and says that it is.
func TestRefusedLetterIsCut(t *testing.T) {
	poison := "poison" + strings.Repeat("x", 994)
	src, b := &pages{parts: [][]string{{"a", poison}}}, newBroker()
	b.onCommit = func(batch queue.Batch) error {
		for i, l := range batch.Dead {
			if len(l.Data) > 100 {
				return &queue.BatchError{Failed: map[int]error{len(batch.Records) + i: queue.ErrFull}, Total: batch.Len()}
			}
		}
		return nil
	}
	got, err := newPipeline(t, src, b).Run(t.Context(), who, nil)
	if err != nil || got.Dead != 1 || len(b.topics["orders.dead"]) != 1 {
		t.Fatalf("counters %+v, %v", got, err)
	}
	l := b.topics["orders.dead"][0]
	if l.Header("ferry-dead-size") != "1002" || !strings.HasPrefix(l.Header("ferry-dead-reason"), "cannot map poison") || !json.Valid(l.Data) {
		t.Errorf("letter %+v", l)
	}
	names := map[string]bool{}
	for _, h := range l.Headers {
		if names[h.Name] {
			t.Errorf("header %s comes twice", h.Name)
		}
		names[h.Name] = true
	}
}

func TestSourceErrorKeepsWhatWasRead(t *testing.T) {
	broken := errors.New("truncated body")
	src, b := &pages{parts: [][]string{{"a"}, {"b"}, {"c"}}, fail: map[int]error{3: broken}}, newBroker()
	p := newPipeline(t, src, b)
	got, err := p.Run(t.Context(), who, nil)
	if !errors.Is(err, broken) || got.Published != 2 || string(b.cursor) != "2" {
		t.Fatalf("err %v, counters %+v, cursor %s", err, got, b.cursor)
	}
	if _, err := p.Run(t.Context(), who, nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a", "b", "c"}, b.ids("orders")); d != "" {
		t.Error(d)
	}
}

// TestMaxPages: a run ends after so many pages of its own, whatever one before has read before it failed.
func TestMaxPages(t *testing.T) {
	src, b := &pages{fail: map[int]error{3: errors.New("broken")}}, newBroker()
	for i := range 10 {
		src.parts = append(src.parts, []string{fmt.Sprint(i)})
	}
	p := newPipeline(t, src, b, func(c *pipeline.Config) { c.MaxPages = 3 })
	if got, err := p.Run(t.Context(), who, nil); err == nil || got.Pages != 2 {
		t.Fatalf("err %v, %d pages", err, got.Pages)
	}
	for run, want := range []int64{3, 3, 2, 0} {
		if got, err := p.Run(t.Context(), who, nil); err != nil || got.Published != want {
			t.Errorf("run %d: err %v, %d published, want %d", run, err, got.Published, want)
		}
	}
}

func TestFencedRunStops(t *testing.T) {
	src, b := &pages{parts: [][]string{{"a"}, {"b"}, {"c"}}}, newBroker()
	b.limits = queue.Limits{CommitRecords: 1}
	b.onCommit = func(queue.Batch) error { b.epoch++; return nil } // somebody claims right after this commit
	_, err := newPipeline(t, src, b).Run(t.Context(), who, nil)
	if !errors.Is(err, queue.ErrFenced) {
		t.Fatalf("err %v, want ErrFenced", err)
	}
	if len(b.commits) != 1 {
		t.Errorf("%d commits, want the one before the fence", len(b.commits))
	}
}

func TestUnavailableQueueIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, b := &pages{parts: [][]string{{"a"}, {"b"}}}, newBroker()
		back := time.Now().Add(time.Minute)
		b.onCommit = func(queue.Batch) error {
			if time.Now().Before(back) {
				return queue.ErrUnavailable
			}
			return nil
		}
		var said []string
		p := newPipeline(t, src, b, func(c *pipeline.Config) { c.Hooks.Waiting = func(r string) { said = append(said, r) } })
		if _, err := p.Run(t.Context(), who, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(back); took < 0 || took > 6*time.Second {
			t.Errorf("went on %s after the queue was back", took)
		}
		if said[0] != queue.ErrUnavailable.Error() || said[len(said)-1] != "" {
			t.Errorf("said %q", said)
		}
	})
}

func TestStopCommitsWhatWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, b := &pages{}, newBroker()
		for i := range 1000 {
			src.parts = append(src.parts, []string{fmt.Sprint("r", i)})
		}
		stopping := errors.New("stopping")
		ctx, cancel := context.WithCancelCause(t.Context())
		b.onCommit = func(queue.Batch) error { time.Sleep(time.Second); return nil }
		go func() { time.Sleep(4500 * time.Millisecond); cancel(stopping) }()
		got, err := newPipeline(t, src, b).Run(ctx, who, nil)
		if !errors.Is(err, stopping) {
			t.Fatalf("err %v, want the cause", err)
		}
		if n := len(b.ids("orders")); int64(n) != got.Published || string(b.cursor) != fmt.Sprint(n) || n == 0 || n == 1000 {
			t.Errorf("%d records, counters %+v, cursor %s", n, got, b.cursor)
		}
	})
}

// TestStopWhileTheEndIsTransformed: the source has been read to its end, its last records were not carried.
func TestStopWhileTheEndIsTransformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, b := &pages{parts: [][]string{{"a"}, {"b"}}}, newBroker()
		stopping := errors.New("stopping")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { time.Sleep(time.Second); cancel(stopping) }()
		got, err := newPipeline(t, src, b, func(c *pipeline.Config) { c.Transform = stuck{at: "b"} }).Run(ctx, who, nil)
		if !errors.Is(err, stopping) {
			t.Fatalf("err %v, want the cause", err)
		}
		if ids := b.ids("orders"); !slices.Equal(ids, []string{"a"}) || got.Published != 1 || string(b.cursor) != "1" {
			t.Errorf("%v, counters %+v, cursor %s", ids, got, b.cursor)
		}
	})
}

func TestStopDuringAnOutageEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, b := &pages{parts: [][]string{{"a"}}}, newBroker()
		b.onCommit = func(queue.Batch) error { return queue.ErrUnavailable }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := newPipeline(t, src, b).Run(ctx, who, nil)
		if !errors.Is(err, queue.ErrUnavailable) || time.Since(start) > 2*time.Minute {
			t.Fatalf("err %v after %s", err, time.Since(start))
		}
	})
}

func TestBufferBoundsWhatIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, b := &pages{bytes: 1 << 20}, newBroker()
		for i := range 40 {
			src.parts = append(src.parts, []string{fmt.Sprint("r", i)})
		}
		var committed atomic.Int64
		var most int64
		b.onCommit = func(batch queue.Batch) error {
			time.Sleep(time.Second) // everything that can be read by now has been
			src.mu.Lock()
			most = max(most, int64(src.reads)-committed.Load())
			src.mu.Unlock()
			committed.Add(int64(batch.Len()))
			return nil
		}
		p := newPipeline(t, src, b, func(c *pipeline.Config) { c.Buffer = 5 << 20 })
		if _, err := p.Run(t.Context(), who, nil); err != nil {
			t.Fatal(err)
		}
		if most > 6 { // five in the buffer, and one being read
			t.Errorf("%d parts of 1 MiB were in memory at once with a buffer of 5 MiB", most)
		}
	})
}

// TestExactlyOnceWhateverFails draws pages, outcomes, limits and faults, runs until the end is reached, and compares
// the topic with what should be there: each once, in order (invariants 1, 4, 5).
func TestExactlyOnceWhateverFails(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		kinds := []string{"a", "a", "a", "drop", "poison", "many2-", "many0-", "many3-", "refuse"}
		src, b := &pages{bytes: rapid.IntRange(0, 4<<20).Draw(rt, "bytes"), fail: map[int]error{}}, newBroker()
		want, dead, n := []string{}, []string{}, 0
		for range rapid.IntRange(1, 8).Draw(rt, "parts") {
			part := []string{}
			for range rapid.IntRange(0, 12).Draw(rt, "records") {
				text := fmt.Sprint(rapid.SampledFrom(kinds).Draw(rt, "kind"), n)
				n++
				part = append(part, text)
				switch {
				case strings.HasPrefix(text, "poison"), strings.HasPrefix(text, "refuse"):
					dead = append(dead, text)
				case strings.HasPrefix(text, "many"):
					for i := range int(text[4] - '0') {
						want = append(want, fmt.Sprint(text, "#", i))
					}
				case strings.HasPrefix(text, "a"):
					want = append(want, text)
				}
			}
			src.parts = append(src.parts, part)
		}
		for range rapid.IntRange(0, 3).Draw(rt, "source faults") {
			src.fail[rapid.IntRange(1, 12).Draw(rt, "at read")] = errLost
		}
		b.limits = queue.Limits{CommitRecords: rapid.IntRange(3, 20).Draw(rt, "limit")}
		faults := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 10).Draw(rt, "commit faults")
		b.onCommit = func(queue.Batch) error {
			if len(faults) == 0 {
				return nil
			}
			f := faults[0]
			faults = faults[1:]
			switch f {
			case 1:
				return errLost // not stored
			case 2:
				return storedError{errLost} // stored, the answer is lost
			case 3:
				b.epoch++ // fenced by the next
			}
			return nil
		}
		p := newPipeline(t, src, b, func(c *pipeline.Config) {
			c.Retry = retry.Policy{Retries: rapid.IntRange(1, 3).Draw(rt, "retries"), Base: 1, Max: 1}
			c.Buffer = 1 << 20
		})
		var sum pipeline.Counters
		for range 40 {
			got, err := p.Run(context.Background(), who, nil)
			sum = sum.Add(got)
			if err == nil {
				break
			}
		}
		if d := cmp.Diff(want, b.ids("orders")); d != "" {
			rt.Fatal("records", d)
		}
		if d := cmp.Diff(dead, b.ids("orders.dead")); d != "" {
			rt.Fatal("dead letters", d)
		}
		if sum.Read != sum.Published+sum.Filtered+sum.Seen+sum.Dead {
			rt.Fatalf("counters do not add up: %+v", sum)
		}
	})
}
