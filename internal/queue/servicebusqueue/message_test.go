package servicebusqueue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/queue/servicebusqueue/servicebustest"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// bare gives a client of the vendor's SDK, with nothing of ferry.
func bare(t testing.TB, s *servicebustest.Server) *azservicebus.Client {
	t.Helper()
	c, err := azservicebus.NewClientFromConnectionString(s.ConnectionString(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(within(t)) })
	return c
}

// TestWhatOthersSee: the message as any consumer with the SDK gets it.
func TestWhatOthersSee(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{}, "?partition=key")
	r := record.Record{ID: "id-1", Key: "k", Data: []byte(`{"a":1}`), Headers: []record.Header{
		{Name: record.HeaderContentType, Value: "application/json"},
		{Name: record.HeaderPipeline, Value: "p"},
		{Name: "cloudEvents:type", Value: "t"},
	}}
	if err := q.Publish(within(t), "orders", []record.Record{r}); err != nil {
		t.Fatal(err)
	}
	receiver, err := bare(t, s).NewReceiverForQueue("orders", nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := receiver.ReceiveMessages(within(t), 1, nil)
	if err != nil || len(all) != 1 {
		t.Fatalf("received %d, %v", len(all), err)
	}
	m := all[0]
	got := fmt.Sprint(m.MessageID, *m.ContentType, *m.PartitionKey, m.SessionID == nil, string(m.Body), m.ApplicationProperties)
	want := fmt.Sprint("id-1", "application/json", "k", true, `{"a":1}`, map[string]any{
		"ferry-id": "id-1", "ferry-key": "k", record.HeaderPipeline: "p", "cloudEvents:type": "t",
	})
	if got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

// TestOthersMessages: what somebody else has sent can be read too, whatever it is made of.
func TestOthersMessages(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{}, "")
	sender, err := bare(t, s).NewSender("orders", nil)
	if err != nil {
		t.Fatal(err)
	}
	id := "x"
	for _, b := range []azservicebus.AMQPAnnotatedMessageBody{
		{Value: "text"}, {Data: [][]byte{[]byte("in "), []byte("parts")}}, {Value: []byte("bytes")},
	} {
		err := sender.SendAMQPAnnotatedMessage(within(t), &azservicebus.AMQPAnnotatedMessage{
			Body: b, Properties: &azservicebus.AMQPAnnotatedMessageProperties{MessageID: id},
			ApplicationProperties: map[string]any{"n": int64(7), "ok": true},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := q.Browse(within(t), "orders", 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var data []string
	for _, r := range all {
		data = append(data, string(r.Data))
		if r.ID != "x" || r.Header("n") != "7" || r.Header("ok") != "true" {
			t.Errorf("id %q, headers %v", r.ID, r.Headers)
		}
	}
	if !slices.Equal(data, []string{"text", "in parts", "bytes"}) {
		t.Fatalf("data %q", data)
	}
}

// TestLongIDs: what is over Service Bus's 128 characters is replaced by a digest there, and comes back whole.
func TestLongIDs(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{DuplicateDetection: time.Minute}, "?partition=key")
	long := rec(strings.Repeat("i", 200))
	long.Key = strings.Repeat("k", 200)
	other := long
	other.ID = strings.Repeat("i", 201)
	for range 2 {
		if err := q.Publish(within(t), "orders", []record.Record{long, other}); err != nil {
			t.Fatal(err)
		}
	}
	ids := s.Messages("orders")
	if len(ids) != 2 || len(ids[0]) > idMax || ids[0] == ids[1] {
		t.Fatalf("message ids %q", ids)
	}
	all, err := q.Browse(within(t), "orders", 0, 10)
	if err != nil || len(all) != 2 || all[0].ID != long.ID || all[0].Key != long.Key || all[1].ID != other.ID {
		t.Fatalf("browsed %+v, %v", all, err)
	}
}

// TestWeigh: the estimate is never below what the SDK encodes, and not far above it.
func TestWeigh(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{}, "?partition=key")
	r := record.Record{ID: strings.Repeat("i", 32), Key: "key", Data: []byte(`1`)}
	for i := range 300 {
		var sent int
		s.OnSend(func(m servicebustest.Sent) servicebustest.Verdict { sent = m.Bytes; return servicebustest.Verdict{} })
		if err := q.Publish(within(t), "orders", []record.Record{r}); err != nil {
			t.Fatal(err)
		}
		total, _ := q.weigh("orders", &r)
		if slack := 150 + 8*len(r.Headers); total < sent || total > sent+slack {
			t.Fatalf("record with %d headers weighed at %d bytes, and %d were sent", len(r.Headers), total, sent)
		}
		if i%10 == 0 {
			r.Headers = append(r.Headers, record.Header{Name: fmt.Sprintf("header-%d", i), Value: strings.Repeat("v", i)})
		}
		r.Data = append(r.Data, strings.Repeat("1", i)...)
	}
}

// TestHeadersTooLarge: properties have a limit of their own.
func TestHeadersTooLarge(t *testing.T) {
	_, q := prepared(t, servicebustest.QueueOptions{}, "")
	r := rec("a")
	r.Headers = []record.Header{{Name: "h", Value: strings.Repeat("v", headerMax)}}
	var large *queue.TooLargeError
	if err := q.Publish(within(t), "orders", []record.Record{rec("b"), r}); !errors.As(err, &large) || large.Limit != headerMax {
		t.Fatalf("publish with large headers: %v", err)
	}
}

// TestRefusedBeforeItIsCommitted: a record that is too large by its headers alone is found before the others are sent.
func TestRefusedBeforeItIsCommitted(t *testing.T) {
	s, q := prepared(t, servicebustest.QueueOptions{}, "")
	w, err := queue.WithCursors(q, queuetest.NewCursors()).OpenWriter(within(t), "p", "orders")
	if err != nil {
		t.Fatal(err)
	}
	batch := recs("a", "b", "c")
	batch[1].Headers = []record.Header{{Name: "h", Value: strings.Repeat("v", headerMax)}}
	var failed *queue.BatchError
	if err := w.Commit(within(t), queue.Batch{Records: batch}, record.Cursor("c")); !errors.As(err, &failed) || failed.Failed[1] == nil {
		t.Fatalf("error %v", err)
	}
	holds(t, s, "orders")
	if err := w.Commit(within(t), queue.Batch{Records: slices.Delete(batch, 1, 2)}, record.Cursor("c")); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "orders", "a", "c")
}

// TestLanes: with session=key the records of one key are in order, whatever else is under way, and one session that is
// refused stops no other.
func TestLanes(t *testing.T) {
	s := serve(t, servicebustest.Options{})
	c := parse(t, s.ConnectionString()+"?create=true&session=key")
	q := open(t, c)
	if err := q.Prepare(within(t), "orders"); err != nil {
		t.Fatal(err)
	}
	var batch []record.Record
	for i := range 200 {
		r := rec(fmt.Sprintf("%03d", i))
		if i%8 > 0 {
			r.Key = fmt.Sprint("key-", i%8)
		}
		batch = append(batch, r)
	}
	full := &servicebustest.Error{Condition: servicebustest.QuotaExceeded}
	s.OnSend(func(sent servicebustest.Sent) servicebustest.Verdict {
		if slices.Contains(sent.IDs, "003") {
			return servicebustest.Verdict{Reject: full}
		}
		return servicebustest.Verdict{}
	})
	err := q.Publish(within(t), "orders", batch)
	var part *queue.PartError
	if !errors.As(err, &part) || part.Done != 3 || !errors.Is(err, queue.ErrFull) || retry.IsPermanent(err) {
		t.Fatalf("error %v, want a PartError of 3", err)
	}
	s.OnSend(nil)
	if err := q.Publish(within(t), "orders", batch[part.Done:]); err != nil {
		t.Fatal(err)
	}
	client := bare(t, s)
	seen := 0
	for n := range 8 {
		session := noSession
		if n > 0 {
			session = fmt.Sprint("key-", n)
		}
		r, err := client.AcceptSessionForQueue(within(t), "orders", session, nil)
		if err != nil {
			t.Fatal(err)
		}
		all, err := r.ReceiveMessages(within(t), 100, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range all {
			if want := fmt.Sprintf("%03d", n+8*i); m.MessageID != want {
				t.Fatalf("session %s: record %d is %s, want %s", session, i, m.MessageID, want)
			}
			seen++
		}
	}
	if seen != len(batch) {
		t.Fatalf("%d records, want %d: the repetition was not recognised", seen, len(batch))
	}
}
