// Package kafkaqueue is queue.Queue over Apache Kafka and what speaks its protocol. A commit is one transaction
// (KIP-98) of records, dead letters and a record in a compacted cursor topic, so the tier is ExactlyOnce.
package kafkaqueue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"golang.org/x/sync/semaphore"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// Queue is a connection to a cluster. Make one with Open.
type Queue struct {
	cfg   Config
	dial  func(ctx context.Context, network, address string) (net.Conn, error)
	login sasl.Mechanism
	cl    *kgo.Client // shared by all Publish calls, and asks and fetches
	adm   *kadm.Client
	info  queue.Info
	limit int32 // bytes of a batch by the brokers' default
	// browseBytes bounds what one Browse holds in memory (invariant 7).
	browseBytes int

	room *semaphore.Weighted // bytes of Publish calls under way

	topics  sync.Map // name → *topic, those seen to be there
	layouts sync.Map // name → *layout
	making  turns    // by topic
	opening turns    // by transactional id

	mu      sync.Mutex
	writers map[*writer]struct{}
	readers map[string]*reader

	calls queue.Calls
	stop  context.CancelFunc
	ctx   context.Context // ends when Close is done waiting
}

var _ queue.Queue = (*Queue)(nil)

const (
	commitRecords = 10_000
	commitBytes   = 32 << 20
	// defaultBatch is taken where the brokers do not tell their message.max.bytes.
	defaultBatch = 1_000_000
)

// Open connects and finds out what the brokers can do. It does not make any topic yet. An error that another try may
// clear is queue.ErrUnavailable.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, retry.Permanent(err)
	}
	q := &Queue{room: semaphore.NewWeighted(bufferedBytes), cfg: cfg, login: cfg.mechanism(), limit: defaultBatch, browseBytes: 64 << 20, writers: make(map[*writer]struct{}), readers: make(map[string]*reader)}
	q.ctx, q.stop = context.WithCancel(context.Background())
	if q.dial, err = cfg.dialer(); err != nil {
		return nil, err
	}
	if q.cl, err = q.publisher(); err != nil {
		return nil, retry.Permanent(fmt.Errorf("connect to Kafka: %w", err))
	}
	q.adm = kadm.NewClient(q.cl)
	if err := q.discover(ctx); err != nil {
		q.cl.Close()
		return nil, err
	}
	return q, nil
}

// discover asks for the brokers' versions and limits.
func (q *Queue) discover(ctx context.Context) error {
	bound, cancel := q.roundTrip(ctx)
	defer cancel()
	// Any broker's answer says whether the address, TLS and login are right; asking each is for those that run.
	if err := q.cl.Ping(bound); err != nil {
		return q.mapError(ctx, "connect to Kafka", err)
	}
	versions, err := q.adm.ApiVersions(bound)
	if err != nil && len(versions) == 0 {
		return q.mapError(ctx, "ask Kafka for its version", err)
	}
	server, hangs, initID := "", false, int16(100)
	for _, v := range versions.Sorted() {
		if v.Err != nil {
			continue
		}
		if server == "" {
			server = strings.TrimPrefix(v.VersionGuess(), "v")
		}
		id, _ := v.KeyMaxVersion(int16(kmsg.InitProducerID))
		initID = min(initID, id)
		hangs = hangs || transactionVersion(v.Raw()) < 2
	}
	if server == "" {
		return fmt.Errorf("ask Kafka for its version: %w: no broker answers", queue.ErrUnavailable)
	}
	if initID < 3 {
		return retry.Permanent(fmt.Errorf("the brokers are of Kafka %s; ferry needs 2.5 or newer (KIP-360), and 4.0 for exactly once without reserve (KIP-890)", server))
	}
	copies := q.discoverLimits(bound)
	q.info = queue.Info{
		Name: "kafka", Server: server, Tier: queue.ExactlyOnce, EventPrefix: "ce_",
		Limits: queue.Limits{CommitRecords: commitRecords, CommitBytes: commitBytes, RecordBytes: int(q.limit) - batchOverhead},
		Note:   q.note(hangs, copies),
	}
	return nil
}

// transactionVersion is the cluster's feature level: with 2 each transaction has an epoch of its own (KIP-890), and a
// record that comes late can neither hang a transaction nor slip into the next one.
func transactionVersion(v *kmsg.ApiVersionsResponse) int16 {
	if v != nil {
		for _, f := range v.FinalizedFeatures {
			if f.Name == "transaction.version" {
				return f.MaxVersionLevel
			}
		}
	}
	return 0
}

func (q *Queue) note(hangs bool, copies int) string {
	note := "consumers must read with isolation.level=read_committed, else they also see what was aborted"
	if hangs {
		note += "; the brokers lack transaction.version 2 (Kafka 4.0, KIP-890): a record that a network held up can hang a transaction or slip into the next one, so exactly once has that gap"
	}
	if max(copies, q.cfg.MinInSync) == 1 {
		note += "; one copy is enough for a confirmation (min.insync.replicas is 1), and Kafka syncs it to disk later: add replication=3&min_insync=2 where there are three brokers"
	}
	if !q.cfg.TLS && q.cfg.SASL != "" {
		note += "; the login travels unencrypted: write kafkas://"
	}
	return note
}

// discoverLimits asks for the size of a batch that the brokers take, and how many copies a confirmation needs unless a
// topic says otherwise. Where that may not be asked, the default size holds, and the copies are 0.
func (q *Queue) discoverLimits(ctx context.Context) (copies int) {
	brokers, err := q.adm.ListBrokers(ctx)
	if err != nil || len(brokers) == 0 {
		return 0
	}
	configs, err := q.adm.DescribeBrokerConfigs(ctx, brokers[0].NodeID)
	if err != nil || len(configs) == 0 || configs[0].Err != nil {
		return 0
	}
	if n := number(configs[0].Configs, "message.max.bytes"); n > 0 {
		q.limit = clampBatch(n)
	}
	return number(configs[0].Configs, "min.insync.replicas")
}

// Info implements queue.Queue.
func (q *Queue) Info() queue.Info { return q.info }

// Close implements queue.Queue: it waits for calls under way, unless the context ends first.
func (q *Queue) Close(ctx context.Context) error {
	leaving := q.calls.Close()
	if leaving == nil {
		return nil
	}
	err := leaving.Wait(ctx)
	q.stop()
	q.mu.Lock()
	writers := make([]*writer, 0, len(q.writers))
	for w := range q.writers {
		writers = append(writers, w)
	}
	q.mu.Unlock()
	for _, w := range writers {
		w.drop()
	}
	q.cl.Close()
	<-leaving // their clients are closed: what still waited ends now
	return err
}

// enterTopic is enter with a checked topic name.
func (q *Queue) enterTopic(name string) error {
	if err := checkTopic(name); err != nil {
		return err
	}
	if name == q.cfg.Cursors {
		return queue.BadTopic("topic %q holds ferry's cursors", name)
	}
	return q.calls.Enter()
}

// roundTrip bounds a request by the configured time.
func (q *Queue) roundTrip(ctx context.Context) (context.Context, context.CancelFunc) {
	return q.within(ctx, q.cfg.Timeout)
}

// within bounds a request by a time, and by the life of the queue.
func (q *Queue) within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, d)
	stop := context.AfterFunc(q.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// Ping implements queue.Queue: brokers answer, and every partition of the topics used so far has a leader and as many
// replicas in sync as a write needs.
func (q *Queue) Ping(ctx context.Context) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	var names []string
	q.topics.Range(func(name, _ any) bool { names = append(names, name.(string)); return true })
	slices.Sort(names)
	bound, cancel := q.within(ctx, min(q.cfg.Timeout, 2*time.Second))
	defer cancel()
	if len(names) == 0 {
		if err := q.cl.Ping(bound); err != nil {
			return q.mapError(ctx, "ask Kafka", err)
		}
		return nil
	}
	seen, err := q.metadata(bound, names...)
	if err != nil {
		return q.mapError(ctx, "ask Kafka", err)
	}
	for _, name := range names {
		if err := q.writable(seen.Topics[name], name); err != nil {
			return err
		}
	}
	// What the brokers tell of each other can be old: the leaders themselves must answer.
	for _, name := range names {
		if _, err := q.offsets(bound, name, q.adm.ListEndOffsets); err != nil {
			return q.mapError(ctx, "ask the leaders of topic "+name, err)
		}
	}
	return nil
}

// writable says why a topic takes no writes.
func (q *Queue) writable(t kadm.TopicDetail, name string) error {
	if t.Err != nil {
		return q.topicError(name, "ask for topic "+name, t.Err)
	}
	need := 1
	if known, ok := q.topics.Load(name); ok {
		need = known.(*topic).minInSync
	}
	for _, p := range t.Partitions.Sorted() {
		switch {
		case p.Leader < 0:
			return fmt.Errorf("%w: partition %d of topic %s has no leader", queue.ErrUnavailable, p.Partition, name)
		case len(p.ISR) < need:
			return fmt.Errorf("%w: partition %d of topic %s has %d of its %d replicas in sync and needs %d (min.insync.replicas)",
				queue.ErrUnavailable, p.Partition, name, len(p.ISR), len(p.Replicas), need)
		}
	}
	return nil
}

// turns lets callers with the same name go one after the other.
type turns struct{ m sync.Map } // name → chan struct{} that holds the turn

// wait returns what gives the turn back, or the context's cause.
func (t *turns) wait(ctx context.Context, name string) (func(), error) {
	v, ok := t.m.Load(name)
	if !ok {
		v, _ = t.m.LoadOrStore(name, make(chan struct{}, 1))
	}
	turn := v.(chan struct{})
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the call before: %w", context.Cause(ctx))
	}
}

// token makes a name that nobody else has.
func token() string { return rand.Text()[:20] }

var errNoLeader = errors.New("it has no leader")
