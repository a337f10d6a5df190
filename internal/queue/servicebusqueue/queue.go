// Package servicebusqueue is a queue.Publisher over Azure Service Bus, by AMQP 1.0 and the vendor's SDK. A topic is a
// Service Bus queue. A message's id is its record's, so that queues with duplicate detection drop a second copy
// within their window: tier Deduplicated. Without it the tier is AtLeastOnce.
package servicebusqueue

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"

	"ferry/internal/queue"
)

// Queue is a namespace, connected.
type Queue struct {
	cfg        Config
	info       queue.Info
	maxMessage int
	identity   azcore.TokenCredential
	admin      *admin.Client
	web        *http.Transport

	mu     sync.Mutex
	now    *connection
	topics map[string]bool   // made, found or written by this process
	groups map[string]*group // by topic

	held holdings

	alive   context.Context //nolint:containedctx // ended by Close, for who waits for a record
	die     context.CancelFunc
	calls   queue.Calls
	closing sync.WaitGroup // connections that are being let go of
}

var (
	_ queue.Publisher = (*Queue)(nil)
	_ queue.Refuser   = (*Queue)(nil)
)

// Open connects, and learns from cfg.Topics and their dead-letter topics what the queue can promise. It makes no topic,
// and none has to be there. An error that another try may clear is queue.ErrUnavailable; a refused login is permanent.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	q := &Queue{cfg: cfg, topics: make(map[string]bool), groups: make(map[string]*group)}
	q.alive, q.die = context.WithCancel(context.WithoutCancel(ctx))
	q.held.by = make(map[azToken]*hold)
	if q.identity, err = cfg.identity(); err != nil {
		return nil, mapError("log in to Service Bus", err)
	}
	if q.admin, q.web, err = newAdmin(cfg, q.identity); err != nil {
		return nil, mapError("open the management of Service Bus", err)
	}
	if err := q.learn(ctx); err != nil {
		_ = q.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return q, nil
}

// Info implements queue.Publisher.
func (q *Queue) Info() queue.Info { return q.info }

// Ping implements queue.Publisher: it opens a link as a publish would, to one of the topics, and lets go of it. That a
// queue is full shows only when something is published.
func (q *Queue) Ping(ctx context.Context) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	_, err := q.probe(ctx)
	return err
}

// Topics implements queue.Reader. These are the ones that this process has made, found in Prepare or written; what else
// is in the namespace is not ferry's.
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
// received and not acknowledged come again when their locks end.
func (q *Queue) Close(ctx context.Context) error {
	leaving := q.calls.Close()
	if leaving == nil {
		return nil
	}
	q.die()
	err := leaving.Wait(ctx)
	q.mu.Lock()
	c := q.now
	q.now = nil
	q.mu.Unlock()
	if c != nil {
		q.closeLater(c.close)
	}
	q.closing.Wait()
	q.web.CloseIdleConnections()
	return err
}

// enterTopic is enter with a checked topic name.
func (q *Queue) enterTopic(name string) error {
	if err := checkTopic(name); err != nil {
		return err
	}
	return q.calls.Enter()
}

// saw remembers a topic.
func (q *Queue) saw(topic string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.topics[topic] = true
}

func (q *Queue) forget(topic string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.topics, topic)
}

func (q *Queue) knows(topic string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.topics[topic]
}

// await runs one call of the SDK, which may hang on to its context for longer than it should, and returns when it is
// done, when the context ends or when the configured time is over. Close waits for the call itself.
func await[T any](ctx context.Context, q *Queue, f func(ctx context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	own, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	done, left := make(chan result), make(chan struct{})
	q.calls.Go(func() { // the caller is counted already, so Close cannot be past its wait
		defer cancel()
		value, err := f(own)
		select {
		case done <- result{value, err}:
		case <-left:
		}
	})
	var none T
	select {
	case r := <-done:
		return r.value, r.err
	case <-own.Done():
	}
	close(left)
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	return none, fmt.Errorf("%w (%s)", errLost, q.cfg.Timeout)
}
