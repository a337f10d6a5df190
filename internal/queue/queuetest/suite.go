package queuetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// Harness tells the suite how to reach a queue and what it promises.
type Harness struct {
	// Open connects one more instance to the same broker and store. The suite closes it.
	Open func(t testing.TB) queue.Queue
	// Restart, when not nil, restarts the broker under the open instances, which must find it again by themselves.
	Restart func(t testing.TB)
	// Redelivery is how soon a record that was not acknowledged comes again. Zero or above 10 s: not tested, for it
	// would take too long.
	Redelivery time.Duration
	// Features that a broker lacks.
	Lacks Lacks
}

// Lacks names what a broker cannot do, by its own nature. What is true is not tested.
type Lacks struct {
	Browse       bool // records can only be received
	HeaderNames  bool // headers other than ferry's own are lost
	OldReceipts  bool // an outdated receipt is not recognised
	GivenBack    bool // that a receipt was given back is known only on the instance that was told
	Order        bool // records are handed out in no certain order
	Ahead        bool // nothing is handed out behind a record that is not acknowledged yet
	Receive      bool // records can only be browsed
	Kept         bool // an acknowledged record is gone, and not seen by browsing any more
	Travel       bool // a receipt is good only on the instance that received
	Stats        bool // counts are estimates
	UnknownTopic bool // topics need not exist to be read
}

// Run runs the whole suite, a subtest for each promise of the contract. Every subtest uses topics of its own, so a
// store may be used again.
func Run(t *testing.T, h Harness) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(&suite{TB: t, h: h}) })
	}
}

type testCase struct {
	name string
	run  func(s *suite)
}

var cases = []testCase{
	{"publish keeps order and content", publishKeepsContent},
	{"what is confirmed is there after reopening", confirmed},
	{"what is confirmed is there after a restart of the broker", restarted},
	{"an unknown topic is ErrNoTopic", unknownTopic},
	{"oversize records in Publish", oversizePublish},
	{"a record at the limit", recordAtLimit},
	{"64 publishers at once", concurrentPublish},
	{"one caller's cancelled context leaves the others alone", cancelledPublish},
	{"closing under load", closeUnderLoad},
	{"a closed queue says so", closed},
	{"ping and info", pingAndInfo},
	{"a commit writes records, dead letters and cursor", commitWritesAll},
	{"an empty commit moves the cursor alone", emptyCommit},
	{"cursors are kept byte for byte", cursorBytes},
	{"commits follow each other in order", commitsInOrder},
	{"a later writer fences the earlier one", fencing},
	{"a zombie between many writers", zombies},
	{"pipelines of one topic do not disturb each other", severalPipelines},
	{"an oversize record commits nothing", oversizeCommit},
	{"a commit over the limit commits nothing", commitOverLimit},
	{"the largest commit", largestCommit},
	{"an interrupted commit may be repeated", interruptedCommit},
	{"receive, ack, and no more", receiveAndAck},
	{"receive waits for the first record", receiveWaits},
	{"nack gives back at once", nack},
	{"what is not acknowledged comes again", redelivery},
	{"receipts work from another instance", receiptsTravel},
	{"unknown receipts are ErrReceipt", receipts},
	{"outdated receipts are ErrReceipt, and do nothing", outdatedReceipts},
	{"browse from both ends", browse},
	{"stats and topics", stats},
	{"dead letters have a topic of their own", deadLetters},
}

// suite is one case at work.
type suite struct {
	testing.TB
	h Harness
}

func (s *suite) open() queue.Queue {
	s.Helper()
	q := s.h.Open(s.TB)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := q.Close(ctx); err != nil && !errors.Is(err, queue.ErrClosed) {
			s.Errorf("close: %v", err)
		}
	})
	return patient{q}
}

// patient tries again what changes nothing and found the broker unavailable, as every caller does: a broker of several
// nodes may be choosing who answers for a new topic. How queues behave while a broker is away is judged by RunFaults.
type patient struct{ queue.Queue }

// patience is how long a broker may be unavailable to a suite that does not disturb it.
const patience = 15 * time.Second

func insist[T any](ctx context.Context, f func() (T, error)) (T, error) {
	for end := time.Now().Add(patience); ; {
		v, err := f()
		if !errors.Is(err, queue.ErrUnavailable) || ctx.Err() != nil || time.Now().After(end) {
			return v, err
		}
		pause(50 * time.Millisecond)
	}
}

func (p patient) OpenWriter(ctx context.Context, pipeline, topic string) (queue.Writer, error) {
	return insist(ctx, func() (queue.Writer, error) { return p.Queue.OpenWriter(ctx, pipeline, topic) })
}

func (p patient) Cursor(ctx context.Context, pipeline, topic string) (record.Cursor, error) {
	return insist(ctx, func() (record.Cursor, error) { return p.Queue.Cursor(ctx, pipeline, topic) })
}

func (p patient) Stats(ctx context.Context, topic string) (queue.Stats, error) {
	return insist(ctx, func() (queue.Stats, error) { return p.Queue.Stats(ctx, topic) })
}

func (p patient) Browse(ctx context.Context, topic string, from int64, limit int) ([]queue.Stored, error) {
	return insist(ctx, func() ([]queue.Stored, error) { return p.Queue.Browse(ctx, topic, from, limit) })
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) wantErr(err, want error, what string) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

// ctx bounds each step, so that a queue that hangs fails instead of stopping the suite.
func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	s.Cleanup(cancel)
	return ctx
}

func name(prefix string) string { return fmt.Sprintf("%s-%08x", prefix, rand.Uint32()) }

// rec makes the i-th record of a series: id, key, headers and data all tell it from the others.
func rec(series string, i int) record.Record {
	return record.Record{
		ID:  record.ID(series, fmt.Sprint(i), nil),
		Key: fmt.Sprintf("key-%d", i),
		Headers: []record.Header{
			{Name: record.HeaderPipeline, Value: series},
			{Name: record.HeaderContentType, Value: "application/json"},
		},
		Data: fmt.Appendf(nil, `{"series":%q,"i":%d,"name":"Grüße %d \u0000 🚢"}`, series, i, i),
	}
}

func recs(series string, from, n int) []record.Record {
	all := make([]record.Record, n)
	for i := range all {
		all[i] = rec(series, from+i)
	}
	return all
}

// all reads the whole topic: by browsing, or by receiving where there is no browsing.
func (s *suite) all(q queue.Queue, topic string) []record.Record {
	s.Helper()
	var got []record.Record
	if s.h.Lacks.Browse {
		for {
			d, err := q.Receive(s.ctx(), topic, 500, 200*time.Millisecond)
			s.must(err)
			if len(d) == 0 {
				return got
			}
			var done []string
			for i := range d {
				got = append(got, d[i].Record)
				done = append(done, d[i].Receipt)
			}
			s.must(q.Ack(s.ctx(), topic, done...))
		}
	}
	for from := int64(0); ; {
		page, err := q.Browse(s.ctx(), topic, from, 1000)
		if errors.Is(err, queue.ErrNoTopic) {
			return nil // nothing has been published to it
		}
		s.must(err)
		if len(page) == 0 {
			return got
		}
		for i := range page {
			if page[i].Position < from || i > 0 && page[i].Position <= page[i-1].Position {
				s.Fatalf("browse from %d: position %d after %d", from, page[i].Position, page[max(i-1, 0)].Position)
			}
			if age := time.Since(page[i].Time); age < -time.Minute || age > time.Hour {
				s.Fatalf("record of %s was stored at %s", topic, page[i].Time)
			}
			got = append(got, page[i].Record)
		}
		from = page[len(page)-1].Position + 1
	}
}

// holds checks that the topic holds these records and no others, in this order, whole.
func (s *suite) holds(q queue.Queue, topic string, want []record.Record) {
	s.Helper()
	got := s.arranged(s.all(q, topic), want)
	for i, r := range got {
		if i < len(want) {
			s.same(r, want[i], fmt.Sprintf("record %d of %s", i, topic))
		}
	}
	if len(got) != len(want) {
		s.Fatalf("%s holds %d records, want %d", topic, len(got), len(want))
	}
}

// arranged gives what a broker without order has handed out in the order of want; what is not in want comes last.
func (s *suite) arranged(got, want []record.Record) []record.Record {
	if !s.h.Lacks.Order {
		return got
	}
	place := make(map[string]int, len(want))
	for i := range want {
		place[want[i].ID] = i - len(want)
	}
	got = slices.Clone(got)
	slices.SortStableFunc(got, func(a, b record.Record) int { return cmp.Compare(place[a.ID], place[b.ID]) })
	return got
}

func (s *suite) same(got, want record.Record, what string) {
	s.Helper()
	if got.ID != want.ID {
		s.Fatalf("%s: id %q, want %q", what, got.ID, want.ID)
	}
	if got.Key != want.Key {
		s.Fatalf("%s: key %q, want %q", what, got.Key, want.Key)
	}
	if !bytes.Equal(got.Data, want.Data) {
		s.Fatalf("%s: data %.200q, want %.200q", what, got.Data, want.Data)
	}
	if s.h.Lacks.HeaderNames {
		return
	}
	headers := func(r record.Record) map[string]string {
		m := map[string]string{}
		for _, h := range r.Headers {
			m[h.Name] = h.Value
		}
		return m
	}
	if g, w := headers(got), headers(want); !maps.Equal(g, w) || len(got.Headers) != len(w) {
		s.Fatalf("%s: headers %q, want %q", what, got.Headers, want.Headers)
	}
}

// count checks how many records the topic holds, where it can be told without taking them.
func (s *suite) count(q queue.Queue, topic string, want int) {
	s.Helper()
	if s.h.Lacks.Browse {
		return
	}
	if got := len(s.all(q, topic)); got != want {
		s.Fatalf("%s holds %d records, want %d", topic, got, want)
	}
}

func (s *suite) writer(q queue.Queue, pipeline, topic string) queue.Writer {
	s.Helper()
	w, err := q.OpenWriter(s.ctx(), pipeline, topic)
	s.must(err)
	return w
}

func (s *suite) wantCursor(q queue.Queue, pipeline, topic, want string) {
	s.Helper()
	got, err := q.Cursor(s.ctx(), pipeline, topic)
	s.must(err)
	if string(got) != want {
		s.Fatalf("cursor of %s is %.100q, want %.100q", pipeline, got, want)
	}
}

func (s *suite) exactlyOnce(q queue.Queue) bool { return q.Info().Tier == queue.ExactlyOnce }
