package redisqueue

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Remove deletes the records at these positions, durably, delivered or not. Positions without a record are passed over.
func (q *Queue) Remove(ctx context.Context, name string, positions ...int64) error {
	t, err := q.enterTopic(name)
	if err != nil {
		return err
	}
	defer q.calls.Leave()
	var ids []any
	for _, pos := range positions {
		if pos > 0 {
			ids = append(ids, atPosition(pos).String())
		}
	}
	if len(ids) == 0 {
		return nil
	}
	what := "delete records of " + name
	_, err = await(ctx, q, what, func(ctx context.Context) (struct{}, error) {
		err := q.on(ctx, t.key(), func(c *redis.Client) error {
			// First from what is under way: Redis would go on counting them there.
			if err := c.Do(ctx, append([]any{"XACK", t.key(), group}, ids...)...).Err(); err != nil {
				return err
			}
			_, err := q.send(ctx, c, q.confirm, func(p commander) *redis.Cmd {
				return p.Do(ctx, append([]any{"XDEL", t.key()}, ids...)...)
			})
			return err
		})
		return struct{}{}, q.failure(what, err)
	}, nil)
	return err
}
