package servicebusqueue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"ferry/internal/queue"
)

// receiveSession receives from the sessions that are locked already, then from the next that has something. Between
// two of those it looks at the former again, for nobody else can receive what comes to them meanwhile.
func (q *Queue) receiveSession(ctx context.Context, r *receiver, most int, wait time.Duration) ([]queue.Delivery, error) {
	if most <= 0 {
		_, err := q.look(ctx, r.topic)
		return nil, err
	}
	// To lock a session takes more round trips than to receive, so it has more time.
	accepting := 3 * q.cfg.patience
	end := time.Now().Add(max(wait, accepting))
	for {
		for _, s := range slices.Clone(r.sessions) {
			// Its link is open, so that what it has is here in one round trip.
			messages, err := takeUntil(ctx, s, most, time.Now().Add(q.cfg.patience/4))
			if len(messages) > 0 {
				return q.held.take(r, s, messages), nil
			}
			if ctx.Err() != nil {
				return nil, err
			}
			q.leave(r, s, err)
			end = later(end, time.Now().Add(accepting))
		}
		limit := end
		if len(r.sessions) > 0 {
			limit = time.Now().Add(min(accepting, time.Until(end)))
		}
		s, err := q.accept(ctx, r, limit)
		switch {
		case err != nil:
			return nil, err
		case s != nil:
			r.sessions = append(r.sessions, s)
			messages, err := takeUntil(ctx, s, most, time.Now().Add(q.cfg.patience))
			if len(messages) > 0 {
				return q.held.take(r, s, messages), nil
			}
			if err != nil && !sessionOver(err) {
				return nil, err
			}
			q.leave(r, s, err)
		}
		if !time.Now().Before(end) {
			return nil, nil
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// accept locks the next session that has something; nil when there is none until the end.
func (q *Queue) accept(ctx context.Context, r *receiver, end time.Time) (*azservicebus.SessionReceiver, error) {
	waiting, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	s, err := r.c.client.AcceptNextSessionForQueue(waiting, r.topic, nil)
	var said *azservicebus.Error
	switch {
	case err == nil:
		return s, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &said) && said.Code == azservicebus.CodeTimeout:
		return nil, nil
	}
	return nil, err
}

// sessionOver tells whether an error says no more than that the lock of a session has ended.
func sessionOver(err error) bool {
	var said *azservicebus.Error
	return errors.As(err, &said) && (said.Code == azservicebus.CodeLockLost || said.Code == azservicebus.CodeConnectionLost)
}

// leave lets go of a session that has nothing more, unless receipts of it are out: closing it gives their records
// back. What failed is let go of in any case.
func (q *Queue) leave(r *receiver, s *azservicebus.SessionReceiver, failed error) {
	if failed == nil && q.held.out(s) && time.Now().Before(s.LockedUntil()) {
		return
	}
	r.sessions = slices.DeleteFunc(r.sessions, func(other *azservicebus.SessionReceiver) bool { return other == s })
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	_ = s.Close(ctx) // its lock ends in any case
}
