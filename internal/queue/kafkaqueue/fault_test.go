package kafkaqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// TestErrors maps what brokers say to the contract, in Publish and in Commit.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		err       *kerr.Error
		want      error // nil: none of the contract's
		permanent bool
		text      string
	}{
		{kerr.NotEnoughReplicas, queue.ErrUnavailable, false, ""},
		{kerr.KafkaStorageError, queue.ErrUnavailable, false, ""},
		{kerr.NotLeaderForPartition, queue.ErrUnavailable, false, ""},
		{kerr.TopicAuthorizationFailed, nil, true, "the login needs the ACLs Describe, Read and Write on the topic"},
		{kerr.UnknownServerError, queue.ErrUnavailable, false, ""},
		{kerr.InvalidRecord, nil, true, "INVALID_RECORD"},
	} {
		t.Run(tt.err.Message, func(t *testing.T) {
			c := fake(t)
			cfg := fakeConfig(c)
			cfg.Timeout = time.Second
			q := open(t, cfg)
			w := writerOf(t, q, "p", "orders")
			fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "orders", Err: tt.err, Count: -1})
			for what, err := range map[string]error{
				"publish": q.Publish(t.Context(), "orders", records("p", 0, 3)),
				"commit":  w.Commit(t.Context(), queue.Batch{Records: records("p", 0, 3)}, record.Cursor("a")),
			} {
				if err == nil || tt.want != nil && !errors.Is(err, tt.want) || retry.IsPermanent(err) != tt.permanent || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%s: error %v (permanent %v), want %v, permanent %v, %q", what, err, retry.IsPermanent(err), tt.want, tt.permanent, tt.text)
				}
			}
			fault.Remove()
			if err := eventually(t, func() error {
				return w.Commit(t.Context(), queue.Batch{Records: records("p", 0, 3)}, record.Cursor("a"))
			}); err != nil {
				t.Fatalf("commit after it has cleared: %v", err)
			}
			if err := q.Publish(t.Context(), "orders", records("p", 3, 3)); err != nil {
				t.Fatalf("publish after it has cleared: %v", err)
			}
			holds(t, q, "orders", records("p", 0, 6))
		})
	}
}

// inTwo seeds a topic of two partitions, and gives each record a key that leads to the partition named.
func inTwo(t *testing.T, partitions ...int) (*kfake.Cluster, *Queue, []record.Record) {
	t.Helper()
	c := fake(t, kfake.SeedTopics(2, "orders", "orders.dead"))
	q := open(t, fakeConfig(c))
	keys := [2]string{}
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		keys[q.partitioner().ForTopic("orders").Partition(&kgo.Record{Key: []byte(key)}, 2)] = key
	}
	batch := records("p", 0, len(partitions))
	for i, n := range partitions {
		batch[i].Key = keys[n]
	}
	return c, q, batch
}

// TestPart: an answer that is a success holds an error for one partition. What is before the first record that was
// refused counts as done.
func TestPart(t *testing.T) {
	c, q, batch := inTwo(t, 0, 0, 1, 0, 1, 0)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "orders", Partitions: []int32{1}, Err: kerr.InvalidRecord, Count: -1})
	err := q.Publish(t.Context(), "orders", batch)
	var partly *queue.PartError
	if !errors.As(err, &partly) || partly.Done != 2 || !retry.IsPermanent(err) {
		t.Fatalf("error %v, want a permanent *queue.PartError with 2 done", err)
	}
	got, err := q.Browse(t.Context(), "orders", 0, 10)
	if err != nil || len(got) != 4 {
		t.Fatalf("%d records, %v; want the four of partition 0", len(got), err)
	}
}

// TestPartBehindLarge: a record that was held back must not be counted as done.
func TestPartBehindLarge(t *testing.T) {
	c, q, batch := inTwo(t, 0, 0, 0, 1)
	batch[1].Data = []byte(strings.Repeat("x", 2<<20))
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "orders", Partitions: []int32{1}, Err: kerr.InvalidRecord, Count: -1})
	err := q.Publish(t.Context(), "orders", batch)
	var partly *queue.PartError
	if !errors.As(err, &partly) || partly.Done != 1 {
		t.Fatalf("error %v, want a *queue.PartError with 1 done", err)
	}
}

// TestClaimReadsLast: a writer's commit comes through while the next one is about to claim the pipeline. Whoever reads
// the cursor before it has fenced the other begins too early, and doubles the commit.
func TestClaimReadsLast(t *testing.T) {
	c := fake(t)
	q, other := open(t, fakeConfig(c)), open(t, fakeConfig(c))
	old := writerOf(t, q, "p", "orders")
	claimed, done := make(chan struct{}), make(chan struct{})
	c.ControlKey(int16(kmsg.InitProducerID), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.SleepControl(func() { close(claimed); <-done })
		return nil, nil, false
	})
	go func() {
		defer close(done)
		<-claimed
		if err := old.Commit(context.Background(), queue.Batch{Records: records("p", 0, 5)}, record.Cursor("a")); err != nil {
			t.Errorf("commit of the one before: %v", err)
		}
	}()
	if young := writerOf(t, other, "p", "orders"); string(young.Cursor()) != "a" {
		t.Fatalf("the next writer begins at %q, want a", young.Cursor())
	}
}

// TestLargeDeadLetter: dead letters count behind the records.
func TestLargeDeadLetter(t *testing.T) {
	w := writerOf(t, open(t, fakeConfig(fake(t))), "p", "orders")
	dead := records("p", 2, 2)
	dead[1].Data = []byte(strings.Repeat("x", 2<<20))
	err := w.Commit(t.Context(), queue.Batch{Records: records("p", 0, 2), Dead: dead}, record.Cursor("a"))
	var refused *queue.BatchError
	if !errors.As(err, &refused) || len(refused.Failed) != 1 || refused.Failed[3] == nil || refused.Total != 4 {
		t.Fatalf("error %v, want that record 3 is too large", err)
	}
}

// TestUnknownLimit: a broker that does not tell its limit refuses a record.
func TestUnknownLimit(t *testing.T) {
	c := fake(t)
	batch := records("p", 0, 5)
	batch[3].Data = []byte(`"` + strings.Repeat("x", 5000) + `"`)
	large := func(r kmsg.Request) bool {
		size := 0
		for _, topic := range r.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				size += len(p.Records)
			}
		}
		return size > 1000
	}
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "orders", Err: kerr.MessageTooLarge, Count: -1, When: large})
	plain := fakeConfig(c)
	plain.Compression = "none"
	q := open(t, plain)
	w := writerOf(t, q, "p", "orders")
	var refused *queue.BatchError
	for what, err := range map[string]error{
		"publish": q.Publish(t.Context(), "orders", batch),
		"commit":  w.Commit(t.Context(), queue.Batch{Records: batch}, record.Cursor("a")),
	} {
		var tl *queue.TooLargeError
		if !errors.As(err, &refused) || len(refused.Failed) != 1 || !errors.As(refused.Failed[3], &tl) || tl.Size <= tl.Limit {
			t.Errorf("%s: error %v, want that record 3 is too large", what, err)
		}
	}
	good := append(records("p", 0, 3), records("p", 4, 1)...)
	holds(t, q, "orders", good)
}

// TestSmallLimit: a topic's limit for batches is below the brokers' default, and the login may not ask for it. Records that
// fit are committed, in smaller batches, also one that is larger than those have become; what does not fit is told.
func TestSmallLimit(t *testing.T) {
	c := fake(t)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	plain := fakeConfig(c)
	plain.Compression = "none"
	q := open(t, plain)
	if err := q.Prepare(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	limit := "10000"
	if _, err := q.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &limit}}, "orders", "orders.dead"); err != nil {
		t.Fatal(err)
	}
	w := writerOf(t, q, "p", "orders")
	sized := func(from, n, bytes int) []record.Record {
		batch := records("p", from, n)
		for i := range batch {
			batch[i].Data = fmt.Appendf(nil, `"%d %s"`, from+i, strings.Repeat("x", bytes))
		}
		return batch
	}
	commit := func(b queue.Batch, next string) error {
		begin := time.Now()
		err := w.Commit(t.Context(), b, record.Cursor(next))
		if d := time.Since(begin); d > 8*time.Second {
			t.Errorf("commit %s took %s", next, d)
		}
		return err
	}
	all := sized(0, 300, 100)
	if err := commit(queue.Batch{Records: all, Dead: sized(0, 100, 100)}, "a"); err != nil {
		t.Fatal(err)
	}
	large := slices.Concat(sized(300, 1, 9000), sized(301, 100, 100))
	if err := commit(queue.Batch{Records: large}, "b"); err != nil {
		t.Fatal(err)
	}
	all = append(all, large...)
	last := sized(401, 100, 100)
	last[7] = sized(408, 1, 11_000)[0]
	var refused *queue.BatchError
	if err := commit(queue.Batch{Records: last}, "c"); !errors.As(err, &refused) || len(refused.Failed) != 1 || refused.Failed[7] == nil {
		t.Fatalf("error %v, want that record 7 is too large", err)
	}
	last = slices.Delete(last, 7, 8)
	if err := commit(queue.Batch{Records: last}, "c"); err != nil {
		t.Fatal(err)
	}
	holds(t, q, "orders", append(all, last...))
	holds(t, q, "orders.dead", sized(0, 100, 100))
}

// TestFencedByTheCluster: the cluster aborts a transaction that took too long and fences its writer. Nobody else has
// claimed the pipeline, so the writer goes on.
func TestFencedByTheCluster(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		q, topic := open(t, c), topicName(t)
		w := writerOf(t, q, "p", topic)
		if err := w.Commit(t.Context(), queue.Batch{Records: records("p", 0, 5)}, record.Cursor("a")); err != nil {
			t.Fatal(err)
		}
		fence(t, q, w.(*writer).id)
		if err := w.Commit(t.Context(), queue.Batch{Records: records("p", 5, 5)}, record.Cursor("b")); err != nil {
			t.Fatal(err)
		}
		holds(t, q, topic, records("p", 0, 10))
	})
}

// fence takes a transactional id without claiming the pipeline, as the cluster does when a transaction's time is up.
func fence(t *testing.T, q *Queue, id string) {
	t.Helper()
	cl, err := q.transactional(id, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, _, err := cl.ProducerID(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestBehindAnOpenTransaction: another pipeline's commit hangs in the same cursor partition. Readers of committed
// records see nothing behind it; a claim must all the same find the newest cursor.
func TestBehindAnOpenTransaction(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		c.Cursors = topicName(t) + ".cursors"
		q, topic := open(t, c), topicName(t)
		w := writerOf(t, q, "p", topic)
		if err := w.Commit(t.Context(), queue.Batch{Records: records("p", 0, 5)}, record.Cursor("old")); err != nil {
			t.Fatal(err)
		}
		other, err := q.transactional("other-"+token(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := other.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		m := q.cursorMessage("elsewhere/p", saved{cursor: record.Cursor("open"), writer: "x", commit: "x"})
		if err := other.ProduceSync(t.Context(), &m).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(t.Context(), queue.Batch{Records: records("p", 5, 5)}, record.Cursor("new")); err != nil {
			t.Fatal(err)
		}
		// A commit of the same pipeline was aborted there as well.
		aborted, err := q.transactional("aborted-"+token(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer aborted.Close()
		if err := aborted.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		m = q.cursorMessage(cursorKey(topic, "p"), saved{cursor: record.Cursor("aborted"), writer: "x", commit: "x"})
		if err := aborted.ProduceSync(t.Context(), &m).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := aborted.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
			t.Fatal(err)
		}
		sound := open(t, c)
		if got, err := sound.Cursor(t.Context(), "p", topic); err != nil || string(got) != "new" {
			t.Errorf("cursor %q, %v; want new", got, err)
		}
		if got, err := sound.Cursor(t.Context(), "p", "elsewhere"); err != nil || len(got) != 0 {
			t.Errorf("cursor %q, %v, of a commit that is not done", got, err)
		}
		if got := writerOf(t, sound, "p", topic).Cursor(); string(got) != "new" {
			t.Errorf("the next writer begins at %q, want new", got)
		}
	})
}

// TestCursorsMoved: the cursor topic was compacted, and given more partitions.
func TestCursorsMoved(t *testing.T) {
	c := fake(t)
	q := open(t, fakeConfig(c))
	for _, p := range []string{"a", "b", "c", "d"} {
		w := writerOf(t, q, p, "orders")
		for n := range 100 {
			if err := w.Commit(t.Context(), queue.Batch{}, record.Cursor(strings.Repeat(p, n))); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Compact()
	if _, err := q.adm.UpdatePartitions(t.Context(), 3, q.cfg.Cursors); err != nil {
		t.Fatal(err)
	}
	q = open(t, fakeConfig(c))
	for _, p := range []string{"a", "b", "c", "d"} {
		w := writerOf(t, q, p, "orders")
		if want := strings.Repeat(p, 99); string(w.Cursor()) != want {
			t.Fatalf("cursor of %s is %q, want %q", p, w.Cursor(), want)
		}
		if err := w.Commit(t.Context(), queue.Batch{}, record.Cursor("new "+p)); err != nil {
			t.Fatal(err)
		}
		if got, err := q.Cursor(t.Context(), p, "orders"); err != nil || string(got) != "new "+p {
			t.Fatalf("cursor of %s is %q, %v", p, got, err)
		}
	}
}

// TestCursorsMovedMeanwhile: the cursor topic is given more partitions while a queue is open. Each run begins where the
// one before has ended, whatever the queue remembers of the partitions.
func TestCursorsMovedMeanwhile(t *testing.T) {
	c := fake(t)
	old := open(t, fakeConfig(c))
	run := func(q *Queue, want, next string) {
		t.Helper()
		for _, p := range []string{"a", "b", "c", "d"} {
			w := writerOf(t, q, p, "orders")
			if string(w.Cursor()) != want {
				t.Fatalf("the run of %s that commits %q begins at %q, want %q", p, next, w.Cursor(), want)
			}
			if err := w.Commit(t.Context(), queue.Batch{}, record.Cursor(next)); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(old, "", "1")
	if _, err := old.adm.UpdatePartitions(t.Context(), 3, old.cfg.Cursors); err != nil {
		t.Fatal(err)
	}
	run(old, "1", "2")
	run(old, "2", "3")
	run(open(t, fakeConfig(c)), "3", "4")
	run(old, "4", "5")
}

// TestTopicGrows: a topic is given more partitions while a queue is open, which reads them all from then on.
func TestTopicGrows(t *testing.T) {
	c := fake(t)
	old := open(t, fakeConfig(c))
	batch := records("p", 0, 40)
	for i := range batch {
		batch[i].Key = fmt.Sprint("key", i)
	}
	if err := old.Publish(t.Context(), "orders", batch[:20]); err != nil {
		t.Fatal(err)
	}
	if got, err := old.Browse(t.Context(), "orders", 0, 100); err != nil || len(got) != 20 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	if _, err := old.adm.UpdatePartitions(t.Context(), 4, "orders"); err != nil {
		t.Fatal(err)
	}
	if err := open(t, fakeConfig(c)).Publish(t.Context(), "orders", batch[20:]); err != nil {
		t.Fatal(err)
	}
	if got, err := old.Browse(t.Context(), "orders", 0, 100); err != nil || len(got) != 40 {
		t.Fatalf("%d records once there are more partitions, %v", len(got), err)
	}
	if got, err := old.Receive(t.Context(), "orders", 100, time.Second); err != nil || len(got) != 40 {
		t.Fatalf("%d records received, %v", len(got), err)
	}
}

// TestGivenUp: a commit that is given up leaves nothing open behind it once its writer is closed.
func TestGivenUp(t *testing.T) {
	c := fake(t)
	q := open(t, fakeConfig(c))
	w := writerOf(t, q, "p", "orders")
	ctx, cancel := context.WithCancel(t.Context())
	q.cfg.beforeEnd = cancel
	if err := w.Commit(ctx, queue.Batch{Records: records("p", 0, 5)}, record.Cursor("a")); !errors.Is(err, context.Canceled) {
		t.Fatalf("commit under a cancelled context: %v", err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	open, err := q.adm.ListTransactions(t.Context(), nil, []string{"Ongoing"})
	if err != nil || len(open) != 0 {
		t.Fatalf("open transactions %v, %v", open, err)
	}
}

// TestNoted: a transaction is not ended before the client knows that it has one.
func TestNoted(t *testing.T) {
	m := &kgo.Record{Topic: "ferry.cursors", Partition: 2}
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		learns := leadersFunc(func(topic string, partition int32) int32 {
			if topic != m.Topic || partition != m.Partition {
				t.Errorf("asked for partition %d of %s", partition, topic)
			}
			if asked++; asked < 5 {
				return -1
			}
			return 0
		})
		if err := noted(t.Context(), learns, m); err != nil || asked != 5 {
			t.Errorf("%v after %d questions, want none after 5", err, asked)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		never := leadersFunc(func(string, int32) int32 { return -1 })
		if err := noted(ctx, never, m); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a client that never learns of the partition: %v", err)
		}
	})
}

type leadersFunc func(topic string, partition int32) int32

func (f leadersFunc) PartitionLeader(topic string, partition int32) (leader, epoch int32, err error) {
	return f(topic, partition), 0, nil
}
