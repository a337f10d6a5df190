package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// How topics lie in SQS: a queue each.
//
//	orders.eu        orders-eu.fifo         a name in SQS has no dots
//	orders.eu.dead   orders-eu-dead.fifo
//
// With a queue's own address in the URL every topic is that queue, and its dead letters are the queue NAME-dead.

// tagTopic is on queues that ferry made: whose they are.
const tagTopic = "ferry-topic"

// settling is how long a queue that was just made may still be unknown to some of SQS's servers.
const settling = 10 * time.Second

// target is a queue in SQS that was seen to exist, and its group commit.
type target struct {
	name, url string
	limit     int       // bytes of a message
	made      time.Time // when this process made it; zero: it did not
	sender    sender
}

// queueName gives the name of a topic's queue.
func (c *Config) queueName(topic string) (string, error) {
	if topic == "" || topic == queue.DeadTopic("") {
		return "", queue.BadTopic("a topic needs a name")
	}
	base, dead := topic, ""
	if b, ok := strings.CutSuffix(topic, queue.DeadTopic("")); ok {
		base, dead = b, deadSuffix
	}
	ending := ""
	if c.FIFO {
		ending = fifoSuffix
	}
	if c.Address != "" {
		base = c.Address[strings.LastIndexByte(c.Address, '/')+1:]
	}
	b, said := strings.CutSuffix(base, fifoSuffix)
	if said && !c.FIFO {
		return "", queue.BadTopic("topic %q: the name is a FIFO queue's, and the queue's URL says fifo=false", topic)
	}
	name := strings.ReplaceAll(b, ".", "-") + dead + ending
	if !isQueueName(name) {
		return "", queue.BadTopic("topic %.100q cannot be an SQS queue: use letters, digits, -, _ and dots, at most %d characters", topic, maxName-len(deadSuffix)-len(ending))
	}
	return name, nil
}

// address gives a queue's address beside that of the URL.
func (c *Config) address(name string) string {
	return c.Address[:strings.LastIndexByte(c.Address, '/')+1] + name
}

// topic gives the topic's queue, which it looks for, or makes when create is true and the URL allows it. What it found
// is remembered until SQS says that it is gone. The error for a missing one is queue.ErrNoTopic, permanent.
func (q *Queue) topic(ctx context.Context, topic string, create bool) (*target, error) {
	q.mu.Lock()
	t := q.topics[topic]
	q.mu.Unlock()
	if t != nil {
		return t, nil
	}
	name, err := q.cfg.queueName(topic)
	if err != nil {
		return nil, err
	}
	select {
	case q.look <- struct{}{}: // one at a time: it happens once a topic
		defer func() { <-q.look }()
	case <-ctx.Done():
		return nil, fmt.Errorf("look for topic %s: %w", topic, context.Cause(ctx))
	}
	q.mu.Lock()
	t = q.targets[name]
	for other, o := range q.topics {
		if o == t && t != nil && other != topic && q.cfg.Address == "" {
			q.mu.Unlock()
			return nil, retry.Permanent(fmt.Errorf("topics %q and %q would be the same SQS queue, %s; give one of them another name", other, topic, name))
		}
	}
	q.mu.Unlock()
	if t == nil {
		if t, err = q.discover(ctx, topic, name, create); err != nil {
			return nil, err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.targets[name], q.topics[topic], q.latest = t, t, t
	return t, nil
}

func (q *Queue) discover(ctx context.Context, topic, name string, create bool) (*target, error) {
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	address := ""
	if q.cfg.Address != "" {
		address = q.cfg.address(name)
	} else {
		in := &sqs.GetQueueUrlInput{QueueName: &name}
		if q.cfg.Account != "" {
			in.QueueOwnerAWSAccountId = &q.cfg.Account
		}
		out, err := q.client.GetQueueUrl(ctx, in)
		switch {
		case err == nil:
			address = aws.ToString(out.QueueUrl)
		case kindOf(code(err)) != missing:
			return nil, q.mapError(ctx, "look for SQS queue "+name, nil, err)
		}
	}
	if address != "" {
		t, err := q.find(ctx, address)
		if err == nil || !errors.Is(err, queue.ErrNoTopic) {
			return t, err
		}
	}
	if create && q.cfg.Create {
		return q.make(ctx, topic, name)
	}
	return nil, q.noQueue(topic, name)
}

// noQueue words a missing topic, with what to do.
func (q *Queue) noQueue(topic, name string) error {
	where := q.cfg.Region
	if q.cfg.Account != "" {
		where += ", account " + q.cfg.Account
	}
	fix := "make it, or let ferry make it: create=true in the queue's URL"
	switch {
	case q.cfg.Create:
		fix = "it is made when a pipeline publishes to it"
	case q.cfg.Account != "":
		fix = "make it there"
	}
	return retry.Permanent(fmt.Errorf("%w: %s: SQS has no queue %s in %s; %s", queue.ErrNoTopic, topic, name, where, fix))
}

// find asks for the queue at an address.
func (q *Queue) find(ctx context.Context, address string) (*target, error) {
	t := q.newTarget(address)
	// An emulator that does not know the attribute leaves it out.
	out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: &address, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameMaximumMessageSize},
	})
	if err != nil {
		return nil, q.mapError(ctx, "look for SQS queue "+t.name, t, err)
	}
	if n, err := strconv.Atoi(out.Attributes[string(types.QueueAttributeNameMaximumMessageSize)]); err == nil && n > framing && n < t.limit {
		t.limit = n
	}
	return t, nil
}

func (q *Queue) newTarget(address string) *target {
	t := &target{url: address, name: address[strings.LastIndexByte(address, '/')+1:], limit: maxRequest}
	t.sender.init(q, t)
	return t
}

// make creates the topic's queue. When another instance makes it at the same moment both get the same.
func (q *Queue) make(ctx context.Context, topic, name string) (*target, error) {
	attributes := map[string]string{
		string(types.QueueAttributeNameMessageRetentionPeriod): seconds(q.cfg.Retention),
		string(types.QueueAttributeNameVisibilityTimeout):      seconds(q.cfg.Redelivery),
	}
	if q.cfg.FIFO {
		attributes[string(types.QueueAttributeNameFifoQueue)] = "true"
		if q.cfg.Group == groupByKey {
			// Many groups are what SQS's mode of high throughput is for.
			attributes[string(types.QueueAttributeNameDeduplicationScope)] = "messageGroup"
			attributes[string(types.QueueAttributeNameFifoThroughputLimit)] = "perMessageGroupId"
		}
	}
	in := &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes}
	if q.cfg.Address == "" {
		in.Tags = map[string]string{tagTopic: topic}
	}
	out, err := q.client.CreateQueue(ctx, in)
	if err != nil {
		return nil, q.mapError(ctx, "make SQS queue "+name, nil, err)
	}
	t := q.newTarget(aws.ToString(out.QueueUrl))
	if want := q.cfg.Address; want != "" && path(t.url) != path(q.cfg.address(name)) {
		return nil, retry.Permanent(fmt.Errorf("make SQS queue %s: the AWS login is of another account than the queue's address: made %s", name, t.url))
	}
	t.made = time.Now()
	return t, nil
}

// seconds writes a time for SQS, which knows whole seconds.
func seconds(d time.Duration) string { return strconv.Itoa(wholeSeconds(d)) }

func wholeSeconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

func path(address string) string {
	_, rest, _ := strings.Cut(address, "://")
	_, rest, _ = strings.Cut(rest, "/")
	return rest
}

// gone forgets a queue that SQS does not know any more, or not yet.
func (q *Queue) gone(what string, t *target) error {
	if !t.made.IsZero() && time.Since(t.made) < settling {
		return fmt.Errorf("%s: %w: SQS queue %s was just made and is not known everywhere yet", what, queue.ErrUnavailable, t.name)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	topic := t.name
	for name, o := range q.topics {
		if o == t {
			delete(q.topics, name)
			topic = name
		}
	}
	if q.targets[t.name] == t {
		delete(q.targets, t.name)
	}
	if q.latest == t {
		q.latest = nil
	}
	return q.noQueue(topic, t.name)
}

// Prepare implements queue.Preparer.
func (q *Queue) Prepare(ctx context.Context, topics ...string) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	var errs []error
	for _, topic := range topics {
		for _, name := range []string{topic, queue.DeadTopic(topic)} {
			_, err := q.topic(ctx, name, true)
			switch {
			case err == nil:
			case retry.IsPermanent(err):
				errs = append(errs, err)
			default:
				return err
			}
		}
	}
	return retry.Permanent(errors.Join(errs...))
}

// lookups bounds how many queues one call of Topics asks for their tags; a queue is asked once.
const lookups = 100

// Topics implements queue.Reader: the topics of this process, and the queues that carry ferry's tag. Where the login
// may not list queues, or read tags, it is the topics of this process alone.
func (q *Queue) Topics(ctx context.Context) ([]string, error) {
	if err := q.calls.Enter(); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	q.mu.Lock()
	all := make(map[string]bool, len(q.topics))
	for topic := range q.topics {
		all[topic] = true
	}
	q.mu.Unlock()
	if q.cfg.Address == "" && q.cfg.Account == "" {
		if err := q.tagged(ctx, all); err != nil {
			return nil, err
		}
	}
	names := make([]string, 0, len(all))
	for topic := range all {
		names = append(names, topic)
	}
	slices.Sort(names)
	return names, nil
}

// tagged adds the topics of queues that ferry has made. Names are read in pages; a queue that is not of this kind
// (FIFO or standard) cannot be reached through this URL and is left out.
func (q *Queue) tagged(ctx context.Context, all map[string]bool) error {
	left := lookups
	pages := sqs.NewListQueuesPaginator(q.client, &sqs.ListQueuesInput{MaxResults: aws.Int32(1000)})
	for pages.HasMorePages() && left > 0 {
		page, err := q.page(ctx, pages)
		if err != nil || page == nil {
			return err
		}
		for _, address := range page.QueueUrls {
			name := address[strings.LastIndexByte(address, '/')+1:]
			if strings.HasSuffix(name, fifoSuffix) != q.cfg.FIFO {
				continue
			}
			q.mu.Lock()
			topic, known := q.tags[name]
			_, ours := q.targets[name]
			q.mu.Unlock()
			if ours {
				continue
			}
			if !known && left > 0 {
				left--
				if topic, err = q.tag(ctx, name, address); err != nil {
					return err
				}
			}
			if topic != "" {
				all[topic] = true
			}
		}
	}
	return nil
}

// page reads a page of the list of queues; nil when the login may not.
func (q *Queue) page(ctx context.Context, pages *sqs.ListQueuesPaginator) (*sqs.ListQueuesOutput, error) {
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	page, err := pages.NextPage(ctx)
	if kindOf(code(err)) == forbidden {
		return nil, nil
	}
	return page, q.mapError(ctx, "list SQS queues", nil, err)
}

// tag reads which topic a queue was made for, "" when it is none of ferry's, and remembers it.
func (q *Queue) tag(ctx context.Context, name, address string) (string, error) {
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	out, err := q.client.ListQueueTags(ctx, &sqs.ListQueueTagsInput{QueueUrl: &address})
	if k := kindOf(code(err)); err != nil && k != forbidden && k != missing {
		return "", q.mapError(ctx, "read tags of SQS queue "+name, nil, err)
	}
	topic := ""
	if err == nil {
		topic = out.Tags[tagTopic]
		if want, err := q.cfg.queueName(topic); err != nil || want != name {
			topic = "" // copied from another queue
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tags[name] = topic
	return topic, nil
}
