package natsqueue

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ferry/internal/embedded"
	"ferry/internal/queue"
	"ferry/internal/record"
)

// plainConfig is of a server without atomic batches: a real one where there is one.
func plainConfig(t *testing.T) Config {
	if os.Getenv("FERRY_TEST_NATS211") != "" {
		return realServer(t, "FERRY_TEST_NATS211", "nats211")
	}
	c := embeddedConfig(serve(t, embedded.Options{}))
	c.plain = true
	return c
}

// TestFullTopicKeepsOrder: a nearly full topic refuses a large record and takes the small ones behind it.
func TestFullTopicKeepsOrder(t *testing.T) {
	q := open(t, plainConfig(t))
	name := fmt.Sprintf("nearly-%d", time.Now().UnixNano())
	records := make([]record.Record, 40)
	for i := range records {
		records[i] = record.Record{ID: fmt.Sprint("r", i), Data: []byte(fmt.Sprint(i))}
	}
	large := `"` + strings.Repeat("x", 80<<10) + `"`
	records[10].Data, records[20].Data = []byte(large), []byte(large)
	w, err := q.OpenWriter(t.Context(), "p", name)
	if err != nil {
		t.Fatal(err)
	}
	// By hand: the URL's max_bytes would be a limit of records too.
	resize := func(bytes int64, window time.Duration) {
		str, err := q.js.Stream(t.Context(), "ferry-"+name)
		if err != nil {
			t.Fatal(err)
		}
		c := str.CachedInfo().Config
		c.MaxBytes, c.Duplicates = bytes, window
		if _, err := q.js.UpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	commit := func() error { return w.Commit(t.Context(), queue.Batch{Records: records}, record.Cursor("c")) }
	stored := func() (ids []string) {
		got, err := q.Browse(t.Context(), name, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			ids = append(ids, got[i].ID)
		}
		return ids
	}

	resize(64<<10, q.Info().Window)
	err = commit()
	var partly *queue.PartError
	if !errors.Is(err, queue.ErrFull) || !errors.As(err, &partly) || partly.Done != 10 || !strings.Contains(err.Error(), "28 records behind it") {
		t.Fatalf("commit to a nearly full topic: %v, want ErrFull after 10 records, with 28 behind", err)
	}
	before := stored()
	if err := commit(); !errors.Is(err, queue.ErrFull) || len(stored()) != len(before) {
		t.Fatalf("commit again: %v and %d records, want ErrFull and %d as before", err, len(stored()), len(before))
	}

	// There is room, and the server has forgotten what it had: so much for the records that were confirmed.
	resize(10<<20, 100*time.Millisecond)
	<-time.After(300 * time.Millisecond)
	if err := commit(); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range records {
		want = append(want, records[i].ID)
	}
	got := stored()
	if len(got) != 10+28+30 || !slices.Equal(got[:10], want[:10]) || !slices.Equal(got[len(got)-30:], want[10:]) {
		t.Errorf("the topic holds %v", got)
	}
	if len(q.channel(name).group.ahead) > 0 {
		t.Error("records are remembered that are where they belong")
	}
}

// TestAnotherLeaderKeepsOrder: nobody listens to a record, and somebody does to those behind it, as while a cluster's
// members choose another leader.
func TestAnotherLeaderKeepsOrder(t *testing.T) {
	s := serve(t, embedded.Options{})
	c := embeddedConfig(s)
	c.plain = true
	q := open(t, c)
	if err := q.Publish(t.Context(), "t", one("0")); err != nil {
		t.Fatal(err)
	}
	if err := q.js.DeleteStream(t.Context(), "ferry-t"); err != nil {
		t.Fatal(err)
	}
	// The leader in the stream's place.
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var mu sync.Mutex
	var stored, ids []string
	deaf := true
	if _, err := nc.Subscribe("t", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		answer := nats.NewMsg(m.Reply)
		if deaf {
			deaf = false
			answer.Header.Set("Status", "503")
		} else {
			id := m.Header.Get(headerMsgID)
			if !slices.Contains(ids, id) {
				ids, stored = append(ids, id), append(stored, m.Header.Get(record.HeaderID))
			}
			answer.Data, _ = json.Marshal(map[string]any{"stream": "ferry-t", "seq": len(stored)})
		}
		_ = m.RespondMsg(answer)
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	publish := func() error {
		q.channel("t").ready.Store(true) // there is no stream to look for
		return q.Publish(t.Context(), "t", []record.Record{{ID: "1", Data: []byte(`1`)}, {ID: "2", Data: []byte(`2`)}, {ID: "3", Data: []byte(`3`)}})
	}
	if err := publish(); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "2 records behind it") {
		t.Errorf("publish: %v, want ErrUnavailable with 2 records behind", err)
	}
	if err := publish(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"2", "3", "1", "2", "3"}; !slices.Equal(stored, want) {
		t.Errorf("stored are %v, want %v", stored, want)
	}
}
