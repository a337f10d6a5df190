package servicebusqueue

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/queue/servicebusqueue/servicebustest"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// prepared gives a server with the topics orders and orders.dead, and a queue that was opened for them.
func prepared(t *testing.T, o servicebustest.QueueOptions, parameters string) (*servicebustest.Server, *Queue) {
	t.Helper()
	s := serve(t, servicebustest.Options{})
	for _, name := range []string{"orders", "orders.dead"} {
		if err := s.CreateQueue(name, o); err != nil {
			t.Fatal(err)
		}
	}
	c := parse(t, s.ConnectionString()+parameters)
	c.Topics, c.Timeout = []string{"orders"}, time.Second
	return s, open(t, c)
}

func holds(t *testing.T, s *servicebustest.Server, topic string, want ...string) {
	t.Helper()
	if got := s.Messages(topic); !slices.Equal(got, want) {
		t.Fatalf("%s holds %q, want %q", topic, got, want)
	}
}

// once makes a verdict for the first transfer only.
func once(v servicebustest.Verdict) func(servicebustest.Sent) servicebustest.Verdict {
	var done atomic.Bool
	return func(servicebustest.Sent) servicebustest.Verdict {
		if done.Swap(true) {
			return servicebustest.Verdict{}
		}
		return v
	}
}

// TestLostAnswer: what was stored before the answer was lost is not there twice, whoever tries again.
func TestLostAnswer(t *testing.T) {
	for name, v := range map[string]servicebustest.Verdict{
		"cut after storing":  {CutAfter: true},
		"cut before storing": {CutBefore: true},
		"no answer":          {Silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, q := prepared(t, servicebustest.QueueOptions{DuplicateDetection: time.Minute}, "")
			s.OnSend(once(v))
			err := q.Publish(within(t), "orders", recs("a", "b"))
			if v.Silent {
				if !errors.Is(err, queue.ErrUnavailable) {
					t.Fatalf("publish without an answer: %v, want ErrUnavailable", err)
				}
				err = q.Publish(within(t), "orders", recs("a", "b"))
			}
			if err != nil { // the SDK tries a second time by itself
				t.Fatal(err)
			}
			if err := q.Publish(within(t), "orders", recs("c")); err != nil {
				t.Fatal(err)
			}
			holds(t, s, "orders", "a", "b", "c")
		})
	}
}

// TestRefused: what the broker says against a publish, and what is made of it.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		condition string
		want      error
		permanent bool
		words     string
	}{
		{servicebustest.ServerBusy, queue.ErrUnavailable, false, "throttling"},
		{servicebustest.QuotaExceeded, queue.ErrFull, false, "maximum size"},
		{servicebustest.InternalError, queue.ErrUnavailable, false, ""},
		{servicebustest.Timeout, queue.ErrUnavailable, false, ""},
		{servicebustest.NotFound, queue.ErrNoTopic, true, "create=true"},
		{servicebustest.Unauthorized, nil, true, "Azure Service Bus Data Sender"},
		{servicebustest.NotAllowed, nil, true, "session=key"},
		{"com.microsoft:entity-disabled", queue.ErrUnavailable, false, "status to active"},
	} {
		for _, how := range []string{"reject", "detach"} {
			t.Run(c.condition+" by "+how, func(t *testing.T) {
				s, q := prepared(t, servicebustest.QueueOptions{}, "")
				said := &servicebustest.Error{Condition: c.condition, Description: "for a test"}
				v := servicebustest.Verdict{Reject: said}
				if how == "detach" {
					v = servicebustest.Verdict{Detach: said}
				}
				s.OnSend(func(servicebustest.Sent) servicebustest.Verdict { return v })
				err := q.Publish(within(t), "orders", recs("a", "b"))
				if err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Fatalf("error %v, want %v", err, c.want)
				}
				if retry.IsPermanent(err) != c.permanent || !strings.Contains(err.Error(), c.words) {
					t.Fatalf("error %v: permanent %v, want %v and %q in it", err, retry.IsPermanent(err), c.permanent, c.words)
				}
				s.OnSend(nil)
				if err := q.Publish(within(t), "orders", recs("a", "b")); err != nil {
					t.Fatalf("publish once it has cleared: %v", err)
				}
				holds(t, s, "orders", "a", "b")
			})
		}
	}
}

// TestStopsInTheMiddle: of several messages the first is durable, and the error says how many records that are.
func TestStopsInTheMiddle(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{DuplicateDetection: time.Minute}, "")
	var batch []record.Record
	var ids []string
	for i := range 10 {
		r := rec(fmt.Sprint(i))
		r.Data = []byte(`"` + strings.Repeat("x", 60<<10) + `"`) // four to a message
		batch, ids = append(batch, r), append(ids, r.ID)
	}
	var calls atomic.Int32
	s.OnSend(func(sent servicebustest.Sent) servicebustest.Verdict {
		if calls.Add(1) > 1 {
			return servicebustest.Verdict{Reject: &servicebustest.Error{Condition: servicebustest.QuotaExceeded}}
		}
		return servicebustest.Verdict{}
	})
	err := q.Publish(within(t), "orders", batch)
	var part *queue.PartError
	if !errors.As(err, &part) || part.Done != 4 || !errors.Is(err, queue.ErrFull) {
		t.Fatalf("error %v, want a PartError of 4 with ErrFull", err)
	}
	holds(t, s, "orders", ids[:4]...)
	s.OnSend(nil)
	if err := q.Publish(within(t), "orders", batch[part.Done:]); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "orders", ids...)
}

// TestFull: a queue at its quota refuses, and takes again when there is room.
func TestFull(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{MaxBytes: 900}, "")
	if err := q.Publish(within(t), "orders", recs("a")); err != nil {
		t.Fatal(err)
	}
	large := rec("b")
	large.Data = []byte(`"` + strings.Repeat("x", 800) + `"`)
	if err := q.Publish(within(t), "orders", []record.Record{large}); !errors.Is(err, queue.ErrFull) || retry.IsPermanent(err) {
		t.Fatalf("publish to a full queue: %v", err)
	}
	d, err := q.Receive(within(t), "orders", 1, time.Second)
	if err != nil || len(d) != 1 {
		t.Fatalf("received %d, %v", len(d), err)
	}
	if err := q.Ack(within(t), "orders", d[0].Receipt); err != nil {
		t.Fatal(err)
	}
	if err := q.Publish(within(t), "orders", []record.Record{large}); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "orders", "b")
}

// TestWindow: a repetition within the window is dropped. One that comes later is there twice, and the writer has said
// that this is possible.
func TestWindow(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{DuplicateDetection: 20 * time.Second}, "")
	if i := q.Info(); i.Tier != queue.Deduplicated || i.Window != 20*time.Second {
		t.Fatalf("tier %s, window %s", i.Tier, i.Window)
	}
	store := queuetest.NewCursors()
	full := queue.WithCursors(q, store)
	// A run that publishes and dies before its cursor is written.
	if _, err := full.OpenWriter(within(t), "p", "orders"); err != nil {
		t.Fatal(err)
	}
	if err := q.Publish(within(t), "orders", recs("a")); err != nil {
		t.Fatal(err)
	}
	commit := func() string {
		t.Helper()
		w, err := full.OpenWriter(within(t), "p", "orders")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(within(t), queue.Batch{Records: recs("a")}, record.Cursor("c")); err != nil {
			t.Fatal(err)
		}
		return w.(queue.Warner).Warning()
	}
	if warning := commit(); warning != "" {
		t.Fatalf("warning within the window: %q", warning)
	}
	holds(t, s, "orders", "a")
	s.Advance(21 * time.Second)
	age(store, "orders/p", 21*time.Second)
	if warning := commit(); !strings.Contains(warning, "duplicate possible") {
		t.Fatalf("warning after the window: %q", warning)
	}
	holds(t, s, "orders", "a", "a")
}

// TestLockEnds: what is not acknowledged comes again in its place, and the old receipt is worth nothing.
func TestLockEnds(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{Lock: 30 * time.Second}, "")
	if err := q.Publish(within(t), "orders", recs("a", "b", "c")); err != nil {
		t.Fatal(err)
	}
	d, err := q.Receive(within(t), "orders", 2, time.Second)
	if err != nil || len(d) != 2 {
		t.Fatalf("received %d, %v", len(d), err)
	}
	s.Advance(31 * time.Second)
	if err := q.Ack(within(t), "orders", d[0].Receipt); !errors.Is(err, queue.ErrReceipt) {
		t.Fatalf("ack after the lock has ended: %v", err)
	}
	again, err := q.Receive(within(t), "orders", 3, time.Second)
	if err != nil || len(again) != 3 || again[0].ID != "a" || again[1].ID != "b" || again[2].ID != "c" || again[0].Attempt != 2 {
		t.Fatalf("received again: %+v, %v", again, err)
	}
}

// TestSessionLock: a session comes again when its lock has ended, in order, and its old receipts are worth nothing.
func TestSessionLock(t *testing.T) {
	s := serve(t, servicebustest.Options{})
	q := open(t, parse(t, s.ConnectionString()+"?create=true&session=pipeline"))
	if err := q.Publish(within(t), "orders", recs("a", "b", "c")); err != nil {
		t.Fatal(err)
	}
	first, err := q.Receive(within(t), "orders", 2, time.Second)
	if err != nil || len(first) != 2 {
		t.Fatalf("received %d, %v", len(first), err)
	}
	if err := q.Ack(within(t), "orders", first[0].Receipt); err != nil {
		t.Fatal(err)
	}
	s.Advance(31 * time.Second)
	again, err := q.Receive(within(t), "orders", 3, 5*time.Second)
	if err != nil || len(again) != 2 || again[0].ID != "b" || again[1].ID != "c" || again[0].Attempt != 2 {
		t.Fatalf("received again: %+v, %v", again, err)
	}
	short, cancel := context.WithTimeout(within(t), time.Second) // the SDK takes its time over a session that is lost
	defer cancel()
	if err := q.Ack(short, "orders", first[1].Receipt); err == nil {
		t.Fatal("a receipt of the lock before was good")
	}
	if err := q.Ack(within(t), "orders", again[0].Receipt, again[1].Receipt); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "orders")
}

// TestReceiptOutlivesConnection: a lock is not the connection's, so that an acknowledgement can be said after it.
func TestReceiptOutlivesConnection(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{}, "")
	if err := q.Publish(within(t), "orders", recs("a", "b")); err != nil {
		t.Fatal(err)
	}
	d, err := q.Receive(within(t), "orders", 2, time.Second)
	if err != nil || len(d) != 2 {
		t.Fatalf("received %d, %v", len(d), err)
	}
	s.CutConnections()
	for end := time.Now().Add(10 * time.Second); ; {
		err := q.Ack(within(t), "orders", d[0].Receipt, d[1].Receipt)
		if err == nil {
			break
		}
		if time.Now().After(end) || !errors.Is(err, queue.ErrUnavailable) && !errors.Is(err, queue.ErrReceipt) {
			t.Fatal(err)
		}
	}
	holds(t, s, "orders")
}

// TestOwnDeadLetters: a record that is given back too often ends in Service Bus's own dead-letter queue.
func TestOwnDeadLetters(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{MaxDeliveries: 2}, "")
	if err := q.Publish(within(t), "orders", recs("a")); err != nil {
		t.Fatal(err)
	}
	for attempt := 1; attempt <= 2; attempt++ {
		d, err := q.Receive(within(t), "orders", 1, time.Second)
		if err != nil || len(d) != 1 || d[0].Attempt != attempt {
			t.Fatalf("attempt %d: %+v, %v", attempt, d, err)
		}
		if err := q.Nack(within(t), "orders", d[0].Receipt); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, s, "orders")
	holds(t, s, "orders/$DeadLetterQueue", "a")
}

// TestUnreachable: nobody there is an error that may clear, within the time given, and Open says so.
func TestUnreachable(t *testing.T) {
	s := serve(t, servicebustest.Options{})
	c := parse(t, s.ConnectionString())
	c.Timeout = time.Second
	q := open(t, c)
	s.Stop()
	begin := time.Now()
	if _, err := Open(within(t), c); !errors.Is(err, queue.ErrUnavailable) || retry.IsPermanent(err) {
		t.Fatalf("open without a broker: %v", err)
	}
	if err := q.Ping(within(t)); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("ping without a broker: %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Fatalf("it took %s to say so", took)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := q.Ping(within(t)); err != nil {
		t.Fatalf("ping once it is back: %v", err)
	}
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	if err := q.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("ping under a cancelled context: %v", err)
	}
}

// TestCloseEndsReceive: who waits for a record is told that the queue is closed, and Close does not wait for the record.
func TestCloseEndsReceive(t *testing.T) {
	s := serve(t, servicebustest.Options{})
	if err := s.CreateQueue("orders", servicebustest.QueueOptions{}); err != nil {
		t.Fatal(err)
	}
	q := open(t, parse(t, s.ConnectionString()))
	if _, err := q.Receive(within(t), "orders", 1, 0); err != nil { // makes the link
		t.Fatal(err)
	}
	begin := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := q.Receive(within(t), "orders", 1, 15*time.Second)
		done <- err
	}()
	for !q.receiving("orders") {
		runtime.Gosched()
	}
	if err := q.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, queue.ErrClosed) {
		t.Fatalf("receive on a queue that was closed meanwhile: %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Fatalf("closing waited %s for a record", took)
	}
}

// receiving tells whether a call receives from the topic.
func (q *Queue) receiving(topic string) bool {
	c, err := q.conn()
	return err == nil && len(c.receiver(topic).turn) > 0
}

// TestSenderInUse: a link is not closed under a call that may be mending it, and nobody comes to one that is being closed.
func TestSenderInUse(t *testing.T) {
	server := serve(t, servicebustest.Options{})
	c := parse(t, server.ConnectionString())
	c.Create = true
	q := open(t, c)
	if err := q.Publish(within(t), "inuse", recs("a")); err != nil {
		t.Fatal(err)
	}
	conn, err := q.conn()
	if err != nil {
		t.Fatal(err)
	}
	s, err := conn.sender("inuse")
	if err != nil {
		t.Fatal(err)
	}
	inside, let := make(chan struct{}), make(chan struct{})
	used, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.use(within(t), func() (sent, error) {
			close(inside)
			<-let
			return sent{}, s.SendMessage(within(t), q.encode("inuse", &record.Record{ID: "b", Data: []byte("1")}), nil)
		})
		used <- err
	}()
	<-inside
	if !conn.drop("inuse", s) {
		t.Fatal("it was not there to be dropped")
	}
	go func() { closed <- s.close(within(t)) }()
	for s.calls.Enter() == nil { // until it is being closed
		s.calls.Leave()
		runtime.Gosched()
	}
	if _, err := s.use(within(t), func() (sent, error) { return sent{}, errors.New("used") }); !errors.Is(err, errClosing) {
		t.Errorf("a use of a link that is being closed: %v", err)
	}
	close(let)
	if err := <-used; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	if err := q.Publish(within(t), "inuse", recs("c")); err != nil {
		t.Errorf("publish by the next link: %v", err)
	}
	if got := server.Messages("inuse"); len(got) != 3 {
		t.Errorf("messages %q, want 3", got)
	}
	if err := conn.close(within(t)); err != nil {
		t.Error(err)
	}
	if _, err := conn.sender("inuse"); !errors.Is(err, errClosing) {
		t.Errorf("a link on a connection that is being closed: %v", err)
	}
}
