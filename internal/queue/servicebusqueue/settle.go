package servicebusqueue

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"ferry/internal/queue"
)

// settleAtOnce is how many receipts are on their way to the broker at a time.
const settleAtOnce = 16

// azToken is a lock token, of which the receipt is the text.
type azToken [16]byte

func parseReceipt(text string) (t azToken, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(t) {
		return t, fmt.Errorf("%w: %.80q", queue.ErrReceipt, text)
	}
	return azToken(b), nil
}

// hold is a delivery that this instance has received and not settled.
type hold struct {
	receiver *receiver
	taker    taker
	message  *azservicebus.ReceivedMessage
	until    time.Time // of the lock
}

// holdings are all of them, by lock token. Those whose locks have ended are dropped when there are twice as many as
// after the last time, so that the memory is bounded by what is locked.
type holdings struct {
	mu    sync.Mutex
	by    map[azToken]*hold
	sweep int
}

// take keeps what was received for Ack and Nack, and gives it as deliveries.
func (h *holdings) take(r *receiver, t taker, messages []*azservicebus.ReceivedMessage) []queue.Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.by) >= h.sweep {
		for token, held := range h.by {
			if time.Now().After(held.until) {
				delete(h.by, token)
			}
		}
		h.sweep = max(2*len(h.by), receiveMost)
	}
	all := make([]queue.Delivery, len(messages))
	for i, m := range messages {
		all[i] = queue.Delivery{Stored: stored(m), Receipt: hex.EncodeToString(m.LockToken[:]), Attempt: max(int(m.DeliveryCount), 1)}
		until := time.Now().Add(mostLock)
		if m.LockedUntil != nil {
			until = m.LockedUntil.Add(time.Minute) // clocks differ
		}
		kept := *m // without what makes it large
		kept.Body, kept.ApplicationProperties = nil, nil
		if m.RawAMQPMessage != nil {
			raw := *m.RawAMQPMessage
			raw.Body, raw.ApplicationProperties = azservicebus.AMQPAnnotatedMessageBody{}, nil
			kept.RawAMQPMessage = &raw
		}
		h.by[azToken(m.LockToken)] = &hold{receiver: r, taker: t, message: &kept, until: until}
	}
	return all
}

func (h *holdings) get(t azToken) *hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.by[t]
}

func (h *holdings) drop(t azToken) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.by, t)
}

// out tells whether a receipt of a session is out.
func (h *holdings) out(s *azservicebus.SessionReceiver) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, held := range h.by {
		if held.taker == taker(s) {
			return true
		}
	}
	return false
}

// Ack implements queue.Reader.
func (q *Queue) Ack(ctx context.Context, topic string, receipts ...string) error {
	return q.settle(ctx, "acknowledge in", topic, receipts, func(ctx context.Context, t taker, m *azservicebus.ReceivedMessage) error {
		return t.CompleteMessage(ctx, m, nil)
	})
}

// Nack implements queue.Reader. Service Bus counts it as a delivery, and moves a record that has had as many as the
// queue allows into its own dead-letter queue.
func (q *Queue) Nack(ctx context.Context, topic string, receipts ...string) error {
	return q.settle(ctx, "give back to", topic, receipts, func(ctx context.Context, t taker, m *azservicebus.ReceivedMessage) error {
		return t.AbandonMessage(ctx, m, nil)
	})
}

// settle says the same of all receipts. The link of the delivery is used while it is there. Another instance, or this
// one after it has lost the connection, settles by the lock token alone; that is not possible with sessions, whose lock
// is the link's.
func (q *Queue) settle(ctx context.Context, verb, topic string, receipts []string, say func(context.Context, taker, *azservicebus.ReceivedMessage) error) error {
	if err := q.enterTopic(topic); err != nil {
		return err
	}
	defer q.calls.Leave()
	what := verb + " " + topic
	var tokens []azToken
	var errs []error
	for _, receipt := range receipts {
		if t, err := parseReceipt(receipt); err != nil {
			errs = append(errs, err)
		} else {
			tokens = append(tokens, t)
		}
	}
	if len(tokens) > 0 {
		c, err := q.conn()
		if err != nil {
			return err
		}
		_, err = await(ctx, q, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, q.settleAll(ctx, c, topic, tokens, say)
		})
		q.lose(ctx, c, err)
		errs = append(errs, mapError(what, err))
	}
	return errors.Join(errs...)
}

func (q *Queue) settleAll(ctx context.Context, c *connection, topic string, tokens []azToken, say func(context.Context, taker, *azservicebus.ReceivedMessage) error) error {
	errs := make([]error, len(tokens))
	slots := make(chan struct{}, settleAtOnce)
	var wg sync.WaitGroup
	for i, token := range tokens {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var t taker
			var m *azservicebus.ReceivedMessage
			if t, m, errs[i] = q.holder(ctx, c, topic, token); errs[i] != nil {
				return
			}
			err := say(ctx, t, m)
			var said *azservicebus.Error
			if err == nil || errors.As(err, &said) && said.Code == azservicebus.CodeLockLost {
				q.held.drop(token)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return worst(errs)
}

// worst gives the error that says most: one of the connection before one of a receipt.
func worst(errs []error) error {
	var first error
	for _, err := range errs {
		if lost(err) {
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// holder finds what settles a lock token.
func (q *Queue) holder(ctx context.Context, c *connection, topic string, token azToken) (taker, *azservicebus.ReceivedMessage, error) {
	held := q.held.get(token)
	switch {
	case held != nil && held.receiver.topic != topic:
		return nil, nil, fmt.Errorf("%w: it is of topic %s", queue.ErrReceipt, held.receiver.topic)
	case q.sessions(topic) && (held == nil || held.receiver.c != c):
		return nil, nil, fmt.Errorf("%w: it was received by another instance, or before this one lost its connection", queue.ErrReceipt)
	case q.sessions(topic):
		// The SDK would try for a quarter of a minute to lock the session again.
		if s, ok := held.taker.(*azservicebus.SessionReceiver); ok && time.Now().After(s.LockedUntil()) {
			q.held.drop(token)
			return nil, nil, fmt.Errorf("%w: the lock of its session has ended", queue.ErrReceipt)
		}
		return held.taker, held.message, nil
	}
	t, err := c.receiver(topic).open(ctx)
	if err != nil {
		return nil, nil, err
	}
	if held != nil && held.taker == taker(t) {
		return t, held.message, nil
	}
	return t, &azservicebus.ReceivedMessage{LockToken: token}, nil
}
