package servicebusqueue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// deadDeliveries is how often dead letters may be received before Service Bus moves them on into its own dead-letter
// queue: its maximum, for people look at them more often than ten times.
const deadDeliveries = 2000

// description is what matters of a queue.
type description struct {
	window   time.Duration // of duplicate detection, 0: none
	sessions bool
}

// describe asks about a queue; nil when there is none. It takes the claim Manage.
func (q *Queue) describe(ctx context.Context, topic string) (*description, error) {
	r, err := await(ctx, q, func(ctx context.Context) (*admin.GetQueueResponse, error) {
		return q.admin.GetQueue(ctx, topic, nil)
	})
	if err != nil || r == nil {
		return nil, err
	}
	d := &description{sessions: r.RequiresSession != nil && *r.RequiresSession}
	if r.RequiresDuplicateDetection != nil && *r.RequiresDuplicateDetection && r.DuplicateDetectionHistoryTimeWindow != nil {
		if d.window, err = fromISO(*r.DuplicateDetectionHistoryTimeWindow); err != nil {
			return nil, fmt.Errorf("read duplicate detection of %s: %w", topic, err)
		}
	}
	return d, nil
}

// Prepare implements queue.Preparer. A login without the claim Manage can see whether topics are there, by links to
// them, and no more.
func (q *Queue) Prepare(ctx context.Context, topics ...string) error {
	var errs []error
	for _, topic := range topics {
		errs = append(errs, checkTopic(topic))
	}
	if err := errors.Join(errs...); err != nil {
		return retry.Permanent(err)
	}
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	var missing []string
	for _, topic := range withDead(topics) {
		there, err := q.prepare(ctx, topic)
		switch {
		case err != nil && !retry.IsPermanent(err):
			return err
		case err != nil:
			errs = append(errs, err)
		case !there:
			missing = append(missing, topic)
		}
	}
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("%w: %s: make them in the namespace (with duplicate detection), or add create=true to the queue's URL", queue.ErrNoTopic, strings.Join(missing, ", ")))
	}
	return retry.Permanent(errors.Join(errs...))
}

// prepare looks at one topic, or makes it, and tells whether it is there.
func (q *Queue) prepare(ctx context.Context, topic string) (bool, error) {
	found, err := q.describe(ctx, topic)
	switch {
	case forbidden(err) && q.cfg.Create:
		return false, mapError("make topic "+topic, err)
	case err != nil && !q.cfg.Create:
		_, err := q.look(ctx, topic)
		if errors.Is(err, queue.ErrNoTopic) {
			return false, nil
		}
		if err == nil {
			q.saw(topic)
		}
		return err == nil, err
	case err != nil:
		return false, mapError("look at topic "+topic, err)
	case found == nil && !q.cfg.Create:
		return false, nil
	case found == nil:
		return true, q.make(ctx, topic)
	}
	if err := q.fits(topic, found); err != nil {
		return true, err
	}
	q.saw(topic)
	return true, nil
}

// fits tells whether a queue that is there keeps what Info promises.
func (q *Queue) fits(topic string, d *description) error {
	never := func(format string, args ...any) error {
		return retry.Permanent(fmt.Errorf("topic "+topic+": "+format, args...))
	}
	switch wanted := q.sessions(topic); {
	case d.sessions && !wanted && isDead(topic):
		return never("it requires sessions, and dead letters have none: make the queue anew without sessions")
	case d.sessions && !wanted:
		return never("it requires sessions: add session=key or session=pipeline to the queue's URL")
	case !d.sessions && wanted:
		return never("it has no sessions, and they can be chosen only when a queue is made: take session out of the queue's URL, or make the queue anew")
	case q.info.Tier == queue.Deduplicated && d.window == 0:
		return never("it has no duplicate detection, and others do: make the queue anew with it, it can be chosen only then")
	case d.window > 0 && d.window < q.info.Window:
		return never("it recognises duplicates for %s, and %s was promised: set its duplicate detection history to that, or duplicate_detection=%s in the queue's URL", d.window, q.info.Window, d.window)
	}
	return nil
}

// make makes a topic.
func (q *Queue) make(ctx context.Context, topic string) error {
	properties := &admin.QueueProperties{
		LockDuration: new(iso(q.cfg.Redelivery)), RequiresSession: new(q.sessions(topic)),
		RequiresDuplicateDetection: new(true), DuplicateDetectionHistoryTimeWindow: new(iso(q.cfg.window())),
	}
	if isDead(topic) {
		properties.MaxDeliveryCount = new(int32(deadDeliveries))
	}
	_, err := await(ctx, q, func(ctx context.Context) (struct{}, error) {
		_, err := q.admin.CreateQueue(ctx, topic, &admin.CreateQueueOptions{Properties: properties})
		return struct{}{}, err
	})
	var said *azcore.ResponseError
	switch {
	case errors.As(err, &said) && said.StatusCode == http.StatusConflict: // another was first
		found, err := q.describe(ctx, topic)
		if err == nil && found == nil {
			err = fmt.Errorf("%w: another is making it", queue.ErrUnavailable)
		}
		if err != nil {
			return mapError("look at topic "+topic, err)
		}
		if err := q.fits(topic, found); err != nil {
			return err
		}
	case errors.As(err, &said) && said.StatusCode == http.StatusBadRequest:
		return retry.Permanent(fmt.Errorf("make topic %s: %w (duplicate detection and sessions take the standard or premium tier)", topic, err))
	case err != nil:
		return mapError("make topic "+topic, err)
	}
	q.saw(topic)
	return nil
}

// ensure makes a topic when it is published to for the first time, if the queue's URL allows it.
func (q *Queue) ensure(ctx context.Context, topic string) error {
	if !q.cfg.Create || q.knows(topic) {
		return nil
	}
	_, err := q.prepare(ctx, topic)
	return err
}

// Stats implements queue.Reader, by the management calls: it takes the claim Manage. Bytes include what lies in Service
// Bus's own dead-letter queue; Last cannot be asked for.
func (q *Queue) Stats(ctx context.Context, topic string) (queue.Stats, error) {
	if err := q.enterTopic(topic); err != nil {
		return queue.Stats{}, err
	}
	defer q.calls.Leave()
	r, err := await(ctx, q, func(ctx context.Context) (*admin.GetQueueRuntimePropertiesResponse, error) {
		return q.admin.GetQueueRuntimeProperties(ctx, topic, nil)
	})
	switch {
	case err != nil:
		return queue.Stats{}, mapError("count "+topic, err)
	case r == nil:
		return queue.Stats{}, noTopic("count", topic)
	}
	n := int64(r.ActiveMessageCount)
	return queue.Stats{Records: n, Waiting: n, Bytes: r.SizeInBytes}, nil
}

func noTopic(verb, topic string) error {
	return retry.Permanent(fmt.Errorf("%s %s: %w", verb, topic, queue.ErrNoTopic))
}

// iso writes a duration as ISO 8601 has it, in seconds.
func iso(d time.Duration) string {
	return "PT" + strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "S"
}

// fromISO reads P[nD][T[nH][nM][nS]], which is as far as Service Bus goes.
func fromISO(text string) (time.Duration, error) {
	wrong := fmt.Errorf("%q is no ISO 8601 duration", text)
	rest, ok := strings.CutPrefix(text, "P")
	if !ok {
		return 0, wrong
	}
	days, clock, _ := strings.Cut(rest, "T")
	var total time.Duration
	if days != "" {
		n, err := strconv.Atoi(strings.TrimSuffix(days, "D"))
		if err != nil || n < 0 || n > 1<<14 || !strings.HasSuffix(days, "D") {
			return 0, wrong
		}
		total = time.Duration(n) * 24 * time.Hour
	}
	if clock != "" {
		d, err := time.ParseDuration(strings.ToLower(clock))
		if err != nil || d < 0 {
			return 0, wrong
		}
		total += d
	}
	return total, nil
}
