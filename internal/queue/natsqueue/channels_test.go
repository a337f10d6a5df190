package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"ferry/internal/embedded"
	"ferry/internal/queue"
)

// known is how many topics the queue remembers.
func known(q *Queue) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.channels)
}

// TestUnknownTopicsAreForgotten: whoever asks for names that do not exist takes no memory with it.
func TestUnknownTopicsAreForgotten(t *testing.T) {
	c := embeddedConfig(serve(t, embedded.Options{}))
	q := open(t, c)
	c.Create = false
	strict := open(t, c)
	for name, ask := range map[string]func(topic string) error{
		"stats":   func(topic string) error { _, err := q.Stats(t.Context(), topic); return err },
		"receive": func(topic string) error { _, err := q.Receive(t.Context(), topic, 1, 0); return err },
		"ack":     func(topic string) error { return q.Ack(t.Context(), topic, "x") },
		"publish": func(topic string) error { return strict.Publish(t.Context(), topic, payload(1, 10)) },
	} {
		for i := range 20 {
			if err := ask(fmt.Sprintf("%s-%d", name, i)); !errors.Is(err, queue.ErrNoTopic) {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	if _, err := q.Cursor(t.Context(), "p", "cursor"); err != nil {
		t.Fatal(err)
	}
	if n := known(q) + known(strict); n > 0 {
		t.Errorf("%d topics that do not exist are remembered", n)
	}
	if err := q.Publish(t.Context(), "orders", payload(1, 10)); err != nil {
		t.Fatal(err)
	}
	if n := known(q); n != 1 {
		t.Errorf("%d topics are remembered, want the one that exists", n)
	}
}

// TestForgottenWhileMade: whoever gives up looking for a topic that somebody else is about to make does not part that one
// from all who come later: there is one group to a topic.
func TestForgottenWhileMade(t *testing.T) {
	q := open(t, embeddedConfig(serve(t, embedded.Options{})))
	tp, err := parseTopic("orders")
	if err != nil {
		t.Fatal(err)
	}
	first := q.channel(tp.base)
	first.turn <- struct{}{} // so that the others wait
	made := make(chan *channel, 1)
	go func() {
		ch, err := q.ensure(t.Context(), tp, true)
		if err != nil {
			t.Error(err)
		}
		made <- ch
	}()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		q.mu.Lock()
		waits = first.asking == 2
		q.mu.Unlock()
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Browse(gone, "orders", 0, 1); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	q.leave(tp.base, first, false)
	<-first.turn
	ch := <-made
	if later, err := q.ensure(t.Context(), tp, false); err != nil || ch != first || later != first {
		t.Errorf("channels %p, %p and %p of one topic, %v", first, ch, later, err)
	}
}
