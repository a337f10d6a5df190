package natsqueue

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/embedded"
	"ferry/internal/queue"
)

// TestReceiptOutlivesNoDelivery: a server that was restarted does not deliver again while a receipt from before is good,
// although it knows only the second of that delivery.
func TestReceiptOutlivesNoDelivery(t *testing.T) {
	s := serve(t, embedded.Options{})
	c := embeddedConfig(s)
	c.Redelivery = redelivery
	q := open(t, c)
	if err := q.Publish(t.Context(), "orders", payload(1, 100)); err != nil {
		t.Fatal(err)
	}
	receive := func() queue.Delivery {
		t.Helper()
		got, err := q.Receive(t.Context(), "orders", 1, 10*time.Second)
		for errors.Is(err, queue.ErrUnavailable) && t.Context().Err() == nil { // until it is connected again
			time.Sleep(10 * time.Millisecond)
			got, err = q.Receive(t.Context(), "orders", 1, 10*time.Second)
		}
		if err != nil || len(got) != 1 {
			t.Fatalf("%d records, %v", len(got), err)
		}
		return got[0]
	}
	early := receive()
	time.Sleep(200 * time.Millisecond) // a server writes what its readers have done in the background
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := receive()
	if late.Attempt != 2 {
		t.Fatalf("attempt %d after the restart", late.Attempt)
	}
	if err := q.Ack(t.Context(), "orders", early.Receipt); !errors.Is(err, queue.ErrReceipt) {
		t.Errorf("ack with the receipt from before: %v", err)
	}
	if err := q.Ack(t.Context(), "orders", late.Receipt); err != nil {
		t.Error(err)
	}
}

// TestReceiptsGoByTheServersClock: what the clocks of instances say does not count.
func TestReceiptsGoByTheServersClock(t *testing.T) {
	const wait = 30*time.Second + grace
	delivered := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tp, err := parseTopic("orders")
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []time.Duration{0, -time.Hour, time.Hour} { // the instance's clock
		clock := clock{server: delivered.Add(-time.Second), here: delivered.Add(wrong - time.Second)}
		got := []queue.Delivery{{Receipt: "$JS.ACK.ferry-orders.ferry.1.2.3.4.5"}}
		clock.stamp(got, delivered.Add(wrong))
		r, subject, ok := parseReceipt(got[0].Receipt, tp)
		if !ok || !strings.HasPrefix(subject, "$JS.ACK.") {
			t.Fatalf("%q is no receipt", got[0].Receipt)
		}
		for after, want := range map[time.Duration]bool{
			0: true, 29 * time.Second: true, 30 * time.Second: false, wait: false, -time.Second: true,
		} {
			info := &jetstream.ConsumerInfo{
				TimeStamp: delivered.Add(after), Config: jetstream.ConsumerConfig{AckWait: wait},
				Delivered: jetstream.SequenceInfo{Stream: 2}, NumAckPending: 1,
			}
			if r.good(info) != want {
				t.Errorf("%s after the delivery a receipt is good: %v", after, !want)
			}
		}
	}
}

// TestAnsweredIsBounded: receipts are remembered while they would be good, and not for ever.
func TestAnsweredIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const good = 30 * time.Second
		var a answered
		for i := range uint64(1000) {
			a.add(receipt{seq: i}, good)
			time.Sleep(time.Second)
			if back := uint64(29); i >= back && !a.has(receipt{seq: i - back}) {
				t.Fatalf("the receipt of %d s ago is forgotten", back)
			}
		}
		if n := len(a.young) + len(a.old); n > 70 {
			t.Errorf("%d are remembered", n)
		}
	})
}
