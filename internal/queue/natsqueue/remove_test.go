package natsqueue

import (
	"testing"

	"ferry/internal/embedded"
	"ferry/internal/record"
)

func TestRemove(t *testing.T) {
	q := open(t, embeddedConfig(serve(t, embedded.Options{})))
	ctx := t.Context()
	for _, id := range []string{"a", "b", "c"} {
		if err := q.Publish(ctx, "orders.dead", []record.Record{{ID: id, Data: []byte(`1`)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Publish(ctx, "orders", []record.Record{{ID: "kept", Data: []byte(`1`)}}); err != nil {
		t.Fatal(err)
	}
	dead, err := q.Browse(ctx, "orders.dead", 0, 10)
	if err != nil || len(dead) != 3 {
		t.Fatalf("%d letters, %v", len(dead), err)
	}
	orders, err := q.Browse(ctx, "orders", 0, 10)
	if err != nil || len(orders) != 1 {
		t.Fatalf("%d records, %v", len(orders), err)
	}
	// Twice, with places that hold nothing and one that is another topic's.
	for range 2 {
		if err := q.Remove(ctx, "orders.dead", dead[0].Position, dead[2].Position, 0, -1, 99, orders[0].Position); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := q.Browse(ctx, "orders.dead", 0, 10); err != nil || len(left) != 1 || left[0].ID != "b" {
		t.Errorf("left %+v, %v; want b alone", left, err)
	}
	if kept, err := q.Browse(ctx, "orders", 0, 10); err != nil || len(kept) != 1 {
		t.Errorf("the other topic has %d records, %v", len(kept), err)
	}
}
