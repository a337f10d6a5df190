package queue

import (
	"context"
	"fmt"
	"sync"
)

// Calls counts the calls under way on a queue, so that its Close can wait for them. The zero value lets them in. Safe for
// concurrent use.
type Calls struct {
	mu     sync.RWMutex
	closed bool
	busy   sync.WaitGroup
}

// Enter counts a call, which ends with Leave. After Close it is ErrClosed, and nothing is counted.
func (c *Calls) Enter() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return ErrClosed
	}
	c.busy.Add(1)
	return nil
}

// Leave ends what Enter has counted.
func (c *Calls) Leave() { c.busy.Done() }

// Go runs f beside the calls and counts it as one. Whoever starts it is counted already, so that Close cannot be past its
// wait.
func (c *Calls) Go(f func()) { c.busy.Go(f) }

// Close lets nobody in any more. The first call gets what waits for those under way, every other one nil.
func (c *Calls) Close() Leaving {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	gone := make(chan struct{})
	go func() { c.busy.Wait(); close(gone) }()
	return gone
}

// Leaving are the calls that were under way at Close; it is closed when they have left.
type Leaving <-chan struct{}

// Wait returns when all have left. When the context ends first it says so, and they go on.
func (l Leaving) Wait(ctx context.Context) error {
	select {
	case <-l:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close queue with writes under way: %w", context.Cause(ctx))
	}
}
