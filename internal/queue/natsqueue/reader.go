package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// readBytes bounds what one Browse or Receive holds in memory (invariant 7).
const readBytes = 64 << 20

// flightBytes is up to how much one request asks for at once. A server ends a connection, and with it all that others do
// on it, when 64 MiB wait there (max_pending).
const flightBytes = 16 << 20

// enterReader is enter for a topic that must exist.
func (q *Queue) enterReader(ctx context.Context, name string) (topic, *channel, error) {
	t, err := q.enterTopic(name)
	if err != nil {
		return t, nil, err
	}
	ch, err := q.ensure(ctx, t, false)
	if err != nil {
		q.calls.Leave()
		return t, nil, err
	}
	return t, ch, nil
}

// Browse implements queue.Reader. Positions are the stream's sequence numbers.
func (q *Queue) Browse(ctx context.Context, name string, from int64, max int) ([]queue.Stored, error) {
	t, ch, err := q.enterReader(ctx, name)
	if err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	q.read.Store(time.Now().UnixNano())
	if max <= 0 {
		return nil, nil
	}
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	start := uint64(1)
	if from > 0 {
		start = uint64(from)
	}
	if from < 0 {
		if start, err = q.fromEnd(ctx, t, uint64(-from)); err != nil {
			return nil, q.readFailure(ctx, ch, t, err)
		}
	}
	for {
		stored, _, err := q.get(ctx, t, start, max)
		if err != nil {
			return nil, q.readFailure(ctx, ch, t, err)
		}
		if len(stored) > 0 || !ch.replicated.Load() {
			return stored, nil
		}
		// Any replica may have answered, also one that lags behind: that nothing follows is the leader's to say.
		switch last, err := q.newest(ctx, t, t.name); {
		case err != nil:
			return nil, q.readFailure(ctx, ch, t, err)
		case last == nil || last.Seq < start:
			return nil, nil
		}
		if err := retry.Sleep(ctx, settlePause); err != nil {
			return nil, fmt.Errorf("read topic %s: %w: the replica that answers has not caught up", t.name, queue.ErrUnavailable)
		}
	}
}

// get reads up to max records or readBytes of the topic from the stream's sequence start on, and how many more there are
// after the last of them.
func (q *Queue) get(ctx context.Context, t topic, start uint64, max int) (got []queue.Stored, more uint64, err error) {
	for bytes := 0; len(got) < max && bytes < readBytes; {
		var page []queue.Stored
		if page, more, err = q.getPage(ctx, t, start, max-len(got)); err != nil {
			return nil, 0, err
		}
		got = append(got, page...)
		if len(page) == 0 || more == 0 {
			break
		}
		for i := range page {
			bytes += page[i].Size()
		}
		start = uint64(page[len(page)-1].Position) + 1
	}
	return got, more, nil
}

// getPage is get as far as one request goes.
func (q *Queue) getPage(ctx context.Context, t topic, start uint64, max int) (got []queue.Stored, more uint64, err error) {
	msgs, err := jetstreamext.GetBatch(ctx, q.js, t.stream(), max, jetstreamext.GetBatchSeq(start),
		jetstreamext.GetBatchSubject(t.name), jetstreamext.GetBatchMaxBytes(flightBytes))
	if err != nil {
		return nil, 0, err
	}
	for m, err := range msgs {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		more, _ = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
		if more > 0 && !atLeast(q.info.Server, 2, 12) {
			more-- // older servers count the message itself
		}
		got = append(got, queue.Stored{Record: decode(m.Header, m.Data), Position: int64(m.Sequence), Time: m.Time})
	}
	return got, more, nil
}

// fromEnd finds the sequence of the topic's n-th last record. Other subjects lie between, so it looks back by ever
// larger steps until enough records lie ahead, then halves the last step.
func (q *Queue) fromEnd(ctx context.Context, t topic, n uint64) (uint64, error) {
	last, err := q.last(ctx, t)
	if err != nil || last == nil {
		return 1, err
	}
	// ahead counts the records from seq on.
	ahead := func(seq uint64) (uint64, error) {
		got, more, err := q.get(ctx, t, seq, 1)
		return more + uint64(len(got)), err
	}
	enough, few := uint64(1), last.Sequence+1 // from `few` on there are fewer than n
	for step := n; step < last.Sequence; step *= 2 {
		seq := last.Sequence + 1 - step
		count, err := ahead(seq)
		if err != nil {
			return 0, err
		}
		if count == n {
			return seq, nil
		}
		if count > n {
			enough = seq
			break
		}
		few = seq
	}
	for enough+1 < few {
		middle := enough + (few-enough)/2
		count, err := ahead(middle)
		if err != nil {
			return 0, err
		}
		switch {
		case count == n:
			return middle, nil
		case count > n:
			enough = middle
		default:
			few = middle
		}
	}
	return enough, nil
}

// last gives the topic's newest record, nil when it has none.
func (q *Queue) last(ctx context.Context, t topic) (*jetstream.RawStreamMsg, error) {
	s, err := q.stream(ctx, t)
	if err != nil {
		return nil, err
	}
	m, err := s.GetLastMsgForSubject(ctx, t.name)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	return m, err
}

func (q *Queue) readFailure(ctx context.Context, ch *channel, t topic, err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, nats.ErrNoResponders) {
		ch.ready.Store(false)
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: %s", queue.ErrNoTopic, t.name)
	}
	return q.mapError(ctx, "read topic "+t.name, err)
}

// reader gives the durable consumer that all receivers of a topic share, on any instance.
func (q *Queue) reader(ctx context.Context, ch *channel, t topic) (jetstream.Consumer, error) {
	if c, ok := ch.readers.Load(t.consumer()); ok {
		return c.(jetstream.Consumer), nil
	}
	c, err := q.js.CreateOrUpdateConsumer(ctx, t.stream(), jetstream.ConsumerConfig{
		Durable:       t.consumer(),
		Description:   "POST /v1/topics/" + t.name + "/receive",
		FilterSubject: t.name,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       q.cfg.Redelivery + grace,
		MaxAckPending: -1,
	})
	if err != nil {
		return nil, err
	}
	ch.readers.Store(t.consumer(), c)
	return c, nil
}

// leaderWait is how long a receive waits for a consumer that nobody answers for.
const leaderWait = 2 * time.Second

// Receive implements queue.Reader.
func (q *Queue) Receive(ctx context.Context, name string, max int, wait time.Duration) ([]queue.Delivery, error) {
	t, ch, err := q.enterReader(ctx, name)
	if err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	q.read.Store(time.Now().UnixNano())
	if max <= 0 {
		return nil, nil
	}
	setup, cancel := q.roundTrip(ctx)
	defer cancel()
	c, err := q.reader(setup, ch, t)
	if err != nil {
		return nil, q.readFailure(setup, ch, t, err)
	}
	now, got, err := ch.first(setup, c, max)
	// The members of a cluster may be choosing which of them leads the new consumer.
	for end := time.Now().Add(leaderWait); len(got) == 0 && leaderless(err) && time.Now().Before(end) && retry.Sleep(ctx, settlePause) == nil; {
		now, got, err = ch.first(setup, c, max)
	}
	for end := time.Now().Add(wait); err == nil && len(got) == 0 && ctx.Err() == nil; {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		got, err = ch.wait(c, max, min(left, glance), now)
		if leaderless(err) && retry.Sleep(ctx, settlePause) == nil {
			err = nil // another member is about to lead, and knows nothing of who waited
		}
	}
	if len(got) > 0 {
		return got, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("receive from %s: %w", t.name, context.Cause(ctx))
	}
	if err != nil {
		ch.readers.Delete(t.consumer()) // someone may have deleted it
		return nil, q.readFailure(ctx, ch, t, err)
	}
	return nil, nil
}

// first reads the clock of the consumer's server and takes what is there. A clock that cannot be read ends it before
// anything is taken.
func (ch *channel) first(ctx context.Context, c jetstream.Consumer, max int) (clock, []queue.Delivery, error) {
	info, err := consumerState(ctx, c)
	if err != nil {
		return clock{}, nil, err
	}
	now := clock{server: info.TimeStamp, here: time.Now()}
	got, err := ch.fetch(c, max, now)
	return now, got, err
}

// glance is how long the server is asked to wait for a record at a time. When it delivered one is not known closer than
// that to a process that was frozen in between.
const glance = time.Second

// wait waits for the first record alone: a fetch of several would wait for all of them. It goes on to its end when the
// caller has left, and for a second more for what is on its way: a record that nobody takes then comes to nobody for the
// time of its redelivery.
func (ch *channel) wait(c jetstream.Consumer, max int, wait time.Duration, clock clock) ([]queue.Delivery, error) {
	over := time.Now().Add(wait)
	got, err := take(c.Fetch(1, jetstream.FetchMaxWait(wait)))
	delivered := time.Now()
	if delivered.After(over) {
		delivered = over
	}
	clock.stamp(got, delivered)
	if err == nil && len(got) == 1 && max > 1 {
		more, _ := ch.fetch(c, max-1, clock)
		got = append(got, more...)
	}
	return got, err
}

// consumerState asks for what the server knows of a consumer and for its clock. A member of a cluster that has only just
// been given the consumer answers with nothing in it.
func consumerState(ctx context.Context, c jetstream.Consumer) (*jetstream.ConsumerInfo, error) {
	info, err := ask(ctx, c.Info)
	if err == nil && info.TimeStamp.IsZero() {
		err = nats.ErrNoResponders
	}
	return info, err
}

// leaderless tells that nobody answers for a consumer yet.
func leaderless(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, nats.ErrNoResponders) || errors.As(err, &api) && api.ErrorCode == codeUnavailable
}

// fetch takes what is there, up to max records or readBytes. The server can bound a fetch by bytes itself, but then what
// does not fit goes to the end of what it delivers again. So as many are asked for as fit if all are of the largest size.
func (ch *channel) fetch(c jetstream.Consumer, max int, clock clock) (got []queue.Delivery, err error) {
	largest := int(ch.maxRecord.Load()) + headerReserve
	for bytes := 0; len(got) < max && bytes < readBytes; {
		n := min(max-len(got), 1+min(flightBytes, readBytes-bytes)/largest)
		asked := time.Now() // none is delivered before
		page, err := take(c.FetchNoWait(n))
		clock.stamp(page, asked)
		got = append(got, page...)
		if err != nil || len(page) < n {
			return got, err
		}
		for i := range page {
			bytes += page[i].Size()
		}
	}
	return got, nil
}

// take collects a fetch.
func take(b jetstream.MessageBatch, err error) ([]queue.Delivery, error) {
	if err != nil {
		return nil, err
	}
	var got []queue.Delivery
	for m := range b.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return got, err
		}
		got = append(got, queue.Delivery{
			Stored: queue.Stored{
				Record:   decode(m.Headers(), m.Data()),
				Position: int64(meta.Sequence.Stream),
				Time:     meta.Timestamp,
			},
			Receipt: m.Reply(),
			Attempt: int(meta.NumDelivered),
		})
	}
	err = b.Error()
	if errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jetstream.ErrNoMessages) {
		err = nil // nothing came
	}
	return got, err
}

// Ack implements queue.Reader. NATS itself confirms an acknowledgement of anything; see receipt for what is refused here.
func (q *Queue) Ack(ctx context.Context, name string, receipts ...string) error {
	return q.answer(ctx, name, receipts, "+ACK")
}

// Nack implements queue.Reader.
func (q *Queue) Nack(ctx context.Context, name string, receipts ...string) error {
	return q.answer(ctx, name, receipts, "-NAK")
}

func (q *Queue) answer(ctx context.Context, name string, receipts []string, what string) error {
	t, ch, err := q.enterReader(ctx, name)
	if err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(receipts) == 0 {
		return nil
	}
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	c, err := q.reader(ctx, ch, t)
	if err != nil {
		return q.readFailure(ctx, ch, t, err)
	}
	var errs []error
	for _, text := range receipts {
		info, err := consumerState(ctx, c)
		if err != nil {
			ch.readers.Delete(t.consumer())
			return q.readFailure(ctx, ch, t, err)
		}
		r, subject, ok := parseReceipt(text, t)
		if !ok || !r.good(info) || ch.answered.has(r) {
			errs = append(errs, fmt.Errorf("%w: %.80q", queue.ErrReceipt, text))
			continue
		}
		if _, err := q.nc.RequestWithContext(ctx, subject, []byte(what)); err != nil {
			return q.readFailure(ctx, ch, t, err)
		}
		ch.answered.add(r, info.Config.AckWait)
	}
	return errors.Join(errs...)
}

// Stats implements queue.Reader. Bytes is the topic's share, by records, of what its stream weighs.
func (q *Queue) Stats(ctx context.Context, name string) (queue.Stats, error) {
	t, ch, err := q.enterReader(ctx, name)
	if err != nil {
		return queue.Stats{}, err
	}
	defer q.calls.Leave()
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	st, err := q.stats(ctx, t)
	if err != nil {
		return st, q.readFailure(ctx, ch, t, err)
	}
	return st, nil
}

func (q *Queue) stats(ctx context.Context, t topic) (queue.Stats, error) {
	var st queue.Stats
	s, err := q.stream(ctx, t)
	if err != nil {
		return st, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(t.name))
	if err != nil {
		return st, err
	}
	st.Records = int64(info.State.Subjects[t.name])
	if st.Records == 0 {
		return st, nil
	}
	st.Bytes = int64(float64(info.State.Bytes) * float64(st.Records) / float64(info.State.Msgs))
	st.Waiting = st.Records
	c, err := s.Consumer(ctx, t.consumer())
	switch {
	case err == nil:
		ci := c.CachedInfo()
		st.Waiting = int64(ci.NumPending) + int64(ci.NumAckPending)
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return st, err
	}
	first, _, err := q.get(ctx, t, 1, 1)
	if err != nil {
		return st, err
	}
	if len(first) > 0 {
		st.First = first[0].Position
	}
	last, err := s.GetLastMsgForSubject(ctx, t.name)
	if err == nil {
		st.Last = int64(last.Sequence)
	} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
		return st, err
	}
	return st, nil
}

// Topics implements queue.Reader.
func (q *Queue) Topics(ctx context.Context) ([]string, error) {
	if err := q.calls.Enter(); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	var topics []string
	list := q.js.ListStreams(ctx)
	for info := range list.Info() {
		base := info.Config.Metadata[topicMeta]
		if base == "" || !strings.HasPrefix(info.Config.Name, streamPrefix) {
			continue
		}
		topics = append(topics, base)
		dead, err := parseTopic(queue.DeadTopic(base))
		if err != nil {
			continue
		}
		if m, err := q.last(ctx, dead); err != nil {
			return nil, q.mapError(ctx, "list topics", err)
		} else if m != nil {
			topics = append(topics, dead.name)
		}
	}
	if err := list.Err(); err != nil {
		return nil, q.mapError(ctx, "list topics", err)
	}
	slices.Sort(topics)
	return topics, nil
}
