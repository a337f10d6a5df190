package sqsqueue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"ferry/internal/queue"
	"ferry/internal/record"
)

const (
	// maxEntries of one request.
	maxEntries = 10
	// maxFlying requests of one queue are on their way at once; of one message group it is one.
	maxFlying = 16
	// eager is up to how many requests go out although they are not full. While more are on their way records gather:
	// requests are what SQS bounds and bills.
	eager = 2
)

// sender is a queue's group commit. Records of all calls wait in lanes, one for each message group, so that order holds
// in a group while groups do not wait for each other; a standard queue has one lane, which may have several requests
// on their way. Whoever makes room sends the next requests; there is no goroutine when nothing is on its way.
type sender struct {
	q *Queue
	t *target

	mu       sync.Mutex
	lanes    map[string]*lane
	ready    []*lane // those with records that may go
	waiting  int     // records in them
	flying   int     // requests on their way
	overtook map[string]overtaken
}

// lane is a message group's records in their order. It exists while it has any, or a request under way.
type lane struct {
	group string
	items []*item
	busy  bool // FIFO: a request holds records of it
}

// item is a record on its way.
type item struct {
	call    *call
	index   int // in the call's batch
	message message
	group   string
}

// state of a record in its call.
type state uint8

const (
	waiting state = iota
	stored
	lost // not confirmed
	never
)

// call is one Publish at work. The sender's mutex guards it.
type call struct {
	batch   []record.Record
	states  []state
	refused map[int]error
	err     error // the first that stopped it
	stopped bool  // nothing of it is sent any more
	left    int   // records in lanes
	flying  int   // records on their way
	ended   bool
	done    chan struct{}
}

// overtaken remembers a record that SQS stored although it had refused one before it in the same group.
type overtaken struct {
	times int
	at    time.Time
}

func (s *sender) init(q *Queue, t *target) {
	s.q, s.t, s.lanes, s.overtook = q, t, make(map[string]*lane), make(map[string]overtaken)
}

// enqueue takes a call's records, all but those that it knows to be refused, and sends what may go. The caller is
// counted in calls.
func (s *sender) enqueue(c *call, items []*item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range items {
		l := s.lanes[it.group]
		if l == nil {
			l = &lane{group: it.group}
			s.lanes[it.group] = l
		}
		if len(l.items) == 0 && !l.busy {
			s.ready = append(s.ready, l)
		}
		l.items = append(l.items, it)
		if !l.busy {
			s.waiting++
		}
	}
	c.left = len(items)
	s.settle(c)
	s.pump()
}

// abandon stops a call whose caller does not wait any more. What is on its way stays so.
func (s *sender) abandon(c *call, topic string, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.ended {
		return
	}
	c.stopped = true
	if c.err != nil {
		return
	}
	state := "nothing written"
	if c.flying > 0 || slices.Contains(c.states, stored) {
		state = "outcome unknown"
	}
	c.err = fmt.Errorf("publish to %s: %s: %w", topic, state, cause)
}

// pump sends requests while there are records that may go. The mutex is held.
func (s *sender) pump() {
	for s.flying < maxFlying && len(s.ready) > 0 && (s.waiting >= maxEntries || s.flying < eager) {
		items, lanes := s.take()
		if len(items) == 0 {
			continue // all were abandoned
		}
		s.flying++
		s.q.calls.Go(func() { s.run(items, lanes) })
	}
}

// take fills a request from the lanes that are ready. The mutex is held.
func (s *sender) take() (items []*item, lanes []*lane) {
	bytes := 0
	for len(s.ready) > 0 && len(items) < maxEntries {
		l := s.ready[0]
		taken, full := 0, false
		for len(l.items) > 0 && len(items) < maxEntries {
			it := l.items[0]
			if !it.call.stopped && len(items) > 0 && bytes+it.message.size > maxRequest {
				full = true
				break
			}
			l.items[0] = nil
			l.items = l.items[1:]
			s.waiting--
			it.call.left--
			if it.call.stopped {
				s.settle(it.call)
				continue
			}
			it.call.flying++
			items = append(items, it)
			bytes += it.message.size
			taken++
		}
		switch {
		case taken > 0 && s.q.cfg.FIFO:
			l.busy = true
			lanes = append(lanes, l)
			s.ready = s.ready[1:]
			s.waiting -= len(l.items) // they come back with the lane
		case len(l.items) == 0:
			delete(s.lanes, l.group)
			s.ready = s.ready[1:]
		}
		if full {
			break
		}
	}
	return items, lanes
}

// run sends one request and settles what it held. It works under a context of its own: a caller that gives up must not
// take the others' records with it.
func (s *sender) run(items []*item, lanes []*lane) {
	results := s.send(context.Background(), items)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying--
	if s.q.cfg.FIFO {
		s.keepOrder(items, results)
	}
	for i, it := range items {
		it.call.flying--
		it.call.take(it.index, results[i])
	}
	for _, it := range items {
		s.settle(it.call)
	}
	for _, l := range lanes {
		l.busy = false
		if len(l.items) == 0 {
			delete(s.lanes, l.group)
			continue
		}
		s.ready = append(s.ready, l)
		s.waiting += len(l.items)
	}
	s.pump()
}

// result is what became of a record: stored, refused for good, or not confirmed.
type result struct {
	err   error
	never bool
}

// take notes a record's result.
func (c *call) take(index int, r result) {
	switch {
	case r.err == nil:
		c.states[index] = stored
	case r.never:
		c.states[index] = never
		c.refuse(index, r.err)
	default:
		c.states[index] = lost
		c.stopped = true
		if c.err == nil {
			c.err = r.err
		}
	}
}

func (c *call) refuse(index int, err error) {
	if c.refused == nil {
		c.refused = make(map[int]error)
	}
	c.refused[index] = err
}

// settle ends a call when nothing of it is on its way, and nothing of it will be. The mutex is held.
func (s *sender) settle(c *call) {
	if !c.ended && c.flying == 0 && (c.left == 0 || c.stopped) {
		c.ended = true
		close(c.done)
	}
}

// keepOrder upholds invariant 4 where SQS refused a record for now and stored later ones of the same group: those do
// not count as stored, and when they are sent again, behind the one that was refused, it is under another
// deduplication id, or SQS would drop them and leave them ahead of it. They are there twice then, in the right order
// the second time. The mutex is held.
func (s *sender) keepOrder(items []*item, results []result) {
	for i, it := range items {
		if results[i].err == nil || results[i].never {
			continue
		}
		behind := 0
		for j := i + 1; j < len(items); j++ {
			if items[j].call != it.call || items[j].group != it.group || results[j].err != nil {
				continue
			}
			behind++
			results[j] = result{err: errOvertaken}
			if id := it.call.batch[items[j].index].ID; id != "" {
				s.remember(id)
			}
		}
		if behind > 0 {
			results[i].err = fmt.Errorf("%w (SQS stored %d records behind it already; they are stored once more, so that order holds)", results[i].err, behind)
		}
	}
}

var errOvertaken = fmt.Errorf("%w: stored ahead of a record that was not", queue.ErrUnavailable)

// remember counts an overtaken record. What is older than SQS's own memory is dropped.
func (s *sender) remember(id string) {
	now := time.Now()
	for old, o := range s.overtook {
		if now.Sub(o.at) > window {
			delete(s.overtook, old)
		}
	}
	s.overtook[id] = overtaken{times: s.overtook[id].times + 1, at: now}
}

// send makes one request of the records and gives each its result.
func (s *sender) send(ctx context.Context, items []*item) []result {
	entries := make([]types.SendMessageBatchRequestEntry, len(items))
	for i, it := range items {
		r := &it.call.batch[it.index]
		entries[i] = types.SendMessageBatchRequestEntry{
			Id:                aws.String(strconv.Itoa(i)),
			MessageBody:       aws.String(it.message.body(r)),
			MessageAttributes: it.message.attributes,
		}
		if s.q.cfg.FIFO {
			s.mu.Lock()
			again := s.overtook[r.ID].times
			s.mu.Unlock()
			entries[i].MessageGroupId = aws.String(it.group)
			entries[i].MessageDeduplicationId = aws.String(dedupID(r.ID, again))
		}
	}
	what := "publish to SQS queue " + s.t.name
	ctx, cancel := s.q.roundTrip(ctx)
	defer cancel()
	out, err := s.q.client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &s.t.url, Entries: entries})
	results := make([]result, len(items))
	switch k := kindOf(code(err)); {
	case err == nil:
		return answers(what, out, results)
	case k != tooLarge && k != poison:
		err = s.q.mapError(ctx, what, s.t, err)
		for i := range results {
			results[i].err = err
		}
	case len(items) > 1:
		// One of them, or their sum over a limit that this server does not tell: in halves, one after the other.
		half := len(items) / 2
		copy(results, s.send(context.Background(), items[:half]))
		if failure(results[:half]) == nil {
			copy(results[half:], s.send(context.Background(), items[half:]))
			break
		}
		for i := half; i < len(items); i++ {
			results[i].err = fmt.Errorf("%s: %w: a record before it was not confirmed", what, queue.ErrUnavailable)
		}
	case k == tooLarge: // by how much is not told
		results[0] = result{err: &queue.TooLargeError{Size: items[0].message.size, Limit: items[0].message.size - 1}, never: true}
	default:
		results[0] = result{err: explain(what, k, brief(err)), never: true}
	}
	return results
}

// failure gives the first result that is not confirmed.
func failure(results []result) error {
	for _, r := range results {
		if r.err != nil && !r.never {
			return r.err
		}
	}
	return nil
}

// answers reads the result of each entry out of an answer, which is a success even where entries failed.
func answers(what string, out *sqs.SendMessageBatchOutput, results []result) []result {
	for i := range results {
		results[i].err = fmt.Errorf("%s: %w: SQS did not say what became of a record", what, queue.ErrUnavailable)
	}
	at := func(id *string) int {
		if i, err := strconv.Atoi(aws.ToString(id)); err == nil && i >= 0 && i < len(results) {
			return i
		}
		return -1
	}
	for _, ok := range out.Successful {
		if i := at(ok.Id); i >= 0 {
			results[i] = result{}
		}
	}
	for _, f := range out.Failed {
		i := at(f.Id)
		if i < 0 {
			continue
		}
		c := shortCode(aws.ToString(f.Code))
		err := fmt.Errorf("%s: %s", c, aws.ToString(f.Message))
		k := kindOf(c)
		switch {
		case k == tooLarge, k == poison, k == refused && f.SenderFault:
			results[i] = result{err: fmt.Errorf("%s: SQS refuses the record: %w", what, err), never: true}
		case k == refused:
			results[i] = result{err: explain(what, unwell, err)}
		default:
			results[i] = result{err: explain(what, k, err)}
		}
	}
	return results
}
