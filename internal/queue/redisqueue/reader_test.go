package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/record"
)

func TestRemove(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		q := open(t, c)
		ctx := t.Context()
		if err := q.Publish(ctx, "orders.dead", numbered(0, 5)); err != nil {
			t.Fatal(err)
		}
		if err := q.Publish(ctx, "orders", numbered(0, 1)); err != nil {
			t.Fatal(err)
		}
		letters, err := q.Browse(ctx, "orders.dead", 0, 10)
		if err != nil || len(letters) != 5 {
			t.Fatalf("%d letters, %v", len(letters), err)
		}
		taken, err := q.Receive(ctx, "orders.dead", 2, 0) // one of them is under way
		if err != nil || len(taken) != 2 {
			t.Fatalf("%d received, %v", len(taken), err)
		}
		for range 2 {
			if err := q.Remove(ctx, "orders.dead", letters[1].Position, letters[3].Position, 0, -1, 99); err != nil {
				t.Fatal(err)
			}
		}
		left, err := q.Browse(ctx, "orders.dead", 0, 10)
		if err != nil || len(left) != 3 || left[0].ID != "0" || left[1].ID != "2" || left[2].ID != "4" {
			t.Errorf("left %+v, %v", left, err)
		}
		if err := q.Ack(ctx, "orders.dead", taken[1].Receipt); !errors.Is(err, queue.ErrReceipt) {
			t.Errorf("ack of what was deleted: %v", err)
		}
		// Of the five, one is under way, two were deleted and two were never delivered. The server does not know how many
		// that makes: ferry counts.
		if st, err := q.Stats(ctx, "orders.dead"); err != nil || st.Records != 3 || st.Waiting != 3 && !isFake(c) {
			t.Errorf("%+v, %v", st, err)
		}
		if n := count(t, q, "orders"); n != 1 {
			t.Errorf("the other topic has %d records", n)
		}
		if err := q.Remove(ctx, "nothing", 7); err != nil {
			t.Errorf("in a topic that is not there: %v", err)
		}
	})
}

func isFake(c Config) bool { return c.Timeout == 0 }

// TestForeignEntries reads what others have written into a stream.
func TestForeignEntries(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		q := open(t, c)
		ctx := t.Context()
		x := bare(t, c.Hosts[0])
		add := func(key, id string, values ...any) {
			t.Helper()
			if err := x.XAdd(ctx, &redis.XAddArgs{Stream: key, ID: id, Values: values}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		add("others", "5-1", "user", "7", "data", `{"a":1}`)
		add("others", "5-2", "user", "8")
		add("others", "6-5000", "user", "9") // no number stands for this one
		add("others", "7-0", "user", "10")
		got, err := q.Browse(ctx, "others", 0, 10)
		if err != nil || len(got) != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
		want := record.Record{Data: []byte(`{"a":1}`), Headers: []record.Header{{Name: "user", Value: "7"}}}
		if got[0].Position != 5<<12+1 || fmt.Sprint(got[0].Record) != fmt.Sprint(want) || !got[0].Time.Equal(time.UnixMilli(5)) {
			t.Errorf("%+v", got[0])
		}
		if _, err := q.Browse(ctx, "others", got[1].Position+1, 10); err == nil || !strings.Contains(err.Error(), "entry 6-5000 was written by someone else, with a sequence number over 4095") {
			t.Errorf("browse from an entry that no number stands for: %v", err)
		}
		d, err := q.Receive(ctx, "others", 10, 0)
		if err != nil || len(d) != 4 {
			t.Fatalf("%d received, %v", len(d), err)
		}
		var receipts []string
		for i := range d {
			receipts = append(receipts, d[i].Receipt)
		}
		if err := q.Ack(ctx, "others", receipts...); err != nil {
			t.Fatal(err)
		}
	})
}

// TestClock: the server's clock went back, or a batch is large: positions grow all the same, and every one is a number.
func TestClock(t *testing.T) {
	p := start(t)
	q := open(t, p.config())
	ctx := t.Context()
	x := bare(t, p.addr)
	ahead := time.Now().Add(time.Hour).UnixMilli()
	if err := x.XAdd(ctx, &redis.XAddArgs{Stream: "clock", ID: fmt.Sprintf("%d-2040", ahead), Values: []any{"ferry-id", "first"}}).Err(); err != nil {
		t.Fatal(err)
	}
	want := []string{"first"}
	publish := func(n int) {
		t.Helper()
		batch := numbered(len(want), n)
		for i := range batch {
			want = append(want, batch[i].ID)
		}
		if err := q.Publish(ctx, "clock", batch); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		publish(1)
	}
	publish(5000)
	publish(4097)
	for range 10 {
		publish(700)
	}
	var got []string
	for from := int64(0); ; {
		page, err := q.Browse(ctx, "clock", from, 3000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for i := range page {
			got = append(got, page[i].ID)
			if page[i].Position < from {
				t.Fatalf("position %d after %d", page[i].Position, from)
			}
			from = page[i].Position + 1
			if late := page[i].Time.UnixMilli() - ahead; late < 0 || late > 20 {
				t.Fatalf("record %d is %d ms off", len(got), late)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d records, want %d in their order", len(got), len(want))
	}
}

// TestRedeliveryOfMany: more is under way, and too old, than one look finds.
func TestRedeliveryOfMany(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		c.Redelivery = 50 * time.Millisecond
		q := open(t, c)
		ctx := t.Context()
		if err := q.Publish(ctx, "many", numbered(0, 500)); err != nil {
			t.Fatal(err)
		}
		first, err := q.Receive(ctx, "many", 500, 0)
		if err != nil || len(first) != 500 {
			t.Fatalf("%d received, %v", len(first), err)
		}
		seen := map[string]bool{}
		until(t, "all came again", func() bool {
			d, err := q.Receive(ctx, "many", 100, 100*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			for i := range d {
				seen[d[i].ID] = true
				if d[i].Attempt < 2 {
					t.Fatalf("attempt %d", d[i].Attempt)
				}
				if err := q.Ack(ctx, "many", d[i].Receipt); err != nil && !errors.Is(err, queue.ErrReceipt) {
					t.Fatal(err)
				}
			}
			return len(seen) == 500
		})
	})
}

// TestReceiveIsBounded: one Receive holds no more than its bytes, of records that come again as well as of new ones.
func TestReceiveIsBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		c.Redelivery = 50 * time.Millisecond
		q := open(t, c)
		q.readBytes = 100_000
		ctx := t.Context()
		const n, size = 60, 10_000
		if err := q.Publish(ctx, "bounded", payload(n, size)); err != nil {
			t.Fatal(err)
		}
		page := q.readBytes/size + firstPage
		for taken := 0; taken < n; {
			d, err := q.Receive(ctx, "bounded", n-taken, 0)
			if err != nil || len(d) == 0 || len(d) > page {
				t.Fatalf("%d new records received, %v", len(d), err)
			}
			taken += len(d)
		}
		time.Sleep(2 * c.Redelivery)
		if err := q.Publish(ctx, "bounded", payload(n, size)); err != nil {
			t.Fatal(err)
		}
		d, err := q.Receive(ctx, "bounded", n, 0)
		if err != nil || len(d) == 0 || len(d) > page {
			t.Fatalf("%d records received again, %v", len(d), err)
		}
	})
}

// TestReceiveGivesUp: what a receiver takes after its caller is gone is given back, and a queue that closes lets
// waiting receivers go.
func TestReceiveGivesUp(t *testing.T) {
	onBoth(t, func(t *testing.T, c Config) {
		c.Redelivery = time.Hour
		q := open(t, c)
		ctx := t.Context()
		if err := q.Prepare(ctx, "gone"); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := q.Receive(short, "gone", 5, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a receive whose context ends: %v", err)
		}
		if err := q.Publish(ctx, "gone", numbered(0, 3)); err != nil {
			t.Fatal(err)
		}
		until(t, "what was taken is given back", func() bool {
			d, err := q.Receive(ctx, "gone", 3, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			return len(d) > 0
		})
		done := make(chan error, 1)
		go func() { _, err := q.Receive(ctx, "other.dead", 1, time.Minute); done <- err }()
		if err := <-done; !errors.Is(err, queue.ErrNoTopic) {
			t.Fatalf("a topic that is not there: %v", err)
		}
		go func() { _, err := q.Receive(ctx, "gone.dead", 1, time.Minute); done <- err }()
		until(t, "the receiver waits", func() bool { return len(q.waiting) == 1 })
		begin := time.Now()
		if err := q.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, queue.ErrClosed) || time.Since(begin) > 5*time.Second {
			t.Fatalf("a receiver of a queue that closes: %v after %s", err, time.Since(begin))
		}
	})
}

// TestPages: what one call holds in memory is bounded whatever lies in the stream.
func TestPages(t *testing.T) {
	var asked []int
	big := func(n int) ([]entry, error) {
		asked = append(asked, n)
		page := make([]entry, n)
		for i := range page {
			page[i].fields = []string{strings.Repeat("x", 1<<20)}
		}
		return page, nil
	}
	got, err := pages(1000, usualBytes, big)
	if err != nil || len(got) < 64 || len(got) > 72 {
		t.Fatalf("%d entries of a MiB, %v", len(got), err)
	}
	asked = nil
	small := func(n int) ([]entry, error) {
		asked = append(asked, n)
		return make([]entry, n), nil
	}
	if got, _ := pages(5000, usualBytes, small); len(got) != 5000 || len(asked) > 10 {
		t.Fatalf("%d entries in pages of %v", len(got), asked)
	}
}
