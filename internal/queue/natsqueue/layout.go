package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// How topics lie in JetStream. A topic is one stream, so that records, dead letters and cursors can be one atomic
// batch (invariant 1):
//
//	stream   ferry-orders~eu                      for the topic orders.eu
//	subject  orders.eu                            its records, for consumers of any kind
//	subject  orders.eu.dead                       its dead letters
//	subject  ferry.cursor.orders.eu.<pipeline>    the cursor of each pipeline, one message each
//
// Topics are made of tokens of [A-Za-z0-9_-] with dots between them, so no subject holds a wildcard and no two topics
// overlap; a cursor subject ends in exactly one token more than its topic has.

const (
	streamPrefix = "ferry-"
	cursorPrefix = "ferry.cursor."
	deadSuffix   = ".dead"
	topicMeta    = "ferry-topic" // in the stream's metadata: whose it is
	maxTopic     = 200

	defaultWindow = 2 * time.Minute // for which a server knows an id again
)

// topic is a checked topic name.
type topic struct {
	name string // as given: orders.eu or orders.eu.dead
	base string // the topic whose stream it lies in: orders.eu
}

func (t topic) stream() string { return streamPrefix + strings.ReplaceAll(t.base, ".", "~") }

// consumer is the durable consumer that Receive shares among all instances.
func (t topic) consumer() string {
	if t.name != t.base {
		return "ferry-dead"
	}
	return "ferry"
}

func (t topic) cursor(pipeline string) string { return cursorPrefix + t.base + "." + pipeline }

// parseTopic checks a name. A dead-letter topic lies in its topic's stream.
func parseTopic(name string) (topic, error) {
	t := topic{name: name, base: strings.TrimSuffix(name, deadSuffix)}
	switch {
	case len(name) > maxTopic:
		return t, queue.BadTopic("topic %.20q… is longer than %d characters", name, maxTopic)
	case t.base == "ferry" || strings.HasPrefix(t.base, "ferry."):
		return t, queue.BadTopic("topic %q: names that begin with ferry. are ferry's own", name)
	case strings.HasSuffix(t.base, deadSuffix):
		return t, queue.BadTopic("topic %q: dead letters have no dead letters of their own", name)
	}
	for token := range strings.SplitSeq(name, ".") {
		if !isToken(token) {
			return t, queue.BadTopic("topic %q cannot be a NATS subject: use letters, digits, - and _, with single dots between", name)
		}
	}
	return t, nil
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != ""
}

// streamConfig is what a topic's stream should be.
func (q *Queue) streamConfig(t topic) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        t.stream(),
		Description: "records, dead letters and cursors of ferry's topic " + t.base,
		Subjects:    []string{t.base, queue.DeadTopic(t.base), cursorPrefix + t.base + ".*"},
		Storage:     q.storage(),
		Retention:   jetstream.LimitsPolicy,
		// A full topic pushes back instead of dropping what nobody has read, or a cursor.
		Discard:            jetstream.DiscardNew,
		MaxAge:             q.cfg.MaxAge,
		MaxBytes:           orUnlimited(q.cfg.MaxBytes),
		MaxMsgs:            -1,
		MaxMsgSize:         -1,
		MaxConsumers:       -1,
		MaxMsgsPerSubject:  -1,
		Replicas:           q.cfg.Replicas,
		AllowDirect:        true,
		AllowRollup:        true, // a cursor replaces the one before
		AllowMsgTTL:        true, // a cursor outlives MaxAge
		AllowAtomicPublish: q.atomic,
		Metadata:           map[string]string{topicMeta: t.base},
	}
}

func (q *Queue) storage() jetstream.StorageType {
	if q.cfg.Memory {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}

func orUnlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// Prepare implements queue.Preparer. Topics of the embedded server are made by their first record. Those of a cluster are
// made now: a new topic needs all its members, and the next time one of them may be away.
func (q *Queue) Prepare(ctx context.Context, names ...string) error {
	var missing []string
	var errs []error
	for _, name := range names {
		t, err := q.enterTopic(name)
		if errors.Is(err, queue.ErrClosed) {
			return err
		}
		if err != nil { // no topic can have the name: there is nothing to make
			errs = append(errs, err)
			continue
		}
		if !q.cfg.Embedded || !q.cfg.Create || q.cfg.Replicas > 1 {
			_, err = q.ensure(ctx, t, true)
		}
		q.calls.Leave()
		switch {
		case err == nil:
		case errors.Is(err, queue.ErrNoTopic):
			missing = append(missing, t.base)
		case retry.IsPermanent(err):
			errs = append(errs, err)
		default:
			return err
		}
	}
	if missing != nil {
		errs = append(errs, noTopic(missing...))
	}
	return retry.Permanent(errors.Join(errs...))
}

func noTopic(names ...string) error {
	what := "make its stream first, or let ferry make it"
	if len(names) > 1 {
		what = "make their streams first, or let ferry make them"
	}
	return fmt.Errorf("%w: %s; %s: create=true in the queue's URL", queue.ErrNoTopic, strings.Join(names, ", "), what)
}

// ensure finds the topic's stream, or makes it when create is true and the configuration allows it. What it found is
// remembered until a write finds nobody listening. Concurrent calls for one topic wait for each other. Who only reads
// (create is false) changes nothing: limits of the URL that the stream has not yet wait for the first who writes.
func (q *Queue) ensure(ctx context.Context, t topic, create bool) (*channel, error) {
	ch := q.channel(t.base)
	err := q.look(ctx, t, ch, create)
	q.leave(t.base, ch, err == nil)
	if err != nil {
		return nil, err
	}
	return ch, nil
}

// look is ensure for a channel that may not be ready.
func (q *Queue) look(ctx context.Context, t topic, ch *channel, create bool) error {
	known := func() bool { return ch.ready.Load() && !(create && ch.behind.Load()) }
	if known() {
		return nil
	}
	select {
	case ch.turn <- struct{}{}:
		defer func() { <-ch.turn }()
	case <-ctx.Done():
		return fmt.Errorf("look for topic %s: %w", t.base, context.Cause(ctx))
	}
	if known() {
		return nil
	}
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	found, err := q.stream(ctx, t)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if !create {
			return fmt.Errorf("%w: %s", queue.ErrNoTopic, t.name)
		}
		if !q.cfg.Create {
			return retry.Permanent(noTopic(t.name))
		}
		found, err = q.makeStream(ctx, t)
	}
	if err != nil {
		return q.mapError(ctx, "look for topic "+t.base, err)
	}
	have := found.CachedInfo().Config
	if err := q.checkStream(t, have); err != nil {
		return err
	}
	behind := q.differs(t, have)
	if create && behind {
		// The queue's URL has changed since the topic was made: follow it.
		if _, err := q.js.UpdateStream(ctx, q.merge(t, have)); err != nil {
			return q.mapError(ctx, "change limits of topic "+t.base, err)
		}
		behind = false
	}
	ch.behind.Store(behind) // before ready, which says that it is known
	ch.maxRecord.Store(int64(q.info.Limits.RecordBytes))
	if m := int64(have.MaxMsgSize); m > 0 {
		ch.maxRecord.Store(min(int64(q.info.Limits.RecordBytes), m-headerReserve))
	}
	ch.replicated.Store(max(have.Replicas, q.cfg.Replicas) > 1)
	ch.ready.Store(true)
	return nil
}

func (q *Queue) makeStream(ctx context.Context, t topic) (jetstream.Stream, error) {
	// The store is a folder by the stream's name, and not every file system tells Orders from orders.
	names := q.js.StreamNames(ctx)
	for name := range names.Name() {
		if name != t.stream() && strings.EqualFold(name, t.stream()) {
			return nil, retry.Permanent(fmt.Errorf("topic %q differs from an existing one only in upper and lower case; choose another name", t.base))
		}
	}
	if err := names.Err(); err != nil {
		return nil, err
	}
	found, err := q.js.CreateStream(ctx, q.streamConfig(t))
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == codeSubjectOverlap {
		return nil, retry.Permanent(fmt.Errorf("another stream of this NATS server has a subject of topic %q already; choose another topic, or take the subject out of that stream", t.base))
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return q.stream(ctx, t) // another instance was quicker, perhaps with other limits
	}
	return found, err
}

// checkStream refuses a stream that would not keep what ferry promises, or that is someone else's.
func (q *Queue) checkStream(t topic, have jetstream.StreamConfig) error {
	want := q.streamConfig(t)
	bad := func(what string) error {
		return retry.Permanent(fmt.Errorf("stream %s of this NATS server cannot hold topic %s: %s", have.Name, t.base, what))
	}
	for _, s := range want.Subjects {
		if !slices.Contains(have.Subjects, s) {
			return bad("it lacks the subject " + s + "; it seems to be someone else's")
		}
	}
	switch {
	case have.Metadata[topicMeta] != "" && have.Metadata[topicMeta] != t.base:
		return bad("it belongs to topic " + have.Metadata[topicMeta])
	case have.Storage != want.Storage && q.cfg.Memory:
		return bad("it is kept on disk, and the queue URL says storage=memory")
	case have.Storage != want.Storage:
		return bad("it is kept in memory, not on disk")
	case have.PersistMode == jetstream.AsyncPersistMode:
		return bad("it confirms records before they are on disk (persist mode async)")
	case have.Retention != jetstream.LimitsPolicy:
		return bad("its retention is not by limits")
	case have.NoAck:
		return bad("it does not confirm (no_ack)")
	case have.Sealed:
		return bad("it is sealed")
	case have.MaxMsgsPerSubject > 0:
		return bad("it keeps only some records (max_msgs_per_subject)")
	case have.Discard != jetstream.DiscardNew && (have.MaxBytes > 0 || have.MaxMsgs > 0):
		return bad("when full it drops old records, and cursors with them; set discard to new")
	case !have.AllowMsgTTL && have.MaxAge > 0:
		return bad("cursors would age out with its max_age; set allow_msg_ttl")
	}
	return nil
}

// differs tells whether what the URL decides is not as the stream has it.
func (q *Queue) differs(t topic, have jetstream.StreamConfig) bool {
	want := q.merge(t, have)
	return have.MaxAge != want.MaxAge || have.MaxBytes != want.MaxBytes || have.Replicas != want.Replicas ||
		have.AllowRollup != want.AllowRollup || have.AllowMsgTTL != want.AllowMsgTTL ||
		have.AllowAtomicPublish != want.AllowAtomicPublish || have.AllowDirect != want.AllowDirect ||
		have.Discard != want.Discard
}

// merge gives what the stream has, with what the URL decides put in. It never lowers what others may have set up by
// hand beside it: a limit that the URL does not give any more goes away only where ferry made the stream.
func (q *Queue) merge(t topic, have jetstream.StreamConfig) jetstream.StreamConfig {
	want := q.streamConfig(t)
	ours := have.Metadata[topicMeta] != ""
	if ours || q.cfg.MaxAge > 0 {
		have.Duplicates = window(have, want.MaxAge)
		have.MaxAge = want.MaxAge
	}
	if ours || q.cfg.MaxBytes > 0 {
		have.MaxBytes = want.MaxBytes
	}
	have.Discard = want.Discard
	have.Replicas = max(have.Replicas, want.Replicas)
	have.AllowRollup, have.AllowMsgTTL, have.AllowDirect = true, true, true
	have.AllowAtomicPublish = have.AllowAtomicPublish || want.AllowAtomicPublish
	return have
}

// window is the time for which the server knows an id again, when a stream gets another max_age: the server takes none
// that is longer than it. One that was cut short so grows again with it; 0 is the server's default.
func window(have jetstream.StreamConfig, maxAge time.Duration) time.Duration {
	switch {
	case maxAge > 0 && have.Duplicates > maxAge:
		return maxAge
	case have.Duplicates == have.MaxAge && have.Duplicates < defaultWindow:
		return 0
	}
	return have.Duplicates
}
