package kafkaqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// Reading here is by single fetch requests, not by the library's consumer: it looks at given offsets and ends at once,
// and it must tell what is committed from what is still open.

const (
	// fetchBytes bounds one fetch (invariant 7). A batch that is larger comes whole.
	fetchBytes = 1 << 20
	// settleTime is how long a reader waits for commits that are confirmed and not yet marked so in the partition,
	// which takes the cluster some milliseconds, and longer under load. A transaction that is open for longer is not
	// waited for. It is never more than a quarter of the time-out.
	settleTime = 2 * time.Second
)

// layout says where a topic's partitions are.
type layout struct {
	id      kadm.TopicID
	leaders []int32
}

// layout gives the topic's, from memory unless an answer has shown it to be wrong.
func (q *Queue) layout(ctx context.Context, name string) (*layout, error) {
	if l, ok := q.layouts.Load(name); ok {
		return l.(*layout), nil
	}
	return q.freshLayout(ctx, name)
}

// freshLayout asks a broker.
func (q *Queue) freshLayout(ctx context.Context, name string) (*layout, error) {
	seen, err := q.metadata(ctx, name)
	if err != nil {
		return nil, err
	}
	t := seen.Topics[name]
	if t.Err != nil {
		return nil, q.topicError(name, "ask for topic "+name, t.Err)
	}
	if len(t.Partitions) == 0 {
		return nil, q.topicError(name, "ask for topic "+name, kerr.UnknownTopicOrPartition)
	}
	l := &layout{id: t.ID, leaders: make([]int32, len(t.Partitions))}
	complete := true
	for i := range l.leaders {
		p, ok := t.Partitions[int32(i)]
		if !ok {
			return nil, fmt.Errorf("%w: the brokers tell of %d partitions of topic %s, but not of number %d", queue.ErrUnavailable, len(t.Partitions), name, i)
		}
		l.leaders[i] = p.Leader
		complete = complete && p.Leader >= 0
	}
	if complete {
		q.layouts.Store(name, l)
	}
	return l, nil
}

// part is one partition.
type part struct {
	topic string
	n     int32
}

func (p part) String() string { return fmt.Sprintf("partition %d of topic %s", p.n, p.topic) }

// view says which records of a partition are wanted.
type view struct {
	isolation kgo.IsolationLevel
	markers   bool // also the cluster's own records that end transactions
}

var (
	committed = view{isolation: kgo.ReadCommitted()}
	all       = view{isolation: kgo.ReadUncommitted(), markers: true}
)

// fetch asks once for what lies from the offset on, and gives the offset behind it. It finds a partition that has
// moved again until the context ends.
func (q *Queue) fetch(ctx context.Context, p part, offset int64, v view) (kgo.FetchPartition, int64, error) {
	for {
		got, next, err := q.fetchOnce(ctx, p, offset, v)
		var code *kerr.Error
		if err == nil || !errors.As(err, &code) || !code.Retriable || errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
			return got, next, err
		}
		q.layouts.Delete(p.topic)
		if serr := retry.Sleep(ctx, 50*time.Millisecond); serr != nil {
			return got, next, fmt.Errorf("read %s: %w: %w", p, queue.ErrUnavailable, err)
		}
	}
}

func (q *Queue) fetchOnce(ctx context.Context, p part, offset int64, v view) (kgo.FetchPartition, int64, error) {
	var none kgo.FetchPartition
	l, err := q.layout(ctx, p.topic)
	if err != nil {
		return none, offset, err
	}
	if int(p.n) >= len(l.leaders) || l.leaders[p.n] < 0 { // the former: just added, and not every broker knows
		return none, offset, fmt.Errorf("read %s: %w: %w", p, errNoLeader, kerr.LeaderNotAvailable)
	}
	ask := kmsg.NewPtrFetchRequest()
	ask.MinBytes, ask.MaxBytes = 1, fetchBytes
	if v.isolation == kgo.ReadCommitted() {
		ask.IsolationLevel = 1
	}
	topic, partition := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	topic.Topic, topic.TopicID = p.topic, l.id
	partition.Partition, partition.FetchOffset, partition.PartitionMaxBytes = p.n, offset, fetchBytes
	topic.Partitions = append(topic.Partitions, partition)
	ask.Topics = append(ask.Topics, topic)

	answer, err := q.cl.Broker(int(l.leaders[p.n])).RetriableRequest(ctx, ask)
	if err != nil {
		q.layouts.Delete(p.topic) // that broker may be gone for good
		return none, offset, err
	}
	r := answer.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
		return none, offset, err
	}
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return none, offset, fmt.Errorf("read %s: %w: the answer is for another partition", p, queue.ErrUnavailable)
	}
	raw := &r.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(raw.ErrorCode); err != nil {
		if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
			return none, offset, q.topicError(p.topic, "read "+p.String(), err)
		}
		return kgo.FetchPartition{LogStartOffset: raw.LogStartOffset}, offset, err
	}
	got, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		KeepControlRecords: v.markers, Offset: offset, IsolationLevel: v.isolation, Topic: p.topic, Partition: p.n,
	}, raw, kgo.DefaultDecompressor(), nil)
	if got.Err != nil {
		return got, offset, fmt.Errorf("read %s: %w", p, got.Err)
	}
	return got, next, nil
}

// walk calls f for each record in [from, to) until f returns false, and gives the offset behind the last one seen. It
// ends before to where the partition has nothing more to show. What retention took away in between is skipped.
func (q *Queue) walk(ctx context.Context, p part, from, to int64, v view, f func(*kgo.Record) bool) (int64, error) {
	for from < to {
		got, next, err := q.fetch(ctx, p, from, v)
		if errors.Is(err, kerr.OffsetOutOfRange) {
			start, serr := q.start(ctx, p)
			if serr != nil {
				return from, serr
			}
			if start > from {
				from = start
				continue
			}
			return from, nil
		}
		if err != nil {
			return from, err
		}
		for _, m := range got.Records {
			if m.Offset >= to {
				return to, nil
			}
			if !f(m) {
				return m.Offset + 1, nil
			}
		}
		if next <= from {
			return from, nil
		}
		from = next
	}
	return from, nil
}

// bounds are the offsets of a partition that can be read: [start, end).
type bounds struct{ start, end int64 }

func (q *Queue) start(ctx context.Context, p part) (int64, error) {
	starts, err := q.offsets(ctx, p.topic, q.adm.ListStartOffsets)
	if err != nil {
		return 0, err
	}
	return starts[p.n], nil
}

// offsets asks for one offset of each partition.
func (q *Queue) offsets(ctx context.Context, name string, list func(context.Context, ...string) (kadm.ListedOffsets, error)) (map[int32]int64, error) {
	for {
		// As in metadata: from the library's memory a topic that was just made would be missing.
		listed, err := list(kadm.WithAuthorizedOps(ctx), name)
		if err == nil {
			err = listed.Error()
		}
		if err == nil {
			found := make(map[int32]int64)
			for n, o := range listed[name] {
				found[n] = o.Offset
			}
			if l, ok := q.layouts.Load(name); ok && len(l.(*layout).leaders) != len(found) {
				q.layouts.Delete(name) // it was given more partitions
			}
			return found, nil
		}
		var code *kerr.Error
		if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
			return nil, q.topicError(name, "ask for offsets of topic "+name, err)
		}
		if !errors.As(err, &code) || !code.Retriable {
			return nil, err
		}
		if serr := retry.Sleep(ctx, 50*time.Millisecond); serr != nil {
			return nil, fmt.Errorf("ask for offsets of topic %s: %w: %w", name, queue.ErrUnavailable, err)
		}
	}
}

// patience is settleTime, within the time that a caller has.
func (q *Queue) patience() time.Duration { return min(settleTime, q.cfg.Timeout/4) }

// settled gives the bounds of a topic's partitions for readers of committed records. What was confirmed before the call
// lies within, for it waits for the marks of commits under way, up to settleTime.
func (q *Queue) settled(ctx context.Context, name string) (map[int32]bounds, error) {
	written, err := q.offsets(ctx, name, q.adm.ListEndOffsets)
	if err != nil {
		return nil, err
	}
	starts, err := q.offsets(ctx, name, q.adm.ListStartOffsets)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	for {
		ends, err := q.offsets(ctx, name, q.adm.ListCommittedOffsets)
		if err != nil {
			return nil, err
		}
		behind := false
		found := make(map[int32]bounds, len(ends))
		for n, end := range ends {
			found[n] = bounds{min(starts[n], end), end}
			behind = behind || end < written[n]
		}
		if !behind || time.Since(begin) > q.patience() {
			return found, nil
		}
		if err := retry.Sleep(ctx, 5*time.Millisecond); err != nil {
			return nil, fmt.Errorf("wait for commits: %w", err)
		}
	}
}
