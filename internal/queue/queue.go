// Package queue states the contract of a message broker as ferry sees it: Queue, Writer, Reader, and their errors.
// It holds no broker's code; each broker has a package of its own beside this one, and all of them pass the suite in
// queuetest.
package queue

import (
	"context"
	"time"

	"ferry/internal/record"
)

// A Tier says how a queue keeps invariant 1, and so what can come twice. Every tier loses nothing.
type Tier string

const (
	// ExactlyOnce: a commit writes records and cursor in one atomic step.
	ExactlyOnce Tier = "exactly once"
	// Deduplicated: the broker drops a second copy with the same id within a window.
	Deduplicated Tier = "deduplicated"
	// AtLeastOnce: a second copy is possible and carries the same id.
	AtLeastOnce Tier = "at least once"
)

// Limits are what a broker takes. Zero means no limit known.
type Limits struct {
	// CommitRecords is the largest number of records (dead letters included) in one atomic Commit.
	CommitRecords int
	// CommitBytes is the largest sum of record sizes (record.Record.Size) in one atomic Commit.
	CommitBytes int
	// RecordBytes is the largest size of one record.
	RecordBytes int
}

// Info describes an open queue, for people and for the engine.
type Info struct {
	// Name is the kind, such as "nats" or "kafka"; Server is the broker's own version or "".
	Name, Server string
	Tier         Tier
	// Window is how long a duplicate is recognised (tier Deduplicated).
	Window time.Duration
	Limits Limits
	// Note says in a sentence what a person should know, such as why the tier is lower than it could be.
	Note string
	// EventPrefix is what the attributes of a CloudEvent are called in this broker's headers ("ce_" with Kafka, from
	// the protocol bindings of CloudEvents 1.0.2). Empty: no binding is published, so events are written in
	// structured mode.
	EventPrefix string
}

// Queue is a message broker, connected. All methods are safe for concurrent use and block until done or until the
// context ends; after the context has ended the outcome of a write is unknown unless the error says otherwise.
// Waiting is not the queue's business beyond one round trip: who calls retries errors that are not marked permanent
// (retry.Permanent).
type Queue interface {
	// Publish returns nil only after the broker has confirmed every record as durable (invariant 2). Records of one
	// call reach the topic in order; concurrent calls share round trips and syncs (group commit) and come in any
	// order to each other. When some records can never be taken, those that can are published all the same and the
	// error is a *BatchError. Any other error stops at the first record that was not confirmed; a *PartError tells how
	// many before it were. The topic is made when missing if the queue's URL allows it.
	Publish(ctx context.Context, topic string, batch []record.Record) error

	// OpenWriter claims a pipeline's cursor: it fences every earlier writer of this pipeline, on any instance, then
	// reads the last committed cursor (invariant 6). A run holds one Writer from its start to its end.
	OpenWriter(ctx context.Context, pipeline, topic string) (Writer, error)

	// Cursor reads a pipeline's last committed cursor without claiming it. Empty when there is none.
	Cursor(ctx context.Context, pipeline, topic string) (record.Cursor, error)

	Reader
	Preparer

	// Info does not block and does not change while the queue is open.
	Info() Info
	// Ping returns nil when a publish could succeed now, otherwise why not, in words for a person.
	Ping(ctx context.Context) error
	// Close waits for writes under way, then lets go of the broker. Later calls of any method return ErrClosed.
	Close(ctx context.Context) error
}

// Preparer makes sure of topics before anything is published.
type Preparer interface {
	// Prepare makes the topics and their dead-letter topics (DeadTopic) that are missing, when the queue's URL says
	// create=true. Otherwise a missing one, or one that could not keep the queue's promise, is an error that names
	// every one of them and says what to do; it is permanent.
	Prepare(ctx context.Context, topics ...string) error
}

// A Warner is a Writer that has something to say without it being a failure, such as that duplicates are possible.
type Warner interface {
	// Warning returns what there is to say since the last call, or "".
	Warning() string
}

// Writer commits for one run of one pipeline. It belongs to one goroutine.
type Writer interface {
	// Cursor is the last committed cursor: what OpenWriter read, then what Commit made durable.
	Cursor() record.Cursor
	// Commit makes the batch, its dead letters and next durable: together (tier ExactlyOnce), or in that order, so
	// that the cursor never passes a record that is not durable (invariant 1). An empty batch moves the cursor alone.
	// It returns nil when all is durable; ErrFenced when a later writer has claimed the pipeline, and then nothing
	// of this batch is written; a *BatchError when single records can never be taken (too large), and then nothing
	// is written: the caller takes them out and commits again. (Where a broker below tier ExactlyOnce refuses a record
	// only in its answer, the others are durable by then; that next Commit, with the same cursor, leaves them out.)
	// After any other error the outcome is unknown, and a further Commit of the same batch and cursor is safe: it finds
	// out first.
	Commit(ctx context.Context, b Batch, next record.Cursor) error
	// Close lets go of the claim. It does not commit anything.
	Close(ctx context.Context) error
}

// Batch is what one commit writes. Records go to the writer's topic, Dead to DeadTopic of it, each in order.
type Batch struct {
	Records []record.Record
	Dead    []record.Record
}

// Len is the number of records and dead letters.
func (b Batch) Len() int { return len(b.Records) + len(b.Dead) }

// DeadTopic is where the dead letters of a topic go.
func DeadTopic(topic string) string { return topic + ".dead" }

// Reader is the side that takes records out: for ferry's API, `ferry tail` and dead-letter replay. It is not made
// for bulk consumers, who use their broker's own client. Reading a topic that does not exist gives ErrNoTopic.
type Reader interface {
	// Browse looks at up to max records from the position on, without taking them. from 0 means the oldest kept. A
	// negative from means that many before the end: -20 gives the last 20. It returns at once with what is there.
	Browse(ctx context.Context, topic string, from int64, max int) ([]Stored, error)
	// Receive takes up to max records for this reader and waits up to wait for the first. A record that is neither
	// acked nor nacked comes again after the queue's redelivery time (30 s). No record and no error: nothing came.
	Receive(ctx context.Context, topic string, max int, wait time.Duration) ([]Delivery, error)
	// Ack says that the records behind these receipts are done with: they are not delivered again. It returns after the
	// broker has confirmed, which need not mean durable: a broker that crashes just then may forget it, and deliver them
	// once more, counting from 1. An unknown or outdated receipt is ErrReceipt.
	Ack(ctx context.Context, topic string, receipts ...string) error
	// Nack gives the records back for another delivery, at once.
	Nack(ctx context.Context, topic string, receipts ...string) error
	// Stats counts what the topic holds.
	Stats(ctx context.Context, topic string) (Stats, error)
	// Topics lists the topics that ferry has made or written here, dead-letter topics included, sorted.
	Topics(ctx context.Context) ([]string, error)
}

// Stored is a record as it lies in a topic.
type Stored struct {
	record.Record
	// Position grows within a topic (a sequence number, an offset); it may have gaps.
	Position int64
	Time     time.Time
}

// Delivery is a record handed to a receiver.
type Delivery struct {
	Stored
	// Receipt names this delivery in Ack and Nack; it may travel through other processes.
	Receipt string
	// Attempt counts deliveries of this record, from 1.
	Attempt int
}

// Stats of a topic.
type Stats struct {
	// Records kept in the topic, acknowledged or not.
	Records int64 `json:"records"`
	// Waiting counts those not acknowledged yet by ferry's own reader.
	Waiting int64 `json:"waiting"`
	Bytes   int64 `json:"bytes"`
	// First and Last are the positions kept; 0 and 0 when empty.
	First int64 `json:"first"`
	Last  int64 `json:"last"`
}
