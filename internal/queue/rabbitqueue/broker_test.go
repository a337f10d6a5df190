package rabbitqueue

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// The tests of this file break a real broker, or the network before it.

func recs(series string, from, n int) []record.Record {
	all := make([]record.Record, n)
	for i := range all {
		all[i] = record.Record{
			ID: fmt.Sprintf("%s-%d", series, from+i), Key: fmt.Sprint("key-", from+i),
			Headers: []record.Header{{Name: record.HeaderContentType, Value: "application/json"}},
			Data:    fmt.Appendf(nil, `{"i":%d}`, from+i),
		}
	}
	return all
}

func name(t testing.TB, prefix string) string {
	return fmt.Sprintf("%s-%08x", prefix, time.Now().UnixNano()&0xffffffff)
}

// taken receives all that a topic holds, and gives the ids in order.
func taken(t testing.TB, q *Queue, topic string) []string {
	t.Helper()
	var ids []string
	lost := false
	for {
		got, err := q.Receive(t.Context(), topic, 500, 200*time.Millisecond)
		if errors.Is(err, queue.ErrUnavailable) && !lost { // the connection broke while nobody used it
			lost = true
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			return ids
		}
		var receipts []string
		for _, d := range got {
			ids, receipts = append(ids, d.ID), append(receipts, d.Receipt)
		}
		if err := q.Ack(t.Context(), topic, receipts...); err != nil {
			t.Fatal(err)
		}
	}
}

// inOrder checks what at least once promises: every record is there, and the last copies are in order. It returns how
// many came more than once.
func inOrder(t testing.TB, ids []string, want []record.Record) (doubled int) {
	t.Helper()
	last := map[string]int{}
	for i, id := range ids {
		last[id] = i
	}
	at := -1
	for _, r := range want {
		i, ok := last[r.ID]
		if !ok {
			t.Fatalf("record %s is lost", r.ID)
		}
		if i < at {
			t.Fatalf("the last copy of %s lies before that of the record before it", r.ID)
		}
		at = i
	}
	if len(last) != len(want) {
		t.Fatalf("%d different records, want %d", len(last), len(want))
	}
	return len(ids) - len(last)
}

// persist publishes a batch as ferry does: again behind what is durable, until all is.
func persist(ctx context.Context, q *Queue, topic string, batch []record.Record) (tries int, err error) {
	for len(batch) > 0 {
		tries++
		err := q.Publish(ctx, topic, batch)
		var part *queue.PartError
		switch {
		case err == nil:
			return tries, nil
		case ctx.Err() != nil || retry.IsPermanent(err):
			return tries, err
		case errors.As(err, &part):
			batch = batch[part.Done:]
		}
		if err := retry.Sleep(ctx, 20*time.Millisecond); err != nil {
			return tries, err
		}
	}
	return tries, nil
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestUnroutable(t *testing.T) {
	c := parse(t, address(t, "FERRY_TEST_RABBITMQ"))
	maker := open(t, c)
	c.Create = false
	q := open(t, c)
	topic := name(t, "unroutable")
	err := q.Publish(t.Context(), topic, recs(topic, 0, 50))
	if !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) || !strings.Contains(err.Error(), "create=true") {
		t.Fatalf("publish to a missing queue: %v", err)
	}
	if err := q.Prepare(t.Context(), topic, "other"); !errors.Is(err, queue.ErrNoTopic) || !strings.Contains(err.Error(), topic+".dead") || !strings.Contains(err.Error(), "other.dead") {
		t.Fatalf("prepare does not name all that is missing: %v", err)
	}
	// Once it is there the same queue works, and nothing of the returned batch is in it.
	if err := maker.Prepare(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	if err := q.Prepare(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	if err := q.Publish(t.Context(), topic, recs(topic, 50, 3)); err != nil {
		t.Fatal(err)
	}
	if ids := taken(t, q, topic); len(ids) != 3 {
		t.Fatalf("holds %q", ids)
	}
}

// TestDeletedTopic: with create=true a queue that somebody has deleted meanwhile is made again, after one error.
func TestDeletedTopic(t *testing.T) {
	q := open(t, parse(t, address(t, "FERRY_TEST_RABBITMQ")))
	topic := name(t, "deleted")
	if _, err := persist(t.Context(), q, topic, recs(topic, 0, 1)); err != nil {
		t.Fatal(err)
	}
	remove(t, q, topic)
	err := q.Publish(t.Context(), topic, recs(topic, 1, 1))
	if !errors.Is(err, queue.ErrNoTopic) {
		t.Fatalf("publish to a deleted queue: %v", err)
	}
	if err := q.Publish(t.Context(), topic, recs(topic, 1, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestFullQueue(t *testing.T) {
	for _, kind := range []string{typeQuorum, typeClassic} {
		t.Run(kind, func(t *testing.T) {
			c := parse(t, address(t, "FERRY_TEST_RABBITMQ"))
			c.Type, c.MaxLength = kind, 5
			q := open(t, c)
			topic := name(t, "full")
			batch := recs(topic, 0, 2000) // a quorum queue takes some hundred before it looks at its limit
			err := q.Publish(t.Context(), topic, batch)
			var part *queue.PartError
			if !errors.Is(err, queue.ErrFull) || retry.IsPermanent(err) || !errors.As(err, &part) || part.Done < 5 || part.Done == len(batch) {
				t.Fatalf("publish into a full queue: %v", err)
			}
			if err := q.Publish(t.Context(), topic, batch[part.Done:]); !errors.Is(err, queue.ErrFull) {
				t.Fatalf("second publish into a full queue: %v", err)
			}
			if err := q.Ping(t.Context()); err != nil {
				t.Fatalf("the broker itself is well: %v", err)
			}
			// A consumer makes room while the rest is tried again and again.
			ctx := within(t, 60*time.Second)
			done := make(chan error, 1)
			go func() {
				_, err := persist(ctx, q, topic, batch[part.Done:])
				done <- err
			}()
			var ids []string
			for {
				ids = append(ids, taken(t, q, topic)...)
				select {
				case err := <-done:
					if err != nil {
						t.Fatal(err)
					}
					ids = append(ids, taken(t, q, topic)...)
					t.Logf("%d of %d came twice", inOrder(t, ids, batch), len(batch))
					return
				default:
				}
			}
		})
	}
}

// ctl runs rabbitmqctl.
func ctl(t testing.TB, args ...string) {
	t.Helper()
	path := address(t, "FERRY_TEST_RABBITMQ_CTL")
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("rabbitmqctl %s: %v\n%s", args, err, out)
	}
}

// TestAlarm: short of memory the broker blocks who publishes. Calls fail with the reason, memory stays flat, readiness
// is red, and all goes on by itself when the alarm clears, without a record twice.
func TestAlarm(t *testing.T) {
	c := parse(t, address(t, "FERRY_TEST_RABBITMQ"))
	address(t, "FERRY_TEST_RABBITMQ_CTL")
	c.Timeout = time.Second
	q := open(t, c)
	topic := name(t, "alarm")
	want := recs(topic, 0, 5000)
	ctx := within(t, 60*time.Second)
	if _, err := persist(ctx, q, topic, want[:100]); err != nil {
		t.Fatal(err)
	}
	ctl(t, "set_vm_memory_high_watermark", "absolute", "1MB")
	clear := func() { ctl(t, "set_vm_memory_high_watermark", "absolute", "1GB") }
	defer clear()

	done := make(chan error, 1)
	red := make(chan error, 1)
	go func() {
		for from := 100; from < len(want); from += 100 {
			for batch := want[from : from+100]; len(batch) > 0; {
				err := q.Publish(ctx, topic, batch)
				var part *queue.PartError
				if errors.As(err, &part) {
					batch = batch[part.Done:]
				}
				if err == nil {
					break
				}
				if ctx.Err() != nil {
					done <- err
					return
				}
				if errors.Is(err, queue.ErrFull) {
					select {
					case red <- err:
					default:
					}
				}
				_ = retry.Sleep(ctx, 50*time.Millisecond)
			}
		}
		done <- nil
	}()
	select {
	case err := <-red:
		if !strings.Contains(err.Error(), "low on memory") {
			t.Errorf("the reason is missing: %v", err)
		}
	case err := <-done:
		t.Fatalf("nothing was blocked: %v", err)
	}
	for { // publishing is told first, the ping learns by a publish of its own
		err := q.Ping(ctx)
		if errors.Is(err, queue.ErrFull) && strings.Contains(err.Error(), "low on memory") {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("ping under an alarm: %v", err)
		}
	}
	if st, err := q.Stats(ctx, topic); err != nil || st.Waiting < 100 {
		t.Errorf("reading must go on under an alarm: %+v, %v", st, err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 2000 {
		if err := q.Publish(ctx, topic, recs("more", 0, 100)); !errors.Is(err, queue.ErrFull) {
			t.Fatalf("publish under an alarm: %v", err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("memory has grown by %d bytes under an alarm", grown)
	}
	clear()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := q.Ping(ctx); err != nil {
		t.Errorf("ping after the alarm: %v", err)
	}
	if doubled := inOrder(t, taken(t, q, topic), want); doubled > 0 {
		t.Errorf("%d records came twice", doubled)
	}
}

// TestRestart stops the broker under a publisher and starts it again.
func TestRestart(t *testing.T) {
	c := parse(t, address(t, "FERRY_TEST_RABBITMQ"))
	address(t, "FERRY_TEST_RABBITMQ_CTL")
	q := open(t, c)
	topic := name(t, "restart")
	var want []record.Record
	ctx := within(t, 2*time.Minute)
	back := make(chan struct{})
	going, failed, done := make(chan struct{}), make(chan struct{}, 1), make(chan error, 1)
	go func() { // until a while after the broker is back
		for beyond := 0; beyond < 5; {
			batch := recs(topic, len(want), 50)
			tries, err := persist(ctx, q, topic, batch)
			if err != nil {
				done <- err
				return
			}
			if want = append(want, batch...); len(want) == 500 {
				close(going)
			}
			if tries > 1 {
				select {
				case failed <- struct{}{}:
				default:
				}
			}
			select {
			case <-back:
				beyond++
			default:
			}
		}
		done <- nil
	}()
	<-going
	ctl(t, "stop_app")
	if err := q.Ping(within(t, 5*time.Second)); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("ping of a stopped broker: %v", err)
	}
	ctl(t, "start_app")
	close(back)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	select {
	case <-failed:
	default:
		t.Error("the restart hit no publish")
	}
	doubled := inOrder(t, taken(t, q, topic), want)
	t.Logf("lost 0, doubled %d of %d", doubled, len(want))
}

// TestNetwork breaks the network in every way while a publisher works: nothing is lost, order holds.
func TestNetwork(t *testing.T) {
	faults := map[string]func(*queuetest.Network){
		"reset in the middle of a batch": func(n *queuetest.Network) { n.LimitUp(20_000) },
		"answers are lost":               func(n *queuetest.Network) { n.LoseAnswers() },
		"cut":                            func(n *queuetest.Network) { n.Cut() },
		"slow":                           func(n *queuetest.Network) { n.Slow(300 * time.Millisecond) },
		"down":                           func(n *queuetest.Network) { n.Down() },
	}
	for what, breaks := range faults {
		t.Run(what, func(t *testing.T) {
			net := queuetest.NewNetwork(t)
			c := parse(t, address(t, "FERRY_TEST_RABBITMQ"))
			c.Dial, c.Timeout = net.Dial, time.Second
			q := open(t, c)
			topic := name(t, "network")
			want := recs(topic, 0, 2000)
			ctx := within(t, 60*time.Second)
			if _, err := persist(ctx, q, topic, want[:100]); err != nil {
				t.Fatal(err)
			}
			breaks(net)
			first := within(t, 3*time.Second)
			err := q.Publish(first, topic, want[100:1100])
			if err == nil && what != "cut" && what != "slow" {
				t.Fatal("published over a broken network")
			}
			rest := want[100:]
			var part *queue.PartError
			if errors.As(err, &part) {
				rest = rest[part.Done:]
			} else if err == nil {
				rest = rest[1000:]
			}
			t.Log(err)
			net.Heal()
			tries, err := persist(ctx, q, topic, rest)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("lost 0, doubled %d of 2000, %d tries after the network healed", inOrder(t, taken(t, q, topic), want), tries)
		})
	}
}
