package redisqueue

import (
	"fmt"
	"testing"

	"ferry/internal/record"
)

// Records in a row that have the same headers say them once.
func TestEncodeInGroups(t *testing.T) {
	run := []record.Header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}}
	same := []record.Header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}}
	got := fmt.Sprint(encode([]any{"before"}, []record.Record{
		{ID: "i1", Key: "k1", Data: []byte("1"), Headers: run},
		{ID: "i2", Key: "k2", Data: []byte("2"), Headers: same},
		{ID: "i3", Data: []byte("3"), Headers: run},
		{ID: "i4", Key: "k4", Data: []byte("4"), Headers: run[:1]},
		{ID: "i5", Key: "k5", Data: []byte("5")},
	}))
	want := fmt.Sprint([]any{
		"before",
		2, 1, 4, "a", "1", "b", "2", []byte("1"), "i1", "k1", []byte("2"), "i2", "k2",
		1, 0, 4, "a", "1", "b", "2", []byte("3"), "i3",
		1, 1, 2, "a", "1", []byte("4"), "i4", "k4",
		1, 1, 0, []byte("5"), "i5", "k5",
	})
	if got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}
