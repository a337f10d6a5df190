package kafkaqueue

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// records makes n records of a series, the first with number from.
func records(series string, from, n int) []record.Record {
	all := make([]record.Record, n)
	for i := range all {
		all[i] = record.Record{
			ID: record.ID(series, fmt.Sprint(from+i), nil), Headers: []record.Header{{Name: record.HeaderPipeline, Value: series}},
			Data: fmt.Appendf(nil, `{"i":%d}`, from+i),
		}
	}
	return all
}

// holds checks that a topic holds these records and no others, in this order.
func holds(t *testing.T, q *Queue, topic string, want []record.Record) {
	t.Helper()
	got, err := q.Browse(t.Context(), topic, 0, len(want)+100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if i < len(want) && got[i].ID != want[i].ID {
			t.Fatalf("record %d of %s is %s, want %s", i, topic, got[i].Data, want[i].Data)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s holds %d records, want %d", topic, len(got), len(want))
	}
}

// nothingKept checks that the producer holds no record. It counts one off only after it has told its outcome, which
// a call waits for: the last one of a call may be counted still for a moment after.
func nothingKept(t *testing.T, q *Queue) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); q.cl.BufferedProduceRecords() != 0; {
		if time.Now().After(end) {
			t.Fatalf("%d records are kept that were given up", q.cl.BufferedProduceRecords())
		}
		<-time.After(time.Millisecond)
	}
}

// eachBroker runs a test against the cluster in this process, and against a real one where there is one.
func eachBroker(t *testing.T, f func(t *testing.T, c Config)) {
	t.Run("fake", func(t *testing.T) {
		c := fakeConfig(fake(t))
		c.Timeout, c.Transaction = time.Second, time.Minute
		f(t, c)
	})
	t.Run("kafka", func(t *testing.T) {
		c := realConfig(t)
		c.Timeout, c.Transaction = 3*time.Second, time.Minute
		f(t, c)
	})
}

func writerOf(t *testing.T, q *Queue, pipeline, topic string) queue.Writer {
	t.Helper()
	w, err := q.OpenWriter(t.Context(), pipeline, topic)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestLostAnswer: a commit's answer is lost at every kind of request that it makes, and the line with it. Whether the
// commit was written, which it is when the last answer is the one that is lost, its repetition writes it once.
func TestLostAnswer(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		line := newWire()
		sound := open(t, c)
		c.Dial = line.dial
		q, topic := open(t, c), topicName(t)
		w := writerOf(t, q, "p", topic)
		var want []record.Record
		for i, key := range []kmsg.Key{kmsg.EndTxn, kmsg.Produce, kmsg.EndTxn} {
			batch := queue.Batch{Records: records("p", len(want), 10+i)}
			want = append(want, batch.Records...)
			next := record.Cursor(strings.Repeat("x", i+1))
			line.arm(key, true)
			if err := w.Commit(t.Context(), batch, next); !errors.Is(err, queue.ErrUnavailable) {
				t.Fatalf("commit %d whose answer is lost: %v, want ErrUnavailable", i, err)
			}
			line.mend()
			if err := eventually(t, func() error { return w.Commit(t.Context(), batch, next) }); err != nil {
				t.Fatalf("commit %d again: %v", i, err)
			}
			if string(w.Cursor()) != string(next) {
				t.Fatalf("cursor %q, want %q", w.Cursor(), next)
			}
			holds(t, sound, topic, want)
		}
	})
}

// TestLostAnswerThenFenced: the answer is lost, and before the commit is repeated another writer takes over.
func TestLostAnswerThenFenced(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		for _, key := range []kmsg.Key{kmsg.EndTxn, kmsg.Produce} {
			line := newWire()
			sound := open(t, c)
			mine := c
			mine.Dial = line.dial
			q, topic := open(t, mine), topicName(t)
			w := writerOf(t, q, "p", topic)
			batch := queue.Batch{Records: records("p", 0, 30)}
			line.arm(key, true)
			if err := w.Commit(t.Context(), batch, record.Cursor("a")); !errors.Is(err, queue.ErrUnavailable) {
				t.Fatal(err)
			}
			line.mend()
			young := writerOf(t, sound, "p", topic)
			for range 2 {
				if err := eventually(t, func() error { return w.Commit(t.Context(), batch, record.Cursor("a")) }); !errors.Is(err, queue.ErrFenced) {
					t.Fatalf("repetition after another writer's claim: %v, want ErrFenced", err)
				}
			}
			// Whether the lost commit came through is told by the cursor, and the records agree with it.
			want := batch.Records
			if string(young.Cursor()) != "a" {
				want = nil
			}
			holds(t, sound, topic, want)
			// The fenced writer's search has not disturbed the other.
			if err := young.Commit(t.Context(), queue.Batch{Records: records("p", 30, 1)}, record.Cursor("b")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestDifferentBatchAfterUnknown: what was written must not be written again in another shape.
func TestDifferentBatchAfterUnknown(t *testing.T) {
	line := newWire()
	c := fakeConfig(fake(t))
	sound := open(t, c)
	c.Dial = line.dial
	q, topic := open(t, c), topicName(t)
	w := writerOf(t, q, "p", topic)
	line.arm(kmsg.EndTxn, true)
	if err := w.Commit(t.Context(), queue.Batch{Records: records("p", 0, 30)}, record.Cursor("a")); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatal(err)
	}
	line.mend()
	err := eventually(t, func() error {
		return w.Commit(t.Context(), queue.Batch{Records: records("p", 0, 20)}, record.Cursor("b"))
	})
	if err == nil || string(w.Cursor()) != "a" {
		t.Fatalf("cursor %q, error %v", w.Cursor(), err)
	}
	holds(t, sound, topic, records("p", 0, 30))
}

// TestLostPublishAnswer: the producer repeats what it has no answer to, and the broker knows it again.
func TestLostPublishAnswer(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		line := newWire()
		c.Dial = line.dial
		q, topic := open(t, c), topicName(t)
		var want []record.Record
		for i := range 10 {
			batch := records("p", len(want), 3)
			want = append(want, batch...)
			if i%2 == 1 {
				line.arm(kmsg.Produce, false)
			}
			if err := q.Publish(t.Context(), topic, batch); err != nil {
				t.Fatal(err)
			}
		}
		line.mend()
		holds(t, q, topic, want)
	})
}

// TestTornRequest: connections break in the middle of requests, under commits and publishes.
func TestTornRequest(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		line := newWire()
		c.Dial = line.dial
		q, topic := open(t, c), topicName(t)
		w := writerOf(t, q, "p", topic)
		n := 0
		for i, key := range []kmsg.Key{kmsg.Produce, kmsg.EndTxn, kmsg.Produce, kmsg.EndTxn} {
			line.tear(key)
			batch := queue.Batch{Records: records("p", n, 50)}
			n += 50
			if err := eventually(t, func() error { return w.Commit(t.Context(), batch, record.Cursor(fmt.Sprint(i))) }); err != nil {
				t.Fatalf("commit %d: %v", i, err)
			}
			line.tear(kmsg.Produce)
			if err := eventually(t, func() error { return q.Publish(t.Context(), topic, records("p", n, 50)) }); err != nil {
				t.Fatalf("publish %d: %v", i, err)
			}
			n += 50
		}
		holds(t, q, topic, records("p", 0, n))
	})
}

// TestOutage: while the line is dead every call says so in time, and nothing piles up: what was given up is not
// written when the line is back.
func TestOutage(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		line := newWire()
		sound := open(t, c)
		c.Dial, c.Timeout = line.dial, time.Second
		q, topic := open(t, c), topicName(t)
		if err := q.Publish(t.Context(), topic, records("p", 0, 1)); err != nil {
			t.Fatal(err)
		}
		line.cut()
		for i := range 5 {
			begin := time.Now()
			if err := q.Publish(t.Context(), topic, records("p", 1, 100)); !errors.Is(err, queue.ErrUnavailable) {
				t.Fatalf("publish %d without a line: %v, want ErrUnavailable", i, err)
			}
			if d := time.Since(begin); d > 5*time.Second {
				t.Fatalf("publish %d took %s to give up", i, d)
			}
		}
		if err := q.Ping(t.Context()); !errors.Is(err, queue.ErrUnavailable) {
			t.Fatalf("ping without a line: %v", err)
		}
		nothingKept(t, q)
		line.mend()
		if err := eventually(t, func() error { return q.Publish(t.Context(), topic, records("p", 1, 100)) }); err != nil {
			t.Fatal(err)
		}
		if err := q.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		holds(t, sound, topic, records("p", 0, 101))
	})
}
