package sqsqueue

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

func TestBrowseIsNotPossible(t *testing.T) {
	q := open(t, parse(t, newFake(t).url("")))
	if err := q.Prepare(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Browse(t.Context(), "orders", 0, 1); !errors.Is(err, errors.ErrUnsupported) || !retry.IsPermanent(err) {
		t.Errorf("error %v", err)
	}
}

// TestReceiptErrors: what SQS says of single receipts is told from its failures.
func TestReceiptErrors(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("&fifo=false")))
	if err := q.Publish(t.Context(), "orders", numbered(0, 25)); err != nil {
		t.Fatal(err)
	}
	d, err := q.Receive(t.Context(), "orders", 25, 0)
	if err != nil || len(d) != 25 {
		t.Fatalf("%d records, %v", len(d), err)
	}
	var all []string
	for i := range d {
		all = append(all, d[i].Receipt)
	}
	foreign := receipt("orders", "not of SQS")
	if err := q.Ack(t.Context(), "orders", append([]string{foreign}, all[:20]...)...); !errors.Is(err, queue.ErrReceipt) || !strings.Contains(err.Error(), "ReceiptHandleIsInvalid") {
		t.Errorf("ack: %v", err)
	}
	if n := len(f.bodies("orders")); n != 5 {
		t.Errorf("%d records are left, want 5", n)
	}
	if err := q.Nack(t.Context(), "orders", all[0]); !errors.Is(err, queue.ErrReceipt) {
		t.Errorf("nack of what was acknowledged: %v", err)
	}
	f.on = func(op string, _ []byte) answerTo {
		return answerTo{status: 503, code: "ServiceUnavailable"}
	}
	if err := q.Ack(t.Context(), "orders", all[20]); errors.Is(err, queue.ErrReceipt) || !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("ack while SQS is away: %v", err)
	}
	if err := q.Nack(t.Context(), "orders", all[20]); errors.Is(err, queue.ErrReceipt) || !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("nack while SQS is away: %v", err)
	}
}

// TestReceiveKeepsWhatItTook: an error after the first ten does not lose them.
func TestReceiveKeepsWhatItTook(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("&fifo=false")))
	if err := q.Publish(t.Context(), "orders", numbered(0, 25)); err != nil {
		t.Fatal(err)
	}
	n := 0
	f.on = func(op string, _ []byte) answerTo {
		if n++; op == "ReceiveMessage" && n > 1 {
			return answerTo{status: 403, code: "OverLimit"}
		}
		return answerTo{}
	}
	d, err := q.Receive(t.Context(), "orders", 25, 0)
	if err != nil || len(d) != 10 {
		t.Errorf("%d records, %v", len(d), err)
	}
	if d, err = q.Receive(t.Context(), "orders", 25, 0); !errors.Is(err, queue.ErrFull) || len(d) != 0 {
		t.Errorf("%d records, %v", len(d), err)
	}
}

// TestReceiveIsBounded: large records come by fewer than were asked for.
func TestReceiveIsBounded(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("&fifo=false")))
	large := strings.Repeat("x", 1_000_000)
	f.queues["orders"] = &fakeQueue{name: "orders"}
	for range 50 {
		f.queues["orders"].messages = append(f.queues["orders"].messages, &fakeMessage{fakeEntry: fakeEntry{MessageBody: large}})
	}
	d, err := q.Receive(t.Context(), "orders", 50, 0)
	if err != nil || len(d) < receiveBytes/len(large) || len(d) > receiveBytes/len(large)+maxEntries {
		t.Errorf("%d records of 1 MB, %v", len(d), err)
	}
}

// TestReceiveEndsWithContext: it does not ask SQS to wait longer than its caller does, or records would be on their
// way to nobody.
func TestReceiveEndsWithContext(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("")))
	if err := q.Prepare(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1300*time.Millisecond)
	defer cancel()
	broken := false
	f.on = func(op string, body []byte) answerTo {
		broken = broken || strings.Contains(string(body), `"WaitTimeSeconds":2`)
		return answerTo{}
	}
	begin := time.Now()
	if _, err := q.Receive(ctx, "orders", 1, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if d := time.Since(begin); d < time.Second || d > 5*time.Second || broken {
		t.Errorf("it took %s; SQS was asked to wait longer: %v", d, broken)
	}
	gone, stop := context.WithCancel(t.Context())
	stop()
	if _, err := q.Receive(gone, "orders", 1, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
