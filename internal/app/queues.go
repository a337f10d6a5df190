package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/queue/journal"
	"ferry/internal/queue/kafkaqueue"
	"ferry/internal/queue/natsqueue"
	"ferry/internal/queue/rabbitqueue"
	"ferry/internal/queue/redisqueue"
	"ferry/internal/queue/servicebusqueue"
	"ferry/internal/queue/sqsqueue"
)

// opener connects to the queue that a URL names.
type opener func(ctx context.Context, a *App) (queue.Queue, error)

// queueOf picks the queue by its URL's scheme and reads the rest of the URL.
func queueOf(u config.URL) (opener, error) {
	s := scheme(u)
	switch {
	case s == "embedded" || s == "nats" || s == "tls":
		c, err := natsqueue.ParseURL(u)
		return func(ctx context.Context, a *App) (queue.Queue, error) { return a.openNATS(ctx, c) }, err
	case s == "kafka" || s == "kafkas":
		c, err := kafkaqueue.ParseURL(u)
		return func(ctx context.Context, _ *App) (queue.Queue, error) { return kafkaqueue.Open(ctx, c) }, err
	case s == "redis" || s == "rediss":
		c, err := redisqueue.ParseURL(u)
		return func(ctx context.Context, _ *App) (queue.Queue, error) { return redisqueue.Open(ctx, c) }, err
	case s == "amqp" || s == "amqps":
		c, err := rabbitqueue.ParseURL(u)
		return func(ctx context.Context, a *App) (queue.Queue, error) {
			q, err := rabbitqueue.Open(ctx, c)
			if err != nil {
				return nil, err
			}
			return q.WithCursors(cursors{a.store}), nil // streams have commits of their own
		}, err
	case s == "sqs" || sqsqueue.IsAddress(u):
		c, err := sqsqueue.ParseURL(u)
		return func(ctx context.Context, a *App) (queue.Queue, error) { return a.withCursors(sqsqueue.Open(ctx, c)) }, err
	case servicebusqueue.IsAddress(u):
		c, err := servicebusqueue.ParseURL(u)
		return func(ctx context.Context, a *App) (queue.Queue, error) {
			c.Topics = a.topics()
			return a.withCursors(servicebusqueue.Open(ctx, c))
		}, err
	}
	return nil, fmt.Errorf("queue URL: no queue is called %q; write embedded: or nats://, kafka://, amqp://, redis://, sqs:// or azservicebus:// (docs/queues.md)", s)
}

// withCursors keeps the cursors of a queue that holds none in the state store.
func (a *App) withCursors(p queue.Publisher, err error) (queue.Queue, error) {
	if err != nil {
		return nil, err
	}
	return queue.WithCursors(p, cursors{a.store}), nil
}

// openQueue connects to the queue. Who is going to publish gets its topics made sure of, so that what is missing shows
// now and not with the first record.
func (a *App) openQueue(ctx context.Context) error {
	open, err := queueOf(a.cfg.Queue)
	if err != nil {
		return err
	}
	q, err := open(ctx, a)
	if err != nil {
		return &EnvironmentError{fmt.Errorf("open queue: %w", unreachable("queue", a.cfg.Queue, err))}
	}
	a.queue = q
	a.onClose("queue", q.Close)
	switch a.opt.Command {
	case "serve", "dev", "run", "check":
		prepare := func(ctx context.Context) error { return q.Prepare(ctx, a.topics()...) }
		if err := a.patiently(ctx, "topics", prepare); err != nil {
			return &EnvironmentError{fmt.Errorf("prepare topics: %w", err)}
		}
	}
	return nil
}

// topics of all pipelines, sorted, each once.
func (a *App) topics() []string {
	all := make([]string, 0, len(a.cfg.Pipelines))
	for p := range maps.Values(a.cfg.Pipelines) {
		all = append(all, p.Topic)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (a *App) openNATS(ctx context.Context, c natsqueue.Config) (queue.Queue, error) {
	if c.Embedded {
		c.Connect, c.Health, c.MaxBatch = a.embedded.Connect, a.embedded.Healthy, a.embedded.MaxBatch()
		if c.Cache == 0 {
			c.Cache = embeddedCache()
		}
		if a.cluster != nil {
			c.Cache /= int64(len(c.Cluster)) // what the others write is kept here too
		}
	}
	q, err := natsqueue.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	if !c.Embedded || c.Memory || a.cluster != nil {
		return q, nil // in a cluster, what is confirmed must not hang on this one's disk
	}
	// An atomic batch costs the embedded server a dozen file operations: requests share the journal's one sync instead.
	j, err := journal.Open(ctx, filepath.Join(a.cfg.Data, "journal"), q)
	if err != nil {
		return nil, errors.Join(err, q.Close(context.WithoutCancel(ctx)))
	}
	return j, nil
}
