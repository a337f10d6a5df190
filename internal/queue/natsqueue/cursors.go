package natsqueue

import (
	"context"
	"errors"
	"strings"

	"github.com/nats-io/nats.go"

	"ferry/internal/queue"
)

// cursors is queue.CursorStore over the cursor subjects, for servers without atomic batches. Its keys are
// <topic>/<pipeline>.
type cursors struct{ q *Queue }

func (c cursors) enter(key string) (topic, string, error) {
	name, pipeline, _ := strings.Cut(key, "/")
	t, err := c.q.enterTopic(name)
	return t, pipeline, err
}

// Get implements queue.CursorStore.
func (c cursors) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	t, pipeline, err := c.enter(key)
	if err != nil {
		return nil, 0, err
	}
	defer c.q.calls.Leave()
	if _, err := c.q.ensure(ctx, t, false); errors.Is(err, queue.ErrNoTopic) {
		return nil, 0, nil
	} else if err != nil {
		return nil, 0, err
	}
	s, err := c.q.readCursor(ctx, t, pipeline)
	return s.data, s.seq, err
}

// Put implements queue.CursorStore.
func (c cursors) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	t, pipeline, err := c.enter(key)
	if err != nil {
		return 0, err
	}
	defer c.q.calls.Leave()
	if _, err := c.q.ensure(ctx, t, true); err != nil {
		return 0, err
	}
	seq, err := c.q.sendBatch(ctx, 1, func(_ int, m *nats.Msg) {
		replaceCursor(m, t.cursor(pipeline), saved{data: value}, rev)
	})
	if isConflict(err) {
		return 0, queue.ErrConflict
	}
	return seq, c.q.mapError(ctx, "write cursor of "+pipeline, err)
}
