package natsqueue

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// lateAck is one of several answers that all arrive when somebody looks for the look-th time.
type lateAck struct {
	looks *int
	look  int
	ok    chan *jetstream.PubAck
}

func (a *lateAck) Ok() <-chan *jetstream.PubAck {
	if *a.looks++; *a.looks >= a.look {
		select {
		case a.ok <- &jetstream.PubAck{}:
		default:
		}
	}
	return a.ok
}
func (a *lateAck) Err() <-chan error { return nil }
func (a *lateAck) Msg() *nats.Msg    { return nil }

// TestLateAnswers: answers that arrive while the time runs out do not make an earlier record look unwritten beside a later
// one, whenever they do.
func TestLateAnswers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	const n = 4
	for look := 1; look <= n+2; look++ {
		looks := 0
		var acks []jetstream.PubAckFuture
		for range n {
			acks = append(acks, &lateAck{&looks, look, make(chan *jetstream.PubAck, 1)})
		}
		errs := answers(ctx, acks)
		for i := 1; i < n; i++ {
			if errs[i-1] != nil && errs[i] == nil {
				t.Errorf("answers arrive at look %d: the record before number %d looks unanswered", look, i)
			}
		}
	}
}
