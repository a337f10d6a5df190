// Package rabbitqueue is a queue.Publisher over RabbitMQ, by AMQP 0.9.1: publisher confirms, mandatory, persistent, on
// quorum queues unless the URL says otherwise. With classic and quorum queues its tier is AtLeastOnce, and every copy
// has the same id. On streams (type=stream) commits carry publishing ids, by which the broker drops what it has
// already: see WithCursors.
package rabbitqueue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// Queue is a broker with two connections: one publishes, the other reads and declares. RabbitMQ stops reading from a
// connection that publishes while it is short of memory or disk, so whoever must go on meanwhile needs one of its own.
type Queue struct {
	cfg  Config
	info queue.Info
	id   string // of this instance, random: part of receipts

	host      atomic.Int32 // index of the host that answered last
	welcome   atomic.Bool  // whether a host has let this login in before
	publisher lazy[*session]
	reader    lazy[*reading]
	readings  atomic.Uint64
	orphans   orphans

	making chan struct{} // a token for who makes topics
	mu     sync.Mutex
	topics map[string]bool // made, found or written by this process; true: known to be there

	calls queue.Calls
}

var (
	_ queue.Publisher = (*Queue)(nil)
	_ queue.Refuser   = (*Queue)(nil)
)

// Open connects and finds out who answers. It makes no topic. An error that another try may clear is
// queue.ErrUnavailable; a refused login, a missing vhost and a certificate that does not fit are permanent.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.TLS && len(cfg.Hosts) > 0 { // files that cannot be read now will not be later; each connection reads them anew
		if _, err := cfg.tlsConfig(cfg.Hosts[0]); err != nil {
			return nil, retry.Permanent(fmt.Errorf("rabbitmq queue: %w", err))
		}
	}
	q := &Queue{cfg: cfg, id: rand.Text(), topics: make(map[string]bool), making: make(chan struct{}, 1)}
	q.publisher.open = q.newSession
	q.reader.open = q.newReading
	s, err := q.publisher.get(ctx)
	if err != nil {
		return nil, err
	}
	q.info = queue.Info{
		Name: "rabbitmq", Server: s.conn.Version(), Tier: queue.AtLeastOnce,
		Limits:      queue.Limits{RecordBytes: cfg.MaxRecord},
		EventPrefix: "cloudEvents:", // AMQP binding of CloudEvents 1.0.2, 3.1.3.1
		Note:        cfg.note(s.conn.Version()),
	}
	return q, nil
}

func (c Config) note(version string) string {
	note := "records are in a quorum queue: durable on most of its nodes before they are confirmed"
	switch c.Type {
	case typeClassic:
		note = "records are in a classic queue: durable on one node, and gone with it (type=quorum keeps them on several)"
	case typeStream:
		note = "records are in a stream, which keeps them after they are read; consumers remember their own place"
	}
	if c.Exchange != "" {
		note = "records go to exchange " + c.Exchange + ": how durable they are, and whether all of them arrive, is up to the queues bound to it"
	}
	if major(version) < 4 && version != "" {
		note += "; RabbitMQ " + version + " is out of support, and 4 is the present one"
	}
	return note
}

// major version, 0 when it cannot be read.
func major(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(first)
	return n
}

// Info implements queue.Publisher.
func (q *Queue) Info() queue.Info { return q.info }

// Ping implements queue.Publisher. The broker tells of an alarm only to connections that publish, so Ping publishes:
// a message of no bytes that no queue takes, and waits for its confirm. Where records go to an exchange the login may
// have no right to do that, so there Ping asks for the exchange only.
func (q *Queue) Ping(ctx context.Context) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	s, err := q.publisher.get(ctx)
	if err != nil {
		return err
	}
	if q.cfg.Exchange != "" {
		if err := s.blockedError(); err != nil {
			return fmt.Errorf("ping RabbitMQ: %w", err)
		}
		return q.findExchange(ctx)
	}
	if err := s.publish(ctx, &call{route: q.nowhere(), records: make([]record.Record, 1)}); err != nil {
		return fmt.Errorf("ping RabbitMQ: %w", err)
	}
	return nil
}

// Topics implements queue.Reader. AMQP cannot list queues, so these are the ones that this process has made, found in
// Prepare or written.
func (q *Queue) Topics(context.Context) ([]string, error) {
	if err := q.calls.Enter(); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Sorted(maps.Keys(q.topics)), nil
}

// Close implements queue.Publisher: it waits for calls under way, unless the context ends first. Records that were
// received and not acknowledged go back to their topics at once.
func (q *Queue) Close(ctx context.Context) error {
	leaving := q.calls.Close()
	if leaving == nil {
		return nil
	}
	if r := q.reader.now(); r != nil {
		r.stop() // whoever waits for a record waits no longer
	}
	err := leaving.Wait(ctx)
	if s := q.publisher.now(); s != nil {
		s.close()
	}
	if r := q.reader.now(); r != nil {
		r.close()
	}
	return err
}

// enterTopic is enter with a checked topic name.
func (q *Queue) enterTopic(name string) error {
	if err := checkTopic(name); err != nil {
		return err
	}
	return q.calls.Enter()
}

// alive is something that lives as long as its connection.
type alive interface {
	comparable
	lives() bool
}

// lazy holds a connection and makes the next one when it is asked for and the last one has died.
type lazy[T alive] struct {
	open func(ctx context.Context) (T, error)
	turn sync.Mutex // of who looks and dials
	wait chan struct{}
	last atomic.Pointer[T]
}

// now is the present one, dead or alive, or nil.
func (l *lazy[T]) now() (none T) {
	if p := l.last.Load(); p != nil {
		return *p
	}
	return none
}

// get returns the living one, or dials. Callers that come meanwhile wait for that, or for the end of their context.
func (l *lazy[T]) get(ctx context.Context) (T, error) {
	var none T
	for {
		if now := l.now(); now != none && now.lives() {
			return now, nil
		}
		l.turn.Lock()
		if now := l.now(); now != none && now.lives() {
			l.turn.Unlock()
			return now, nil
		}
		if others := l.wait; others != nil {
			l.turn.Unlock()
			select {
			case <-others:
				continue
			case <-ctx.Done():
				return none, fmt.Errorf("%w: connect to RabbitMQ: %w", queue.ErrUnavailable, context.Cause(ctx))
			}
		}
		done := make(chan struct{})
		l.wait = done
		l.turn.Unlock()
		next, err := l.open(ctx)
		l.turn.Lock()
		if err == nil {
			l.last.Store(&next)
		}
		l.wait = nil
		l.turn.Unlock()
		close(done)
		return next, err
	}
}

// errLost is why something was cut short by this side.
var errLost = errors.New("the connection to RabbitMQ was lost")
