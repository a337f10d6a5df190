package rabbitqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// The tests of this file run against fakeBroker, at moments that a real broker would not give.

func TestFake(t *testing.T) {
	b, cursors := newFakeBroker(), queuetest.NewCursors()
	queuetest.Run(t, queuetest.Harness{
		Open: func(t testing.TB) queue.Queue {
			c := b.config()
			c.Redelivery = redelivery
			return queue.WithCursors(open(t, c), cursors)
		},
		Restart:    func(testing.TB) { b.cut(false) },
		Redelivery: redelivery,
		Lacks:      lacks,
	})
}

func idsOf(batch []record.Record) []string {
	ids := make([]string, len(batch))
	for i := range batch {
		ids[i] = batch[i].ID
	}
	return ids
}

func done(err error) int {
	var part *queue.PartError
	if errors.As(err, &part) {
		return part.Done
	}
	return 0
}

// TestNackInTheMiddle: the call stops at the refused record and says how many before it are durable; those behind it
// that were on their way are written again, so the last copies are in order.
func TestNackInTheMiddle(t *testing.T) {
	b := newFakeBroker()
	q := open(t, b.config())
	b.verdict = func(n int, _ amqp.Publishing) verdict {
		if n == 8 {
			return nack
		}
		return keep
	}
	batch := recs("nack", 0, 20)
	err := q.Publish(t.Context(), "t", batch)
	if !errors.Is(err, queue.ErrFull) || retry.IsPermanent(err) || done(err) != 7 {
		t.Fatalf("error %v", err)
	}
	if err := q.Publish(t.Context(), "t", batch[7:]); err != nil {
		t.Fatal(err)
	}
	if doubled := inOrder(t, b.ids("t"), batch); doubled != 12 {
		t.Fatalf("%d came twice, want the 12 behind the refused one: %q", doubled, b.ids("t"))
	}
}

// TestFullGoesCarefully: behind a refusal records go one by one at first, so that a full queue which frees one place
// does not get a later record before an earlier one.
func TestFullGoesCarefully(t *testing.T) {
	b := newFakeBroker()
	q := open(t, b.config())
	refusing := true
	b.verdict = func(int, amqp.Publishing) verdict {
		if refusing {
			return nack
		}
		return keep
	}
	batch := recs("full", 0, 500)
	if err := q.Publish(t.Context(), "t", batch); !errors.Is(err, queue.ErrFull) || done(err) != 0 {
		t.Fatalf("error %v", err)
	}
	before := b.published
	for range 10 {
		if err := q.Publish(t.Context(), "t", batch); !errors.Is(err, queue.ErrFull) {
			t.Fatalf("error %v", err)
		}
	}
	if n := b.published - before; n != 10 {
		t.Fatalf("10 tries at a full queue sent %d records, want one each", n)
	}
	refusing = false
	if err := q.Publish(t.Context(), "t", batch); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.ids("t"), idsOf(batch)) {
		t.Fatal("not in order")
	}
}

// TestReturn: a record that no queue takes is confirmed all the same; the return before the confirm says so.
func TestReturn(t *testing.T) {
	b := newFakeBroker()
	c := b.config()
	c.Create = false
	q := open(t, c)
	err := q.Publish(t.Context(), "missing", recs("return", 0, 20))
	if !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) || done(err) != 0 {
		t.Fatalf("error %v", err)
	}
	// In the middle: the queue goes while records are on their way.
	b.mu.Lock()
	b.queues["t"] = &fakeQueue{name: "t", durable: true}
	b.published = 0
	b.verdict = func(n int, _ amqp.Publishing) verdict {
		if n == 10 {
			b.queues["gone"], b.queues["t"] = b.queues["t"], nil
			delete(b.queues, "t")
		}
		return keep
	}
	b.mu.Unlock()
	q.know("t") // it was there, so it may come back: a broker that restarts takes connections before it routes
	err = q.Publish(t.Context(), "t", recs("return", 0, 20))
	if !errors.Is(err, queue.ErrNoTopic) || retry.IsPermanent(err) || done(err) > 10 {
		t.Fatalf("error %v", err)
	}
	if n := len(b.ids("gone")); n < done(err) {
		t.Fatalf("%d are called durable, %d are there", done(err), n)
	}
}

// TestCutInTheMiddle: nothing is lost, and at most what had no confirm comes twice.
func TestCutInTheMiddle(t *testing.T) {
	for _, v := range []verdict{cutBefore, cutAfter} {
		b := newFakeBroker()
		q := open(t, b.config())
		b.verdict = func(n int, _ amqp.Publishing) verdict {
			if n == 150 {
				return v
			}
			return keep
		}
		batch := recs("cut", 0, 400)
		err := q.Publish(t.Context(), "t", batch)
		if !errors.Is(err, queue.ErrUnavailable) || retry.IsPermanent(err) || !strings.Contains(err.Error(), "outcome unknown") {
			t.Fatalf("error %v", err)
		}
		if done(err) > len(b.ids("t")) {
			t.Fatalf("%d are called durable, %d are there", done(err), len(b.ids("t")))
		}
		if err := q.Publish(t.Context(), "t", batch[done(err):]); err != nil {
			t.Fatal(err)
		}
		inOrder(t, b.ids("t"), batch)
	}
}

// TestAlarmInTheMiddle: what is on its way when the alarm comes is not published twice by the retry, whenever it
// comes.
func TestAlarmInTheMiddle(t *testing.T) {
	for _, when := range []string{"retried at once", "retried a while after it"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newFakeBroker()
				q := open(t, b.config())
				batch := recs("alarm", 0, 300)
				if err := q.Publish(t.Context(), "t", batch[:1]); err != nil {
					t.Fatal(err)
				}
				b.mu.Lock()
				b.alarm = "low on disk"
				b.mu.Unlock()
				begin := time.Now()
				err := q.Publish(t.Context(), "t", batch[1:])
				if !errors.Is(err, queue.ErrFull) || !strings.Contains(err.Error(), "low on disk") {
					t.Fatalf("publish when the alarm begins: %v", err)
				}
				if waited := time.Since(begin); waited != 10*time.Second {
					t.Fatalf("waited %s for what was on its way", waited)
				}
				begin = time.Now()
				for range 100 {
					if err := q.Publish(t.Context(), "t", batch[1:]); !errors.Is(err, queue.ErrFull) {
						t.Fatalf("publish under the alarm: %v", err)
					}
				}
				if err := q.Ping(t.Context()); !errors.Is(err, queue.ErrFull) {
					t.Fatalf("ping under the alarm: %v", err)
				}
				if err := open(t, b.config()).Ping(t.Context()); !errors.Is(err, queue.ErrFull) {
					t.Fatalf("ping of who has published nothing under the alarm: %v", err)
				}
				if waited := time.Since(begin); waited != 0 {
					t.Fatalf("an alarm that is known costs %s", waited)
				}
				b.setAlarm("")
				if when == "retried a while after it" {
					synctest.Wait()
				}
				if _, err := persist(t.Context(), q, "t", batch[1:]); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(b.ids("t"), idsOf(batch)) {
					t.Fatalf("%d records, want %d in order and once", len(b.ids("t")), len(batch))
				}
				// Long after, the same record is another matter: somebody wants it published again.
				time.Sleep(2 * orphansKept)
				if err := q.Publish(t.Context(), "t", batch[1:3]); err != nil {
					t.Fatal(err)
				}
				if n := len(b.ids("t")); n != 302 {
					t.Fatalf("%d records, want 302", n)
				}
			})
		})
	}
}

// TestOldOrphan: a record that was left on its way long ago and comes again is published again: somebody wants it so.
func TestOldOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker()
		q := open(t, b.config())
		batch := recs("old", 0, 5)
		if err := q.Publish(t.Context(), "t", batch[:1]); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		b.alarm = "low on memory"
		b.mu.Unlock()
		if err := q.Publish(t.Context(), "t", batch[1:]); !errors.Is(err, queue.ErrFull) {
			t.Fatalf("error %v", err)
		}
		b.setAlarm("")
		time.Sleep(orphansKept + time.Second)
		if err := q.Publish(t.Context(), "t", batch[1:]); err != nil {
			t.Fatal(err)
		}
		if n := len(b.ids("t")); n != 9 {
			t.Fatalf("%d records, want the 4 of the alarm twice", n)
		}
	})
}

// TestAbandonedReceive: records that come after the receiver has given up go back at once.
func TestAbandonedReceive(t *testing.T) {
	b := newFakeBroker()
	q := open(t, b.config())
	if err := q.Publish(t.Context(), "t", recs("gone", 0, 1)); err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	b.mu.Lock()
	b.beforeGet = func() { close(asked); <-answer }
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := q.Receive(ctx, "t", 10, 0); done <- err }()
	<-asked
	b.mu.Lock()
	b.beforeGet = nil
	b.mu.Unlock()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	close(answer)
	got, err := open(t, b.config()).Receive(t.Context(), "t", 10, 5*time.Second)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d records, %v", len(got), err)
	}
}

// TestLostAnswer: the broker says nothing more; the call ends by itself, and says that the outcome is unknown.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker()
		q := open(t, b.config())
		b.verdict = func(n int, _ amqp.Publishing) verdict {
			if n > 5 {
				return loseAnswer
			}
			return keep
		}
		err := q.Publish(t.Context(), "t", recs("lost", 0, 10))
		if !errors.Is(err, queue.ErrUnavailable) || done(err) != 5 || !strings.Contains(err.Error(), "no confirm for 10s") {
			t.Fatalf("error %v", err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("the caller is tired"))
		defer cancel()
		if err := q.Publish(ctx, "other", recs("lost", 20, 1)); err == nil || !strings.Contains(err.Error(), "tired") {
			t.Fatalf("error %v", err)
		}
		b.cut(false)
		b.mu.Lock()
		b.verdict = nil
		b.mu.Unlock()
		synctest.Wait()
		if err := q.Publish(t.Context(), "t", recs("lost", 5, 5)); err != nil { // what was on its way is forgotten with the connection
			t.Fatal(err)
		}
		inOrder(t, b.ids("t"), recs("lost", 0, 10))
	})
}

// TestPartNeverPassesRefused: a record that is too large hides behind no durable prefix.
func TestPartNeverPassesRefused(t *testing.T) {
	b := newFakeBroker()
	c := b.config()
	c.MaxRecord = 1000
	q := open(t, c)
	batch := recs("part", 0, 10)
	batch[3].Data = []byte(`"` + strings.Repeat("x", 2000) + `"`)
	b.verdict = func(n int, _ amqp.Publishing) verdict {
		if n == 7 {
			return nack
		}
		return keep
	}
	if err := q.Publish(t.Context(), "t", batch); !errors.Is(err, queue.ErrFull) || done(err) != 3 {
		t.Fatalf("error %v", err)
	}
	b.verdict = nil
	err := q.Publish(t.Context(), "t", batch[3:])
	var failed *queue.BatchError
	var large *queue.TooLargeError
	if !errors.As(err, &failed) || len(failed.Failed) != 1 || !errors.As(failed.Failed[0], &large) || large.Limit != 1000 {
		t.Fatalf("error %v", err)
	}
}

func TestRefusedRecords(t *testing.T) {
	b := newFakeBroker()
	b.exchanges["x"] = true
	c := b.config()
	c.Exchange, c.KeyRoutes = "x", true
	q := open(t, c)
	long := strings.Repeat("k", 256)
	for what, r := range map[string]record.Record{
		"headers over a frame":   {ID: "1", Headers: []record.Header{{Name: "a", Value: strings.Repeat("v", frameMax)}}},
		"a key over its limit":   {ID: "1", Key: long},
		"a name over its limit":  {ID: "1", Headers: []record.Header{{Name: long, Value: "v"}}},
		"more than the record's": {ID: "1", Data: make([]byte, 16<<20)},
	} {
		err := q.Publish(t.Context(), "t", []record.Record{r})
		var failed *queue.BatchError
		if !errors.As(err, &failed) || failed.Total != 1 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRefusedBeforeItIsCommitted: a record that the broker never takes is found before the others are published, or the
// commit without it would publish them again.
func TestRefusedBeforeItIsCommitted(t *testing.T) {
	b := newFakeBroker()
	q := open(t, b.config())
	w, err := queue.WithCursors(q, queuetest.NewCursors()).OpenWriter(t.Context(), "p", "t")
	if err != nil {
		t.Fatal(err)
	}
	batch := queue.Batch{Records: recs("good", 0, 5), Dead: recs("dead", 0, 2)}
	bad := []record.Header{{Name: strings.Repeat("n", 256), Value: "v"}}
	batch.Records[2].Headers, batch.Dead[1].Headers = bad, bad
	var failed *queue.BatchError
	if err := w.Commit(t.Context(), batch, record.Cursor("c")); !errors.As(err, &failed) || len(failed.Failed) != 2 || failed.Failed[2] == nil || failed.Failed[6] == nil {
		t.Fatalf("error %v", err)
	}
	if b.published != 0 {
		t.Fatalf("%d records were published before", b.published)
	}
}

func TestRouting(t *testing.T) {
	b := newFakeBroker()
	b.exchanges["x"] = true
	c := b.config()
	c.Exchange, c.KeyRoutes = "x", true
	q := open(t, c)
	if err := q.Prepare(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	err := q.Publish(t.Context(), "t", recs("route", 0, 1)) // nothing is bound in the fake
	if !errors.Is(err, queue.ErrNoTopic) || !strings.Contains(err.Error(), `routing key "key-0"`) || !strings.Contains(err.Error(), "bind a queue to exchange x") {
		t.Fatalf("error %v", err)
	}
	if err := q.Publish(t.Context(), "t.dead", recs("route", 0, 1)); err != nil { // dead letters have their queue
		t.Fatal(err)
	}
	c.Exchange = "missing"
	if err := open(t, c).Prepare(t.Context(), "t"); !errors.Is(err, queue.ErrNoTopic) || !strings.Contains(err.Error(), "ferry makes none") {
		t.Fatalf("error %v", err)
	}
}

func TestExamine(t *testing.T) {
	for what, q := range map[string]*fakeQueue{
		"":                            {durable: true, args: amqp.Table{"x-queue-type": "quorum", "x-max-length": int64(5), "x-overflow": "reject-publish"}},
		"it is not durable":           {args: amqp.Table{"x-queue-type": "classic"}},
		"x-overflow is not reject":    {durable: true, args: amqp.Table{"x-queue-type": "quorum", "x-max-length": int64(5)}},
		"its records expire":          {durable: true, args: amqp.Table{"x-queue-type": "quorum", "x-message-ttl": int64(5)}},
		"when nobody uses it":         {durable: true, args: amqp.Table{"x-queue-type": "quorum", "x-expires": int64(5)}},
		"it is of type stream, and":   {durable: true, args: amqp.Table{"x-queue-type": "stream", "x-max-length-bytes": int64(5)}},
		"it is not durable, and its ": {args: amqp.Table{"x-queue-type": "classic", "x-message-ttl": int64(5)}},
	} {
		b := newFakeBroker()
		b.queues["t"], b.queues["t.dead"] = q, &fakeQueue{durable: true}
		err := open(t, b.config()).Prepare(t.Context(), "t")
		if what == "" {
			if err != nil {
				t.Errorf("a good queue: %v", err)
			}
			continue
		}
		if err == nil || !retry.IsPermanent(err) || !strings.Contains(err.Error(), what) {
			t.Errorf("want %q: %v", what, err)
		}
	}
}

func TestDownAndBack(t *testing.T) {
	b := newFakeBroker()
	q := open(t, b.config())
	b.cut(true)
	for range 3 {
		if err := q.Publish(t.Context(), "t", recs("down", 0, 1)); !errors.Is(err, queue.ErrUnavailable) || retry.IsPermanent(err) {
			t.Fatalf("error %v", err)
		}
	}
	if err := q.Ping(t.Context()); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("error %v", err)
	}
	b.mu.Lock()
	b.down = false
	b.mu.Unlock()
	if err := q.Publish(t.Context(), "t", recs("down", 0, 1)); err != nil {
		t.Fatal(err)
	}
}

// TestDeadConnectionGivesBack: receipts end with the connection, and the records come again.
func TestDeadConnectionGivesBack(t *testing.T) {
	b := newFakeBroker()
	q := open(t, b.config())
	if err := q.Publish(t.Context(), "t", recs("back", 0, 3)); err != nil {
		t.Fatal(err)
	}
	first, err := q.Receive(t.Context(), "t", 10, 0)
	if err != nil || len(first) != 3 {
		t.Fatalf("%d records, %v", len(first), err)
	}
	if st, err := q.Stats(t.Context(), "t"); err != nil || st.Waiting != 3 {
		t.Fatalf("%+v, %v", st, err)
	}
	other := open(t, b.config())
	err = other.Ack(t.Context(), "t", first[0].Receipt)
	if !errors.Is(err, queue.ErrReceipt) || !strings.Contains(err.Error(), "another instance") {
		t.Fatalf("error %v", err)
	}
	b.cut(false)
	again, err := q.Receive(t.Context(), "t", 10, time.Second)
	for errors.Is(err, queue.ErrUnavailable) {
		again, err = q.Receive(t.Context(), "t", 10, time.Second)
	}
	if err != nil || len(again) != 3 || again[0].Attempt != 2 {
		t.Fatalf("%d records, %v", len(again), err)
	}
	if err := q.Ack(t.Context(), "t", first[1].Receipt); !errors.Is(err, queue.ErrReceipt) {
		t.Fatalf("error %v", err)
	}
	if err := q.Ack(t.Context(), "t", again[0].Receipt); err != nil {
		t.Fatal(err)
	}
	if st, err := q.Stats(t.Context(), "t"); err != nil || st.Waiting != 2 {
		t.Fatalf("%+v, %v", st, err)
	}
}

func TestHeadersTravel(t *testing.T) {
	want := record.Record{ID: strings.Repeat("i", 300), Key: "k", Data: []byte("1"), Headers: []record.Header{
		{Name: "content-type", Value: "application/json"}, {Name: "ferry-pipeline", Value: "p"}, {Name: "x-tenant", Value: "ünï"},
	}}
	m := encode(&want, time.Unix(1, 0))
	if m.MessageId != "" || m.ContentType != "application/json" || m.Type != "p" || m.DeliveryMode != amqp.Persistent {
		t.Fatalf("%+v", m)
	}
	d := amqp.Delivery{Headers: m.Headers, ContentType: m.ContentType, MessageId: m.MessageId, Body: m.Body}
	d.Headers[headerDeliveries], d.Headers["x-first-death-queue"], d.Headers["count"] = int64(2), "q", int64(7)
	got := decode(&d)
	want.Headers = slices.Insert(want.Headers, 1, record.Header{Name: "count", Value: "7"})
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if n := attempt(&d); n != 3 {
		t.Fatalf("attempt %d", n)
	}
}

// TestQueueComingUp: RabbitMQ's code for a missing queue also stands for one whose node is not up yet.
func TestQueueComingUp(t *testing.T) {
	for reason, missing := range map[string]bool{
		"NOT_FOUND - no queue 'orders' in vhost '/'":                                                      true,
		"NOT_FOUND - home node 'rabbit@a' of durable queue 'orders' in vhost '/' is down or inaccessible": false,
		"NOT_FOUND - queue 'orders' in vhost '/' process is stopped by supervisor":                        false,
	} {
		err := new(Queue).mapError("inspect queue", &amqp.Error{Code: amqp.NotFound, Reason: reason, Server: true})
		if errors.Is(err, queue.ErrNoTopic) != missing || retry.IsPermanent(err) != missing || errors.Is(err, queue.ErrUnavailable) == missing {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

// TestDeafChannel: a channel on which a stream's confirms do not come any more is replaced; on a queue it is not, for
// what is only late would be published again.
func TestDeafChannel(t *testing.T) {
	for kind, replaced := range map[string]bool{typeStream: true, typeQuorum: false} {
		b := newFakeBroker()
		b.queues["t"] = &fakeQueue{name: "t", durable: true}
		c := b.config()
		c.Type, c.Create, c.Timeout = kind, false, 20*time.Millisecond
		q := open(t, c)
		deaf := len(b.conns) // connections made so far are deaf
		b.verdict = func(int, amqp.Publishing) verdict {
			if len(b.conns) > deaf { // called with the broker's lock held
				return keep
			}
			return loseAnswer
		}
		var err error
		for range 4 {
			if err = q.Publish(t.Context(), "t", recs("deaf", 0, 3)); err == nil {
				break
			}
			if !errors.Is(err, queue.ErrUnavailable) {
				t.Fatal(err)
			}
		}
		if (err == nil) != replaced {
			t.Errorf("%s: %v after four tries, want a new channel: %v", kind, err, replaced)
		}
	}
}
