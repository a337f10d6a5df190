package servicebusqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"ferry/internal/queue"
	"ferry/internal/record"
)

const (
	// groupRecords and groupBytes bound what one group commit takes from those who wait; a call with more is cut.
	groupRecords = 5000
	groupBytes   = 8 << 20
)

// Publish implements queue.Publisher. The calls to a topic share messages of Service Bus's batch format, each of which
// is durable as a whole or not at all; within a topic one is under way at a time, so that order holds, and those for
// different sessions or partitions beside each other.
func (q *Queue) Publish(ctx context.Context, topic string, batch []record.Record) error {
	if err := q.enterTopic(topic); err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(batch) == 0 {
		return nil
	}
	good, index, failed := q.sift(topic, batch)
	what := "publish to " + topic
	if len(good) > 0 {
		if err := q.ensure(ctx, topic); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		g := q.group(topic)
		for done := 0; done < len(good); {
			e := &entry{records: good[done : done+chunk(good[done:])], done: make(chan result, 1)}
			r := g.publish(ctx, e)
			for i, err := range r.refused { // what the broker finds too large after all
				if failed == nil {
					failed = make(map[int]error)
				}
				failed[original(index, done+i)] = err
			}
			if r.err != nil {
				if err := mapError(what, r.err); errors.Is(err, queue.ErrNoTopic) {
					q.forget(topic) // so that the next call makes it, if it may
				}
				return queue.Partly(done+r.durable, failed, mapError(what, r.err))
			}
			done += len(e.records)
		}
		q.saw(topic)
	}
	if failed != nil {
		return &queue.BatchError{Failed: failed, Total: len(batch)}
	}
	return nil
}

// Refused implements queue.Refuser.
func (q *Queue) Refused(_ context.Context, topic string, batch []record.Record) (map[int]error, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	_, _, failed := q.sift(topic, batch)
	return failed, nil
}

// chunk says how many of the records go into one entry.
func chunk(records []record.Record) int {
	bytes := 0
	for i := range records {
		if bytes += records[i].Size(); i > 0 && (bytes > groupBytes || i == groupRecords) {
			return i
		}
	}
	return len(records)
}

// sift takes out the records that can never be published. index tells where the good ones were, nil: all are good.
func (q *Queue) sift(topic string, batch []record.Record) (good []record.Record, index []int, failed map[int]error) {
	for i := range batch {
		if err := q.refuse(topic, &batch[i]); err != nil {
			if failed == nil {
				failed = make(map[int]error)
			}
			failed[i] = err
		}
	}
	if failed == nil {
		return batch, nil, nil
	}
	for i := range batch {
		if failed[i] == nil {
			good, index = append(good, batch[i]), append(index, i)
		}
	}
	return good, index, failed
}

func original(index []int, i int) int {
	if index == nil {
		return i
	}
	return index[i]
}

// group is a topic's group commit. Calls put their records into a queue; one goroutine, there only while there is
// something to send, takes those that wait and sends them. While one message is on its way the next gathers, so that
// they grow with the load, and a call that comes alone waits for nobody.
type group struct {
	q     *Queue
	topic string

	mu      sync.Mutex
	waiting []*entry
	running bool
}

// entry is one call's records on their way.
type entry struct {
	records []record.Record
	done    chan result // holds one
}

// result of an entry.
type result struct {
	durable int           // the first so many are, those that were refused included
	refused map[int]error // can never be taken
	err     error
}

func (q *Queue) group(topic string) *group {
	q.mu.Lock()
	defer q.mu.Unlock()
	g := q.groups[topic]
	if g == nil {
		g = &group{q: q, topic: topic}
		q.groups[topic] = g
	}
	return g
}

// publish hands the records over and waits until they are durable. When the context ends first, and they have not
// been taken yet, they are taken back and nothing is written.
func (g *group) publish(ctx context.Context, e *entry) result {
	if ctx.Err() != nil {
		return result{err: errors.Join(context.Cause(ctx), errNotSent)}
	}
	g.mu.Lock()
	g.waiting = append(g.waiting, e)
	if !g.running {
		g.running = true
		g.q.calls.Go(g.run)
	}
	g.mu.Unlock()
	select {
	case r := <-e.done:
		return r
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.waiting, e)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
	if i >= 0 {
		return result{err: errors.Join(context.Cause(ctx), errNotSent)}
	}
	select {
	case r := <-e.done:
		return r
	default:
		return result{err: fmt.Errorf("outcome unknown: %w", context.Cause(ctx))}
	}
}

var errNotSent = errors.New("nothing written")

// take gives the entries of the next round, or nil when none waits, which ends the goroutine.
func (g *group) take() []*entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, records := 0, 0
	for n < len(g.waiting) && (n == 0 || records+len(g.waiting[n].records) <= groupRecords) {
		records += len(g.waiting[n].records)
		n++
	}
	if n == 0 {
		g.running, g.waiting = false, nil
		return nil
	}
	taken := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	return taken
}

// run sends round after round. It works under a context of its own: a caller that gives up must not take the others'
// records with it.
func (g *group) run() {
	for entries := g.take(); entries != nil; entries = g.take() {
		g.q.send(g.topic, entries)
	}
}
