package redisqueue

import (
	"errors"
	"testing"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

func TestPrepare(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		ctx := t.Context()
		maker := open(t, c)
		c.Create = false
		q := open(t, c)
		want := "no such topic: orders, orders.dead, invoices.dead; make it in Redis (XGROUP CREATE orders ferry 0 MKSTREAM; " +
			"XGROUP CREATE {orders}.dead ferry 0 MKSTREAM; XGROUP CREATE {invoices}.dead ferry 0 MKSTREAM), or let ferry make it: create=true in the queue's URL"
		if err := bare(t, c.Hosts[0]).XGroupCreateMkStream(ctx, "invoices", "someone", "0").Err(); err != nil {
			t.Fatal(err)
		}
		err := q.Prepare(ctx, "orders", "invoices")
		if err == nil || err.Error() != want || !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) {
			t.Fatalf("error\n%v, want\n%s", err, want)
		}
		for what, err := range map[string]error{
			"publish":      q.Publish(ctx, "orders", payload(1, 10)),
			"open writer":  func() error { _, err := q.OpenWriter(ctx, "p", "orders"); return err }(),
			"dead letters": writerOf(t, q, "p", "invoices").Commit(ctx, queue.Batch{Records: payload(1, 10), Dead: payload(1, 10)}, record.Cursor("x")),
		} {
			if !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if n := count(t, q, "invoices"); n != 0 {
			t.Fatalf("%d records were written without their dead letter", n)
		}
		for range 2 {
			if err := maker.Prepare(ctx, "orders", "invoices"); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Prepare(ctx, "orders", "invoices"); err != nil {
			t.Fatal(err)
		}
		if topics, err := q.Topics(ctx); err != nil || len(topics) != 4 {
			t.Fatalf("topics %q, %v", topics, err)
		}
		if err := q.Publish(ctx, "orders", payload(1, 10)); err != nil {
			t.Fatal(err)
		}
		if d, err := q.Receive(ctx, "orders", 5, 0); err != nil || len(d) != 1 {
			t.Fatalf("%d records, %v", len(d), err)
		}
		if err := q.Prepare(ctx, "a b"); err == nil || !retry.IsPermanent(err) {
			t.Fatalf("a topic that cannot be: %v", err)
		}
	})
}
