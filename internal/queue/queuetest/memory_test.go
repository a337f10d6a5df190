package queuetest

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"ferry/internal/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	store := &Store{}
	Run(t, Harness{
		Open: func(testing.TB) queue.Queue {
			return NewMemory(MemoryOptions{Store: store, Redelivery: 100 * time.Millisecond})
		},
		Restart:    func(testing.TB) {},
		Redelivery: 100 * time.Millisecond,
	})
}
