package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// Cursor implements queue.Queue.
func (q *Queue) Cursor(ctx context.Context, pipeline, name string) (record.Cursor, error) {
	t, err := q.enterTopic(name)
	if err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if err := checkPipeline(pipeline); err != nil {
		return nil, err
	}
	return await(ctx, q, "read cursor of "+pipeline, func(ctx context.Context) (record.Cursor, error) {
		data, err := q.client.HGet(ctx, t.cursorKey(pipeline), "cursor").Bytes()
		if errors.Is(err, redis.Nil) {
			return nil, nil
		}
		return data, q.mapError("read cursor of "+pipeline, err)
	}, nil)
}

// OpenWriter implements queue.Queue. The claim puts the new writer's name into the cursor's hash; a commit of any other
// writer is refused from then on (invariant 6). It is confirmed like a commit, and everything before it with it, so the
// cursor read is one that a failover does not take back.
func (q *Queue) OpenWriter(ctx context.Context, pipeline, name string) (queue.Writer, error) {
	t, err := q.enterTopic(name)
	if err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if err := checkPipeline(pipeline); err != nil {
		return nil, err
	}
	if t.dead() {
		return nil, retry.Permanent(fmt.Errorf("topic %q is for dead letters; a pipeline cannot write to it", name))
	}
	what := "claim pipeline " + pipeline
	w := &writer{q: q, topic: t, pipeline: pipeline, name: q.token()}
	answer, err := await(ctx, q, what, func(ctx context.Context) ([]any, error) {
		keys := []string{t.key(), t.cursorKey(pipeline)}
		answer, err := q.run(ctx, q.scripts.claim, keys, []any{flag(q.cfg.Create), w.name})
		return answer, q.failure(what, err)
	}, nil)
	if err != nil {
		return nil, err
	}
	if err := q.refused(what, t, answer); err != nil {
		return nil, err
	}
	if len(answer) != 4 {
		return nil, fmt.Errorf("%s: the server sent %d values", what, len(answer))
	}
	epoch, _ := answer[1].(string)
	cursor, _ := answer[2].(string)
	w.commit, _ = answer[3].(string)
	if w.epoch, err = strconv.ParseInt(epoch, 10, 64); err != nil {
		return nil, fmt.Errorf("%s: the server sent the epoch %q", what, epoch)
	}
	if cursor != "" {
		w.cursor = record.Cursor(cursor)
	}
	return w, nil
}

// writer commits for one run. It belongs to one goroutine.
type writer struct {
	q        *Queue
	topic    topic
	pipeline string
	name     string
	epoch    int64 // counts the pipeline's writers

	cursor  record.Cursor
	commit  string           // the name of the last commit, on which the next one builds
	unknown []*queue.Attempt // commits that may or may not have been written; the last is the one being tried
	flight  *flight          // a commit that was not waited for to its end
	over    error            // why nothing can be committed any more
}

// flight is a script on its way. answer and err are there once landed is closed.
type flight struct {
	attempt *queue.Attempt
	landed  chan struct{}
	answer  []any
	err     error
}

// Cursor implements queue.Writer.
func (w *writer) Cursor() record.Cursor { return w.cursor }

// Close implements queue.Writer. A claim costs nothing and is fenced by the next one.
func (w *writer) Close(context.Context) error { return nil }

// Commit implements queue.Writer: one script writes records, dead letters and cursor (invariants 1 and 6). The script
// knows its commit by a name, so a repetition finds out whether the first try came through; and it knows the commit
// before, so a first try that arrives late finds that another has taken its place.
func (w *writer) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	if err := w.q.calls.Enter(); err != nil {
		return err
	}
	defer w.q.calls.Leave()
	if w.over != nil {
		return w.over
	}
	sizes, err := w.check(b)
	if err != nil {
		return err
	}
	if before := w.flight; before != nil {
		err := w.land(ctx)
		switch {
		case w.flight != nil || w.over != nil:
			return err
		case w.commit == before.attempt.ID && before.attempt.Is(b, next):
			return nil
		case w.commit == before.attempt.ID:
			return queue.ErrWritten
		}
	}
	if n := len(w.unknown); n == 0 || !w.unknown[n-1].Is(b, next) {
		w.unknown = append(w.unknown, queue.NewAttempt(w.q.token(), b, next))
	}
	if ctx.Err() != nil {
		return fmt.Errorf("commit: nothing written: %w", context.Cause(ctx))
	}
	w.takeOff(ctx, w.unknown[len(w.unknown)-1], b, sizes)
	return w.land(ctx)
}

var errLost = retry.Permanent(errors.New("the server has lost what it had confirmed, by a failover or by a restart without its append-only file: " +
	"this run cannot go on; the next one begins at the cursor that is left, which fits the records that are left"))

// sizes are the bytes of a batch's two parts.
type sizes struct{ records, dead int }

// check finds what can never be committed.
func (w *writer) check(b queue.Batch) (n sizes, err error) {
	var failed map[int]error
	limits := w.q.info.Limits
	n.records, failed = checkRecords(limits.RecordBytes, b.Records, nil, 0)
	n.dead, failed = checkRecords(limits.RecordBytes, b.Dead, failed, len(b.Records))
	switch {
	case failed != nil:
		return n, &queue.BatchError{Failed: failed, Total: b.Len()}
	case b.Len() > limits.CommitRecords:
		return n, retry.Permanent(fmt.Errorf("commit of %d records is over the queue's limit of %d", b.Len(), limits.CommitRecords))
	case n.records+n.dead > limits.CommitBytes:
		return n, retry.Permanent(fmt.Errorf("commit of %d bytes is over the queue's limit of %d", n.records+n.dead, limits.CommitBytes))
	}
	return n, nil
}

// takeOff sends the script on its way, under a context of its own: the client library does not take its hands off a
// connection before the answer is there, and a commit that is not waited for goes on.
func (w *writer) takeOff(ctx context.Context, a *queue.Attempt, b queue.Batch, n sizes) {
	q := w.q
	args := make([]any, 0, 11+2*groupArgs+recordArgs*b.Len()) // the records of a run share their headers
	args = append(args, flag(q.cfg.Create), q.cfg.MaxLen, q.cfg.MaxBytes, w.name, a.ID, w.commit, []byte(a.Next),
		len(b.Records), n.records, len(b.Dead), n.dead)
	args = encode(args, b.Records)
	args = encode(args, b.Dead)
	f := &flight{attempt: a, landed: make(chan struct{})}
	w.flight = f
	q.calls.Go(func() { // the caller is counted already, so Close cannot be past its wait
		defer close(f.landed)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.cfg.Timeout)
		defer cancel()
		f.answer, f.err = q.run(ctx, q.scripts.commit, []string{w.topic.key(), w.topic.deadKey(), w.topic.cursorKey(w.pipeline)}, args)
		if f.err == nil && b.Len() > 0 {
			q.list(ctx, w.topic)
		}
	})
}

// land waits for the script and says what came of it. When the context ends first, the flight goes on.
func (w *writer) land(ctx context.Context) error {
	f := w.flight
	select {
	case <-f.landed:
	case <-ctx.Done():
		select {
		case <-f.landed: // just in time
		default:
			return fmt.Errorf("commit: outcome unknown: %w", context.Cause(ctx))
		}
	}
	w.flight = nil
	if f.err != nil {
		return w.q.failure("commit", f.err)
	}
	word := func(i int) string {
		s, _ := f.answer[min(i, len(f.answer)-1)].(string)
		return s
	}
	switch word(0) {
	case "done":
		w.done(f.attempt)
		return nil
	case "fenced":
		w.over = queue.ErrFenced
		if epoch, _ := strconv.ParseInt(word(1), 10, 64); epoch < w.epoch {
			w.over = errLost // even the claim
		}
		return w.over
	case "other":
		for _, a := range w.unknown {
			if a.ID == word(1) {
				w.done(a)
				return queue.ErrWritten
			}
		}
		w.over = errLost
		return w.over
	}
	w.unknown = w.unknown[:len(w.unknown)-1] // refused: this one is not written, nor will be
	return w.q.refused("commit", w.topic, f.answer)
}

func (w *writer) done(a *queue.Attempt) { w.commit, w.cursor, w.unknown = a.ID, a.Next, nil }
