package kafkaqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// maxPartitions is what a Position has room for, see position.
const maxPartitions = 4096

const maxTopic = 249

// checkTopic refuses what Kafka would, before it is asked.
func checkTopic(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return queue.BadTopic("topic %q: Kafka has no such name", name)
	case len(name) > maxTopic:
		return queue.BadTopic("topic %.20q… is longer than %d characters", name, maxTopic)
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return queue.BadTopic("topic %q: Kafka takes letters, digits, dot, - and _", name)
		}
	}
	return nil
}

// topic is what is known of one that has been seen to be there.
type topic struct {
	limit     int32 // bytes of a batch: max.message.bytes
	minInSync int   // replicas that a write needs
	compacted bool  // cleanup.policy is compact and nothing else, as far as can be told
}

func (q *Queue) forget(name string) {
	q.topics.Delete(name)
	q.layouts.Delete(name)
}

// batchBytes is the limit of a topic's batches; the client library asks once.
func (q *Queue) batchBytes(name string) int32 {
	if t, ok := q.topics.Load(name); ok {
		return t.(*topic).limit
	}
	return q.limit
}

func clampBatch(n int) int32 { return int32(min(max(n, 1024), 64<<20)) }

// ensure makes sure that a topic is there; make says that it may be made if the queue's URL allows it.
func (q *Queue) ensure(ctx context.Context, name string, make bool) (*topic, error) {
	if t, ok := q.topics.Load(name); ok {
		return t.(*topic), nil
	}
	bound, cancel := q.roundTrip(ctx)
	defer cancel()
	missing, err := q.look(bound, name)
	if err != nil {
		return nil, q.mapError(ctx, "ask for topic "+name, err)
	}
	if len(missing) > 0 {
		if !make || !q.cfg.Create {
			return nil, q.noTopic(name)
		}
		if err := q.createWithDead(bound, name); err != nil {
			return nil, q.mapError(ctx, "make topic "+name, err)
		}
	}
	t, ok := q.topics.Load(name)
	if !ok {
		return nil, fmt.Errorf("%w: topic %s is not to be seen yet", queue.ErrUnavailable, name)
	}
	return t.(*topic), nil
}

// createWithDead makes a topic and that of its dead letters, one caller at a time.
func (q *Queue) createWithDead(ctx context.Context, name string) error {
	done, err := q.making.wait(ctx, name)
	if err != nil {
		return err
	}
	defer done()
	if _, ok := q.topics.Load(name); ok {
		return nil
	}
	if isDead(name) || name == q.cfg.Cursors {
		return q.create(ctx, name)
	}
	return q.create(ctx, name, queue.DeadTopic(name))
}

func isDead(name string) bool { return strings.HasSuffix(name, queue.DeadTopic("")) }

// metadata asks a broker; the library alone would answer from what it has heard some time ago.
func (q *Queue) metadata(ctx context.Context, names ...string) (kadm.Metadata, error) {
	return q.adm.Metadata(kadm.WithAuthorizedOps(ctx), names...)
}

// look takes note of the topics that are there and returns those that are not.
func (q *Queue) look(ctx context.Context, names ...string) (missing []string, err error) {
	seen, err := q.metadata(ctx, names...)
	if err != nil {
		return nil, err
	}
	var there []string
	for _, name := range names {
		t := seen.Topics[name]
		switch {
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition) || t.Err == nil && len(t.Partitions) == 0:
			missing = append(missing, name)
		case t.Err != nil && !errors.Is(t.Err, kerr.LeaderNotAvailable):
			return nil, t.Err
		case len(t.Partitions) > maxPartitions:
			return nil, retry.Permanent(fmt.Errorf("topic %s has %d partitions; ferry takes %d at most", name, len(t.Partitions), maxPartitions))
		default:
			there = append(there, name)
		}
	}
	if len(there) == 0 {
		return missing, nil
	}
	configs, err := q.adm.DescribeTopicConfigs(ctx, there...)
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	for _, name := range there {
		t := &topic{limit: q.limit, minInSync: 1, compacted: true} // where configurations may not be read
		if c, err := configs.On(name, nil); err == nil && c.Err == nil {
			if n := number(c.Configs, "max.message.bytes"); n > 0 {
				t.limit = clampBatch(n)
			}
			t.minInSync = max(number(c.Configs, "min.insync.replicas"), 1)
			policy := text(c.Configs, "cleanup.policy")
			t.compacted = policy == "compact" || policy == ""
		}
		q.topics.Store(name, t)
	}
	return missing, nil
}

// create makes topics and waits until they are to be seen. That one of them was there already is no error.
func (q *Queue) create(ctx context.Context, names ...string) error {
	number := func(n int) int16 {
		if n == 0 {
			return -1 // the cluster's default
		}
		return int16(n)
	}
	for _, name := range names {
		configs := map[string]*string{}
		if q.cfg.MinInSync > 0 {
			configs["min.insync.replicas"] = new(strconv.Itoa(q.cfg.MinInSync))
		}
		partitions := int32(q.cfg.Partitions)
		if name == q.cfg.Cursors {
			// Small segments, for only what lies before the last one is compacted. One partition is enough: it takes
			// one small record a commit.
			partitions = 1
			configs["cleanup.policy"] = new("compact")
			configs["segment.bytes"] = new(strconv.Itoa(64 << 20))
		}
		r, err := q.adm.CreateTopic(ctx, partitions, number(q.cfg.Replication), configs, name)
		if name == q.cfg.Cursors && (errors.Is(err, kerr.InvalidConfig) || errors.Is(err, kerr.PolicyViolation)) {
			delete(configs, "segment.bytes") // some hosted clusters keep it to themselves
			r, err = q.adm.CreateTopic(ctx, partitions, number(q.cfg.Replication), configs, name)
		}
		switch {
		case err == nil, errors.Is(err, kerr.TopicAlreadyExists):
		case errors.Is(err, kerr.InvalidReplicationFactor):
			return retry.Permanent(fmt.Errorf("topic %s: %w: %s (set replication in the queue's URL to the number of brokers or less)", name, err, r.ErrMessage))
		case r.ErrMessage != "":
			return fmt.Errorf("topic %s: %w: %s", name, err, r.ErrMessage)
		default:
			return fmt.Errorf("topic %s: %w", name, err)
		}
	}
	for {
		missing, err := q.look(ctx, names...)
		if err != nil || len(missing) == 0 {
			return err
		}
		if err := retry.Sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("wait for topic %s: %w", missing[0], err)
		}
	}
}

// Prepare implements queue.Preparer. The cursor topic is one of those that must be there.
func (q *Queue) Prepare(ctx context.Context, topics ...string) error {
	names := []string{q.cfg.Cursors}
	for _, name := range topics {
		if err := checkTopic(name); err != nil {
			return err
		}
		names = append(names, name)
		if !isDead(name) {
			names = append(names, queue.DeadTopic(name))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	bound, cancel := q.within(ctx, 3*q.cfg.Timeout)
	defer cancel()
	missing, err := q.look(bound, names...)
	if err == nil && len(missing) > 0 && q.cfg.Create {
		err, missing = q.create(bound, missing...), nil
	}
	if err != nil {
		return q.mapError(ctx, "prepare topics", err)
	}
	if len(missing) > 0 {
		also := ""
		if slices.Contains(missing, q.cfg.Cursors) {
			also = fmt.Sprintf("; %s with cleanup.policy=compact", q.cfg.Cursors)
		}
		return retry.Permanent(fmt.Errorf("%w: %s (make them%s; or add create=true to the queue's URL)", queue.ErrNoTopic, strings.Join(missing, ", "), also))
	}
	return q.checkPrepared(bound, ctx, names)
}

// checkPrepared refuses topics that could not keep the queue's promise.
func (q *Queue) checkPrepared(bound, ctx context.Context, names []string) error {
	seen, err := q.metadata(bound, names...)
	if err != nil {
		return q.mapError(ctx, "prepare topics", err)
	}
	var errs []error
	for _, name := range names {
		v, ok := q.topics.Load(name)
		if !ok {
			continue
		}
		t := v.(*topic)
		if name == q.cfg.Cursors && !t.compacted {
			errs = append(errs, fmt.Errorf("topic %s forgets old cursors, so pipelines would begin anew: set its cleanup.policy to compact", name))
		}
		for _, p := range seen.Topics[name].Partitions {
			if len(p.Replicas) < t.minInSync {
				errs = append(errs, fmt.Errorf("topic %s has %d replicas and min.insync.replicas %d: nothing can be written to it", name, len(p.Replicas), t.minInSync))
				break
			}
		}
	}
	return retry.Permanent(errors.Join(errs...))
}

// Topics implements queue.Reader. A topic is taken for ferry's when its dead letters' topic stands beside it.
func (q *Queue) Topics(ctx context.Context) ([]string, error) {
	if err := q.calls.Enter(); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	bound, cancel := q.roundTrip(ctx)
	defer cancel()
	all, err := q.metadata(bound)
	if err != nil {
		return nil, q.mapError(ctx, "list topics", err)
	}
	there := func(name string) bool {
		t, ok := all.Topics[name]
		return ok && t.Err == nil && !t.IsInternal && name != q.cfg.Cursors
	}
	var names []string
	for name := range all.Topics {
		if there(name) && there(queue.DeadTopic(name)) {
			names = append(names, name, queue.DeadTopic(name))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func text(configs []kadm.Config, key string) string {
	for _, c := range configs {
		if c.Key == key && c.Value != nil {
			return *c.Value
		}
	}
	return ""
}

func number(configs []kadm.Config, key string) int {
	n, _ := strconv.Atoi(text(configs, key))
	return n
}
