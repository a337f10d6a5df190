package app

import (
	"errors"
	"testing"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
	"ferry/internal/state"
)

// publisher hides that the queue in memory could keep cursors itself.
type publisher struct{ *queuetest.Memory }

func (p publisher) Info() queue.Info {
	info := p.Memory.Info()
	info.Tier = queue.AtLeastOnce
	return info
}

// TestCursorsInState: a cursor of a queue that holds none is in the state store, and writers fence each other there.
func TestCursorsInState(t *testing.T) {
	store := state.NewMemory()
	q := queue.WithCursors(publisher{queuetest.NewMemory()}, cursors{store})
	first, err := q.OpenWriter(t.Context(), "p", "orders.eu")
	if err != nil {
		t.Fatal(err)
	}
	batch := queue.Batch{Records: []record.Record{{ID: "1", Data: []byte(`1`)}}}
	if err := first.Commit(t.Context(), batch, record.Cursor("here\n\x00")); err != nil {
		t.Fatal(err)
	}
	second, err := q.OpenWriter(t.Context(), "p", "orders.eu")
	if err != nil {
		t.Fatal(err)
	}
	if string(second.Cursor()) != "here\n\x00" {
		t.Errorf("cursor %q", second.Cursor())
	}
	if err := first.Commit(t.Context(), batch, record.Cursor("there")); !errors.Is(err, queue.ErrFenced) {
		t.Errorf("the first writer committed: %v", err)
	}
	kept, err := store.List(t.Context(), "cursors/orders.eu/")
	if err != nil || len(kept) != 1 {
		t.Errorf("%d cursors in the store, %v", len(kept), err)
	}
}
