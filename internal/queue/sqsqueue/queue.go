// Package sqsqueue is queue.Publisher over Amazon SQS. Wrap it with queue.WithCursors: SQS keeps no cursors. FIFO
// queues give tier Deduplicated, for SQS drops a second record with the same deduplication id (the record's id) for
// five minutes, and keep the order of each message group; standard queues give AtLeastOnce and roughly an order.
package sqsqueue

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"ferry/internal/queue"
)

const (
	// window is how long SQS remembers a deduplication id.
	window = 5 * time.Minute
	// maxRequest is what SQS takes for a message, and for all messages of one request: 1 MiB since August 2025.
	maxRequest = 1 << 20
	// framing is kept free of it for the types of attributes and the names that ferry adds.
	framing = 256
	// commitRecords keeps a commit at a hundred requests, far within the window even where each takes a second.
	commitRecords = 1000
)

// Queue is a client of SQS. Make one with Open.
type Queue struct {
	cfg    Config
	client *sqs.Client
	web    *http.Client
	info   queue.Info

	look chan struct{} // holds a token while somebody looks for a queue or makes it

	mu      sync.Mutex
	targets map[string]*target // by the name of the queue in SQS
	topics  map[string]*target // by topic
	tags    map[string]string  // by the name of the queue: the topic it was tagged with, or ""
	latest  *target            // what Ping asks for

	calls queue.Calls
	hold  context.Context
	letGo context.CancelFunc
}

var (
	_ queue.Publisher = (*Queue)(nil)
	_ queue.Refuser   = (*Queue)(nil)
)

// Open logs in and asks SQS whether it answers. It does not make any queue yet. An error that another try may clear is
// queue.ErrUnavailable.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	q := &Queue{
		cfg: cfg, look: make(chan struct{}, 1),
		targets: make(map[string]*target), topics: make(map[string]*target), tags: make(map[string]string),
	}
	q.hold, q.letGo = context.WithCancel(context.Background())
	if err := q.begin(ctx); err != nil {
		q.letGo()
		if q.web != nil {
			q.web.CloseIdleConnections()
		}
		return nil, err
	}
	return q, nil
}

func (q *Queue) begin(ctx context.Context) error {
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	if err := q.connect(ctx); err != nil {
		return err
	}
	q.info = queue.Info{
		Name:   "sqs",
		Tier:   queue.Deduplicated,
		Window: window,
		Limits: queue.Limits{CommitRecords: commitRecords, RecordBytes: maxRequest - framing},
		Note:   "SQS deletes what nobody has read once the queue's retention is over, 14 days at the most; a record that is published again within 5 minutes on purpose (a cursor set back, a second replay) is dropped too",
	}
	if !q.cfg.FIFO {
		q.info.Tier, q.info.Window = queue.AtLeastOnce, 0
		q.info.Note = "SQS standard queues keep order only roughly and may hand out a record twice; FIFO queues (fifo=true, a name with .fifo) do neither; what nobody has read is deleted once the queue's retention is over, 14 days at the most"
	}
	if q.cfg.Address == "" {
		return q.ping(ctx)
	}
	t, err := q.find(ctx, q.cfg.Address)
	switch {
	case errors.Is(err, queue.ErrNoTopic): // Prepare says so, or makes it
	case err != nil:
		return err
	default:
		q.info.Limits.RecordBytes = t.limit - framing
	}
	return nil
}

// Info implements queue.Publisher.
func (q *Queue) Info() queue.Info { return q.info }

// Ping implements queue.Publisher: SQS answers and takes the login.
func (q *Queue) Ping(ctx context.Context) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	ctx, quick := context.WithTimeout(ctx, 3*time.Second)
	defer quick()
	return q.ping(ctx)
}

// ping asks for a queue that is in use. Before there is one it asks for one that need not exist: that answer shows as
// well that the login is known, and needs no further permission.
func (q *Queue) ping(ctx context.Context) error {
	q.mu.Lock()
	t := q.latest
	q.mu.Unlock()
	if t != nil {
		_, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &t.url})
		return q.mapError(ctx, "ask SQS for queue "+t.name, t, err)
	}
	_, err := q.client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String("ferry-ping")})
	if k := kindOf(code(err)); k == missing || k == forbidden {
		return nil
	}
	return q.mapError(ctx, "ask SQS in "+q.cfg.Region, nil, err)
}

// Close implements queue.Publisher: it waits for calls and requests under way, unless the context ends first.
func (q *Queue) Close(ctx context.Context) error {
	leaving := q.calls.Close()
	if leaving == nil {
		return nil
	}
	err := leaving.Wait(ctx)
	q.letGo()
	if err != nil {
		<-leaving // requests end with hold
	}
	q.web.CloseIdleConnections()
	return err
}

// roundTrip bounds a request by the configured time and by the life of the queue.
func (q *Queue) roundTrip(ctx context.Context) (context.Context, context.CancelFunc) {
	return q.within(ctx, q.cfg.Timeout)
}

func (q *Queue) within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	stop := context.AfterFunc(q.hold, cancel)
	return ctx, func() { stop(); cancel() }
}
