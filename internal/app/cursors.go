package app

import (
	"context"
	"errors"

	"ferry/internal/queue"
	"ferry/internal/state"
)

// cursors keeps the cursors of queues that cannot, in the state store.
type cursors struct{ store state.Store }

const cursorPrefix = "cursors/"

// Get implements queue.CursorStore.
func (c cursors) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	e, err := c.store.Get(ctx, cursorPrefix+key)
	if errors.Is(err, state.ErrNotFound) {
		return nil, 0, nil
	}
	return e.Value, e.Revision, err
}

// Put implements queue.CursorStore.
func (c cursors) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	rev, err := c.store.Put(ctx, cursorPrefix+key, value, rev)
	if errors.Is(err, state.ErrConflict) {
		return 0, queue.ErrConflict
	}
	return rev, err
}
