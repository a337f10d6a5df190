package natsqueue

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// Remove deletes single records of a topic for good, durably, in the order given: what replaying dead letters needs.
// A position that holds no record of this topic (deleted already, or a cursor's) is passed over, so a Remove that
// failed half way can be called again.
func (q *Queue) Remove(ctx context.Context, name string, positions ...int64) error {
	t, ch, err := q.enterReader(ctx, name)
	if err != nil {
		return err
	}
	defer q.calls.Leave()
	s, err := q.stream(ctx, t)
	if err != nil {
		return q.readFailure(ctx, ch, t, err)
	}
	for _, p := range positions {
		if err := q.remove(ctx, s, t, p); err != nil {
			return q.readFailure(ctx, ch, t, err)
		}
	}
	return nil
}

func (q *Queue) remove(ctx context.Context, s jetstream.Stream, t topic, position int64) error {
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	if position <= 0 {
		return nil
	}
	m, err := s.GetMsg(ctx, uint64(position))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if m.Subject != t.name {
		return nil
	}
	err = s.DeleteMsg(ctx, uint64(position))
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, gone := s.GetMsg(ctx, uint64(position)); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	return err
}
