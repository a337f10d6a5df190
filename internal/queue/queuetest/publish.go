package queuetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

func publishKeepsContent(s *suite) {
	q, topic := s.open(), name("content")
	want := recs(topic, 0, 30)
	odd := []record.Record{
		{ID: "1", Data: []byte(`null`)},
		{ID: "id with spaces", Key: "  key with spaces  ", Data: []byte(`"é\n\"\\"`)},
		{ID: "2", Key: "line\nbreak\r\nand\ttab", Data: []byte("[1,\n 2]")},
		{ID: "3", Key: `"quoted"`, Data: []byte(`123456789012345678901234567890.000000000000000001`)},
		{ID: "4", Key: "ключ-鍵", Headers: []record.Header{{Name: record.HeaderDeadReason, Value: "one\ntwo\n"}}, Data: []byte("\"\u2028\uffff\U0010ffff\"")},
		{ID: "5#0", Headers: []record.Header{{Name: record.HeaderTraceparent, Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}, Data: []byte(`{}`)},
		{ID: "6", Data: []byte(`"` + strings.Repeat("x", 100_000) + `"`)},
	}
	want = append(want, odd...)
	s.must(q.Publish(s.ctx(), topic, want[:1]))
	s.must(q.Publish(s.ctx(), topic, want[1:3]))
	s.must(q.Publish(s.ctx(), topic, nil))
	s.must(q.Publish(s.ctx(), topic, want[3:]))
	s.holds(q, topic, want)
}

func confirmed(s *suite) {
	q, topic := s.h.Open(s.TB), name("reopen")
	want := recs(topic, 0, 50)
	s.must(q.Publish(s.ctx(), topic, want[:1]))
	s.must(q.Publish(s.ctx(), topic, want[1:40]))
	w := s.writer(q, "p", topic)
	s.must(w.Commit(s.ctx(), queue.Batch{Records: want[40:]}, record.Cursor("c")))
	other := s.open() // beside the first
	s.wantCursor(other, "p", topic, "c")
	s.must(q.Close(s.ctx()))
	q = s.open()
	s.wantCursor(q, "p", topic, "c")
	s.holds(q, topic, want)
}

func restarted(s *suite) {
	if s.h.Restart == nil {
		s.Skip("this broker is not restarted here")
	}
	q, topic := s.open(), name("restart")
	want := recs(topic, 0, 20)
	s.must(q.Publish(s.ctx(), topic, want[:10]))
	w := s.writer(q, "p", topic)
	s.must(w.Commit(s.ctx(), queue.Batch{Records: want[10:15]}, record.Cursor("c")))
	s.h.Restart(s.TB)
	// The open writer goes on once the connection is back: the claim outlives the broker's process.
	end := time.Now().Add(20 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(s.ctx(), 2*time.Second)
		err := w.Commit(ctx, queue.Batch{Records: want[15:]}, record.Cursor("d"))
		cancel()
		if err == nil {
			break
		}
		if errors.Is(err, queue.ErrFenced) || time.Now().After(end) {
			s.Fatalf("commit after the restart: %v", err)
		}
		pause(20 * time.Millisecond)
	}
	s.wantCursor(q, "p", topic, "d")
	s.holds(q, topic, want)
}

// pause waits between two tries.
func pause(d time.Duration) { <-time.After(d) }

func unknownTopic(s *suite) {
	if s.h.Lacks.UnknownTopic {
		s.Skip("topics need not exist")
	}
	q, topic := s.open(), name("unknown")
	_, err := q.Browse(s.ctx(), topic, 0, 1)
	s.wantErr(err, queue.ErrNoTopic, "browse")
	_, err = q.Receive(s.ctx(), topic, 1, 0)
	s.wantErr(err, queue.ErrNoTopic, "receive")
	_, err = q.Stats(s.ctx(), topic)
	s.wantErr(err, queue.ErrNoTopic, "stats")
	s.wantCursor(q, "p", topic, "")
	_, err = q.Stats(s.ctx(), topic) // reading a cursor does not make a topic
	s.wantErr(err, queue.ErrNoTopic, "stats after reading a cursor")

	// There is none either of a name that no topic can have.
	_, err = q.Browse(s.ctx(), "", 0, 1)
	s.wantErr(err, queue.ErrNoTopic, "browse without a name")
	_, err = q.Receive(s.ctx(), "", 1, 0)
	s.wantErr(err, queue.ErrNoTopic, "receive without a name")
	_, err = q.Stats(s.ctx(), "")
	s.wantErr(err, queue.ErrNoTopic, "stats without a name")
	s.wantErr(q.Ack(s.ctx(), "", "receipt"), queue.ErrNoTopic, "ack without a name")
}

// oversized gives a record that is over the limit, or skips.
func (s *suite) oversized(q queue.Queue) record.Record {
	s.Helper()
	limit := q.Info().Limits.RecordBytes
	if limit == 0 || limit > 64<<20 {
		s.Skip("no limit worth testing")
	}
	r := rec("large", 0)
	r.Data = []byte(`"` + strings.Repeat("x", limit) + `"`)
	return r
}

// wantTooLarge checks a *BatchError that names exactly these records.
func (s *suite) wantTooLarge(err error, total int, failed ...int) {
	s.Helper()
	var be *queue.BatchError
	if !errors.As(err, &be) {
		s.Fatalf("error %v, want a *queue.BatchError", err)
	}
	if be.Total != total || len(be.Failed) != len(failed) {
		s.Fatalf("%d of %d records failed, want %d of %d", len(be.Failed), be.Total, len(failed), total)
	}
	for _, i := range failed {
		var tl *queue.TooLargeError
		if !errors.As(be.Failed[i], &tl) {
			s.Fatalf("record %d: error %v, want a *queue.TooLargeError (failed are %v)", i, be.Failed[i], be.Failed)
		}
		if tl.Size <= tl.Limit {
			s.Fatalf("record %d: size %d is not over the limit %d", i, tl.Size, tl.Limit)
		}
	}
}

func oversizePublish(s *suite) {
	q, topic := s.open(), name("oversize")
	large := s.oversized(q)
	want := recs(topic, 0, 20)
	batch := append([]record.Record{}, want[:5]...)
	batch = append(batch, large)
	batch = append(batch, want[5:19]...)
	batch = append(batch, large)
	s.wantTooLarge(q.Publish(s.ctx(), topic, batch), len(batch), 5, 20)
	s.wantTooLarge(q.Publish(s.ctx(), topic, []record.Record{large}), 1, 0)
	s.must(q.Publish(s.ctx(), topic, want[19:])) // it blocks nothing
	s.holds(q, topic, want)
}

func recordAtLimit(s *suite) {
	q, topic := s.open(), name("limit")
	s.oversized(q)
	r := rec(topic, 0)
	r.Data = nil
	r.Data = []byte(`"` + strings.Repeat("y", q.Info().Limits.RecordBytes-r.Size()-2-sizeSlack) + `"`)
	s.must(q.Publish(s.ctx(), topic, []record.Record{r}))
	s.holds(q, topic, []record.Record{r})
}

// sizeSlack is what a broker's own framing may take of a record's limit.
const sizeSlack = 256

func concurrentPublish(s *suite) {
	q, topic := s.open(), name("concurrent")
	const callers, calls = 64, 12
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for g := range callers {
		wg.Go(func() {
			series := fmt.Sprintf("%s-%d", topic, g)
			n := 0
			for c := range calls {
				k := 1 + (g+c)%3
				if err := q.Publish(s.ctx(), topic, recs(series, n, k)); err != nil {
					errs[g] = err
					return
				}
				n += k
			}
		})
	}
	wg.Wait()
	s.must(errors.Join(errs...))
	// Each caller's records are there once and in the caller's order.
	all := s.all(q, topic)
	if s.h.Lacks.Order {
		var want []record.Record
		for g := range callers {
			want = append(want, recs(fmt.Sprintf("%s-%d", topic, g), 0, calls*3)...)
		}
		all = s.arranged(all, want)
	}
	next := map[string]int{}
	for i, r := range all {
		series := r.Header(record.HeaderPipeline)
		if s.h.Lacks.HeaderNames {
			series, _, _ = strings.Cut(strings.TrimPrefix(string(r.Data), `{"series":"`), `"`)
		}
		s.same(r, rec(series, next[series]), fmt.Sprintf("record %d, of %s", i, series))
		next[series]++
	}
	for g := range callers {
		want := 0
		for c := range calls {
			want += 1 + (g+c)%3
		}
		if got := next[fmt.Sprintf("%s-%d", topic, g)]; got != want {
			s.Fatalf("caller %d: %d records, want %d", g, got, want)
		}
	}
}

func cancelledPublish(s *suite) {
	q, topic := s.open(), name("cancelled")
	s.must(q.Publish(s.ctx(), topic, recs("first", 0, 1)))
	gone, cancel := context.WithCancel(s.ctx())
	cancel()
	if err := q.Publish(gone, topic, recs("gone", 0, 1)); !errors.Is(err, context.Canceled) {
		s.Fatalf("publish under a cancelled context: %v", err)
	}
	// Callers that give up at any moment, among callers that do not.
	var wg sync.WaitGroup
	errs := make([]error, 16)
	var confirmed atomic.Int64
	for g := range 32 {
		wg.Go(func() {
			for c := range 10 {
				ctx := s.ctx()
				if g%2 == 1 {
					short, cancel := context.WithTimeout(ctx, time.Duration(c*g)*30*time.Microsecond)
					err := q.Publish(short, topic, recs(fmt.Sprint("short-", g), c, 1))
					cancel()
					if err == nil {
						confirmed.Add(1)
					}
					continue
				}
				if err := q.Publish(ctx, topic, recs(fmt.Sprint("long-", g), c, 1)); err != nil {
					errs[g/2] = err
				}
			}
		})
	}
	wg.Wait()
	s.must(errors.Join(errs...))
	long, short := 0, 0
	for _, r := range s.all(q, topic) {
		switch {
		case strings.Contains(string(r.Data), `"long-`):
			long++
		case strings.Contains(string(r.Data), `"short-`):
			short++
		}
	}
	if long != 160 {
		s.Fatalf("%d records of callers that did not give up, want 160", long)
	}
	if int64(short) < confirmed.Load() {
		s.Fatalf("%d records of callers that gave up, but %d were confirmed", short, confirmed.Load())
	}
}

func closeUnderLoad(s *suite) {
	q, topic := s.h.Open(s.TB), name("close")
	const callers = 32
	done := make([]int, callers) // confirmed calls
	last := make([]error, callers)
	var wg sync.WaitGroup
	var total atomic.Int64
	enough, giveUp := make(chan struct{}), make(chan struct{})
	for g := range callers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-giveUp: // the queue does not close
					return
				default:
				}
				err := q.Publish(s.ctx(), topic, recs(fmt.Sprint("c", g), i, 1))
				if err != nil {
					last[g] = err
					return
				}
				done[g]++
				if total.Add(1) == 200 {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
	case <-s.ctx().Done():
		s.Fatal("publishing hangs")
	}
	err := q.Close(s.ctx())
	late := time.AfterFunc(2*time.Second, func() { close(giveUp) })
	wg.Wait()
	late.Stop()
	s.must(err)
	for g, err := range last {
		if !errors.Is(err, queue.ErrClosed) {
			s.Errorf("caller %d: error %v, want ErrClosed: closing waits for what is under way", g, err)
		}
	}
	q = s.open()
	there := map[string]bool{}
	for _, r := range s.all(q, topic) {
		there[r.ID] = true
	}
	n := 0
	for g := range callers {
		for i := range done[g] {
			if !there[rec(fmt.Sprint("c", g), i).ID] {
				s.Fatalf("caller %d: record %d was confirmed and is not there", g, i)
			}
			n++
		}
	}
	if s.exactlyOnce(q) && len(there) != n {
		s.Errorf("%d records are there, %d were confirmed: what is under way is confirmed or not written", len(there), n)
	}
}

func closed(s *suite) {
	q, topic := s.open(), name("closed")
	s.must(q.Publish(s.ctx(), topic, recs(topic, 0, 1)))
	w := s.writer(q, "p", topic)
	s.must(q.Close(s.ctx()))
	ctx := s.ctx()
	_, errBrowse := q.Browse(ctx, topic, 0, 1)
	_, errReceive := q.Receive(ctx, topic, 1, 0)
	_, errStats := q.Stats(ctx, topic)
	_, errTopics := q.Topics(ctx)
	_, errOpen := q.OpenWriter(ctx, "p", topic)
	_, errCursor := q.Cursor(ctx, "p", topic)
	for what, err := range map[string]error{
		"publish":     q.Publish(ctx, topic, recs(topic, 1, 1)),
		"commit":      w.Commit(ctx, queue.Batch{}, record.Cursor("x")),
		"ping":        q.Ping(ctx),
		"ack":         q.Ack(ctx, topic, "x"),
		"nack":        q.Nack(ctx, topic, "x"),
		"browse":      errBrowse,
		"receive":     errReceive,
		"stats":       errStats,
		"topics":      errTopics,
		"open writer": errOpen,
		"cursor":      errCursor,
	} {
		if !errors.Is(err, queue.ErrClosed) {
			s.Errorf("%s on a closed queue: %v, want ErrClosed", what, err)
		}
	}
}

func pingAndInfo(s *suite) {
	q := s.open()
	s.must(q.Ping(s.ctx()))
	info := q.Info()
	if info.Name == "" {
		s.Error("the queue has no name")
	}
	switch info.Tier {
	case queue.ExactlyOnce, queue.AtLeastOnce:
	case queue.Deduplicated:
		if info.Window <= 0 {
			s.Error("tier Deduplicated without a window")
		}
	default:
		s.Errorf("tier %q", info.Tier)
	}
	if info != q.Info() {
		s.Error("Info changes while the queue is open")
	}
}
