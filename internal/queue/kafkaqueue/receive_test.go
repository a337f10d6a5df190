package kafkaqueue

import (
	"testing"
	"time"

	"ferry/internal/queue"
)

// take receives until nothing comes any more.
func takeAll(t *testing.T, q *Queue, topic string, max int) []queue.Delivery {
	t.Helper()
	var all []queue.Delivery
	for {
		got, err := q.Receive(t.Context(), topic, max, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			return all
		}
		all = append(all, got...)
	}
}

// TestMaxOut: the book is bounded. What is out must be answered before there is more.
func TestMaxOut(t *testing.T) {
	c := fakeConfig(fake(t))
	c.Redelivery = time.Hour
	q := open(t, c)
	if err := q.Publish(t.Context(), "orders", records("p", 0, maxOut+100)); err != nil {
		t.Fatal(err)
	}
	got := takeAll(t, q, "orders", 3000)
	if len(got) != maxOut {
		t.Fatalf("%d records are out, want %d", len(got), maxOut)
	}
	var receipts []string
	for _, d := range got[100:] {
		receipts = append(receipts, d.Receipt)
	}
	if err := q.Ack(t.Context(), "orders", receipts...); err != nil {
		t.Fatal(err)
	}
	if st, err := q.Stats(t.Context(), "orders"); err != nil || st.Waiting != 200 {
		t.Fatalf("%d wait, %v; want 200", st.Waiting, err)
	}
	if got = takeAll(t, q, "orders", 3000); len(got) != 100 {
		t.Fatalf("%d records came after the others were acknowledged, want 100", len(got))
	}
}

// TestRetention: records that are out, or not yet, are taken away by the topic's retention.
func TestRetention(t *testing.T) {
	cluster := fake(t)
	c := fakeConfig(cluster)
	c.Redelivery = 50 * time.Millisecond
	q := open(t, c)
	if err := q.Publish(t.Context(), "orders", records("p", 0, 20)); err != nil {
		t.Fatal(err)
	}
	first, err := q.Receive(t.Context(), "orders", 10, time.Second)
	if err != nil || len(first) != 10 {
		t.Fatalf("%d records, %v", len(first), err)
	}
	if err := cluster.DeleteRecords("orders", 0, 15); err != nil {
		t.Fatal(err)
	}
	<-time.After(c.Redelivery)
	got, err := q.Receive(t.Context(), "orders", 100, time.Second)
	if err != nil || len(got) != 5 || got[0].ID != records("p", 15, 1)[0].ID || got[0].Attempt != 1 {
		t.Fatalf("%d records, %v; want the five that are kept", len(got), err)
	}
	if st, err := q.Stats(t.Context(), "orders"); err != nil || st.Records != 5 || st.Waiting != 5 {
		t.Fatalf("stats %+v, %v", st, err)
	}
}

// TestHorizon: a Browse that has to end early shows no record behind one that it left out.
func TestHorizon(t *testing.T) {
	_, q, batch := inTwo(t, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1)
	for i := range 6 {
		batch[i].Data = make([]byte, 1000)
	}
	if err := q.Publish(t.Context(), "orders", batch); err != nil {
		t.Fatal(err)
	}
	q.browseBytes = 4000 // two large records
	seen, last := 0, int64(-1)
	for {
		got, err := q.Browse(t.Context(), "orders", last+1, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			break
		}
		seen += len(got)
		last = got[len(got)-1].Position
	}
	if seen != len(batch) {
		t.Fatalf("%d records seen, want %d", seen, len(batch))
	}
}
