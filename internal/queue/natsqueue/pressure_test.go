package natsqueue

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/embedded"
	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// TestFullServer fills the store that the server allows to all its streams together: that the queue is full is an
// error that may clear, and it clears when something is taken out. (A server of one node checks this limit message by
// message, in the middle of an atomic batch too: it then leaves part of the batch and does not answer. The limit of the
// topic, max_bytes, is checked for the whole batch before.)
func TestFullServer(t *testing.T) {
	_, addr := natsServer(t, server.Options{JetStreamMaxStore: 1 << 20})
	q, err := openURL(t, "nats://"+addr+"?create=true")
	if err != nil {
		t.Fatal(err)
	}
	w, err := q.OpenWriter(t.Context(), "p", "orders")
	if err != nil {
		t.Fatal(err)
	}
	confirmed := 0
	for err == nil && confirmed < 100 {
		if err = w.Commit(t.Context(), queue.Batch{Records: payload(20, 2000)}, []byte("c")); err == nil {
			confirmed++
		}
	}
	if err == nil || retry.IsPermanent(err) {
		t.Errorf("commit that fills the server: %v (permanent: %t)", err, retry.IsPermanent(err))
	}
	_, oerr := q.OpenWriter(t.Context(), "other", "orders")
	for what, err := range map[string]error{
		"commit":        w.Commit(t.Context(), queue.Batch{Records: payload(20, 2000)}, []byte("c")),
		"publish":       q.Publish(t.Context(), "orders", payload(20, 2000)),
		"publish one":   q.Publish(t.Context(), "orders", payload(1, 2000)),
		"open a writer": oerr,
	} {
		if !errors.Is(err, queue.ErrFull) || retry.IsPermanent(err) {
			t.Errorf("%s on a full server: %v (permanent: %t), want ErrFull", what, err, retry.IsPermanent(err))
		}
	}
	if st, err := q.Stats(t.Context(), "orders"); err != nil || st.Records < int64(confirmed*20) {
		t.Errorf("%d records are there (%v), %d are confirmed", st.Records, err, confirmed*20)
	}
	s, err := q.js.Stream(t.Context(), "ferry-orders")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSubject("orders")); err != nil {
		t.Fatal(err)
	}
	if err := eventually(t, func() error { return w.Commit(t.Context(), queue.Batch{Records: payload(20, 2000)}, []byte("c")) }); err != nil {
		t.Errorf("commit after room was made: %v", err)
	}
}

// TestSmallTopic: an empty topic has room for the largest commit of the limits, whatever its records are like; what is too
// large for it is refused for good, and not tried for ever.
func TestSmallTopic(t *testing.T) {
	s := serve(t, embedded.Options{})
	for i, size := range []int64{32 << 10, 200 << 10, 1 << 20, 8 << 20} {
		c := embeddedConfig(s)
		c.MaxBytes = size
		q := open(t, c)
		l := q.Info().Limits
		own := payload(1, 10)[0].Size() - 10
		most := min(l.RecordBytes, l.CommitBytes) - own - 100 // headers are quoted
		for what, b := range map[string][]record.Record{
			"small": payload(min(l.CommitRecords, l.CommitBytes/(own+10)), 10),
			"large": payload(1, most),
		} {
			topic := fmt.Sprintf("%s-%d", what, i)
			w, err := q.OpenWriter(t.Context(), "p", topic)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context(), queue.Batch{Records: b}, []byte("c")); err != nil {
				t.Errorf("the largest commit of %s records in an empty topic of %d bytes, %d of %d: %v", what, size, len(b), b[0].Size(), err)
			}
		}
		w, err := q.OpenWriter(t.Context(), "p", fmt.Sprint("over-", i))
		if err != nil {
			t.Fatal(err)
		}
		var large *queue.TooLargeError
		if err := w.Commit(t.Context(), queue.Batch{Records: payload(1, int(size))}, []byte("c")); !errors.As(err, &large) {
			t.Errorf("a record of %d bytes in a topic of that size: %v, want a TooLargeError", size, err)
		}
	}
	c := embeddedConfig(s)
	c.MaxBytes = 1
	if l := open(t, c).Info().Limits; l.RecordBytes < 1 || l.CommitBytes < 1 || l.CommitRecords < 1 {
		t.Errorf("limits %+v, where 0 means none", l)
	}
}

// TestWithoutMajority kills two nodes of three: nothing is confirmed, the errors may clear, ping says so, and all goes
// on when the nodes are back.
func TestWithoutMajority(t *testing.T) {
	c := realServer(t, "FERRY_TEST_NATS3", "nats3")
	c.Timeout = 2 * time.Second
	q := open(t, c)
	topic := "majority-" + q.token()
	w, err := q.OpenWriter(t.Context(), "p", topic)
	if err != nil {
		t.Fatal(err)
	}
	lone := []string{"nats3-2", "nats3-3"}
	for _, node := range lone {
		scripted("kill", node)(t)
	}
	back := func() {
		for _, node := range lone {
			scripted("start", node)(t)
		}
	}
	defer back()
	batch := queue.Batch{Records: payload(30, 100)}
	for what, f := range map[string]func() error{
		"commit":  func() error { return w.Commit(t.Context(), batch, []byte("c")) },
		"publish": func() error { return q.Publish(t.Context(), topic, payload(3, 100)) },
		"ping": func() error { // the node that is left finds out in its own time
			for end := time.Now().Add(30 * time.Second); ; <-time.After(50 * time.Millisecond) {
				if err := q.Ping(t.Context()); err != nil || time.Now().After(end) {
					return err
				}
			}
		},
	} {
		if err := f(); !errors.Is(err, queue.ErrUnavailable) || retry.IsPermanent(err) {
			t.Errorf("%s without a majority: %v (permanent: %t), want ErrUnavailable", what, err, retry.IsPermanent(err))
		}
	}
	back()
	for end := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
		err := w.Commit(t.Context(), batch, []byte("c"))
		if err == nil {
			break
		}
		if retry.IsPermanent(err) || errors.Is(err, queue.ErrFenced) || time.Now().After(end) {
			t.Fatalf("commit with all nodes back: %v", err)
		}
	}
	for end := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) { // they choose who leads all of them, too
		err := q.Ping(t.Context())
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("ping with all nodes back: %v", err)
		}
	}
}
