package redisqueue

import (
	"context"
	"errors"
	"slices"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
)

// countAll bounds how far Stats counts by itself what a server does not tell.
const countAll = 100_000

// Stats implements queue.Reader. Bytes are what the stream takes in the server's memory, measured by samples.
func (q *Queue) Stats(ctx context.Context, name string) (queue.Stats, error) {
	t, err := q.enterTopic(name)
	if err != nil {
		return queue.Stats{}, err
	}
	defer q.calls.Leave()
	return await(ctx, q, "look at topic "+name, func(ctx context.Context) (queue.Stats, error) {
		st, err := q.stats(ctx, t)
		if err != nil {
			return st, q.mapError("look at topic "+name, err)
		}
		if st == (queue.Stats{}) {
			return st, q.exists(ctx, t)
		}
		return st, nil
	}, nil)
}

func (q *Queue) stats(ctx context.Context, t topic) (queue.Stats, error) {
	var length *redis.IntCmd
	var memory, groups, first, last *redis.Cmd
	key := t.key()
	err := q.on(ctx, key, func(c *redis.Client) error {
		p := c.Pipeline()
		length = p.XLen(ctx, key)
		memory = p.Do(ctx, "MEMORY", "USAGE", key)
		groups = p.Do(ctx, "XINFO", "GROUPS", key)
		first = p.Do(ctx, "XRANGE", key, "-", "+", "COUNT", 1)
		last = p.Do(ctx, "XREVRANGE", key, "+", "-", "COUNT", 1)
		if err := execute(ctx, p); err != nil {
			return err
		}
		return length.Err()
	})
	st := queue.Stats{}
	if err != nil || length.Val() == 0 {
		return st, err
	}
	st.Records = length.Val()
	if n, ok := memory.Val().(int64); ok { // not everybody may ask
		st.Bytes = n
	}
	for cmd, into := range map[*redis.Cmd]*int64{first: &st.First, last: &st.Last} {
		answer, err := answerOf(cmd)
		if err != nil {
			return st, err
		}
		entries, err := readEntries(answer)
		if err != nil {
			return st, err
		}
		if len(entries) == 1 {
			*into, _ = entries[0].id.position()
		}
	}
	if err := groups.Err(); err != nil {
		return st, err
	}
	st.Waiting, err = q.unread(ctx, t, st.Records, groups.Val())
	return st, err
}

// unread counts what ferry's own reader has not acknowledged: all, when it has never been asked for.
func (q *Queue) unread(ctx context.Context, t topic, length int64, groups any) (int64, error) {
	list, _ := groups.([]any)
	for _, item := range list {
		g := readPairs(item)
		if g["name"] != group {
			continue
		}
		pending, _ := g["pending"].(int64)
		if lag, ok := g["lag"].(int64); ok {
			return pending + lag, nil
		}
		// Before Redis 7, and where entries ahead of the group were deleted, the server does not know.
		delivered, _ := g["last-delivered-id"].(string)
		ahead, err := q.ahead(ctx, t, length, delivered)
		return pending + ahead, err
	}
	return length, nil
}

// ahead counts the entries behind an id.
func (q *Queue) ahead(ctx context.Context, t topic, length int64, id string) (int64, error) {
	_, n, err := q.walk(ctx, t, "XRANGE", "("+id, countAll)
	if n == countAll {
		return length, err // at most
	}
	return n, err
}

// readPairs reads a list of names and values in turn.
func readPairs(v any) map[string]any {
	list, _ := v.([]any)
	m := make(map[string]any, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		if name, ok := list[i].(string); ok {
			m[name] = list[i+1]
		}
	}
	return m
}

// Topics implements queue.Reader.
func (q *Queue) Topics(ctx context.Context) ([]string, error) {
	if err := q.calls.Enter(); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	return await(ctx, q, "list topics", func(ctx context.Context) ([]string, error) {
		bases, err := q.client.SMembers(ctx, topicsKey).Result()
		if err != nil {
			return nil, q.mapError("list topics", err)
		}
		var topics []topic
		for _, base := range bases {
			for _, name := range []string{base, queue.DeadTopic(base)} {
				if t, err := parseTopic(name); err == nil { // others may write to the set
					topics = append(topics, t)
				}
			}
		}
		kinds, err := q.kinds(ctx, topics...)
		if err != nil {
			return nil, q.mapError("list topics", err)
		}
		var names []string
		for i, t := range topics {
			if kinds[i] == isStream {
				names = append(names, t.name)
			}
		}
		slices.Sort(names)
		return names, nil
	}, nil)
}

// What lies under a topic's key, in the words of TYPE.
const (
	isStream = "stream"
	isNone   = "none"
)

// kinds asks what lies under the topics' keys.
func (q *Queue) kinds(ctx context.Context, topics ...topic) ([]string, error) {
	if len(topics) == 0 {
		return nil, nil
	}
	cmds := make([]*redis.StatusCmd, len(topics))
	p := q.client.Pipeline()
	for i, t := range topics {
		cmds[i] = p.Type(ctx, t.key())
	}
	if err := execute(ctx, p); err != nil {
		return nil, err
	}
	kinds := make([]string, len(topics))
	var errs []error
	for i, cmd := range cmds {
		kinds[i] = cmd.Val()
		errs = append(errs, cmd.Err())
	}
	return kinds, errors.Join(errs...)
}
