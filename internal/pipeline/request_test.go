package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ferry/internal/pipeline"
	"ferry/internal/queue"
	"ferry/internal/record"
)

func TestProcess(t *testing.T) {
	tests := []struct {
		name    string
		data    []string
		publish func(string, []record.Record) error
		fetch   error
		want    pipeline.Counters
		ids     []string
		dead    []string
		err     error
	}{
		{name: "one", data: []string{"a"}, want: pipeline.Counters{Pages: 1, Read: 1, Published: 1, RecordsOut: 1}, ids: []string{"a"}, dead: []string{}},
		{
			name: "mixed", data: []string{"a", "drop", "many2-b", "poison"},
			want: pipeline.Counters{Pages: 1, Read: 4, Published: 2, Filtered: 1, Dead: 1, RecordsOut: 3},
			ids:  []string{"a", "many2-b#0", "many2-b#1"}, dead: []string{"poison"},
		},
		{
			name: "refused by the queue", data: []string{"a", "refuse", "b"},
			want: pipeline.Counters{Pages: 1, Read: 3, Published: 2, Dead: 1, RecordsOut: 2},
			ids:  []string{"a", "b"}, dead: []string{"refuse"},
		},
		{name: "upstream fails", data: []string{"a"}, fetch: errLost, err: errLost, ids: []string{}, dead: []string{}},
		{
			name: "queue is full", data: []string{"a"}, err: queue.ErrFull, ids: []string{}, dead: []string{},
			publish: func(string, []record.Record) error { return queue.ErrFull },
		},
		{
			name: "dead letters cannot be written", data: []string{"a", "poison"}, err: queue.ErrUnavailable, ids: []string{"a"}, dead: []string{},
			publish: func(topic string, _ []record.Record) error {
				if topic == "orders.dead" {
					return queue.ErrUnavailable
				}
				return nil
			},
		},
		{
			name: "a passing failure", data: []string{"a"}, ids: []string{"a"}, dead: []string{},
			want:    pipeline.Counters{Pages: 1, Read: 1, Published: 1, RecordsOut: 1},
			publish: failing(1, queue.ErrUnavailable),
		},
		{
			name: "nobody knows whether it was written", data: []string{"a"}, err: queue.ErrUnknown, ids: []string{}, dead: []string{},
			publish: failing(1, fmt.Errorf("publish: %w: %w", queue.ErrUnavailable, queue.ErrUnknown)),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src, b := &pages{parts: [][]string{tt.data}, fail: map[int]error{0: tt.fetch}}, newBroker()
			b.onPublish = tt.publish
			done, err := newPipeline(t, src, b).Process(t.Context(), who)
			if !errors.Is(err, tt.err) {
				t.Fatalf("err %v, want %v", err, tt.err)
			}
			if done.Counters != tt.want {
				t.Errorf("counters %+v, want %+v", done.Counters, tt.want)
			}
			if d := cmp.Diff(tt.ids, b.ids("orders")); d != "" {
				t.Error("records", d)
			}
			if d := cmp.Diff(tt.dead, b.ids("orders.dead")); d != "" {
				t.Error("dead letters", d)
			}
			if err == nil && len(done.Results) != len(tt.ids) {
				t.Errorf("%d results, %d records", len(done.Results), len(tt.ids))
			}
		})
	}
}

// TestPublishGoesOnBehindWhatIsDurable: another try does not repeat what the one before has stored, and a refusal names
// the record of the whole batch.
func TestPublishGoesOnBehindWhatIsDurable(t *testing.T) {
	src, b := &pages{parts: [][]string{{"a", "b", "c", "d", "refuse", "e"}}}, newBroker()
	tries := 0
	b.onPublish = func(topic string, batch []record.Record) error {
		if tries++; tries > 2 {
			return nil
		}
		b.topics[topic] = append(b.topics[topic], batch[:tries]...)
		return &queue.PartError{Done: tries, Err: queue.ErrUnavailable}
	}
	done, err := newPipeline(t, src, b).Process(t.Context(), who)
	if err != nil {
		t.Fatal(err)
	}
	if done.Published != 5 || done.Counters.Dead != 1 {
		t.Errorf("counters %+v", done.Counters)
	}
	if d := cmp.Diff([]string{"a", "b", "c", "d", "e"}, b.ids("orders")); d != "" {
		t.Error("records", d)
	}
	if d := cmp.Diff([]string{"refuse"}, b.ids("orders.dead")); d != "" {
		t.Error("dead letters", d)
	}
}

func failing(times int, err error) func(string, []record.Record) error {
	return func(string, []record.Record) error {
		if times--; times >= 0 {
			return err
		}
		return nil
	}
}

func TestPush(t *testing.T) {
	b := newBroker()
	p := newPipeline(t, &pages{}, b)
	done, err := p.Push(t.Context(), who, "text/plain", []byte("a,drop,b"))
	if err != nil || done.Read != 3 || done.Published != 2 || done.Filtered != 1 {
		t.Fatalf("%+v, %v", done.Counters, err)
	}
	var bad *pipeline.BodyError
	if _, err := p.Push(t.Context(), who, "text/plain", nil); !errors.As(err, &bad) {
		t.Fatalf("err %v, want a BodyError", err)
	}
}

func TestReplayStartsFromTheOriginalBytes(t *testing.T) {
	b := newBroker()
	p := newPipeline(t, &pages{}, b)
	letter := rec("a")
	letter.Headers = []record.Header{{Name: "ferry-dead-reason", Value: "old"}}
	again := rec("poison")
	done, err := p.Replay(t.Context(), who, []record.Record{letter, again}, false)
	if err != nil || done.Published != 1 || done.Counters.Dead != 1 {
		t.Fatalf("%+v, %v", done.Counters, err)
	}
	if r := b.topics["orders"][0]; r.ID != letter.ID || r.Header("ferry-dead-reason") != "" {
		t.Errorf("replayed %+v", r)
	}
	if n := len(b.topics["orders.dead"]); n != 1 {
		t.Errorf("%d letters", n)
	}
	done, err = p.Replay(t.Context(), who, []record.Record{again}, true)
	if err != nil || done.Counters.Dead != 1 || len(done.Dead) != 1 || len(b.topics["orders.dead"]) != 1 {
		t.Errorf("what is to stay: %+v, %v, %d letters", done, err, len(b.topics["orders.dead"]))
	}
}

// TestReplayFindsKeysAnew: a letter that the source gave no key gets key and id as if it came for the first time, and is a
// letter again when there is still none. Others keep what they have.
func TestReplayFindsKeysAnew(t *testing.T) {
	b := newBroker()
	p := newPipeline(t, &pages{bad: map[string]error{"none": errors.New("nothing at key")}}, b)
	letter := func(stage, text string) record.Record {
		r := rec(text)
		r.ID, r.Key = "of-the-content", ""
		r.Headers = []record.Header{{Name: record.HeaderDeadStage, Value: stage}}
		return r
	}
	done, err := p.Replay(t.Context(), who, []record.Record{letter("map", "a"), letter("source", "none"), letter("source", "b"), letter("source", "poison")}, false)
	if err != nil || done.Published != 2 {
		t.Fatalf("%+v, %v", done.Counters, err)
	}
	if d := cmp.Diff([]int{1, 3}, done.DeadAt); d != "" {
		t.Error("dead", d)
	}
	if d := cmp.Diff([]string{"of-the-content", "b"}, b.ids("orders")); d != "" {
		t.Error("records", d)
	}
	if r := b.topics["orders"][1]; r.Key != "b" {
		t.Errorf("key %q", r.Key)
	}
	dead := b.topics["orders.dead"]
	if len(dead) != 2 || dead[0].Header(record.HeaderDeadStage) != "source" || dead[0].Header(record.HeaderDeadReason) != "nothing at key" ||
		dead[1].Header(record.HeaderDeadStage) != "map" || dead[1].ID != "id-poison" {
		t.Errorf("letters %+v", dead)
	}
}

func TestPreviewPublishesNothing(t *testing.T) {
	src, b := &pages{parts: [][]string{{"a", "drop", "poison", "b"}, {"c"}}}, newBroker()
	got, err := newPipeline(t, src, b).Preview(t.Context(), nil, nil, 3)
	if err != nil {
		t.Fatal(err)
	}
	if got.Read != 4 || len(got.Outcomes) != 3 || got.End || string(got.Next) != "4" {
		t.Errorf("%+v", got)
	}
	if len(got.Outcomes[0].Results) != 1 || len(got.Outcomes[1].Results) != 0 || got.Outcomes[2].Dead == nil {
		t.Errorf("outcomes %+v", got.Outcomes)
	}
	if len(b.topics) != 0 || b.epoch != 0 {
		t.Errorf("a preview wrote %v or claimed the writer (%d)", b.topics, b.epoch)
	}
}

func TestSetCursorFencesARunUnderWay(t *testing.T) {
	src, b := &pages{parts: [][]string{{"a"}, {"b"}}}, newBroker()
	b.limits = queue.Limits{CommitRecords: 1}
	p := newPipeline(t, src, b)
	moved := false
	var setErr error
	_, err := p.Run(t.Context(), who, func(pipeline.Counters, int64) {
		if !moved {
			moved = true
			setErr = p.SetCursor(context.Background(), record.Cursor("7"))
		}
	})
	if setErr != nil || !errors.Is(err, queue.ErrFenced) || string(b.cursor) != "7" {
		t.Fatalf("set %v, run %v, cursor %s", setErr, err, b.cursor)
	}
}
