package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// longestPoll is how long SQS itself waits for the first record.
const longestPoll = 20 * time.Second

// shortPoll is the pause between two looks where the wait is shorter than SQS can count, which is in whole seconds.
const shortPoll = 100 * time.Millisecond

// receiveBytes bounds what one Receive holds in memory (invariant 7), give or take the last ten records.
const receiveBytes = 32 << 20

// reader is enter for a topic that must exist.
func (q *Queue) reader(ctx context.Context, topic string) (*target, error) {
	if err := q.calls.Enter(); err != nil {
		return nil, err
	}
	t, err := q.topic(ctx, topic, false)
	if err != nil {
		q.calls.Leave()
		return nil, err
	}
	return t, nil
}

// Browse implements queue.Reader: SQS hands records out and cannot be looked into. The error is
// errors.ErrUnsupported, permanent.
func (q *Queue) Browse(ctx context.Context, topic string, _ int64, _ int) ([]queue.Stored, error) {
	if _, err := q.reader(ctx, topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	return nil, retry.Permanent(fmt.Errorf("look into topic %s: %w: SQS only hands records out; receive them", topic, errors.ErrUnsupported))
}

// Receive implements queue.Reader. Of a FIFO queue's message group nothing more comes while a record of it is neither
// acknowledged nor given back; other groups go on. Positions are all 0: SQS numbers the records of a FIFO queue, but
// with more digits than a position has.
func (q *Queue) Receive(ctx context.Context, topic string, most int, wait time.Duration) ([]queue.Delivery, error) {
	t, err := q.reader(ctx, topic)
	if err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if most <= 0 {
		return nil, nil
	}
	got, err := q.first(ctx, t, most, wait)
	if err != nil {
		return nil, err
	}
	// SQS hands out ten at a time. The first of them are not kept so long that they would come again.
	bytes := size(got)
	for since := time.Now(); len(got) > 0 && len(got) < most && bytes < receiveBytes && time.Since(since) < q.cfg.Redelivery/4; {
		more, err := q.poll(ctx, t, most-len(got), 0)
		if err != nil || len(more) == 0 {
			break // what was taken is not let go
		}
		got = append(got, more...)
		bytes += size(more)
	}
	return got, nil
}

func size(got []queue.Delivery) (bytes int) {
	for i := range got {
		bytes += got[i].Size()
	}
	return bytes
}

// first waits for the first records. What SQS hands to a poll that is broken off, because ctx ended, is away until its
// redelivery; so it is not asked to wait longer than ctx.
func (q *Queue) first(ctx context.Context, t *target, most int, wait time.Duration) ([]queue.Delivery, error) {
	end := time.Now().Add(wait)
	deadline, bounded := ctx.Deadline()
	for {
		long := min(time.Until(end), longestPoll)
		if bounded {
			long = min(long, time.Until(deadline)-shortPoll)
		}
		got, err := q.poll(ctx, t, most, int(long.Seconds()))
		if err != nil || len(got) > 0 {
			return got, err
		}
		rest := time.Until(end)
		if rest <= 0 {
			return nil, nil
		}
		// The last part of a second, or an emulator that does not wait.
		if retry.Sleep(ctx, min(rest, shortPoll)) != nil {
			return nil, fmt.Errorf("receive from SQS queue %s: %w", t.name, context.Cause(ctx))
		}
	}
}

// poll makes one request, for up to ten records. SQS waits up to so many seconds for the first.
func (q *Queue) poll(ctx context.Context, t *target, most, seconds int) ([]queue.Delivery, error) {
	seconds = max(seconds, 0)
	ctx, cancel := q.within(ctx, q.cfg.Timeout+time.Duration(seconds)*time.Second)
	defer cancel()
	out, err := q.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl:              &t.url,
		MaxNumberOfMessages:   int32(min(most, maxEntries)),
		WaitTimeSeconds:       int32(seconds),
		VisibilityTimeout:     int32(wholeSeconds(q.cfg.Redelivery)),
		MessageAttributeNames: []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameApproximateReceiveCount, types.MessageSystemAttributeNameSentTimestamp,
		},
	})
	if err != nil {
		return nil, q.mapError(ctx, "receive from SQS queue "+t.name, t, err)
	}
	got := make([]queue.Delivery, len(out.Messages))
	for i := range out.Messages {
		m := &out.Messages[i]
		number := func(name types.MessageSystemAttributeName) int64 {
			n, _ := strconv.ParseInt(m.Attributes[string(name)], 10, 64)
			return n
		}
		got[i] = queue.Delivery{
			Stored:  queue.Stored{Record: unpack(m), Time: time.UnixMilli(number(types.MessageSystemAttributeNameSentTimestamp))},
			Receipt: receipt(t.name, aws.ToString(m.ReceiptHandle)),
			Attempt: max(1, int(number(types.MessageSystemAttributeNameApproximateReceiveCount))),
		}
	}
	return got, nil
}

// receipt is SQS's handle behind a checksum of it and of the queue. SQS takes some handles that are not its own, or
// another queue's, without a word.
func receipt(name, handle string) string {
	return fmt.Sprintf("%08x.%s", crc32.ChecksumIEEE([]byte(name+"\n"+handle)), handle)
}

func handle(name, r string) (string, bool) {
	_, h, ok := strings.Cut(r, ".")
	return h, ok && receipt(name, h) == r
}

// Ack implements queue.Reader. SQS confirms a second acknowledgement too.
func (q *Queue) Ack(ctx context.Context, topic string, receipts ...string) error {
	return q.answer(ctx, topic, receipts, func(ctx context.Context, t *target, handles []string) ([]types.BatchResultErrorEntry, error) {
		entries := make([]types.DeleteMessageBatchRequestEntry, len(handles))
		for i := range handles {
			entries[i] = types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: &handles[i]}
		}
		out, err := q.client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &t.url, Entries: entries})
		if err != nil {
			return nil, q.mapError(ctx, "acknowledge to SQS queue "+t.name, t, err)
		}
		return out.Failed, nil
	})
}

// Nack implements queue.Reader.
func (q *Queue) Nack(ctx context.Context, topic string, receipts ...string) error {
	return q.answer(ctx, topic, receipts, func(ctx context.Context, t *target, handles []string) ([]types.BatchResultErrorEntry, error) {
		entries := make([]types.ChangeMessageVisibilityBatchRequestEntry, len(handles))
		for i := range handles {
			entries[i] = types.ChangeMessageVisibilityBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: &handles[i]}
		}
		out, err := q.client.ChangeMessageVisibilityBatch(ctx, &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &t.url, Entries: entries})
		if err != nil {
			return nil, q.mapError(ctx, "give back to SQS queue "+t.name, t, err)
		}
		return out.Failed, nil
	})
}

// answer hands the receipts that are good to f, ten at a time, and collects the errors of the others.
func (q *Queue) answer(ctx context.Context, topic string, receipts []string, f func(context.Context, *target, []string) ([]types.BatchResultErrorEntry, error)) error {
	t, err := q.reader(ctx, topic)
	if err != nil {
		return err
	}
	defer q.calls.Leave()
	var errs []error
	var good []string
	for _, r := range receipts {
		if h, ok := handle(t.name, r); ok {
			good = append(good, h)
		} else {
			errs = append(errs, badReceipt(r))
		}
	}
	for len(good) > 0 {
		n := min(len(good), maxEntries)
		rctx, cancel := q.roundTrip(ctx)
		failed, err := f(rctx, t, good[:n])
		cancel()
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, e := range failed {
			errs = append(errs, answerError(t, e))
		}
		good = good[n:]
	}
	return errors.Join(errs...)
}

func badReceipt(r string) error { return fmt.Errorf("%w: %.80q", queue.ErrReceipt, r) }

// answerError words what SQS said of one receipt.
func answerError(t *target, e types.BatchResultErrorEntry) error {
	c := shortCode(aws.ToString(e.Code))
	err := fmt.Errorf("%s: %s", c, aws.ToString(e.Message))
	what := "answer to SQS queue " + t.name
	switch k := kindOf(c); {
	case c == "ReceiptHandleIsInvalid" || c == "MessageNotInflight" || k == refused && e.SenderFault:
		return fmt.Errorf("%w: %w", queue.ErrReceipt, err)
	case k == refused:
		return explain(what, unwell, err)
	default:
		return explain(what, k, err)
	}
}

// Stats implements queue.Reader. SQS counts roughly, and tells neither bytes nor positions.
func (q *Queue) Stats(ctx context.Context, topic string) (queue.Stats, error) {
	t, err := q.reader(ctx, topic)
	if err != nil {
		return queue.Stats{}, err
	}
	defer q.calls.Leave()
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	names := []types.QueueAttributeName{
		types.QueueAttributeNameApproximateNumberOfMessages,
		types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
	}
	out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &t.url, AttributeNames: names})
	if err != nil {
		return queue.Stats{}, q.mapError(ctx, "count SQS queue "+t.name, t, err)
	}
	var st queue.Stats
	for _, name := range names {
		n, _ := strconv.ParseInt(out.Attributes[string(name)], 10, 64)
		st.Records += n
	}
	st.Waiting = st.Records
	return st, nil
}
