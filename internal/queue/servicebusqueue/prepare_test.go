package servicebusqueue

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/servicebusqueue/servicebustest"
	"ferry/internal/retry"
)

// TestPrepare: what is missing is made when the URL allows it, and named otherwise, every one of them.
func TestPrepare(t *testing.T) {
	s := serve(t, servicebustest.Options{})
	c := parse(t, s.ConnectionString())
	q := open(t, c)
	err := q.Prepare(within(t), "orders", "parts")
	if !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) {
		t.Fatalf("prepare of missing topics: %v", err)
	}
	for _, want := range []string{"orders, orders.dead, parts, parts.dead", "create=true"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q without %q", err, want)
		}
	}
	if err := q.Publish(within(t), "orders", recs("a")); !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) {
		t.Fatalf("publish to a missing topic: %v", err)
	}

	c.Create, c.DuplicateDetection, c.Session = true, time.Hour, byKey
	maker := open(t, c)
	for range 2 { // the second time they are there
		if err := maker.Prepare(within(t), "orders", "parts"); err != nil {
			t.Fatal(err)
		}
	}
	for topic, want := range map[string]description{
		"orders": {window: time.Hour, sessions: true}, "parts.dead": {window: time.Hour},
	} {
		got, err := maker.describe(within(t), topic)
		if err != nil || got == nil || *got != want {
			t.Errorf("%s is %+v, %v, want %+v", topic, got, err, want)
		}
	}
	// Another who does not know of the sessions is told.
	if err := q.Prepare(within(t), "orders"); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "add session=key or session=pipeline") {
		t.Fatalf("prepare without sessions: %v", err)
	}
}

// TestNames: what cannot be a queue's name is refused before the broker is asked.
func TestNames(t *testing.T) {
	s := serve(t, servicebustest.Options{})
	q := open(t, parse(t, s.ConnectionString()+"?create=true"))
	for _, name := range []string{"", "a b", "$cbs", "orders/$management", "/a", "a/", strings.Repeat("x", 261), "ä"} {
		if err := q.Prepare(within(t), name); !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) {
			t.Errorf("prepare %q: %v", name, err)
		}
		if err := q.Publish(within(t), name, recs("a")); !errors.Is(err, queue.ErrNoTopic) {
			t.Errorf("publish to %q: %v", name, err)
		}
	}
}

// TestPromise: what Info says follows from what the topics are, and from what may be known of them.
func TestPromise(t *testing.T) {
	const send = servicebustest.Send | servicebustest.Listen
	with := func(d time.Duration) *servicebustest.QueueOptions {
		return &servicebustest.QueueOptions{DuplicateDetection: d}
	}
	for _, c := range []struct {
		name         string
		rights       servicebustest.Rights
		orders, dead *servicebustest.QueueOptions
		parameters   string
		tier         queue.Tier
		window       time.Duration
		note         string
	}{
		{"both remember", send | servicebustest.Manage, with(time.Hour), with(10 * time.Minute), "", queue.Deduplicated, 10 * time.Minute, "recognised by its message id"},
		{"one does not", send | servicebustest.Manage, with(time.Hour), with(0), "", queue.AtLeastOnce, 0, "orders.dead has no duplicate detection"},
		{"one is made", send | servicebustest.Manage, with(time.Hour), nil, "?create=true&duplicate_detection=30m", queue.Deduplicated, 30 * time.Minute, ""},
		{"none is there", send | servicebustest.Manage, nil, nil, "", queue.AtLeastOnce, 0, "none of the topics is there yet"},
		{"all are made", send | servicebustest.Manage, nil, nil, "?create=true", queue.Deduplicated, 10 * time.Minute, ""},
		{"no right to know", send, with(time.Hour), with(time.Hour), "", queue.AtLeastOnce, 0, "the login may not look at queues"},
		{"no right to know, but told", send, with(time.Hour), with(time.Hour), "?duplicate_detection=1h", queue.Deduplicated, time.Hour, "cannot check it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, servicebustest.Options{Keys: []servicebustest.Key{{Name: "ferry", Secret: "c2VjcmV0", Rights: c.rights}}})
			for name, o := range map[string]*servicebustest.QueueOptions{"orders": c.orders, "orders.dead": c.dead} {
				if o == nil {
					continue
				}
				if err := s.CreateQueue(name, *o); err != nil {
					t.Fatal(err)
				}
			}
			cfg := parse(t, s.ConnectionString()+c.parameters)
			cfg.Topics = []string{"orders"}
			q := open(t, cfg)
			i := q.Info()
			if i.Tier != c.tier || i.Window != c.window || !strings.Contains(i.Note, c.note) {
				t.Fatalf("tier %s, window %s, note %q; want %s, %s, %q", i.Tier, i.Window, i.Note, c.tier, c.window, c.note)
			}
			if i.Limits.RecordBytes != usualMessage-framing {
				t.Errorf("records of %d bytes", i.Limits.RecordBytes)
			}
			if c.orders == nil && !cfg.Create {
				return
			}
			if err := q.Prepare(within(t), "orders"); err != nil {
				t.Fatalf("prepare: %v", err)
			}
			if err := q.Publish(within(t), "orders", recs("a")); err != nil {
				t.Fatalf("publish: %v", err)
			}
		})
	}
}

// TestPromiseIsKept: a topic that comes later and could not keep what Info says is refused.
func TestPromiseIsKept(t *testing.T) {
	s := serve(t, servicebustest.Options{})
	q := open(t, parse(t, s.ConnectionString()+"?create=true"))
	for _, name := range []string{"plain", "plain.dead"} {
		if err := s.CreateQueue(name, servicebustest.QueueOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateQueue("brief", servicebustest.QueueOptions{DuplicateDetection: time.Minute}); err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]string{"plain": "no duplicate detection", "brief": "recognises duplicates for 1m0s, and 10m0s was promised"} {
		for what, err := range map[string]error{"prepare": q.Prepare(within(t), topic), "publish": q.Publish(within(t), topic, recs("a"))} {
			if !retry.IsPermanent(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v, want %q", what, topic, err, want)
			}
		}
	}
}

// TestBasic: the basic tier has no duplicate detection, and the error says which tier it takes.
func TestBasic(t *testing.T) {
	s := serve(t, servicebustest.Options{Tier: "Basic"})
	q := open(t, parse(t, s.ConnectionString()+"?create=true"))
	if err := q.Prepare(within(t), "orders"); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "take the standard or premium tier") {
		t.Fatalf("prepare in the basic tier: %v", err)
	}
}

// TestDeletedTopic: a topic that has gone is made again when it is published to.
func TestDeletedTopic(t *testing.T) {
	s := serve(t, servicebustest.Options{})
	q := open(t, parse(t, s.ConnectionString()+"?create=true"))
	if err := q.Publish(within(t), "orders", recs("a")); err != nil {
		t.Fatal(err)
	}
	s.DeleteQueue("orders")
	if err := q.Publish(within(t), "orders", recs("b")); !errors.Is(err, queue.ErrNoTopic) {
		t.Fatalf("publish to a topic that has gone: %v", err)
	}
	if err := q.Publish(within(t), "orders", recs("b")); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "orders", "b")
}
