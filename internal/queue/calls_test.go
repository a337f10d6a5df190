package queue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/queue"
)

// TestCalls: Close waits for who is in, lets nobody else in, and does its work once.
func TestCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c queue.Calls
		if err := c.Enter(); err != nil {
			t.Fatal(err)
		}
		c.Go(func() { time.Sleep(time.Minute) })
		leaving := c.Close()
		if c.Close() != nil {
			t.Error("closed twice")
		}
		if err := c.Enter(); !errors.Is(err, queue.ErrClosed) {
			t.Errorf("let in after Close: %v", err)
		}
		c.Leave()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := leaving.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("did not wait for what runs beside the calls: %v", err)
		}
		begin := time.Now()
		if err := leaving.Wait(t.Context()); err != nil || time.Since(begin) != 59*time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}
