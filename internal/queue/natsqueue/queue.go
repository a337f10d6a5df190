// Package natsqueue is queue.Queue over NATS JetStream: the server inside the process or servers outside. Records,
// dead letters and the cursor of a commit are one atomic batch (ADR-50 of NATS), so a server from 2.12 on gives
// tier ExactlyOnce; a 2.11 server gives Deduplicated.
package natsqueue

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// Queue is a connection to JetStream. Make one with Open.
type Queue struct {
	pacer  *rate.Limiter // nil: no limit
	cfg    Config
	nc     *nats.Conn
	js     jetstream.JetStream
	atomic bool
	info   queue.Info

	id      string // of this connection, random: prefix of batch ids and of writers' names
	counter atomic.Uint64

	denied atomic.Pointer[error] // what the server did not allow last
	read   atomic.Int64          // when records were read here last, in nanoseconds since 1970; 0: not yet

	mu       sync.Mutex
	channels map[string]*channel // by topic.base
	line     context.Context     // ends with the connection; replaced by the next one
	hangUp   context.CancelCauseFunc

	calls queue.Calls

	low queue.Queue // Commit out of Publish and compare-and-set, when the server has no atomic batches
}

var _ queue.Queue = (*Queue)(nil)

// channel is what is known of a topic's stream while the queue is open, and its group commit.
type channel struct {
	turn  chan struct{} // holds a token while somebody looks for the stream or makes it
	ready atomic.Bool   // the stream is there and checked
	// behind says that the stream has not yet the limits that the URL gives.
	behind atomic.Bool
	// replicated says that several servers answer for the stream.
	replicated atomic.Bool
	maxRecord  atomic.Int64
	group      group
	readers    sync.Map // consumer name → jetstream.Consumer
	answered   answered

	asking int  // how many look for the stream; with Queue.mu
	found  bool // somebody has found it; with Queue.mu
}

// Open connects and finds out what the server can do. It does not make any topic yet. An error that another try may
// clear is queue.ErrUnavailable.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	var id [8]byte
	rand.Read(id[:]) // never fails
	q := &Queue{pacer: newPacer(cfg.Cache), cfg: cfg, id: hex.EncodeToString(id[:]), channels: make(map[string]*channel)}
	q.line, q.hangUp = context.WithCancelCause(context.Background())
	if err := q.connect(ctx); err != nil {
		return nil, err
	}
	if err := q.discover(ctx); err != nil {
		q.nc.Close()
		return nil, err
	}
	if !q.atomic {
		q.low = queue.WithCursors(q, cursors{q})
		q.info = q.low.Info()
	}
	return q, nil
}

func (q *Queue) connect(ctx context.Context) error {
	dial := q.cfg.Connect
	opts := []nats.Option{
		nats.Name("ferry"),
		// A batch half sent before a reconnect and half after it is no batch: fail at once instead of buffering.
		nats.ReconnectBufSize(-1),
		nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { // the default prints to stderr
			if errors.Is(err, nats.ErrPermissionViolation) {
				err = fmt.Errorf("%w (this login needs the subjects $JS.API.>, _INBOX.>, ferry.cursor.> and the topics)", err)
				q.denied.Store(&err)
			}
		}),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { q.lost() }),
	}
	if dial == nil {
		opts = append(opts, nats.ReconnectWait(q.cfg.reconnect), nats.Timeout(q.cfg.Timeout))
		opts = append(opts, q.cfg.login()...)
		dial = func(o ...nats.Option) (*nats.Conn, error) { return nats.Connect(q.cfg.Servers, o...) }
	}
	type result struct {
		nc  *nats.Conn
		err error
	}
	done := make(chan result, 1)
	go func() { nc, err := dial(opts...); done <- result{nc, err} }()
	select {
	case r := <-done:
		if r.err != nil {
			return q.mapError(ctx, "connect to NATS", r.err)
		}
		q.nc = r.nc
	case <-ctx.Done():
		go func() {
			if r := <-done; r.nc != nil {
				r.nc.Close()
			}
		}()
		return fmt.Errorf("%w: connect to NATS: %w", queue.ErrUnavailable, context.Cause(ctx))
	}
	var err error
	// Answers are waited for as long as Timeout, see answers; the library only has to forget those that nobody gives.
	jopts := []jetstream.JetStreamOpt{jetstream.WithPublishAsyncTimeout(2 * q.cfg.Timeout), jetstream.WithPublishAsyncMaxPending(64 * maxPending)}
	if q.cfg.Domain != "" {
		q.js, err = jetstream.NewWithDomain(q.nc, q.cfg.Domain, jopts...)
	} else {
		q.js, err = jetstream.New(q.nc, jopts...)
	}
	if err != nil {
		q.nc.Close()
		return fmt.Errorf("connect to NATS: %w", err)
	}
	return nil
}

// discover asks the server's version and whether JetStream is on.
func (q *Queue) discover(ctx context.Context) error {
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	if _, err := ask(ctx, q.js.AccountInfo); err != nil {
		return q.mapError(ctx, "ask NATS for JetStream", err)
	}
	version := q.nc.ConnectedServerVersion()
	if !atLeast(version, 2, 11) {
		return fmt.Errorf("the NATS server is version %s; ferry needs 2.11 or newer, and 2.12 for exactly once", version)
	}
	q.atomic = atLeast(version, 2, 12) && !q.cfg.plain
	payload := int(q.nc.MaxPayload())
	q.info = queue.Info{
		Name:        "nats",
		Server:      version,
		Tier:        queue.ExactlyOnce,
		EventPrefix: "ce-",
		Limits: queue.Limits{
			CommitRecords: q.cfg.MaxBatch - 1, // the cursor is one of the batch
			CommitBytes:   commitBytes,
			RecordBytes:   payload - headerReserve,
		},
	}
	if q.cfg.Embedded {
		q.info.Note = "embedded in this process; every confirmed record is synced to disk"
		if n := len(q.cfg.Cluster); n > 0 {
			q.info.Note = fmt.Sprintf("embedded in this process, as a cluster of %d; every confirmed record is synced to disk on two members at least", n)
		}
	} else {
		q.info.Note = "whether the server syncs before it confirms is its own setting (sync_interval: always)"
	}
	if q.cfg.Memory {
		q.info.Note = "topics are kept in memory (storage=memory): a restart loses everything"
	}
	if !q.atomic {
		q.info.Limits.CommitRecords = maxPending
		q.info.Tier, q.info.Window = queue.Deduplicated, 2*time.Minute
		q.info.Note = "the NATS server is older than 2.12 and has no atomic batches: records and cursor are written one after the other, and a record that comes twice within the topic's duplicate window is dropped"
	}
	q.info.Limits = q.cfg.within(q.info.Limits)
	return nil
}

// commitBytes bounds one atomic batch; a server holds it in memory while it comes in.
const commitBytes = 32 << 20

// maxPending is how many records a topic has on their way as single messages.
const maxPending = 1000

// atLeast compares versions such as 2.12.1 and v2.12.0-RC.1. What cannot be read counts as new.
func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return true
	}
	a, err1 := strconv.Atoi(parts[0])
	b, err2 := strconv.Atoi(parts[1])
	return err1 != nil || err2 != nil || a > major || a == major && b >= minor
}

// Info implements queue.Queue.
func (q *Queue) Info() queue.Info { return q.info }

// Ping implements queue.Queue: JetStream answers, and the embedded server is well.
func (q *Queue) Ping(ctx context.Context) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	if q.cfg.Health != nil {
		if err := q.cfg.Health(); err != nil {
			return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
		}
	}
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	ctx, quick := context.WithTimeout(ctx, 2*time.Second)
	defer quick()
	if _, err := q.js.AccountInfo(ctx); err != nil {
		return q.mapError(ctx, "ask NATS for JetStream", err)
	}
	return nil
}

// Close implements queue.Queue: it waits for calls and batches under way, unless the context ends first.
func (q *Queue) Close(ctx context.Context) error {
	leaving := q.calls.Close()
	if leaving == nil {
		return nil
	}
	err := leaving.Wait(ctx)
	q.nc.Close()
	q.lost()
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

// errLost ends what was under way on a connection when it broke: its answer will never come.
var errLost = errors.New("the connection to NATS was lost")

func (q *Queue) lost() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.hangUp(errLost)
	q.line, q.hangUp = context.WithCancelCause(context.Background())
}

// roundTrip bounds a request by the configured time and by the life of the connection.
func (q *Queue) roundTrip(ctx context.Context) (context.Context, context.CancelFunc) {
	q.mu.Lock()
	line := q.line
	q.mu.Unlock()
	ctx, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(line, func() { end(errLost) })
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	return ctx, func() { stop(); cancel(); end(nil) }
}

// channel gives what is known of a topic, to somebody who says with leave what came of it.
func (q *Queue) channel(base string) *channel {
	q.mu.Lock()
	defer q.mu.Unlock()
	ch := q.channels[base]
	if ch == nil {
		ch = &channel{turn: make(chan struct{}, 1)}
		ch.group.init(q, ch)
		q.channels[base] = ch
	}
	ch.asking++
	return ch
}

// leave forgets a topic when nobody has found it and nobody else is looking: names that do not exist are without number.
// One that was found stays for good, since there may be writers and records on their way that know it.
func (q *Queue) leave(base string, ch *channel, found bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ch.asking--
	ch.found = ch.found || found
	if !ch.found && ch.asking == 0 {
		delete(q.channels, base)
	}
}

// token makes a name that nobody else has.
func (q *Queue) token() string { return q.id + "-" + strconv.FormatUint(q.counter.Add(1), 36) }

func sortedNames(h nats.Header) []string { return slices.Sorted(maps.Keys(h)) }

// Codes of JetStream's errors that the client library does not name.
const (
	codeResources         = 10002 // account's limits
	codeNoPeers           = 10005 // fewer servers than replicas are up
	codeUnavailable       = 10008
	codeNotLeader         = 10009
	codeInsufficient      = 10023
	codeMemory            = 10028
	codeStorage           = 10047
	codeTooLarge          = 10054
	codeSubjectOverlap    = 10065
	codeWrongLast         = 10071
	codeStoreFailed       = 10077
	codeHeaderTooLarge    = 10097
	codeInProcess         = 10158 // the same message was sent before and is not agreed on yet
	codeWrongLastConstant = 10164
	codeBusy              = 10167
	codeBatchIncomplete   = 10176
	codeBatchTooLarge     = 10199
	codeBatchDuplicate    = 10201
	codeBatchInflight     = 10210
)

// mapError turns what the library says into the contract's errors. It keeps the cause.
func (q *Queue) mapError(ctx context.Context, what string, err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api):
		switch api.ErrorCode {
		case codeResources, codeInsufficient, codeMemory, codeStorage:
			return fmt.Errorf("%s: %w: %w", what, queue.ErrFull, err)
		case codeStoreFailed:
			if isFull(api.Description) {
				return fmt.Errorf("%s: %w: %w", what, queue.ErrFull, err)
			}
			return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
		case codeNoPeers, codeInProcess, codeUnavailable, codeNotLeader, codeBusy, codeBatchInflight, codeWrongLastConstant,
			jetstream.JSErrCodeJetStreamNotEnabled:
			return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
		case codeBatchIncomplete:
			if q.cfg.Embedded { // nothing of it can have got lost on its way, and the server does not say more
				err = fmt.Errorf("%w (the disk of the embedded queue may have no room for all of it)", err)
			}
			return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
		case codeBatchTooLarge:
			return retry.Permanent(fmt.Errorf("%s: the server's max_batch_size is below %d: %w", what, q.cfg.MaxBatch, err))
		}
		if api.Code >= 500 && api.ErrorCode != jetstream.JSErrCodeJetStreamNotEnabledForAccount {
			return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
		}
		return retry.Permanent(fmt.Errorf("%s: %w", what, err))
	case errors.Is(err, context.Canceled) && ctx.Err() != nil && !errors.Is(context.Cause(ctx), errLost):
		return fmt.Errorf("%s: %w", what, context.Cause(ctx)) // the caller's own wish
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		err = errLost
	}
	if denied := q.denied.Load(); denied != nil && errors.Is(err, context.DeadlineExceeded) {
		// The server does not answer what it does not allow; it says so beside.
		return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, *denied)
	}
	return refused(what, err) // timeouts, lost connections, nobody listening, logins
}

// isFull tells a full topic or disk from other failures of the store; the server says so only in words.
func isFull(description string) bool {
	d := strings.ToLower(description)
	return strings.Contains(d, "maximum bytes") || strings.Contains(d, "maximum messages") ||
		strings.Contains(d, "no space left") || strings.Contains(d, "not enough space") || strings.Contains(d, "quota")
}
