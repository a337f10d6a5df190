package queue

import (
	"errors"
	"fmt"
	"strings"

	"ferry/internal/retry"
)

var (
	// ErrFenced: a later writer of the same pipeline has taken over, as a run or a change of the cursor opens one; stop.
	ErrFenced = errors.New("fenced: another run of this pipeline, or a change of its cursor, has taken over")
	// ErrClosed: the queue was closed by this process.
	ErrClosed = errors.New("queue is closed")
	// ErrNoTopic: the topic does not exist, or there can be none of that name.
	ErrNoTopic = errors.New("no such topic")
	// ErrReceipt: a receipt names no delivery under way.
	ErrReceipt = errors.New("unknown or outdated receipt")
	// ErrFull: the queue is at the limit that its URL or broker sets, or its disk is full. It may clear by itself.
	ErrFull = errors.New("queue is full")
	// ErrUnavailable: the broker cannot be reached or does not answer. It may clear by itself.
	ErrUnavailable = errors.New("queue is unavailable")
	// ErrUnknown: what was published may have been written or not, and the queue cannot find out. Publishing it again may
	// write it twice.
	ErrUnknown = errors.New("outcome unknown")
)

// BadTopic says why the queue can have no topic of a name. Who looks for one is told that there is none: it is ErrNoTopic. Who
// wants to write there has to choose another name, so it is permanent, and its words are about the name alone.
func BadTopic(format string, args ...any) error {
	return retry.Permanent(&badTopic{fmt.Sprintf(format, args...)})
}

type badTopic struct{ why string }

func (e *badTopic) Error() string        { return e.why }
func (e *badTopic) Is(target error) bool { return target == ErrNoTopic }

// A TooLargeError says that a record can never be taken.
type TooLargeError struct{ Size, Limit int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("record of %d bytes is over the queue's limit of %d bytes", e.Size, e.Limit)
}

// A BatchError tells which records of a batch failed, and why. In Commit the index runs over Records, then over Dead.
type BatchError struct {
	// Failed is by index into the batch. It is never empty.
	Failed map[int]error
	// Total is the number of records in the batch.
	Total int
}

func (e *BatchError) Error() string {
	first := -1
	for i := range e.Failed {
		if first < 0 || i < first {
			first = i
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d records not taken; record %d: %v", len(e.Failed), e.Total, first, e.Failed[first])
	return b.String()
}

// Unwrap gives every record's error, so that errors.Is finds any of them.
func (e *BatchError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failed))
	for _, err := range e.Failed {
		errs = append(errs, err)
	}
	return errs
}

// A PartError says that a publish stopped on its way: the first Done records of the batch are durable, the outcome of
// those after them is unknown. Whoever tries again begins behind Done, so that nothing is published twice for no reason.
type PartError struct {
	Done int
	Err  error
}

func (e *PartError) Error() string {
	return fmt.Sprintf("%v (the first %d records of the batch are durable)", e.Err, e.Done)
}
func (e *PartError) Unwrap() error { return e.Err }
