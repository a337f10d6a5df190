package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
)

// unconfirmedError says that a write is in the server, and that it was not confirmed to be safe there.
type unconfirmedError struct{ text string }

func (e *unconfirmedError) Error() string { return e.text }

// on calls f with the client of the server that holds a key, again when it turns out that a cluster has moved it: such a
// server has done nothing. Everything else is f's error.
func (q *Queue) on(ctx context.Context, key string, f func(*redis.Client) error) error {
	for wait := 5 * time.Millisecond; ; wait *= 2 {
		c, err := q.master(ctx, key)
		if err == nil {
			err = f(c)
		}
		if err == nil {
			return nil
		}
		if !isAnswer(err) || reason(err) != "" {
			q.doubt.Store(true)
			q.moved(ctx)
		}
		if _, elsewhere := redis.IsMovedError(err); !elsewhere {
			return err
		}
		select { // for the client library to learn where
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// run has the server that holds keys[0] run a script, and returns when what it wrote is durable. After an error of the
// connection it is not known whether it has run.
func (q *Queue) run(ctx context.Context, s script, keys []string, args []any) (answer []any, err error) {
	err = q.on(ctx, keys[0], func(c *redis.Client) error {
		answer, err = q.evaluate(ctx, c, s, keys, args, q.confirm)
		return err
	})
	return answer, err
}

// ask is run for a script that writes nothing.
func (q *Queue) ask(ctx context.Context, s script, key string, args ...any) (answer []any, err error) {
	err = q.on(ctx, key, func(c *redis.Client) error {
		answer, err = q.evaluate(ctx, c, s, []string{key}, args, confirmation{})
		return err
	})
	return answer, err
}

// evaluate sends the script by its name, and whole to a server that does not know it yet.
func (q *Queue) evaluate(ctx context.Context, c *redis.Client, s script, keys []string, args []any, sure confirmation) ([]any, error) {
	answer, err := q.send(ctx, c, sure, func(p commander) *redis.Cmd { return p.EvalSha(ctx, s.sum, keys, args...) })
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		answer, err = q.send(ctx, c, sure, func(p commander) *redis.Cmd { return p.Eval(ctx, s.source, keys, args...) })
	}
	if err != nil {
		return nil, err
	}
	list, ok := answer.([]any)
	if !ok {
		return nil, fmt.Errorf("the server sent %T for a script's answer", answer)
	}
	return list, nil
}

// commander is the library's client, or a pipeline of commands for one connection.
type commander interface {
	Do(ctx context.Context, args ...any) *redis.Cmd
	Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd
	EvalSha(ctx context.Context, sum string, keys []string, args ...any) *redis.Cmd
}

// send makes one write and waits for its confirmation on the same connection, in one round trip.
func (q *Queue) send(ctx context.Context, c *redis.Client, sure confirmation, write func(commander) *redis.Cmd) (any, error) {
	if sure == (confirmation{}) {
		return write(c).Result()
	}
	p := c.Pipeline()
	cmd := write(p)
	patience := max(q.cfg.Timeout*3/4, time.Millisecond).Milliseconds() // less than the connection has, and Redis looks up every 100 ms only
	var wait *redis.Cmd
	if sure.aof {
		wait = p.Do(ctx, "WAITAOF", 1, sure.replicas, patience)
	} else {
		wait = p.Do(ctx, "WAIT", sure.replicas, patience)
	}
	if err := execute(ctx, p); err != nil {
		return nil, err
	}
	if err := cmd.Err(); err != nil {
		return nil, err
	}
	if err := q.confirmed(wait); err != nil {
		return nil, err
	}
	return cmd.Val(), nil
}

// confirmed reads the answer of WAIT (a number of replicas) or WAITAOF (disks: the server's own, and those of replicas).
func (q *Queue) confirmed(wait *redis.Cmd) error {
	v, err := wait.Result()
	if err != nil {
		if isAnswer(err) && strings.Contains(err.Error(), "appendonly") {
			return &unconfirmedError{"the server has stopped keeping an append-only file since ferry was started"}
		}
		return err
	}
	local, replicas := int64(1), v
	if list, ok := v.([]any); ok && len(list) == 2 {
		local, _ = list[0].(int64)
		replicas = list[1]
	}
	n, _ := replicas.(int64)
	switch {
	case local < 1:
		return &unconfirmedError{"the server has not synced it to its disk in time"}
	case n < int64(q.confirm.replicas):
		q.doubt.Store(true)
		return &unconfirmedError{fmt.Sprintf("only %d of %d replicas have it in time", n, q.confirm.replicas)}
	}
	return nil
}

// followed tells whether as many replicas follow the server of a key as a write has to reach. It is asked before a
// publish while there is doubt: what is written without them could not be confirmed, and would be there twice after the
// next try.
func (q *Queue) followed(ctx context.Context, key string) error {
	c, err := q.master(ctx, key)
	if err != nil {
		return q.mapError("look for the server of "+key, err)
	}
	return q.hasReplicas(ctx, c)
}

func (q *Queue) hasReplicas(ctx context.Context, c *redis.Client) error {
	// Nothing was written on this connection, so this counts all that follow.
	n, err := c.Wait(ctx, q.cfg.Wait, min(time.Second, q.cfg.Timeout/4)).Result()
	switch {
	case err != nil:
		q.moved(ctx)
		return q.mapError("ask Redis for its replicas", err)
	case n < int64(q.cfg.Wait):
		return fmt.Errorf("%w: the server has %d replicas, and the queue's URL says wait=%d", queue.ErrUnavailable, n, q.cfg.Wait)
	}
	return nil
}

// failure gives an error of run as one of the contract.
func (q *Queue) failure(what string, err error) error {
	var u *unconfirmedError
	if errors.As(err, &u) {
		return fmt.Errorf("%s: %w: written, but not confirmed: %w", what, queue.ErrUnavailable, err)
	}
	return q.mapError(what, err)
}

// refused turns the answers of lua/append.lua into errors, and gives nil for a script that went through.
func (q *Queue) refused(what string, t topic, answer []any) error {
	word := func(i int) string {
		if i >= len(answer) {
			return ""
		}
		s, _ := answer[i].(string)
		return s
	}
	if word(1) == t.deadKey() {
		t.name = queue.DeadTopic(t.base)
	}
	switch word(0) {
	case "done":
		return nil
	case "missing":
		return q.noTopic(t)
	case "full":
		return fmt.Errorf("%s: %w: topic %s holds %s, and the queue's URL says %s; trim what is done with (XTRIM)", what, queue.ErrFull, t.name, word(2), word(3))
	case "type":
		return notStream(t, word(2))
	}
	return fmt.Errorf("%s: the server sent %q", what, answer)
}
