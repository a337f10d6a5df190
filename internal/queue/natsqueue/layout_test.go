package natsqueue

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/embedded"
	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

func TestTopicNames(t *testing.T) {
	for name, want := range map[string]string{
		"orders":                 "ferry-orders",
		"orders.eu":              "ferry-orders~eu",
		"orders.eu.dead":         "ferry-orders~eu",
		"A_b-9":                  "ferry-A_b-9",
		"deadly":                 "ferry-deadly",
		"":                       "",
		".orders":                "",
		"orders.":                "",
		"a..b":                   "",
		"a b":                    "",
		"a*":                     "",
		"a.>":                    "",
		"a/b":                    "",
		"$JS.API":                "",
		"ü":                      "",
		"ferry":                  "",
		"ferry.cursor.a.b":       "",
		"orders.dead.dead":       "",
		strings.Repeat("a", 201): "",
	} {
		tp, err := parseTopic(name)
		if want == "" {
			if !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) || !strings.HasPrefix(err.Error(), "topic ") {
				t.Errorf("topic %q: %v, want a permanent error that says why there is no such topic", name, err)
			}
			continue
		}
		if err != nil || tp.stream() != want {
			t.Errorf("topic %q lies in %q (%v), want %q", name, tp.stream(), err, want)
		}
	}
}

func one(id string) []record.Record { return []record.Record{{ID: id, Data: []byte(`1`)}} }

// TestOverlappingTopics has topics that are parts of each other's names.
func TestOverlappingTopics(t *testing.T) {
	q := open(t, embeddedConfig(serve(t, embedded.Options{})))
	for _, topic := range []string{"a", "a.b", "a.b.c", "cursor.a", "a-b", "a_b"} {
		w, err := q.OpenWriter(t.Context(), "p", topic)
		if err != nil {
			t.Fatal(topic, err)
		}
		if err := w.Commit(t.Context(), queue.Batch{Records: one(topic)}, record.Cursor(topic)); err != nil {
			t.Fatal(topic, err)
		}
	}
	for _, topic := range []string{"a", "a.b", "a.b.c", "cursor.a", "a-b", "a_b"} {
		got, err := q.Browse(t.Context(), topic, 0, 10)
		if err != nil || len(got) != 1 || got[0].ID != topic {
			t.Fatalf("%s holds %v (%v)", topic, got, err)
		}
		if c, err := q.Cursor(t.Context(), "p", topic); err != nil || string(c) != topic {
			t.Fatalf("cursor of %s: %q, %v", topic, c, err)
		}
	}
	if err := q.Publish(t.Context(), "A", one("x")); err == nil || !strings.Contains(err.Error(), "upper and lower case") {
		t.Fatalf("topic A beside a: %v", err)
	}
	if _, err := q.OpenWriter(t.Context(), "a.b", "a"); err == nil {
		t.Fatal("a pipeline with a dot in its name was taken")
	}
	if _, err := q.OpenWriter(t.Context(), "p", "a.dead"); err == nil {
		t.Fatal("a pipeline may write to a dead-letter topic")
	}
}

// TestForeignStreams meets streams that others have made.
func TestForeignStreams(t *testing.T) {
	q := open(t, embeddedConfig(serve(t, embedded.Options{})))
	right := func(name string) jetstream.StreamConfig {
		tp, err := parseTopic(name)
		if err != nil {
			t.Fatal(err)
		}
		c := q.streamConfig(tp)
		c.Metadata = nil
		return c
	}
	for name, tt := range map[string]struct {
		change func(*jetstream.StreamConfig)
		want   string
	}{
		"subjects": {func(c *jetstream.StreamConfig) { c.Name, c.Subjects = "OTHERS", []string{"subjects"} }, "another stream of this NATS server has a subject"},
		"stolen":   {func(c *jetstream.StreamConfig) { c.Subjects = []string{"x"} }, "lacks the subject stolen"},
		"memory":   {func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "in memory"},
		"workq":    {func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, "retention"},
		"few":      {func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject, c.DiscardNewPerSubject = 3, false }, "max_msgs_per_subject"},
		"old":      {func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 10, jetstream.DiscardOld }, "drops old records"},
		"noack":    {func(c *jetstream.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false }, "does not confirm"},
	} {
		c := right(name)
		tt.change(&c)
		if _, err := q.js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(name, err)
		}
		err := q.Publish(t.Context(), name, one("1"))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !retry.IsPermanent(err) {
			t.Errorf("%s: error %v, want a permanent one with %q", name, err, tt.want)
		}
	}
	// One made by hand in the right way is fine.
	if _, err := q.js.CreateStream(t.Context(), right("fine")); err != nil {
		t.Fatal(err)
	}
	if err := q.Publish(t.Context(), "fine", one("1")); err != nil {
		t.Error(err)
	}
}

// limits gives a stream's configuration.
func limits(t *testing.T, q *Queue, stream string) jetstream.StreamConfig {
	t.Helper()
	s, err := q.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

// TestLimitsOfOthers: limits of a stream that somebody made by hand stay, where the URL gives none.
func TestLimitsOfOthers(t *testing.T) {
	s := serve(t, embedded.Options{Listen: "127.0.0.1:0"})
	c := Config{Servers: "nats://" + s.Addr()}
	q := open(t, c)
	tp, err := parseTopic("t")
	if err != nil {
		t.Fatal(err)
	}
	made := q.streamConfig(tp)
	made.Metadata, made.MaxAge, made.MaxBytes, made.AllowRollup = nil, 7*24*time.Hour, 10<<30, false
	if _, err := q.js.CreateStream(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	if err := q.Prepare(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if got := limits(t, q, "ferry-t"); got.MaxAge != made.MaxAge || got.MaxBytes != made.MaxBytes || !got.AllowRollup {
		t.Errorf("limits are %s and %d, rollup is %t", got.MaxAge, got.MaxBytes, got.AllowRollup)
	}
	c.MaxBytes = 1 << 30
	q = open(t, c)
	if err := q.Prepare(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if got := limits(t, q, "ferry-t"); got.MaxAge != made.MaxAge || got.MaxBytes != 1<<30 {
		t.Errorf("limits are %s and %d, and the URL says 1GiB", got.MaxAge, got.MaxBytes)
	}
}

func TestLimitsFollowTheURL(t *testing.T) {
	s := serve(t, embedded.Options{})
	c := embeddedConfig(s)
	if err := open(t, c).Publish(t.Context(), "t", one("1")); err != nil {
		t.Fatal(err)
	}
	c.MaxAge, c.MaxBytes = time.Hour, 1<<20
	q := open(t, c)
	if err := q.Publish(t.Context(), "t", one("2")); err != nil {
		t.Fatal(err)
	}
	if got := limits(t, q, "ferry-t"); got.MaxAge != time.Hour || got.MaxBytes != 1<<20 {
		t.Fatalf("limits are %s and %d", got.MaxAge, got.MaxBytes)
	}
	c.MaxAge, c.MaxBytes, c.Create = 0, 0, false
	q = open(t, c)
	if err := q.Prepare(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if got := limits(t, q, "ferry-t"); got.MaxAge != 0 || got.MaxBytes != -1 {
		t.Fatalf("limits are %s and %d, taken out of the URL", got.MaxAge, got.MaxBytes)
	}
	if err := q.Publish(t.Context(), "new", one("1")); !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) {
		t.Fatalf("create=false: %v", err)
	}
}

// TestLimitsAfterReading: who reads first does not keep the URL's limits from who writes then, as a journal does that
// asks for the cursor of the topic that is full.
func TestLimitsAfterReading(t *testing.T) {
	s := serve(t, embedded.Options{})
	for name, read := range map[string]func(*Queue, string) error{
		"Cursor": func(q *Queue, topic string) error { _, err := q.Cursor(t.Context(), "p", topic); return err },
		"Stats":  func(q *Queue, topic string) error { _, err := q.Stats(t.Context(), topic); return err },
		"Browse": func(q *Queue, topic string) error { _, err := q.Browse(t.Context(), topic, 0, 1); return err },
		"Get":    func(q *Queue, topic string) error { _, _, err := cursors{q}.Get(t.Context(), topic+"/p"); return err },
	} {
		c := embeddedConfig(s)
		c.MaxBytes = 64 << 10
		small, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			err = small.Publish(t.Context(), name, payload(10, 1000))
		}
		if !errors.Is(err, queue.ErrFull) {
			t.Fatalf("%s: publish: %v, want ErrFull", name, err)
		}
		if err := small.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.MaxBytes = 1 << 20
		q := open(t, c)
		if err := read(q, name); err != nil {
			t.Fatal(name, err)
		}
		if got := limits(t, q, "ferry-"+name); got.MaxBytes != 64<<10 {
			t.Errorf("%s: who only reads has set max_bytes to %d", name, got.MaxBytes)
		}
		if err := q.Publish(t.Context(), name, payload(10, 1000)); err != nil {
			t.Errorf("%s, then publish: %v", name, err)
		}
	}
}

// TestShortMaxAge: max_age below the server's duplicate window is taken by a topic that is there already, and the window
// grows again with it.
func TestShortMaxAge(t *testing.T) {
	s := serve(t, embedded.Options{})
	c := embeddedConfig(s)
	for _, step := range []struct{ maxAge, window time.Duration }{
		{0, defaultWindow}, {time.Minute, time.Minute}, {30 * time.Second, 30 * time.Second}, {time.Hour, defaultWindow}, {0, defaultWindow},
	} {
		c.MaxAge = step.maxAge
		q := open(t, c)
		if err := q.Publish(t.Context(), "t", one("1")); err != nil {
			t.Fatalf("max_age %s: %v", step.maxAge, err)
		}
		if got := limits(t, q, "ferry-t"); got.MaxAge != step.maxAge || got.Duplicates != step.window {
			t.Errorf("max_age %s: it is %s, with a window of %s, want %s", step.maxAge, got.MaxAge, got.Duplicates, step.window)
		}
	}

	// A window that somebody made longer by hand is not made shorter than it must be.
	made := limits(t, open(t, c), "ferry-t")
	made.Duplicates = time.Hour
	for maxAge, want := range map[time.Duration]time.Duration{0: time.Hour, 2 * time.Hour: time.Hour, 10 * time.Minute: 10 * time.Minute} {
		if got := window(made, maxAge); got != want {
			t.Errorf("with max_age %s a window of 1h becomes %s, want %s", maxAge, got, want)
		}
	}
}

// TestFullTopic: a full topic pushes back and loses neither records nor the cursor.
func TestFullTopic(t *testing.T) {
	c := embeddedConfig(serve(t, embedded.Options{}))
	c.MaxBytes = 256 << 10
	q := open(t, c)
	w, err := q.OpenWriter(t.Context(), "p", "full")
	if err != nil {
		t.Fatal(err)
	}
	batch := queue.Batch{Records: payload(20, 1000)}
	cursor, n := "", 0
	for i := range 100 {
		next := string(rune('0' + i))
		if err = w.Commit(t.Context(), batch, record.Cursor(next)); err != nil {
			break
		}
		cursor, n = next, n+20
	}
	if !errors.Is(err, queue.ErrFull) || retry.IsPermanent(err) {
		t.Fatalf("commit to a full topic: %v, want ErrFull", err)
	}
	if err := w.Commit(t.Context(), batch, record.Cursor("x")); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("commit again: %v, want ErrFull", err)
	}
	for _, size := range []int{1, 20} { // one message, and a batch
		if err := q.Publish(t.Context(), "full", payload(size, 20_000)); !errors.Is(err, queue.ErrFull) {
			t.Fatalf("publish of %d to a full topic: %v, want ErrFull", size, err)
		}
	}
	st, err := q.Stats(t.Context(), "full")
	if err != nil || st.Records != int64(n) {
		t.Fatalf("%d records (%v), want %d", st.Records, err, n)
	}
	if got, err := q.Cursor(t.Context(), "p", "full"); err != nil || string(got) != cursor {
		t.Fatalf("cursor %q (%v), want %q", got, err, cursor)
	}
	// Space again: the same commit goes through.
	c.MaxBytes = 10 << 20
	if err := open(t, c).Publish(t.Context(), "full", one("more")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), batch, record.Cursor("x")); err != nil {
		t.Fatal(err)
	}
}

// TestCursorOutlivesMaxAge: records age out, cursors do not.
func TestCursorOutlivesMaxAge(t *testing.T) {
	c := embeddedConfig(serve(t, embedded.Options{}))
	c.MaxAge = time.Second
	q := open(t, c)
	w, err := q.OpenWriter(t.Context(), "p", "aging")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), queue.Batch{Records: one("1")}, record.Cursor("c")); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(10 * time.Second)
	for {
		st, err := q.Stats(t.Context(), "aging")
		if err != nil {
			t.Fatal(err)
		}
		if st.Records == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the record does not age out")
		}
		<-time.After(50 * time.Millisecond)
	}
	if got, err := q.Cursor(t.Context(), "p", "aging"); err != nil || string(got) != "c" {
		t.Fatalf("cursor %q, %v", got, err)
	}
	if err := w.Commit(t.Context(), queue.Batch{Records: one("2")}, record.Cursor("d")); err != nil {
		t.Fatal(err)
	}
}

// TestCursorsDoNotPileUp: of a pipeline's cursor messages so many remain, and after the next claim one.
func TestCursorsDoNotPileUp(t *testing.T) {
	q := open(t, embeddedConfig(serve(t, embedded.Options{})))
	claim := func() *writer {
		w, err := q.OpenWriter(t.Context(), "p", "pile")
		if err != nil {
			t.Fatal(err)
		}
		return w.(*writer)
	}
	messages := func() int {
		str, err := q.js.Stream(t.Context(), "ferry-pile")
		if err != nil {
			t.Fatal(err)
		}
		return int(str.CachedInfo().State.Msgs)
	}
	w, records := claim(), 0
	for i := range 2*oldCursors + 10 {
		b := queue.Batch{Records: payload(i%3, 10)}
		if err := w.Commit(t.Context(), b, record.Cursor("c")); err != nil {
			t.Fatal(err)
		}
		records += len(b.Records)
		if got := messages() - records; got < 1 || got > oldCursors+1 {
			t.Fatalf("%d cursors after %d commits, want at most %d", got, i+1, oldCursors+1)
		}
	}
	w.oldBytes = oldCursorBytes
	if err := w.Commit(t.Context(), queue.Batch{}, record.Cursor("d")); err != nil {
		t.Fatal(err)
	}
	if got := messages() - records; got != 1 {
		t.Errorf("%d cursors after %d bytes, want 1", got, oldCursorBytes)
	}
	if err := w.Commit(t.Context(), queue.Batch{}, record.Cursor("e")); err != nil {
		t.Fatal(err)
	}
	if w = claim(); string(w.Cursor()) != "e" || messages()-records != 1 {
		t.Errorf("cursor %q and %d cursors after a claim, want %q and 1", w.Cursor(), messages()-records, "e")
	}
}

// TestWritersOfOneTopic: a writer takes notice of others that write to its topic, and of those that do no more, and each
// of their commits is there once.
func TestWritersOfOneTopic(t *testing.T) {
	q := open(t, embeddedConfig(serve(t, embedded.Options{})))
	var ws []*writer
	for _, pipeline := range []string{"a", "b"} {
		w, err := q.OpenWriter(t.Context(), pipeline, "shared")
		if err != nil {
			t.Fatal(err)
		}
		ws = append(ws, w.(*writer))
	}
	records := 0
	for i, step := range []struct {
		writer int
		alone  bool // afterwards
	}{{1, true}, {1, true}, {0, false}, {1, false}, {0, false}, {0, true}, {0, true}, {1, false}, {1, true}} {
		w := ws[step.writer]
		b := queue.Batch{Records: payload(2, 10), Dead: payload(1, 10)}
		if err := w.Commit(t.Context(), b, record.Cursor(strconv.Itoa(i))); err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
		records += len(b.Records)
		if w.alone != step.alone {
			t.Errorf("after commit %d writer %d is alone: %t, want %t", i, step.writer, w.alone, step.alone)
		}
		if got, err := q.Cursor(t.Context(), w.pipeline, "shared"); err != nil || string(got) != strconv.Itoa(i) {
			t.Errorf("cursor after commit %d: %q, %v", i, got, err)
		}
	}
	if st, err := q.Stats(t.Context(), "shared"); err != nil || st.Records != int64(records) {
		t.Errorf("%d records, %v, want %d", st.Records, err, records)
	}

	// Who has lost its pipeline is told so, alone or not.
	for _, alone := range []bool{true, false} {
		ws[1].alone = alone
		if _, err := q.OpenWriter(t.Context(), "b", "shared"); err != nil {
			t.Fatal(err)
		}
		ws[1].fenced = false
		if err := ws[1].Commit(t.Context(), queue.Batch{Records: one("zombie")}, record.Cursor("z")); !errors.Is(err, queue.ErrFenced) {
			t.Errorf("commit of a writer that was replaced: %v, want ErrFenced", err)
		}
	}
}

// TestDeletedStream: someone deletes the stream under an open queue; the next calls make it anew.
func TestDeletedStream(t *testing.T) {
	q := open(t, embeddedConfig(serve(t, embedded.Options{})))
	if err := q.Publish(t.Context(), "gone", one("1")); err != nil {
		t.Fatal(err)
	}
	if err := q.js.DeleteStream(t.Context(), "ferry-gone"); err != nil {
		t.Fatal(err)
	}
	if err := q.Publish(t.Context(), "gone", payload(20, 10)); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("publish to a deleted stream: %v", err)
	}
	if err := q.Publish(t.Context(), "gone", payload(20, 10)); err != nil {
		t.Fatalf("publish after it: %v", err)
	}
}
