// Package redisqueue is queue.Queue over the streams of Redis or Valkey: one server, a cluster, or servers watched by
// sentinels. Records, dead letters and the cursor of a commit are written by one script, so the tier is ExactlyOnce:
// whatever a server loses, it loses records and cursor together.
package redisqueue

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
)

// Queue is a connection to Redis. Make one with Open.
type Queue struct {
	cfg     Config
	client  redis.UniversalClient
	scripts scripts
	server  server
	confirm confirmation
	info    queue.Info
	// readBytes bounds what one Browse or Receive holds in memory (invariant 7), give or take the last page.
	readBytes int

	id      string // random: prefix of the names of writers and commits
	counter atomic.Uint64
	// doubt is true while it is not known that enough replicas follow; see Queue.followed.
	doubt   atomic.Bool
	waiting chan struct{} // a token for each connection that waits for records

	mu       sync.Mutex
	channels map[string]*channel // by topic.name

	ending chan struct{} // closed by Close
	calls  queue.Calls
}

var _ queue.Queue = (*Queue)(nil)

// channel is what a queue keeps of a topic.
type channel struct {
	topic  topic
	group  gather
	listed atomic.Bool  // it stands in ferry.topics
	claims atomic.Value // string: where to look next for records to deliver again
}

// Open connects and finds out what the servers can do. An error that another try may clear is queue.ErrUnavailable.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	var id [8]byte
	rand.Read(id[:]) // never fails
	q := &Queue{
		cfg: cfg, scripts: newScripts(), readBytes: usualBytes, id: hex.EncodeToString(id[:]), waiting: make(chan struct{}, waiters),
		channels: make(map[string]*channel), ending: make(chan struct{}),
	}
	q.doubt.Store(true)
	if q.client, err = cfg.connect(q.scripts); err != nil {
		return nil, err
	}
	if q.server, err = await(ctx, q, "connect to Redis", q.examine, nil); err != nil {
		return nil, errors.Join(err, q.client.Close())
	}
	q.confirm = q.server.confirmation(cfg)
	q.info = queue.Info{
		Name: "redis", Server: q.server.version, Tier: queue.ExactlyOnce, Note: q.server.note(cfg), Limits: cfg.limits(),
	}
	return q, nil
}

// limits are those of ferry, and of the URL: what no empty stream could take would be tried for ever.
func (c Config) limits() queue.Limits {
	l := queue.Limits{CommitRecords: commitRecords, CommitBytes: commitBytes, RecordBytes: recordBytes}
	if c.MaxLen > 0 {
		l.CommitRecords = min(l.CommitRecords, c.MaxLen)
	}
	if c.MaxBytes > 0 { // what a stream weighs is more than what was put into it
		l.CommitBytes = int(min(int64(l.CommitBytes), c.MaxBytes/2))
		l.RecordBytes = min(l.RecordBytes, l.CommitBytes)
	}
	return l
}

// Info implements queue.Queue.
func (q *Queue) Info() queue.Info { return q.info }

// Ping implements queue.Queue: every server would take a write, and enough replicas follow it.
func (q *Queue) Ping(ctx context.Context) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	_, err := await(ctx, q, "ask Redis", func(ctx context.Context) (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return struct{}{}, q.ping(ctx)
	}, nil)
	return err
}

func (q *Queue) ping(ctx context.Context) error {
	if err := q.masters(ctx, func(ctx context.Context, c *redis.Client) error { return c.Ping(ctx).Err() }); err != nil {
		q.moved(ctx)
		return q.mapError("ask Redis", err)
	}
	for _, key := range q.pingKeys() {
		// The command would enlarge memory, so the server refuses it whenever it would refuse a record; and it pushes to a
		// list that is not there, so it does nothing.
		err := q.on(ctx, key, func(c *redis.Client) error { return c.LPushX(ctx, key, "").Err() })
		if err != nil {
			return q.mapError("ask Redis", err)
		}
	}
	if q.cfg.Wait == 0 {
		return nil
	}
	return q.masters(ctx, q.hasReplicas)
}

// pingKeys are keys beside each topic that was used; one is enough where they all lie on one server.
func (q *Queue) pingKeys() []string {
	keys := []string{pingKey}
	if q.cfg.Mode != cluster {
		return keys
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ch := range q.channels {
		keys = append(keys, ch.topic.pingKey())
	}
	return keys
}

// Close implements queue.Queue: it waits for calls and writes under way, unless the context ends first.
func (q *Queue) Close(ctx context.Context) error {
	leaving := q.calls.Close()
	if leaving == nil {
		return nil
	}
	close(q.ending)
	err := leaving.Wait(ctx)
	if cerr := q.client.Close(); cerr != nil && !errors.Is(cerr, redis.ErrClosed) {
		err = errors.Join(err, fmt.Errorf("close connections to Redis: %w", cerr))
	}
	return err
}

// enterTopic is enter with a checked topic name.
func (q *Queue) enterTopic(name string) (topic, error) {
	t, err := parseTopic(name)
	if err != nil {
		return t, err
	}
	return t, q.calls.Enter()
}

func (q *Queue) channel(t topic) *channel {
	q.mu.Lock()
	defer q.mu.Unlock()
	ch := q.channels[t.name]
	if ch == nil {
		ch = &channel{topic: t}
		ch.group.init(q, ch)
		q.channels[t.name] = ch
	}
	return ch
}

// token makes a name that nobody else has.
func (q *Queue) token() string { return q.id + "-" + strconv.FormatUint(q.counter.Add(1), 36) }
