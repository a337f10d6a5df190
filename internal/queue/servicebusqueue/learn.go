package servicebusqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"ferry/internal/queue"
)

const (
	// nowhere is a queue that is not there: that the broker says so proves that it can be reached and that the login
	// is right.
	nowhere = "ferry-ping"
	// usualMessage is the largest message of the basic and standard tiers, premiumMessage that of a premium queue
	// unless it is set to take larger ones.
	usualMessage   = 256 << 10
	premiumMessage = 1 << 20
	// framing is what encoding may add to a record of usual headers. Records with many more are weighed one by one.
	framing = 1 << 10
)

// learn connects and fills in info.
func (q *Queue) learn(ctx context.Context) error {
	max, err := q.probe(ctx)
	if err != nil && !errors.Is(err, queue.ErrNoTopic) { // missing topics are the business of Prepare
		return err
	}
	found := q.survey(ctx)
	switch {
	case q.cfg.MaxRecord > 0:
		max = q.cfg.MaxRecord
	case max == 0 && found.tier == "Premium":
		max = premiumMessage
	case max == 0:
		max = usualMessage
	}
	q.maxMessage = max
	q.info = queue.Info{
		Name: "servicebus", Server: found.server(), Tier: queue.AtLeastOnce,
		Limits:      queue.Limits{RecordBytes: max - framing},
		EventPrefix: "cloudEvents:", // AMQP binding of CloudEvents 1.0.2, 3.1.3.1
	}
	q.info.Window, q.info.Note = found.promise(q.cfg)
	if q.info.Window > 0 {
		q.info.Tier = queue.Deduplicated
	}
	return nil
}

// probe opens a link to a topic as a publish would, and finds out how large a message may be; 0 when it cannot tell.
func (q *Queue) probe(ctx context.Context) (int, error) {
	topic := nowhere
	if len(q.cfg.Topics) > 0 {
		topic = q.cfg.Topics[0]
	}
	max, err := q.look(ctx, topic)
	if errors.Is(err, queue.ErrNoTopic) && (topic == nowhere || q.cfg.Create) {
		return 0, nil
	}
	return max, err
}

// look opens a link of its own to a topic, which asks the broker whether it is there and may be published to.
func (q *Queue) look(ctx context.Context, topic string) (int, error) {
	c, err := q.conn()
	if err != nil {
		return 0, err
	}
	max, err := await(ctx, q, func(ctx context.Context) (int, error) {
		s, err := c.client.NewSender(topic, nil)
		if err != nil {
			return 0, err
		}
		defer func() { _ = s.Close(ctx) }()
		batch, err := s.NewMessageBatch(ctx, nil)
		if err != nil {
			return 0, err
		}
		return largest(batch), nil
	})
	q.lose(ctx, c, err)
	return max, mapError("connect to Service Bus, "+topic, err)
}

// largest finds out what the link has announced, which the SDK does not tell: by what fits into a batch. Batches and
// single messages have the same limit, but for premium queues set to take large messages (max_record).
func largest(batch *azservicebus.MessageBatch) int {
	for n := premiumMessage; n >= leastRecord; n /= 2 {
		if batch.AddMessage(&azservicebus.Message{Body: make([]byte, n-512)}, nil) == nil {
			return n
		}
	}
	return 0
}

// survey is what the management calls say of the topics.
type survey struct {
	tier    string // of the namespace
	closed  error  // why they could not be asked
	window  time.Duration
	without []string // topics without duplicate detection
}

// survey asks about every topic that the queue was opened for.
func (q *Queue) survey(ctx context.Context) survey {
	var s survey
	namespace, err := await(ctx, q, func(ctx context.Context) (string, error) {
		r, err := q.admin.GetNamespaceProperties(ctx, nil)
		return r.SKU, err
	})
	if err != nil {
		s.closed = err
		return s
	}
	s.tier = namespace
	for _, topic := range withDead(q.cfg.Topics) {
		found, err := q.describe(ctx, topic)
		switch {
		case err != nil:
			s.closed = err
			return s
		case found == nil:
		case found.window == 0:
			s.without = append(s.without, topic)
		case s.window == 0 || found.window < s.window:
			s.window = found.window
		}
	}
	return s
}

func (s survey) server() string {
	if s.tier == "" {
		return ""
	}
	return strings.ToLower(s.tier) + " tier"
}

// promise is the window in which the topics recognise duplicates, 0 for none, and what a person should know.
func (s survey) promise(cfg Config) (time.Duration, string) {
	stated := cfg.DuplicateDetection
	switch {
	case s.closed != nil && stated > 0:
		return stated, fmt.Sprintf("duplicates are taken to be recognised for %s, as duplicate_detection in the queue's URL says; ferry cannot check it, for %s", stated, s.why())
	case s.closed != nil:
		return 0, fmt.Sprintf("whether the queues recognise duplicates is not known, for %s: give the login the claim Manage, or write duplicate_detection=10m into the queue's URL if they do", s.why())
	case len(s.without) > 0:
		slices.Sort(s.without)
		return 0, fmt.Sprintf("duplicates are possible: %s has no duplicate detection, which can be chosen only when a queue is made (create=true does)", strings.Join(s.without, ", "))
	}
	window := s.window
	if cfg.Create && (window == 0 || cfg.window() < window) {
		window = cfg.window() // of those that are made
	}
	if window == 0 {
		return 0, "none of the topics is there yet, so that nothing can be said of duplicates"
	}
	return window, fmt.Sprintf("a record published again within %s is recognised by its message id and dropped", window)
}

func (s survey) why() string {
	if forbidden(s.closed) {
		return "the login may not look at queues"
	}
	return "the management calls (HTTPS, port 443) fail"
}

// withDead gives every topic and its dead-letter topic.
func withDead(topics []string) []string {
	all := make([]string, 0, 2*len(topics))
	for _, topic := range topics {
		all = append(all, topic, queue.DeadTopic(topic))
	}
	return all
}
