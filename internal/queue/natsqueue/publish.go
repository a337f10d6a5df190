package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// plainMax is up to how many records are cheaper as single messages, a sync each, than as an atomic batch, whose
// staging costs the server several syncs.
const plainMax = 8

// gatherMax bounds the wait between two group commits.
const gatherMax = 2 * time.Millisecond

// groupBytes bounds one group commit.
const groupBytes = 8 << 20

// Publish implements queue.Queue.
func (q *Queue) Publish(ctx context.Context, name string, batch []record.Record) error {
	t, err := q.enterTopic(name)
	if err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(batch) == 0 {
		return nil
	}
	ch, err := q.ensure(ctx, t, true)
	if err != nil {
		return err
	}
	failed := ch.tooLarge(batch, nil, 0)
	good := queue.Without(batch, failed)
	// What does not fit into one atomic batch goes as several, one after the other, so that order holds.
	for done := 0; done < len(good); {
		n, bytes := q.chunk(good[done:])
		if ch.group.anyAhead(t, good[done:done+n]) {
			n, bytes = 1, good[done].Size() // while one is refused none may go ahead of it again
		}
		err := q.publishChunk(ctx, t, ch, good[done:done+n], bytes)
		var partly *queue.PartError
		switch {
		case err == nil:
			done += n
			continue
		case errors.As(err, &partly):
			done, err = done+partly.Done, partly.Err
		}
		return queue.Partly(done, failed, err)
	}
	if failed != nil {
		return &queue.BatchError{Failed: failed, Total: len(batch)}
	}
	return nil
}

func (q *Queue) publishChunk(ctx context.Context, t topic, ch *channel, records []record.Record, bytes int) error {
	if q.watched() {
		if err := q.pace(ctx, bytes+len(records)*messageOverhead); err != nil {
			return fmt.Errorf("publish to %s: nothing written: %w", t.name, err)
		}
	}
	return ch.group.publish(ctx, t, records, bytes)
}

// tooLarge finds the records that no message can hold and adds them to failed, by index from first on.
func (ch *channel) tooLarge(batch []record.Record, failed map[int]error, first int) map[int]error {
	limit := int(ch.maxRecord.Load())
	for i := range batch {
		header, total := size(&batch[i])
		if header <= maxHeader && total <= limit {
			continue
		}
		if failed == nil {
			failed = make(map[int]error)
		}
		if header > maxHeader {
			failed[first+i] = &queue.TooLargeError{Size: header, Limit: maxHeader}
		} else {
			failed[first+i] = &queue.TooLargeError{Size: total, Limit: limit}
		}
	}
	return failed
}

// chunk says how many of the records go into the next batch, and their bytes.
func (q *Queue) chunk(batch []record.Record) (n, bytes int) {
	for n < len(batch) && n < q.groupRecords() {
		b := batch[n].Size()
		if n > 0 && bytes+b > groupBytes {
			break
		}
		bytes += b
		n++
	}
	return n, bytes
}

// groupRecords bounds one group commit.
func (q *Queue) groupRecords() int {
	if !q.atomic {
		return maxPending
	}
	return q.cfg.MaxBatch
}

// group is a topic's group commit. Calls put their records into a queue; one goroutine, there only while there is
// something to write, takes all that wait and writes them as one atomic batch. While a batch is on its way the next
// one gathers, so the batches grow with the load. A call never waits for company when it comes alone; see gather.
type group struct {
	q  *Queue
	ch *channel

	mu      sync.Mutex
	waiting []*entry
	running bool
	wanted  int           // while gathering: how many entries are enough
	enough  chan struct{} // holds one when they are there

	ahead map[string]again // without atomic batches: by the record's Nats-Msg-Id
}

// again is a record that was stored, or may have been, although one before it was not: the Nats-Msg-Id under which it is
// sent again, and when that was last called for.
type again struct {
	id string
	at time.Time
}

// entry is one call's records on their way.
type entry struct {
	topic   topic
	records []record.Record
	bytes   int
	done    chan error // holds one
}

func (g *group) init(q *Queue, ch *channel) {
	g.q, g.ch, g.enough, g.ahead = q, ch, make(chan struct{}, 1), make(map[string]again)
}

// publish hands the records over and waits until they are durable. When the context ends first, and they have not
// been taken yet, they are taken back and nothing is written.
func (g *group) publish(ctx context.Context, t topic, records []record.Record, bytes int) error {
	if ctx.Err() != nil {
		return fmt.Errorf("publish to %s: nothing written: %w", t.name, context.Cause(ctx))
	}
	e := &entry{topic: t, records: records, bytes: bytes, done: make(chan error, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, e)
	if !g.running {
		g.running = true
		g.q.calls.Go(g.run)
	}
	if g.wanted > 0 && len(g.waiting) >= g.wanted {
		g.wanted = 0
		g.enough <- struct{}{}
	}
	g.mu.Unlock()
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
	}
	if g.takeBack(e) {
		return fmt.Errorf("publish to %s: nothing written: %w", t.name, context.Cause(ctx))
	}
	select {
	case err := <-e.done:
		return err
	default:
		return fmt.Errorf("publish to %s: outcome unknown: %w", t.name, context.Cause(ctx))
	}
}

func (g *group) takeBack(e *entry) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range g.waiting {
		if w == e {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// take gives the next batch: as many waiting entries as fit, or nil when none waits, which ends the goroutine.
func (g *group) take() []*entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, records, bytes := 0, 0, 0
	for n < len(g.waiting) {
		e := g.waiting[n]
		if n > 0 && (records+len(e.records) > g.q.groupRecords() || bytes+e.bytes > groupBytes) {
			break
		}
		records += len(e.records)
		bytes += e.bytes
		n++
	}
	if n == 0 {
		g.running, g.waiting = false, nil
		return nil
	}
	taken := g.waiting[:n:n]
	g.waiting = append([]*entry(nil), g.waiting[n:]...)
	return taken
}

// gather waits a little between two batches, for the callers that the last one let go and that are about to come back.
// Without it those and the ones that came meanwhile would take turns, in twice as many batches of half the size, and a
// batch costs the server as much as some 200 records in it. The wait is a quarter of what the last batch took, and
// ends as soon as as many wait as were seen at once.
func (g *group) gather(last int, took time.Duration) {
	g.mu.Lock()
	if len(g.waiting) == 0 {
		g.mu.Unlock()
		return // whoever comes next is alone for all we know
	}
	g.wanted = len(g.waiting) + last
	g.mu.Unlock()
	limit := time.NewTimer(min(took/4, gatherMax))
	select {
	case <-limit.C:
	case <-g.enough:
	}
	limit.Stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wanted = 0
	select {
	case <-g.enough:
	default:
	}
}

// run writes batch after batch. It works under a context of its own: a caller that gives up must not take the others'
// records with it.
func (g *group) run() {
	for {
		entries := g.take()
		if entries == nil {
			return
		}
		n, ordered := 0, false
		for _, e := range entries {
			n += len(e.records)
			ordered = ordered || len(e.records) > 1 // the records of one call stay in order, whatever is sent again
		}
		switch {
		case !g.q.atomic:
			g.plain(entries)
			continue
		case n <= plainMax && !ordered:
			g.single(entries)
			continue
		}
		begin := time.Now()
		err := g.batch(entries, n)
		took := time.Since(begin)
		for _, e := range entries {
			e.done <- err
		}
		g.gather(len(entries), took)
	}
}

// batch writes all entries as one atomic batch.
func (g *group) batch(entries []*entry, n int) error {
	ctx := context.Background()
	id := []string{g.q.token()}
	return g.failure(ctx, g.q.settle(ctx, func(ctx context.Context) error {
		at, i := 0, 0 // the entry, and the record in it
		_, err := g.q.sendBatch(ctx, n, func(k int, m *nats.Msg) {
			for i == len(entries[at].records) {
				at, i = at+1, 0
			}
			m.Subject = entries[at].topic.name
			encode(m, &entries[at].records[i])
			if k == 0 {
				m.Header[headerMsgID] = id // a batch is known by its first message; more would cost the server memory
			}
			i++
		})
		return err
	}))
}

// settle sends something until it is known whether it was written. Who loses the answer, as happens when a cluster gets
// another leader, sends the same again under the same Nats-Msg-Id, which the server writes once: so what was published is
// there once, although a request has no cursor that could tell. Only time that this process has waited counts: one that
// was frozen asks a cluster that hears of it only now, and may need seconds until somebody answers. What stays unknown is
// queue.ErrUnknown: under another id it could be there twice.
func (q *Queue) settle(ctx context.Context, send func(ctx context.Context) error) error {
	unknown := false // whether an earlier try may have been written
	begin, waited := time.Now(), time.Duration(0)
	for wait := time.Second; ; {
		most := min(wait, q.cfg.Timeout)
		once, cancel := context.WithTimeout(ctx, most)
		sent := time.Now()
		err := send(once)
		cancel()
		waited += min(time.Since(sent), most)
		over := waited >= 3*q.cfg.Timeout || ctx.Err() != nil
		var api *jetstream.APIError
		refused := errors.As(err, &api)
		unsent := refused || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrReconnectBufExceeded)
		switch {
		case err == nil, unknown && refused && api.ErrorCode == codeBatchDuplicate:
			return nil
		case errors.Is(err, nats.ErrConnectionClosed):
			return err
		case unsent && !unknown:
			if over || q.cfg.Replicas < 2 || !errors.Is(q.mapError(ctx, "publish", err), queue.ErrUnavailable) {
				return err
			}
			// Several servers are choosing which of them leads the topic.
		default:
			unknown = true
			wait = min(2*wait, q.cfg.Timeout)
			if over || time.Since(begin) > settleWithin {
				return fmt.Errorf("%w: %w", queue.ErrUnknown, err)
			}
		}
		if unsent || errors.Is(err, errLost) { // it was heard of at once, so there was no wait yet
			waited += settlePause
			_ = retry.Sleep(ctx, settlePause) // when the context ends the next try says so
		}
	}
}

// settleWithin is how long after the first time something may be sent again: below the two minutes for which a server
// remembers ids.
const settleWithin = 100 * time.Second

// settlePause is the wait before something is sent again that failed at once.
const settlePause = 50 * time.Millisecond

// single writes entries of one record each as messages of their own, all on their way at once.
func (g *group) single(entries []*entry) {
	ctx := context.Background()
	var wg sync.WaitGroup
	for _, e := range entries {
		id := []string{g.q.token()}
		wg.Go(func() {
			e.done <- g.failure(ctx, g.q.settle(ctx, func(ctx context.Context) error {
				_, err := g.q.sendBatch(ctx, len(e.records), func(_ int, m *nats.Msg) {
					m.Subject = e.topic.name
					encode(m, &e.records[0])
					m.Header[headerMsgID] = id
				})
				return err
			}))
		})
	}
	wg.Wait()
}

// plain writes each record as a message of its own to a server without atomic batches, all on their way at once.
func (g *group) plain(entries []*entry) {
	acks := make([][]jetstream.PubAckFuture, len(entries))
	unsent := make([]error, len(entries))
	for k, e := range entries {
		acks[k], unsent[k] = g.send(e)
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.q.cfg.Timeout)
	defer cancel()
	for k, e := range entries {
		errs := answers(ctx, acks[k])
		if unsent[k] != nil {
			errs = append(errs, unsent[k])
		}
		e.done <- g.outcome(e, errs)
	}
}

// answers waits until ctx ends for what the server says of each message. It answers in their order: one whose answer is
// late must not look unanswered beside a later one that is answered, since what is ahead of its turn is stored once more.
// So when the time is over, the last ones are looked at first.
func answers(ctx context.Context, acks []jetstream.PubAckFuture) []error {
	errs := make([]error, len(acks))
	n := 0
	for waiting := true; waiting && n < len(acks); {
		select {
		case <-acks[n].Ok():
			n++
		case errs[n] = <-acks[n].Err():
			n++
		case <-ctx.Done():
			waiting = false
		}
	}
	for i := len(acks) - 1; i >= n; i-- {
		select {
		case <-acks[i].Ok():
		case errs[i] = <-acks[i].Err():
		default:
			errs[i] = jetstream.ErrAsyncPublishTimeout
		}
	}
	return errs
}

// send sends an entry's records until one cannot be sent.
func (g *group) send(e *entry) (acks []jetstream.PubAckFuture, err error) {
	var opts []jetstream.PublishOpt
	if len(e.records) > 1 {
		// What nobody listens to the library sends again a moment later, behind what came after it.
		opts = append(opts, jetstream.WithRetryAttempts(0))
	}
	for i := range e.records {
		m := &nats.Msg{Subject: e.topic.name, Header: make(nats.Header, 4)}
		encode(m, &e.records[i])
		if id := msgID(e.topic, &e.records[i]); id != "" {
			m.Header[headerMsgID] = []string{g.sentAs(id)}
		}
		ack, err := g.q.js.PublishMsgAsync(m, opts...)
		if err != nil {
			return acks, err
		}
		acks = append(acks, ack)
	}
	return acks, nil
}

// msgID is what the server knows a record by within its window. One without an id is never taken for another.
func msgID(t topic, r *record.Record) string {
	if r.ID == "" {
		return ""
	}
	return t.name + " " + r.ID
}

// outcome words what became of an entry's records; errs has the result of each that was tried.
//
// It upholds invariant 4 where the server refused a record, as a full topic does, and took later ones: those do not count,
// and when they are sent again, behind the one that was refused, it is under another id, or the server would drop them and
// leave them ahead of it. They are there twice then, in the right order the second time.
func (g *group) outcome(e *entry, errs []error) error {
	done := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if done < 0 {
		g.forget(e.topic, e.records)
		return nil
	}
	g.forget(e.topic, e.records[:done])
	err := g.failure(context.Background(), errs[done])
	// Where no answer came to anything, as from a lost connection, all may be stored, and in order.
	if behind := errs[done+1:]; unwritten(errs[done]) || slices.Contains(behind, nil) {
		var early []*record.Record
		for i := range behind {
			if !unwritten(behind[i]) {
				early = append(early, &e.records[done+1+i])
			}
		}
		if len(early) > 0 {
			g.remember(e.topic, early)
			err = fmt.Errorf("%w (the server has stored %d records behind it, or may have; they are stored once more, so that order holds)", err, len(early))
		}
	}
	return queue.Partly(done, nil, err)
}

// unwritten tells whether the server has certainly not stored a message.
func unwritten(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode != codeInProcess
	}
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrReconnectBufExceeded)
}

// remember gives records that are ahead of their turn another id. A record that nobody has sent again for as long as the
// server knows its first one is forgotten.
func (g *group) remember(t topic, early []*record.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(g.ahead, func(_ string, a again) bool { return now.Sub(a.at) > g.q.info.Window })
	for _, r := range early {
		if id := msgID(t, r); id != "" {
			g.ahead[id] = again{id + "~" + g.q.token(), now}
		}
	}
}

// forget is for records that are stored where they belong.
func (g *group) forget(t topic, records []record.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := 0; i < len(records) && len(g.ahead) > 0; i++ {
		delete(g.ahead, msgID(t, &records[i]))
	}
}

// sentAs is the Nats-Msg-Id of a record whose own is id.
func (g *group) sentAs(id string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a, ok := g.ahead[id]; ok {
		return a.id
	}
	return id
}

// anyAhead tells whether one of the records is ahead of its turn.
func (g *group) anyAhead(t topic, records []record.Record) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.ahead) == 0 {
		return false
	}
	found := false
	for i := range records {
		id := msgID(t, &records[i])
		if a, ok := g.ahead[id]; ok {
			g.ahead[id], found = again{a.id, time.Now()}, true
		}
	}
	return found
}

// failure gives callers an error of the contract, and forgets the stream when nobody listens to it any more.
func (g *group) failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		g.ch.ready.Store(false)
	}
	return g.q.mapError(ctx, "publish", err)
}
