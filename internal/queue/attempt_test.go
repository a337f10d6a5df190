package queue_test

import (
	"errors"
	"testing"

	"ferry/internal/queue"
)

// TestPartly: the count ends before a record that can never be taken.
func TestPartly(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		done   int
		failed map[int]error
		want   int
	}{
		{0, nil, 0}, {3, nil, 3}, {3, map[int]error{5: broken}, 3}, {3, map[int]error{5: broken, 1: broken}, 1}, {3, map[int]error{0: broken}, 0},
	} {
		err := queue.Partly(tt.done, tt.failed, broken)
		var part *queue.PartError
		got := 0
		if errors.As(err, &part) {
			got = part.Done
		}
		if got != tt.want || !errors.Is(err, broken) {
			t.Errorf("%d done, %v failed: %v, want %d", tt.done, tt.failed, err, tt.want)
		}
	}
}
