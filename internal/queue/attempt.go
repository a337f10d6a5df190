package queue

import (
	"bytes"
	"errors"
	"fmt"

	"ferry/internal/record"
	"ferry/internal/retry"
)

// What the writers of every queue have in common: how they know a commit again, and what they refuse.

// An Attempt is a commit that was tried and may or may not have been written, by what tells it from another one.
type Attempt struct {
	// ID names the commit in the queue; nobody else's has it.
	ID string
	// Next is the cursor that it writes.
	Next          record.Cursor
	records, dead int
}

// NewAttempt takes note of a commit that is about to be tried.
func NewAttempt(id string, b Batch, next record.Cursor) *Attempt {
	return &Attempt{id, bytes.Clone(next), len(b.Records), len(b.Dead)}
}

// Is tells whether this is the same commit tried again. Without an attempt it is not.
func (a *Attempt) Is(b Batch, next record.Cursor) bool {
	return a != nil && a.records == len(b.Records) && a.dead == len(b.Dead) && bytes.Equal(a.Next, next)
}

// ErrWritten is what Commit answers to another batch when the attempt before it turns out to have been written: what
// comes after it must be decided anew, from the cursor.
var ErrWritten = retry.Permanent(errors.New("the commit before this one was written after all; open the pipeline's writer anew"))

// Check refuses a batch of more records than one commit holds. That never clears.
func (l Limits) Check(b Batch) error {
	if n := b.Len(); l.CommitRecords > 0 && n > l.CommitRecords {
		return retry.Permanent(fmt.Errorf("commit of %d records is over the queue's limit of %d", n, l.CommitRecords))
	}
	return nil
}

// Without gives the batch without the records that can never be taken, by index; the batch itself when there are none.
func Without(batch []record.Record, failed map[int]error) []record.Record {
	if len(failed) == 0 {
		return batch
	}
	good := make([]record.Record, 0, len(batch)-len(failed))
	for i := range batch {
		if failed[i] == nil {
			good = append(good, batch[i])
		}
	}
	return good
}

// Partly adds to the error of a publish how many records of the batch are durable: done of those that could be
// published, in order. A record that can never be taken (failed, by index into the batch) ends the count: whoever
// begins behind it would not hear of it again.
func Partly(done int, failed map[int]error, err error) error {
	for i := range failed {
		done = min(done, i)
	}
	if done == 0 {
		return err
	}
	return &PartError{Done: done, Err: err}
}
