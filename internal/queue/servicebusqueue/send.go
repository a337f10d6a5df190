package servicebusqueue

import (
	"context"
	"errors"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// lanesAtOnce is how many sessions or partitions are sent to beside each other.
const lanesAtOnce = 16

// item is one record of a round, and what has become of it.
type item struct {
	record  *record.Record
	durable bool
	refused error // it can never be taken
	failed  error // its lane stopped at it, or before it
}

// send sends the records of a round and answers each entry.
func (q *Queue) send(topic string, entries []*entry) {
	var items []*item
	for _, e := range entries {
		for i := range e.records {
			items = append(items, &item{record: &e.records[i]})
		}
	}
	q.sendLanes(topic, q.lanes(topic, items))
	at := 0
	for _, e := range entries {
		e.done <- outcome(items[at : at+len(e.records)])
		at += len(e.records)
	}
}

// outcome of one entry: it stops at the first record that is not durable.
func outcome(items []*item) result {
	var r result
	for i, it := range items {
		switch {
		case it.refused != nil:
			if r.refused == nil {
				r.refused = make(map[int]error)
			}
			r.refused[i] = it.refused
		case !it.durable && r.err == nil:
			r.durable, r.err = i, it.failed
		}
	}
	if r.err == nil {
		r.durable = len(items)
	}
	return r
}

// lanes parts the records by what all messages of a batch must share; the order of each lane is that of the records.
func (q *Queue) lanes(topic string, items []*item) [][]*item {
	type lane struct{ session, partition string }
	var all [][]*item
	index := make(map[lane]int)
	for _, it := range items {
		session, partition := q.lane(topic, it.record)
		i, ok := index[lane{session, partition}]
		if !ok {
			i = len(all)
			index[lane{session, partition}] = i
			all = append(all, nil)
		}
		all[i] = append(all[i], it)
	}
	return all
}

func (q *Queue) sendLanes(topic string, lanes [][]*item) {
	if len(lanes) == 1 {
		q.sendLane(topic, lanes[0])
		return
	}
	slots := make(chan struct{}, lanesAtOnce)
	var wg sync.WaitGroup
	for _, lane := range lanes {
		slots <- struct{}{}
		wg.Go(func() {
			q.sendLane(topic, lane)
			<-slots
		})
	}
	wg.Wait()
}

// sendLane sends one message after the other, each as full as it may be, until one fails.
func (q *Queue) sendLane(topic string, items []*item) {
	c, err := q.conn()
	var s *sender
	if err == nil {
		s, err = c.sender(topic)
	}
	for len(items) > 0 && err == nil {
		var said sent
		said, err = await(context.Background(), q, func(ctx context.Context) (sent, error) {
			return s.use(ctx, func() (sent, error) { return q.sendOne(ctx, s, topic, items) })
		})
		if err != nil {
			break
		}
		for _, it := range items[:said.n] {
			it.refused, it.durable = said.refused, said.refused == nil
		}
		items = items[said.n:]
	}
	if err == nil {
		return
	}
	if c != nil {
		q.lose(context.Background(), c, err)
		if s != nil {
			q.dropSender(c, topic, s, err)
		}
	}
	for _, it := range items {
		it.failed = err
	}
}

// sent is what one message has taken: so many records, which are durable unless they were refused.
type sent struct {
	n       int
	refused error
}

// sendOne sends as many of the items as fit into one message. A single record goes as it is: the batch format would
// repeat its properties, and leave less room for it.
func (q *Queue) sendOne(ctx context.Context, s *sender, topic string, items []*item) (sent, error) {
	if len(items) == 1 {
		return q.sendSingle(ctx, s, topic, items[0].record)
	}
	batch, err := s.NewMessageBatch(ctx, nil)
	if err != nil {
		return sent{}, err
	}
	n := 0
	for ; n < len(items); n++ {
		err := batch.AddMessage(q.encode(topic, items[n].record), nil)
		if errors.Is(err, azservicebus.ErrMessageTooLarge) {
			break
		}
		if err != nil {
			return sent{}, err
		}
	}
	if n <= 1 {
		return q.sendSingle(ctx, s, topic, items[0].record)
	}
	return sent{n: n}, s.SendMessageBatch(ctx, batch, nil)
}

// sendSingle sends one record. That it is too large, against what was weighed, is its own failure and nobody else's.
func (q *Queue) sendSingle(ctx context.Context, s *sender, topic string, r *record.Record) (sent, error) {
	err := s.SendMessage(ctx, q.encode(topic, r), nil)
	if errors.Is(err, azservicebus.ErrMessageTooLarge) {
		total, _ := q.weigh(topic, r)
		return sent{1, &queue.TooLargeError{Size: max(total, q.maxMessage+1), Limit: q.maxMessage}}, nil
	}
	return sent{n: 1}, err
}
