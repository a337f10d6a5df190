package queuetest

import (
	"errors"
	"slices"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// receive takes exactly n records, in several calls if need be.
func (s *suite) receive(q queue.Queue, topic string, n int) []queue.Delivery {
	s.Helper()
	if s.h.Lacks.Receive {
		s.Skip("declared in Lacks: records of this broker can only be browsed")
	}
	var got []queue.Delivery
	for len(got) < n {
		d, err := q.Receive(s.ctx(), topic, n-len(got), 5*time.Second)
		s.must(err)
		if len(d) == 0 {
			s.Fatalf("received %d records of %s, want %d", len(got), topic, n)
		}
		if len(got)+len(d) > n {
			s.Fatalf("received %d records, asked for %d", len(d), n-len(got))
		}
		got = append(got, d...)
	}
	return got
}

func (s *suite) nothing(q queue.Queue, topic string, wait time.Duration) {
	s.Helper()
	d, err := q.Receive(s.ctx(), topic, 10, wait)
	s.must(err)
	if len(d) != 0 {
		s.Fatalf("received %d records of %s, the first with id %s for the %d. time; want none", len(d), topic, d[0].ID, d[0].Attempt)
	}
}

func receiptsOf(d []queue.Delivery) []string {
	var all []string
	for i := range d {
		all = append(all, d[i].Receipt)
	}
	return all
}

func recordsOf(d []queue.Delivery) []record.Record {
	var all []record.Record
	for i := range d {
		all = append(all, d[i].Record)
	}
	return all
}

func receiveAndAck(s *suite) {
	if s.h.Lacks.Ahead {
		s.Skip("declared in Lacks: this broker hands nothing out behind an unacknowledged record")
	}
	q, topic := s.open(), name("receive")
	want := recs(topic, 0, 25)
	s.must(q.Publish(s.ctx(), topic, want))
	got := s.receive(q, topic, 10)
	got = append(got, s.receive(q, topic, 15)...)
	for i, r := range s.arranged(recordsOf(got), want) {
		s.same(r, want[i], "received record")
		if got[i].Attempt != 1 {
			s.Fatalf("record %d: attempt %d at its first delivery", i, got[i].Attempt)
		}
		if got[i].Receipt == "" {
			s.Fatalf("record %d has no receipt", i)
		}
	}
	s.nothing(q, topic, 20*time.Millisecond) // all are taken
	s.must(q.Ack(s.ctx(), topic, receiptsOf(got)...))
	s.must(q.Ack(s.ctx(), topic))
	if r := s.h.Redelivery; r > 0 && r <= 10*time.Second {
		s.nothing(q, topic, r+r/2)
	}
	s.must(q.Publish(s.ctx(), topic, recs(topic, 25, 1)))
	s.same(s.receive(q, topic, 1)[0].Record, rec(topic, 25), "the next record")
}

func receiveWaits(s *suite) {
	q, topic := s.open(), name("waits")
	s.must(q.Publish(s.ctx(), topic, recs(topic, 0, 1)))
	s.must(q.Ack(s.ctx(), topic, s.receive(q, topic, 1)[0].Receipt))

	begin := time.Now()
	s.nothing(q, topic, 0)
	if d := time.Since(begin); d > 3*time.Second {
		s.Fatalf("a receive without waiting took %s", d)
	}
	begin = time.Now()
	s.nothing(q, topic, 150*time.Millisecond)
	if d := time.Since(begin); d < 100*time.Millisecond {
		s.Fatalf("a receive that may wait 150ms came back after %s with nothing", d)
	}
	go func() {
		pause(50 * time.Millisecond)
		_ = q.Publish(s.ctx(), topic, recs(topic, 1, 1)) // missed below if it fails
	}()
	begin = time.Now()
	d, err := q.Receive(s.ctx(), topic, 10, 10*time.Second)
	s.must(err)
	if len(d) != 1 || d[0].ID != rec(topic, 1).ID {
		s.Fatalf("received %d records, want the one published meanwhile", len(d))
	}
	if d := time.Since(begin); d > 5*time.Second {
		s.Fatalf("one record was there, yet the receive waited %s for more", d)
	}
}

func nack(s *suite) {
	q, topic := s.open(), name("nack")
	s.must(q.Publish(s.ctx(), topic, recs(topic, 0, 3)))
	first := s.receive(q, topic, 3)
	s.must(q.Nack(s.ctx(), topic, first[1].Receipt))
	s.must(q.Ack(s.ctx(), topic, first[0].Receipt, first[2].Receipt))
	begin := time.Now()
	again := s.receive(q, topic, 1)[0]
	s.same(again.Record, first[1].Record, "the record given back")
	if again.Attempt != 2 {
		s.Fatalf("attempt %d at the second delivery", again.Attempt)
	}
	if d := time.Since(begin); s.h.Redelivery > 2*time.Second && d > s.h.Redelivery/2 {
		s.Fatalf("the record came again after %s, not at once", d)
	}
	s.must(q.Ack(s.ctx(), topic, again.Receipt))
	s.nothing(q, topic, 20*time.Millisecond)
}

func redelivery(s *suite) {
	r := s.h.Redelivery
	if r == 0 || r > 10*time.Second {
		s.Skip("the redelivery time is too long to wait for")
	}
	q, topic := s.open(), name("again")
	s.must(q.Publish(s.ctx(), topic, recs(topic, 0, 2)))
	begin := time.Now()
	first := s.receive(q, topic, 2)
	s.must(q.Ack(s.ctx(), topic, first[0].Receipt))
	d, err := q.Receive(s.ctx(), topic, 2, 4*r+time.Second)
	s.must(err)
	if len(d) != 1 || d[0].ID != first[1].ID {
		s.Fatalf("%d records came again, want the one that was not acknowledged", len(d))
	}
	if d[0].Attempt < 2 {
		s.Fatalf("attempt %d at the second delivery", d[0].Attempt)
	}
	if t := time.Since(begin); t < r/2 {
		s.Fatalf("it came again after %s, long before %s", t, r)
	}
	s.must(q.Ack(s.ctx(), topic, d[0].Receipt))
}

func receiptsTravel(s *suite) {
	if s.h.Lacks.Travel {
		s.Skip("declared in Lacks: this broker takes a receipt only from the instance that received")
	}
	if s.h.Lacks.Ahead {
		s.Skip("declared in Lacks: this broker hands nothing out behind an unacknowledged record")
	}
	q, other, topic := s.open(), s.open(), name("travel")
	s.must(q.Publish(s.ctx(), topic, recs(topic, 0, 4)))
	here, there := s.receive(q, topic, 2), s.receive(other, topic, 2)
	want := recs(topic, 0, 4)
	for i, r := range s.arranged(recordsOf(append(slices.Clone(here), there...)), want) {
		s.same(r, want[i], "instances share what they receive")
	}
	s.must(other.Ack(s.ctx(), topic, receiptsOf(here)...))
	s.must(q.Nack(s.ctx(), topic, there[0].Receipt))
	s.must(q.Ack(s.ctx(), topic, there[1].Receipt))
	last := s.receive(other, topic, 1)[0]
	s.same(last.Record, there[0].Record, "the record given back by the other instance")
	s.must(q.Ack(s.ctx(), topic, last.Receipt))
}

func receipts(s *suite) {
	q, topic, elsewhere := s.open(), name("receipts"), name("elsewhere")
	s.must(q.Publish(s.ctx(), topic, recs(topic, 0, 2)))
	s.must(q.Publish(s.ctx(), elsewhere, recs(topic, 0, 1)))
	d := s.receive(q, topic, 2)
	for _, bad := range []string{"", "nonsense", "$JS.ACK.x.y.1.1.1.1.1", topic, d[0].Receipt + "0x", "a b", "*", ">"} {
		s.wantErr(q.Ack(s.ctx(), topic, bad), queue.ErrReceipt, "ack of "+bad)
		s.wantErr(q.Nack(s.ctx(), topic, bad), queue.ErrReceipt, "nack of "+bad)
	}
	s.wantErr(q.Ack(s.ctx(), elsewhere, d[0].Receipt), queue.ErrReceipt, "ack in another topic")
	// The good ones among bad ones are done with.
	s.wantErr(q.Ack(s.ctx(), topic, "nonsense", d[0].Receipt), queue.ErrReceipt, "ack of a good and a bad one")
	if !s.h.Lacks.Stats {
		s.waiting(q, topic, 1)
	}
	s.must(q.Ack(s.ctx(), topic, d[1].Receipt))
	if !s.h.Lacks.OldReceipts {
		s.wantErr(q.Ack(s.ctx(), topic, d[1].Receipt), queue.ErrReceipt, "second ack")
		s.wantErr(q.Nack(s.ctx(), topic, d[0].Receipt), queue.ErrReceipt, "nack after the ack")
	}
	s.nothing(q, topic, 20*time.Millisecond)
}

// outdatedReceipts holds every queue to what POST …/ack promises: a receipt from before a later delivery is refused, and
// does nothing to that delivery, on whichever instance.
func outdatedReceipts(s *suite) {
	if s.h.Lacks.OldReceipts {
		s.Skip("declared in Lacks: an outdated receipt is not recognised")
	}
	q, other, topic := s.open(), s.open(), name("outdated")
	s.must(q.Publish(s.ctx(), topic, recs(topic, 0, 1)))
	elsewhere := []queue.Queue{q}
	if !s.h.Lacks.Travel {
		elsewhere = append(elsewhere, other)
	}
	deliver := func() queue.Delivery {
		s.Helper()
		d := s.receive(q, topic, 1)[0]
		s.same(d.Record, rec(topic, 0), "the record delivered again")
		return d
	}
	refused := func(old queue.Delivery, on []queue.Queue) {
		s.Helper()
		for _, q := range on {
			s.wantErr(q.Nack(s.ctx(), topic, old.Receipt), queue.ErrReceipt, "nack with an outdated receipt")
			s.wantErr(q.Ack(s.ctx(), topic, old.Receipt), queue.ErrReceipt, "ack with an outdated receipt")
		}
		s.nothing(q, topic, 20*time.Millisecond)
	}
	d := deliver()
	if r := s.h.Redelivery; r > 0 && r <= 10*time.Second {
		late := d
		pause(r)
		d = deliver() // somebody else works on it from here on
		refused(late, elsewhere)
	}
	// The later delivery is as good as if nothing had been said: it can be given back,
	old := d
	s.must(q.Nack(s.ctx(), topic, old.Receipt))
	d = deliver()
	if s.h.Lacks.GivenBack {
		elsewhere = elsewhere[:1]
	}
	refused(old, elsewhere)
	// and acknowledged.
	s.must(q.Ack(s.ctx(), topic, d.Receipt))
	s.nothing(q, topic, 20*time.Millisecond)
}

func (s *suite) waiting(q queue.Queue, topic string, want int64) {
	s.Helper()
	st, err := q.Stats(s.ctx(), topic)
	s.must(err)
	if st.Waiting != want {
		s.Fatalf("%d records of %s wait, want %d", st.Waiting, topic, want)
	}
}

func browse(s *suite) {
	if s.h.Lacks.Browse {
		s.Skip("this broker cannot browse")
	}
	q, topic := s.open(), name("browse")
	// Records lie between other topics' records, dead letters and cursors.
	w, v := s.writer(q, "p", topic), s.writer(q, "other", topic)
	var want []record.Record
	for i := range 10 {
		batch := recs(topic, len(want), 5)
		want = append(want, batch...)
		dead := recs("dead", i*20, []int{0, 20, 1}[i%3])
		s.must(w.Commit(s.ctx(), queue.Batch{Records: batch, Dead: dead}, record.Cursor("w")))
		s.must(v.Commit(s.ctx(), queue.Batch{Dead: dead}, record.Cursor("v")))
		s.must(q.Publish(s.ctx(), topic, recs(topic, len(want), 1)))
		want = append(want, rec(topic, len(want)))
	}
	n := len(want)
	look := func(from int64, max int, want []record.Record) []queue.Stored {
		s.Helper()
		got, err := q.Browse(s.ctx(), topic, from, max)
		s.must(err)
		if len(got) != len(want) {
			s.Fatalf("browse from %d, at most %d: %d records, want %d", from, max, len(got), len(want))
		}
		for i := range got {
			s.same(got[i].Record, want[i], "browsed record")
		}
		return got
	}
	all := look(0, n+10, want)
	look(0, 7, want[:7])
	look(0, 0, nil)
	look(all[0].Position, 3, want[:3])
	look(all[20].Position, 7, want[20:27])
	look(all[20].Position+1, 7, want[21:28])
	look(all[n-1].Position, 7, want[n-1:])
	look(all[n-1].Position+1, 7, nil)
	look(all[n-1].Position+1_000_000, 7, nil)
	for back := 1; back <= n; back++ {
		look(int64(-back), n, want[n-back:])
	}
	look(-20, 5, want[n-20:n-15])
	look(int64(-n-1), n, want)
	look(-1_000_000, n, want)
	look(0, n+10, want) // looking takes nothing
	if got := s.receive(q, topic, 1)[0]; got.ID != want[0].ID || got.Position != all[0].Position {
		s.Fatalf("received %s at %d after browsing, want the first record at %d", got.ID, got.Position, all[0].Position)
	}
}

func stats(s *suite) {
	q, topic := s.open(), name("stats")
	s.writer(q, "p", topic)
	if !s.h.Lacks.Stats {
		// Whether opening a writer makes the topic is the queue's choice.
		if st, err := q.Stats(s.ctx(), topic); err != nil && !errors.Is(err, queue.ErrNoTopic) || st != (queue.Stats{}) {
			s.Fatalf("stats of an empty topic: %+v, %v", st, err)
		}
	}
	s.must(q.Publish(s.ctx(), topic, recs(topic, 0, 10)))
	s.must(q.Publish(s.ctx(), queue.DeadTopic(topic), recs(topic, 0, 4)))
	topics, err := q.Topics(s.ctx())
	s.must(err)
	if !slices.IsSorted(topics) || !slices.Contains(topics, topic) || !slices.Contains(topics, queue.DeadTopic(topic)) {
		s.Fatalf("topics are %q, want them sorted and with %s and its dead letters", topics, topic)
	}
	if s.h.Lacks.Stats {
		return
	}
	s.waiting(q, topic, 10)
	d := s.receive(q, topic, 5)
	s.waiting(q, topic, 10)
	s.must(q.Ack(s.ctx(), topic, receiptsOf(d[:3])...))
	s.waiting(q, topic, 7)
	s.waiting(q, queue.DeadTopic(topic), 4)
	st, err := q.Stats(s.ctx(), topic)
	s.must(err)
	if st.Records < 7 || st.Records > 10 { // whether acknowledged records are kept is the broker's way
		s.Fatalf("%d records, want 10, or 7 where acknowledged ones go", st.Records)
	}
	if st.Bytes <= 0 {
		s.Fatalf("10 records weigh %d bytes", st.Bytes)
	}
	if !s.h.Lacks.Browse {
		all, err := q.Browse(s.ctx(), topic, 0, 100)
		s.must(err)
		if first, last := all[0].Position, all[len(all)-1].Position; st.First != first || st.Last != last {
			s.Fatalf("first and last are %d and %d, want %d and %d", st.First, st.Last, first, last)
		}
	}
}

func deadLetters(s *suite) {
	q, topic := s.open(), name("letters")
	s.must(q.Publish(s.ctx(), topic, recs(topic, 0, 1)))
	dead := queue.DeadTopic(topic)
	if _, err := q.Stats(s.ctx(), dead); err != nil && !s.h.Lacks.Stats {
		s.Fatalf("stats of dead letters before there are any: %v", err)
	}
	want := recs("dead", 0, 12)
	s.must(s.writer(q, "p", topic).Commit(s.ctx(), queue.Batch{Dead: want[:2]}, record.Cursor("c")))
	s.must(q.Publish(s.ctx(), dead, want[2:3])) // as a request does, which has no writer
	s.must(q.Publish(s.ctx(), dead, want[3:]))
	d := s.receive(q, dead, 2)
	if !s.h.Lacks.Order {
		s.same(d[0].Record, want[0], "received dead letter")
	}
	s.must(q.Ack(s.ctx(), dead, receiptsOf(d)...))
	if s.h.Lacks.Browse || s.h.Lacks.Kept {
		want = slices.DeleteFunc(want, func(r record.Record) bool { return r.ID == d[0].ID || r.ID == d[1].ID })
	}
	s.holds(q, dead, want)
	s.count(q, topic, 1)
}
