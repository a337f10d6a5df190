package rabbitqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
)

// The tests of this file break commits to a stream: each record must be there once.

func streamIDs(t testing.TB, q queue.Queue, topic string) []string {
	t.Helper()
	var ids []string
	for from := int64(0); ; {
		page, err := q.Browse(t.Context(), topic, from, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return ids
		}
		for _, s := range page {
			ids = append(ids, s.ID)
		}
		from = page[len(page)-1].Position + 1
	}
}

func once(t testing.TB, got []string, want []record.Record) {
	t.Helper()
	if !slices.Equal(got, idsOf(want)) {
		count := map[string]int{}
		for _, id := range got {
			count[id]++
		}
		for _, r := range want {
			if count[r.ID] != 1 {
				t.Errorf("%s is there %d times", r.ID, count[r.ID])
			}
		}
		t.Fatalf("%d records, want %d, each once and in order", len(got), len(want))
	}
}

// TestStreamNetwork breaks the network in every way, again and again, while one writer after the other commits; some
// end without a word, as if killed.
func TestStreamNetwork(t *testing.T) {
	c := parse(t, address(t, "FERRY_TEST_RABBITMQ_STREAM"))
	net := queuetest.NewNetwork(t)
	c.Dial, c.Timeout = net.Dial, time.Second
	cursors := queuetest.NewCursors()
	q := open(t, c).WithCursors(cursors)
	topic := name(t, "streamnet")
	ctx := within(t, 90*time.Second)
	if err := q.Prepare(ctx, topic); err != nil {
		t.Fatal(err)
	}
	var want []record.Record
	failures := 0
	for i := range 60 {
		w, err := q.OpenWriter(ctx, "p", topic)
		if err != nil {
			t.Fatal(err)
		}
		if string(w.Cursor()) != fmt.Sprint(len(want)) && len(want) > 0 {
			t.Fatalf("the cursor is %s after %d records", w.Cursor(), len(want))
		}
		batch := recs(topic, len(want), 200)
		next := record.Cursor(fmt.Sprint(len(want) + len(batch)))
		switch i % 6 {
		case 1:
			net.LimitUp(2000 + 997*i)
		case 2:
			net.LoseAnswers()
		case 3:
			time.AfterFunc(time.Duration(i)*200*time.Microsecond, net.Cut)
		case 4:
			net.Slow(20 * time.Millisecond)
		case 5:
			net.Down()
		}
		err = w.Commit(ctx, queue.Batch{Records: batch}, next)
		net.Heal()
		if err != nil {
			failures++
			if i%2 == 0 { // killed: the next writer begins where this one began
				if w, err = q.OpenWriter(ctx, "p", topic); err != nil {
					t.Fatal(err)
				}
			}
			for err = w.Commit(ctx, queue.Batch{Records: batch}, next); err != nil; err = w.Commit(ctx, queue.Batch{Records: batch}, next) {
				if !errors.Is(err, queue.ErrUnavailable) {
					t.Fatal(err)
				}
			}
		}
		want = append(want, batch...)
		if err := w.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if failures < 20 {
		t.Errorf("only %d of 60 commits failed", failures)
	}
	once(t, streamIDs(t, q, topic), want)
	t.Logf("lost 0, doubled 0 of %d, %d commits failed on the way", len(want), failures)
}

// interrupted is a commit that ends after so many of its records.
func interrupted(t *testing.T, w *streamWriter, batch []record.Record, after int) {
	t.Helper()
	places, numbered, _ := w.entry.Records.match(batch)
	e := w.entry
	e.Records = places
	if err := w.put(t.Context(), e, nil); err != nil {
		t.Fatal(err)
	}
	c, err := w.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.publish(0, numbered[:after], func() {}); err != nil {
		t.Fatal(err)
	}
}

func writer(t testing.TB, q queue.Queue, topic string) *streamWriter {
	t.Helper()
	w, err := q.OpenWriter(t.Context(), "p", topic)
	if err != nil {
		t.Fatal(err)
	}
	return w.(*streamWriter)
}

func openStream(t testing.TB, c Config, cursors queue.CursorStore) *streamQueue {
	t.Helper()
	return open(t, c).WithCursors(cursors).(*streamQueue)
}

// TestStreamPage: the page is another one when it is read again after an interrupted commit. What is in the stream stays
// there once, what is new comes, what has gone from the page does not.
func TestStreamPage(t *testing.T) { streamBrokers(t, testStreamPage) }

func testStreamPage(t *testing.T, c Config) {
	cursors := queuetest.NewCursors()
	q := openStream(t, c, cursors)
	topic := name(t, "page")
	all := recs(topic, 0, 40)
	first := all[:10]
	interrupted(t, writer(t, q, topic), first, 4) // killed after 4 of 10

	// Second try: 2 and 7 have gone from the page, 10 and 11 are new. Killed again after 1 more.
	second := slices.Concat(all[0:2], all[3:7], all[8:12])
	w := writer(t, q, topic)
	last := func() uint64 {
		c, err := w.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, err := c.sequence(w.entry.Name, topic)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	next, batch, missing := w.entry.Records.match(second)
	if !missing {
		t.Fatal("nothing is missing")
	}
	e := w.entry
	e.Records = next.without(batch, last())
	if err := w.put(t.Context(), e, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := w.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.publish(0, batch[:len(batch)-3], func() {}); err != nil { // all of the first plan but 8 and 9
		t.Fatal(err)
	}
	// Third try: 2 is back, and so is 7.
	third := all[:14]
	w = writer(t, q, topic)
	if err := w.Commit(t.Context(), queue.Batch{Records: third}, record.Cursor("c")); err != nil {
		t.Fatal(err)
	}
	got := streamIDs(t, q, topic)
	slices.Sort(got)
	want := idsOf(third)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("the stream holds %q", got)
	}
	if err := w.Commit(t.Context(), queue.Batch{Records: all[14:]}, record.Cursor("d")); err != nil {
		t.Fatal(err)
	}
	if n := len(streamIDs(t, q, topic)); n != 40 {
		t.Fatalf("%d records, want 40", n)
	}
}

// TestStreamBoundaries: after an interrupted commit the source hands the same records over in other portions.
func TestStreamBoundaries(t *testing.T) { streamBrokers(t, testStreamBoundaries) }

func testStreamBoundaries(t *testing.T, c Config) {
	for stored := 0; stored <= 20; stored += 5 {
		for _, portion := range []int{1, 3, 7, 20, 30} {
			q := openStream(t, c, queuetest.NewCursors())
			topic := name(t, "portions")
			all := recs(topic, 0, 60)
			interrupted(t, writer(t, q, topic), all[:20], stored)
			for from := 0; from < len(all); from += portion {
				w := writer(t, q, topic) // each in a run of its own
				batch := queue.Batch{Records: all[from:min(from+portion, len(all))]}
				if from == portion {
					if err := w.Commit(t.Context(), queue.Batch{}, record.Cursor("nothing")); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.Commit(t.Context(), batch, record.Cursor(fmt.Sprint(from))); err != nil {
					t.Fatal(err)
				}
			}
			once(t, streamIDs(t, q, topic), all)
			w := writer(t, q, topic)
			if n := w.entry.Records.planned(); n > 0 {
				t.Fatalf("%d ids are planned when all is done", n)
			}
			if err := w.Commit(t.Context(), queue.Batch{Records: all[:5]}, record.Cursor("again")); err != nil { // a backfill
				t.Fatal(err)
			}
			if n := len(streamIDs(t, q, topic)); n != 65 {
				t.Fatalf("%d records after a backfill of 5, want 65", n)
			}
		}
	}
}

// TestStreamZombie: a fenced writer that goes on publishing does what its successor does anyway.
func TestStreamZombie(t *testing.T) { streamBrokers(t, testStreamZombie) }

func testStreamZombie(t *testing.T, c Config) {
	cursors := queuetest.NewCursors()
	q, other := openStream(t, c, cursors), openStream(t, c, cursors)
	topic := name(t, "zombie")
	all := recs(topic, 0, 300)
	old := writer(t, q, topic)
	interrupted(t, old, all[:100], 30) // and goes on below
	young := writer(t, other, topic)
	conn, err := old.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := old.entry.Records.match(all[:100])
	done := make(chan error, 1)
	go func() {
		for i := 30; i < 100; i += 10 {
			if err := conn.publish(0, rest[i:i+10], func() {}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	if err := young.Commit(t.Context(), queue.Batch{Records: all[:100]}, record.Cursor("1")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := young.Commit(t.Context(), queue.Batch{Records: all[100:]}, record.Cursor("2")); err != nil {
		t.Fatal(err)
	}
	if err := conn.publish(0, rest[50:], func() {}); err != nil { // long after
		t.Fatal(err)
	}
	if err := old.Commit(t.Context(), queue.Batch{Records: all[:100]}, record.Cursor("1")); !errors.Is(err, queue.ErrFenced) {
		t.Fatalf("commit of the zombie: %v", err)
	}
	once(t, streamIDs(t, q, topic), all)
}

// TestStreamOldStore: the cursor store is put back to an older state, or is lost. Records come twice then, and none is
// taken for one that the stream has.
func TestStreamOldStore(t *testing.T) { streamBrokers(t, testStreamOldStore) }

func testStreamOldStore(t *testing.T, c Config) {
	cursors := queuetest.NewCursors()
	q := openStream(t, c, cursors)
	topic := name(t, "old")
	all := recs(topic, 0, 30)
	w := writer(t, q, topic)
	commit := func(from int, next string) {
		t.Helper()
		if err := w.Commit(t.Context(), queue.Batch{Records: all[from : from+10]}, record.Cursor(next)); err != nil {
			t.Fatal(err)
		}
	}
	commit(0, "1")
	saved, _, err := cursors.Get(t.Context(), "stream/"+topic+"/p")
	if err != nil {
		t.Fatal(err)
	}
	commit(10, "2")
	cursors.Edit("stream/"+topic+"/p", func([]byte) []byte { return saved })
	w = writer(t, q, topic)
	if string(w.Cursor()) != "1" {
		t.Fatalf("cursor %s", w.Cursor())
	}
	commit(20, "3") // other records than those that the stream has from there on
	if w.Warning() == "" || w.Warning() != "" {
		t.Error("want one warning")
	}
	cursors.Clear()
	w = writer(t, q, topic)
	commit(0, "4")
	want := slices.Concat(all, all[:10])
	if got := streamIDs(t, q, topic); !slices.Equal(got, idsOf(want)) {
		t.Fatalf("the stream holds %q", got)
	}
}

// TestStreamLateWrite: a write to the cursor store that was given up for lost comes through after all.
func TestStreamLateWrite(t *testing.T) { streamBrokers(t, testStreamLateWrite) }

func testStreamLateWrite(t *testing.T, c Config) {
	for fail := 1; fail <= 4; fail++ { // the n-th write: plan or cursor, of the first or second commit
		for _, late := range []bool{false, true} {
			s := &lateStore{Cursors: queuetest.NewCursors()}
			q := openStream(t, c, s)
			topic := name(t, "late")
			w := writer(t, q, topic)
			s.fail, s.late = fail, late
			all := recs(topic, 0, 20)
			for i := range 2 {
				batch := queue.Batch{Records: all[10*i : 10*i+10]}
				tries := 0
				for w.Commit(t.Context(), batch, record.Cursor(fmt.Sprint(i))) != nil {
					if tries++; tries > 3 {
						t.Fatalf("write %d, late %t: commit %d: %v", fail, late, i, w.Commit(t.Context(), batch, record.Cursor(fmt.Sprint(i))))
					}
				}
			}
			once(t, streamIDs(t, q, topic), all)
			if got, err := q.Cursor(t.Context(), "p", topic); err != nil || string(got) != "1" {
				t.Fatalf("cursor %s, %v", got, err)
			}
		}
	}
}

// lateStore loses the answer of its fail-th Put, or writes it only when the next one comes.
type lateStore struct {
	*queuetest.Cursors
	fail int
	late bool
	kept func()
}

func (s *lateStore) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if s.kept != nil {
		s.kept()
		s.kept = nil
	}
	if s.fail--; s.fail == 0 {
		if s.late {
			s.kept = func() { _, _ = s.Cursors.Put(ctx, key, value, rev) }
		} else {
			_, _ = s.Cursors.Put(ctx, key, value, rev)
		}
		return 0, errors.New("no answer")
	}
	return s.Cursors.Put(ctx, key, value, rev)
}

// TestStreamAlarm: under an alarm of the disk (that of memory does not concern streams) commits fail with its reason, and afterwards go on without a record twice.
func TestStreamAlarm(t *testing.T) {
	c := parse(t, address(t, "FERRY_TEST_RABBITMQ_STREAM"))
	address(t, "FERRY_TEST_RABBITMQ_CTL")
	c.Timeout = time.Second
	q := openStream(t, c, queuetest.NewCursors())
	topic := name(t, "alarm")
	w := writer(t, q, topic)
	var all []record.Record
	ctx := within(t, 60*time.Second)
	commit := func() (batch []record.Record, err error) {
		batch = recs(topic, len(all), 100)
		return batch, w.Commit(ctx, queue.Batch{Records: batch}, record.Cursor(fmt.Sprint(len(all))))
	}
	all, err := commit()
	if err != nil {
		t.Fatal(err)
	}
	ctl(t, "set_disk_free_limit", "mem_relative", "10000")
	clear := func() { ctl(t, "set_disk_free_limit", "500MB") }
	defer clear()
	for { // the alarm takes a moment
		batch, err := commit()
		if err == nil {
			all = append(all, batch...)
			continue
		}
		if errors.Is(err, queue.ErrFull) && strings.Contains(err.Error(), "alarm clears") {
			break
		}
		if !errors.Is(err, queue.ErrUnavailable) || ctx.Err() != nil {
			t.Fatalf("commit under an alarm: %v", err)
		}
	}
	clear()
	for {
		batch, err := commit()
		if err == nil {
			all = append(all, batch...)
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	once(t, streamIDs(t, q, topic), all)
}
