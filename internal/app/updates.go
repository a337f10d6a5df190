package app

import (
	"context"
	"sync"

	"ferry/internal/api"
)

// updates hands what has changed to everybody who listens. A listener that does not keep up loses updates.
type updates struct {
	mu        sync.Mutex
	listeners map[chan api.Update]struct{}
}

func newUpdates() *updates { return &updates{listeners: make(map[chan api.Update]struct{})} }

func (u *updates) send(up api.Update) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for ch := range u.listeners {
		select {
		case ch <- up:
		default:
		}
	}
}

// subscribe gives a channel that is closed when ctx ends.
func (u *updates) subscribe(ctx context.Context) <-chan api.Update {
	ch := make(chan api.Update, 64)
	u.mu.Lock()
	u.listeners[ch] = struct{}{}
	u.mu.Unlock()
	context.AfterFunc(ctx, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.listeners, ch)
		close(ch)
	})
	return ch
}
