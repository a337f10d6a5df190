package redisqueue

import (
	"context"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// groupBytes bounds what concurrent calls write together; one call's larger record goes alone.
const groupBytes = 8 << 20

// Publish implements queue.Queue. Records of one call that do not fit into one script go as several, one after the
// other.
func (q *Queue) Publish(ctx context.Context, name string, batch []record.Record) error {
	t, err := q.enterTopic(name)
	if err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(batch) == 0 {
		return nil
	}
	_, failed := checkRecords(q.info.Limits.RecordBytes, batch, nil, 0)
	good := queue.Without(batch, failed)
	ch := q.channel(t)
	for done := 0; done < len(good); {
		n, bytes := q.chunk(good[done:])
		if err := ch.group.publish(ctx, good[done:done+n], bytes); err != nil {
			return queue.Partly(done, failed, err)
		}
		done += n
	}
	if failed != nil {
		return &queue.BatchError{Failed: failed, Total: len(batch)}
	}
	return nil
}

// chunk says how many of the records go into the next script, and their bytes.
func (q *Queue) chunk(batch []record.Record) (n, bytes int) {
	for n < len(batch) && n < q.info.Limits.CommitRecords {
		b := batch[n].Size()
		if n > 0 && bytes+b > min(groupBytes, q.info.Limits.CommitBytes) {
			break
		}
		bytes += b
		n++
	}
	return n, bytes
}

// flights is how many scripts of a topic are on their way at once. One alone would let callers take turns: those whose
// records are on their way, and those that wait for it.
const flights = 4

// gather is a topic's group commit. Calls put their records into a line; a few goroutines, there only while there is
// something to write, each take all that stand in it and write them by one script. While scripts are on their way the
// next calls gather, so the scripts grow with the load, and a call that comes alone never waits for company.
type gather struct {
	q  *Queue
	ch *channel

	mu      sync.Mutex
	waiting []*call
	running int // goroutines
}

// call is one call's records on their way.
type call struct {
	records []record.Record
	bytes   int
	done    chan error // holds one
}

func (g *gather) init(q *Queue, ch *channel) { g.q, g.ch = q, ch }

// publish hands the records over and waits until they are durable. When the context ends first, and they have not
// been taken yet, they are taken back and nothing is written.
func (g *gather) publish(ctx context.Context, records []record.Record, bytes int) error {
	if ctx.Err() != nil {
		return fmt.Errorf("publish to %s: nothing written: %w", g.ch.topic.name, context.Cause(ctx))
	}
	c := &call{records, bytes, make(chan error, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	if g.running < flights {
		g.running++
		g.q.calls.Go(g.run)
	}
	g.mu.Unlock()
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
	}
	if g.takeBack(c) {
		return fmt.Errorf("publish to %s: nothing written: %w", g.ch.topic.name, context.Cause(ctx))
	}
	select {
	case err := <-c.done:
		return err
	default:
		return fmt.Errorf("publish to %s: outcome unknown: %w", g.ch.topic.name, context.Cause(ctx))
	}
}

func (g *gather) takeBack(c *call) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range g.waiting {
		if w == c {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// take gives as many calls from the front of the line as fit into one script, or none, which ends a goroutine.
func (g *gather) take() (calls []*call, records, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for n < len(g.waiting) {
		c := g.waiting[n]
		if n > 0 && (records+len(c.records) > g.q.info.Limits.CommitRecords || bytes+c.bytes > min(groupBytes, g.q.info.Limits.CommitBytes)) {
			break
		}
		records += len(c.records)
		bytes += c.bytes
		n++
	}
	if n == 0 {
		g.running--
		return nil, 0, 0
	}
	calls = g.waiting[:n:n]
	g.waiting = append([]*call(nil), g.waiting[n:]...)
	return calls, records, bytes
}

// run writes script after script. It works under a context of its own: a caller that gives up must not take the
// others' records with it.
func (g *gather) run() {
	for {
		calls, records, bytes := g.take()
		if calls == nil {
			return
		}
		err := g.write(calls, records, bytes)
		for _, c := range calls {
			c.done <- err
		}
	}
}

func (g *gather) write(calls []*call, records, bytes int) error {
	q, t := g.q, g.ch.topic
	ctx, cancel := context.WithTimeout(context.Background(), q.cfg.Timeout)
	defer cancel()
	if q.doubt.Load() && q.cfg.Wait > 0 {
		if err := q.followed(ctx, t.key()); err != nil {
			return fmt.Errorf("publish to %s: nothing written: %w", t.name, err)
		}
		q.doubt.Store(false)
	}
	args := make([]any, 0, 5+len(calls)*groupArgs+records*recordArgs)
	args = append(args, flag(q.cfg.Create), q.cfg.MaxLen, q.cfg.MaxBytes, records, bytes)
	for _, c := range calls {
		args = encode(args, c.records)
	}
	answer, err := q.run(ctx, q.scripts.publish, []string{t.key()}, args)
	if err != nil {
		return q.failure("publish to "+t.name, err)
	}
	if err := q.refused("publish to "+t.name, t, answer); err != nil {
		return err
	}
	q.list(ctx, t)
	return nil
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// list puts the topic among those that Topics names. It is no part of the write: a publish is done without it, and the
// next one tries again.
func (q *Queue) list(ctx context.Context, t topic) {
	ch := q.channel(t)
	if ch.listed.Load() {
		return
	}
	err := q.on(ctx, topicsKey, func(c *redis.Client) error { return c.SAdd(ctx, topicsKey, t.base).Err() })
	ch.listed.Store(err == nil)
}
