package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// reasons are the errors of Redis, by their first word, that can clear by themselves.
var reasons = map[string]string{
	"LOADING":     "the server is loading its data after a start",
	"READONLY":    "the server is a replica, perhaps since a failover",
	"MASTERDOWN":  "the replica has lost its master",
	"CLUSTERDOWN": "the cluster is down: not every slot has a server",
	"TRYAGAIN":    "the cluster is moving the topic to another server",
	"ASK":         "the cluster is moving the topic to another server",
	"MOVED":       "the cluster has moved the topic to another server",
	"BUSY":        "the server is busy with a script",
	"NOREPLICAS":  "too few replicas follow the server (min-replicas-to-write)",
	"UNBLOCKED":   "the server has become a replica",
	"NOGOODSLAVE": "the sentinels see no server to take over",
	"NOMASTER":    "the sentinels know no master of this name yet",
}

// reason is what is said of an error that can clear by itself, or "".
func reason(err error) string {
	word, _, _ := strings.Cut(err.Error(), " ")
	return reasons[word]
}

// mapError turns what the library says into the contract's errors. It keeps the cause.
func (q *Queue) mapError(what string, err error) error {
	if err == nil {
		return nil
	}
	if !isAnswer(err) {
		switch {
		case errors.Is(err, redis.ErrClosed):
			return fmt.Errorf("%s: %w", what, queue.ErrClosed)
		case q.cfg.Mode == sentinel && strings.Contains(err.Error(), "all sentinels specified in configuration are unreachable"):
			return fmt.Errorf("%s: %w: no sentinel knows a master called %q: %w", what, queue.ErrUnavailable, q.cfg.Master, err)
		}
		// Timeouts, refused and lost connections.
		return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
	}
	text := err.Error()
	word, _, _ := strings.Cut(text, " ")
	switch {
	case redis.IsOOMError(err) || strings.Contains(text, "OOM command not allowed"):
		return fmt.Errorf("%s: %w: the server is at its limit of memory (maxmemory): raise it, or delete or trim what is done with", what, queue.ErrFull)
	case word == "MISCONF" && strings.Contains(strings.ToLower(text), "space"):
		return fmt.Errorf("%s: %w: the server's disk is full: %w", what, queue.ErrFull, err)
	case word == "MISCONF":
		return fmt.Errorf("%s: %w: the server cannot write to its disk: %w", what, queue.ErrUnavailable, err)
	case reason(err) != "":
		return fmt.Errorf("%s: %w: %s", what, queue.ErrUnavailable, reason(err))
	case strings.Contains(text, "cluster support disabled"):
		return retry.Permanent(fmt.Errorf("%s: the server is not part of a cluster: leave mode=cluster out of the queue's URL", what))
	case redis.IsMaxClientsError(err):
		return fmt.Errorf("%s: %w: the server has no connection left (maxclients)", what, queue.ErrUnavailable)
	case redis.IsAuthError(err):
		return retry.Permanent(fmt.Errorf("%s: %w (is the login in the queue's URL right?)", what, err))
	case redis.IsPermissionError(err):
		return retry.Permanent(fmt.Errorf("%s: %w (which commands and keys ferry needs is in docs/queues.md)", what, err))
	}
	return retry.Permanent(fmt.Errorf("%s: %w", what, err))
}

// execute sends a pipeline. Its commands have their own errors, and its own is one that kept all of them from being
// sent: after a refusal while it makes the connection the library leaves the commands as if they had succeeded.
func execute(ctx context.Context, p redis.Pipeliner) error {
	cmds, err := p.Exec(ctx)
	if slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Err() != nil }) {
		return nil
	}
	return err
}

// await runs f and returns when it is done or when the context ends: the client library does not take its hands off a
// connection before the answer is there. f has a context of its own, which ends after the time of one round trip. What
// f gives too late goes to late, if any.
func await[T any](ctx context.Context, q *Queue, what string, f func(context.Context) (T, error), late func(T)) (T, error) {
	var none T
	if ctx.Err() != nil {
		return none, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	q.calls.Go(func() { // the caller is counted, so Close cannot be past its wait
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.cfg.Timeout)
		defer cancel()
		v, err := f(own)
		done <- outcome{v, err}
		if ctx.Err() == nil || late == nil {
			return
		}
		select {
		case o := <-done: // nobody has taken it
			if o.err == nil {
				late(o.value)
			}
		default:
		}
	})
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
	}
	select {
	case o := <-done: // just in time
		return o.value, o.err
	default:
		return none, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
}
