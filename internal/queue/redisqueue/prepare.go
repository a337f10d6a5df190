package redisqueue

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// Prepare implements queue.Preparer.
func (q *Queue) Prepare(ctx context.Context, names ...string) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	var topics []topic
	var errs []error
	for _, name := range names {
		for _, name := range []string{name, queue.DeadTopic(name)} {
			t, err := parseTopic(name)
			if err != nil {
				errs = append(errs, err)
				break
			}
			topics = append(topics, t)
		}
	}
	if len(errs) > 0 {
		return retry.Permanent(errors.Join(errs...))
	}
	_, err := await(ctx, q, "look for topics", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, q.prepare(ctx, topics)
	}, nil)
	return err
}

func (q *Queue) prepare(ctx context.Context, topics []topic) error {
	kinds, err := q.kinds(ctx, topics...)
	if err != nil {
		return q.mapError("look for topics", err)
	}
	var missing []topic
	var errs []error
	for i, t := range topics {
		switch kinds[i] {
		case isStream:
			q.list(ctx, t)
		case isNone:
			missing = append(missing, t)
		default:
			errs = append(errs, notStream(t, kinds[i]))
		}
	}
	if len(errs) == 0 && q.cfg.Create {
		for _, t := range missing {
			if err := q.make(ctx, t); err != nil {
				return err
			}
		}
		return nil
	}
	if len(missing) > 0 && !q.cfg.Create {
		errs = append(errs, q.noTopic(missing...))
	}
	return errors.Join(errs...)
}

// make makes an empty stream, by way of the group that receivers share: Redis has no other way.
func (q *Queue) make(ctx context.Context, t topic) error {
	err := q.on(ctx, t.key(), func(c *redis.Client) error {
		_, err := q.send(ctx, c, q.confirm, func(p commander) *redis.Cmd {
			return p.Do(ctx, "XGROUP", "CREATE", t.key(), group, "0", "MKSTREAM")
		})
		return err
	})
	if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
		return q.failure("make topic "+t.name, err)
	}
	q.list(ctx, t)
	return nil
}

func notStream(t topic, kind string) error {
	return retry.Permanent(fmt.Errorf("topic %s cannot lie under the key %s: a %s lies there already; choose another topic", t.name, t.key(), kind))
}

// exists is nil when the topic is there. A topic's dead letters are there as soon as it is.
func (q *Queue) exists(ctx context.Context, t topic) error {
	asked := []topic{t}
	if t.dead() {
		asked = append(asked, topic{t.base, t.base})
	}
	kinds, err := q.kinds(ctx, asked...)
	if err != nil {
		return q.mapError("look for topic "+t.name, err)
	}
	for i, kind := range kinds {
		switch kind {
		case isStream:
			return nil
		case isNone:
		default:
			return notStream(asked[i], kind)
		}
	}
	return q.noTopic(t)
}
