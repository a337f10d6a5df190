package rabbitqueue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
)

// reading is one connection that receives and declares, from its handshake to its end. Each topic has a channel of its
// own there, for an error closes the channel, and with it goes what was delivered on it.
type reading struct {
	q    *Queue
	conn connection
	id   string // part of receipts

	mu      sync.Mutex
	err     error
	takers  map[string]*taker
	held    map[string]holding // by receipt
	stopped chan struct{}      // closed: nobody waits for records any more
	over    chan struct{}      // closed with the connection
	done    sync.WaitGroup
}

// taker is a topic's channel. turn is a token for its round trips, which must not overlap.
type taker struct {
	turn chan struct{}
	ch   channel
	dead bool
}

// holding is a delivery that was handed out. AMQP takes its acknowledgement on the channel that it came on only.
type holding struct {
	topic string
	taker *taker
	tag   uint64
}

func (q *Queue) newReading(ctx context.Context) (*reading, error) {
	conn, err := q.dial(ctx, "reader")
	if err != nil {
		return nil, q.mapError("connect to RabbitMQ", err)
	}
	r := &reading{
		q: q, conn: conn, id: q.id + "." + strconv.FormatUint(q.readings.Add(1), 36), takers: make(map[string]*taker), held: make(map[string]holding),
		stopped: make(chan struct{}), over: make(chan struct{}),
	}
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	r.done.Go(func() {
		if why := <-closed; why != nil {
			r.fail(why)
		}
		r.fail(errLost)
	})
	return r, nil
}

func (r *reading) lives() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err == nil
}

func (r *reading) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err = err
	r.takers, r.held = make(map[string]*taker), make(map[string]holding)
	close(r.over)
	r.stopLocked()
}

func (r *reading) dead() <-chan struct{} { return r.over }

// stop ends waiting for records.
func (r *reading) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopLocked()
}

func (r *reading) stopLocked() {
	select {
	case <-r.stopped:
	default:
		close(r.stopped)
	}
}

func (r *reading) close() {
	r.fail(queue.ErrClosed)
	r.conn.Close()
	r.done.Wait()
}

// take gives the topic's channel to one round trip at a time, and opens it when there is none.
func (r *reading) take(ctx context.Context, topic string) (*taker, error) {
	for {
		r.mu.Lock()
		if r.err != nil {
			r.mu.Unlock()
			return nil, r.q.mapError("receive from "+topic, r.err)
		}
		t := r.takers[topic]
		if t == nil {
			t = &taker{turn: make(chan struct{}, 1)}
			r.takers[topic] = t
		}
		r.mu.Unlock()
		select {
		case t.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("receive from %s: %w", topic, context.Cause(ctx))
		}
		if t.dead {
			<-t.turn
			continue
		}
		if t.ch != nil {
			return t, nil
		}
		ch, err := roundTrip(ctx, r.q, r.conn, r.conn.Channel, func(ch channel) { _ = ch.Close() })
		if err != nil {
			<-t.turn
			return nil, r.q.mapError("receive from "+topic, err)
		}
		t.ch = ch
		return t, nil
	}
}

// drop forgets a channel that the broker has closed, and what it delivered. The caller has the turn.
func (r *reading) drop(topic string, t *taker) {
	t.dead = true
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.takers[topic] == t {
		delete(r.takers, topic)
	}
	for receipt, h := range r.held {
		if h.taker == t {
			delete(r.held, receipt)
		}
	}
}

// hold remembers deliveries until they are answered, and gives them back when the redelivery time is over.
func (r *reading) hold(topic string, t *taker, tags []uint64) []string {
	receipts := make([]string, len(tags))
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, tag := range tags {
		receipts[i] = fmt.Sprintf("%s.%d.%s", r.id, tag, topic)
		if r.err == nil {
			r.held[receipts[i]] = holding{topic, t, tag}
		}
	}
	if len(tags) > 0 {
		time.AfterFunc(r.q.cfg.Redelivery, func() {
			for _, receipt := range receipts {
				if h, ok := r.release(topic, receipt); ok {
					_ = h.taker.ch.Nack(h.tag, false, true) // fails with its connection, which gives it back too
				}
			}
		})
	}
	return receipts
}

// release takes out a delivery that is answered.
func (r *reading) release(topic, receipt string) (holding, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.held[receipt]
	if !ok || h.topic != topic {
		return holding{}, false
	}
	delete(r.held, receipt)
	return h, true
}

// holds counts the topic's deliveries that are not answered.
func (r *reading) holds(topic string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := int64(0)
	for _, h := range r.held {
		if h.topic == topic {
			n++
		}
	}
	return n
}

// foreign tells receipts of other instances, for the error's sake.
func (q *Queue) foreign(receipt string) bool {
	return strings.Count(receipt, ".") >= 3 && !strings.HasPrefix(receipt, q.id+".")
}
