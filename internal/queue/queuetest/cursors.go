package queuetest

import (
	"bytes"
	"context"
	"sync"

	"ferry/internal/queue"
)

// Cursors is a queue.CursorStore in memory, for queues that hold no cursors themselves. Make one with NewCursors.
type Cursors struct {
	mu     sync.Mutex
	values map[string][]byte
	revs   map[string]uint64
}

var _ queue.CursorStore = (*Cursors)(nil)

// NewCursors makes an empty one.
func NewCursors() *Cursors {
	return &Cursors{values: make(map[string][]byte), revs: make(map[string]uint64)}
}

// Get implements queue.CursorStore.
func (c *Cursors) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.values[key]), c.revs[key], ctx.Err()
}

// Put implements queue.CursorStore.
func (c *Cursors) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if c.revs[key] != rev {
		return 0, queue.ErrConflict
	}
	c.values[key], c.revs[key] = bytes.Clone(value), rev+1
	return rev + 1, nil
}

// Edit changes a value behind everybody's back: its revision stays.
func (c *Cursors) Edit(key string, edit func(value []byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[key] = edit(c.values[key])
}

// Clear forgets everything, revisions too.
func (c *Cursors) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.values)
	clear(c.revs)
}
