package servicebusqueue

import (
	"context"
	"errors"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// peekMost is how many records are asked for at once; the broker may answer with fewer.
const peekMost = 250

// peeker is the part of an SDK receiver that looks without taking.
type peeker interface {
	PeekMessages(ctx context.Context, max int, o *azservicebus.PeekMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
}

// peek gives up to most records from a sequence number on.
func peek(ctx context.Context, p peeker, from int64, most int) ([]queue.Stored, error) {
	var all []queue.Stored
	for bytes := 0; len(all) < most && bytes < receiveBytes; {
		page, err := p.PeekMessages(ctx, min(most-len(all), peekMost), &azservicebus.PeekMessagesOptions{FromSequenceNumber: &from})
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			s := stored(m)
			if s.Position < from { // the broker has no such order: a partitioned queue
				return all, nil
			}
			from = s.Position + 1
			bytes += s.Size()
			all = append(all, s)
		}
	}
	return all, nil
}

// first gives the position of the first record from a sequence number on, and whether there is one.
func first(ctx context.Context, p peeker, from int64) (int64, bool, error) {
	page, err := p.PeekMessages(ctx, 1, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &from})
	if err != nil || len(page) == 0 {
		return 0, false, err
	}
	return stored(page[0]).Position, true, nil
}

// last gives up to most records, beginning so many before the end. Service Bus knows no end, so it is searched for by
// ever larger steps, then by halving: two looks for each doubling of the queue.
func last(ctx context.Context, p peeker, back int64, most int) ([]queue.Stored, error) {
	begin, some, err := first(ctx, p, 0)
	if err != nil || !some || most <= 0 {
		return nil, err
	}
	end, beyond := begin, int64(0) // of those seen the last; nothing is from beyond on
	for step := int64(64); beyond == 0 || end+1 < beyond; {
		try := end + step
		if beyond != 0 {
			try = end + max((beyond-end)/2, 1)
		}
		at, some, err := first(ctx, p, try)
		switch {
		case err != nil:
			return nil, err
		case some:
			end = at
			step *= 2
		default:
			beyond = try
		}
	}
	// Numbers have gaps where records were taken: go back further until there are enough.
	for width := back; ; width *= 2 {
		from := max(end-width+1, begin)
		all, err := peek(ctx, p, from, int(min(width, end-from+1)))
		if err != nil {
			return nil, err
		}
		if int64(len(all)) >= back || from == begin {
			all = all[max(int64(len(all))-back, 0):]
			return all[:min(len(all), most)], nil
		}
	}
}

// unsupported is the answer to what this kind of queue cannot do.
func unsupported(verb, topic, why string) error {
	return retry.Permanent(fmt.Errorf("%s %s: %w: %s", verb, topic, errors.ErrUnsupported, why))
}
