package cloudevents_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ferry/internal/queue"
	"ferry/internal/queue/cloudevents"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
)

// named is a queue in memory whose broker has a binding, or none.
type named struct {
	*queuetest.Memory
	prefix string
}

func (n named) Info() queue.Info {
	info := n.Memory.Info()
	info.EventPrefix = n.prefix
	return info
}

var options = cloudevents.Options{Topic: "t", Source: "/pipelines/p", Type: "com.example.order"}

func example() record.Record {
	return record.Record{
		ID: "1f", Key: `k"1`, Data: []byte(`{"n": 1.0}`),
		Headers: []record.Header{
			{Name: record.HeaderPipeline, Value: "p"},
			{Name: record.HeaderContentType, Value: "application/json"},
			{Name: record.HeaderTraceparent, Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		},
	}
}

func both(t *testing.T, prefix string) (records, dead []queue.Stored) {
	t.Helper()
	m := queuetest.NewMemory()
	q := cloudevents.Wrap(named{m, prefix}, options)
	letter := record.Record{ID: "d", Data: []byte(`broken`)}
	if err := q.Publish(t.Context(), "t", []record.Record{example()}); err != nil {
		t.Fatal(err)
	}
	w, err := q.OpenWriter(t.Context(), "p", "t")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), queue.Batch{Records: []record.Record{example()}, Dead: []record.Record{letter}}, record.Cursor("c")); err != nil {
		t.Fatal(err)
	}
	if err := q.Publish(t.Context(), queue.DeadTopic("t"), []record.Record{letter}); err != nil {
		t.Fatal(err)
	}
	if records, err = m.Browse(t.Context(), "t", 0, 10); err != nil || len(records) != 2 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	if dead, err = m.Browse(t.Context(), "t.dead", 0, 10); err != nil || len(dead) != 2 {
		t.Fatalf("%d dead letters, %v", len(dead), err)
	}
	for _, d := range dead {
		if diff := cmp.Diff(letter, d.Record); diff != "" {
			t.Errorf("a dead letter is not as it was: %s", diff)
		}
	}
	return records, dead
}

func TestBinary(t *testing.T) {
	records, _ := both(t, "ce_")
	want := example()
	want.Headers = append(want.Headers,
		record.Header{Name: "ce_specversion", Value: "1.0"}, record.Header{Name: "ce_id", Value: "1f"},
		record.Header{Name: "ce_source", Value: "/pipelines/p"}, record.Header{Name: "ce_type", Value: "com.example.order"},
		record.Header{Name: "ce_subject", Value: `k"1`},
		record.Header{Name: "ce_traceparent", Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
	for _, r := range records {
		if diff := cmp.Diff(want, r.Record); diff != "" {
			t.Error(diff)
		}
	}
}

func TestStructured(t *testing.T) {
	records, _ := both(t, "")
	want := `{"specversion":"1.0","id":"1f","source":"/pipelines/p","type":"com.example.order","subject":"k\"1",` +
		`"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","datacontenttype":"application/json","data":{"n": 1.0}}`
	for _, r := range records {
		if string(r.Data) != want || !json.Valid(r.Data) {
			t.Errorf("%s\nwant %s", r.Data, want)
		}
		if got := r.Header(record.HeaderContentType); got != "application/cloudevents+json; charset=utf-8" {
			t.Errorf("content type %q", got)
		}
		if r.ID != "1f" || r.Key != `k"1` || r.Header(record.HeaderPipeline) != "p" || len(r.Headers) != 3 {
			t.Errorf("%+v", r)
		}
	}
}

// TestLimits: what fits the limits that the wrapped queue states fits the queue.
func TestLimits(t *testing.T) {
	for _, prefix := range []string{"", "ce_"} {
		q := cloudevents.Wrap(named{queuetest.NewMemory(), prefix}, options)
		w, err := q.OpenWriter(t.Context(), "p", "t")
		if err != nil {
			t.Fatal(err)
		}
		l := q.Info().Limits
		r := record.Record{ID: "1", Data: []byte(`"` + strings.Repeat("x", l.RecordBytes-3) + `"`)}
		if err := w.Commit(t.Context(), queue.Batch{Records: []record.Record{r}}, record.Cursor("a")); err != nil {
			t.Errorf("a record at the limit: %v", err)
		}
		var b queue.Batch
		for i := range l.CommitRecords {
			b.Records = append(b.Records, record.Record{ID: fmt.Sprint(i), Data: []byte(`1`)})
		}
		if err := w.Commit(t.Context(), b, record.Cursor("b")); err != nil {
			t.Errorf("a commit at the limit: %v", err)
		}
		large := &queue.TooLargeError{}
		r.Data = []byte(`"` + strings.Repeat("x", l.RecordBytes+2000) + `"`)
		if err := w.Commit(t.Context(), queue.Batch{Records: []record.Record{r}}, record.Cursor("c")); !errors.As(err, &large) {
			t.Errorf("a record over the limit: %v", err)
		}
	}
}
