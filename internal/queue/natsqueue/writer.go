package natsqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// saved is a pipeline's cursor as it lies in the stream.
type saved struct {
	seq    uint64 // 0: none yet
	data   record.Cursor
	writer string
	commit string
}

// readCursor asks the stream's leader, whose answer is never behind what it has confirmed; a direct get may be.
func (q *Queue) readCursor(ctx context.Context, t topic, pipeline string) (saved, error) {
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	m, err := q.newest(ctx, t, t.cursor(pipeline))
	switch {
	case err != nil:
		return saved{}, q.mapError(ctx, "read cursor of "+pipeline, err)
	case m == nil:
		return saved{}, nil
	}
	h, err := nats.DecodeHeadersMsg(m.Header)
	if err != nil {
		return saved{}, fmt.Errorf("read cursor of %s: %w", pipeline, err)
	}
	return saved{m.Seq, m.Data, h.Get(headerWriter), h.Get(headerCommit)}, nil
}

// newest is a subject's last message as the stream's leader knows it, nil when there is none.
type newest struct {
	Seq    uint64 `json:"seq"`
	Header []byte `json:"hdrs"`
	Data   []byte `json:"data"`
}

func (q *Queue) newest(ctx context.Context, t topic, subject string) (*newest, error) {
	which, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return nil, err
	}
	answer, err := ask(ctx, func(ctx context.Context) (*nats.Msg, error) {
		return q.nc.RequestWithContext(ctx, q.apiPrefix()+"STREAM.MSG.GET."+t.stream(), which)
	})
	if err != nil {
		return nil, err
	}
	var got struct {
		Message *newest             `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &got); err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	switch {
	case got.Error != nil && got.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case got.Error != nil:
		return nil, got.Error
	case got.Message == nil:
		return nil, errors.New("the server's answer holds no message")
	}
	return got.Message, nil
}

func (q *Queue) apiPrefix() string {
	if q.cfg.Domain != "" {
		return "$JS." + q.cfg.Domain + ".API."
	}
	return "$JS.API."
}

// fillCursor writes a cursor message.
func fillCursor(m *nats.Msg, subject string, s saved) {
	clear(m.Header)
	m.Subject, m.Data = subject, s.data
	put(m.Header, headerWriter, s.writer)
	put(m.Header, headerCommit, s.commit)
	put(m.Header, headerTTL, "never") // it outlives the stream's max_age
}

// replaceCursor writes a cursor message that is taken only if the last one is expected, and that replaces all before.
func replaceCursor(m *nats.Msg, subject string, s saved, expected uint64) {
	fillCursor(m, subject, s)
	put(m.Header, headerRollup, "sub")
	put(m.Header, headerExpectedCursor, strconv.FormatUint(expected, 10))
}

func checkPipeline(name string) error {
	if !isToken(name) {
		return retry.Permanent(fmt.Errorf("pipeline %q cannot be part of a NATS subject: use letters, digits, - and _", name))
	}
	return nil
}

// Cursor implements queue.Queue.
func (q *Queue) Cursor(ctx context.Context, pipeline, name string) (record.Cursor, error) {
	t, err := q.enterTopic(name)
	if err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if err := checkPipeline(pipeline); err != nil {
		return nil, err
	}
	if q.low != nil {
		return q.low.Cursor(ctx, pipeline, name)
	}
	if _, err := q.ensure(ctx, t, false); errors.Is(err, queue.ErrNoTopic) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	s, err := q.readCursor(ctx, t, pipeline)
	return s.data, err
}

// OpenWriter implements queue.Queue. The claim is a cursor message with the same cursor and the new writer's name,
// taken only if no other came in between; whoever expects the sequence before it is fenced (invariant 6).
func (q *Queue) OpenWriter(ctx context.Context, pipeline, name string) (queue.Writer, error) {
	t, err := q.enterTopic(name)
	if err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if err := checkPipeline(pipeline); err != nil {
		return nil, err
	}
	if t.name != t.base {
		return nil, retry.Permanent(fmt.Errorf("topic %q is for dead letters; a pipeline cannot write to it", name))
	}
	if q.low != nil {
		return q.low.OpenWriter(ctx, pipeline, name)
	}
	ch, err := q.ensure(ctx, t, true)
	if err != nil {
		return nil, err
	}
	w := &writer{q: q, ch: ch, topic: t, pipeline: pipeline, name: q.token()}
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	for try := 1; ; try++ { // again while the writer before commits in between; the context ends it
		last, err := q.readCursor(ctx, t, pipeline)
		if err != nil {
			return nil, err
		}
		claim := saved{data: last.data, writer: w.name, commit: q.token()}
		seq, err := q.sendBatch(ctx, 1, func(_ int, m *nats.Msg) {
			replaceCursor(m, t.cursor(pipeline), claim, last.seq)
		})
		switch {
		case err == nil:
			w.seq, w.cursor, w.alone = seq, last.data, !ch.replicated.Load()
			return w, nil
		case !isConflict(err):
			return nil, w.failure(ctx, "claim pipeline "+pipeline, err)
		}
		if serr := retry.Sleep(ctx, contended.Wait(try)); serr != nil {
			return nil, w.failure(ctx, "claim pipeline "+pipeline, err)
		}
	}
}

// contended is the patience with another write of the same cursor that a cluster is still agreeing on. Who asked again
// at once would only keep the leader from it.
var contended = retry.Policy{Base: 5 * time.Millisecond, Max: 200 * time.Millisecond}

// writer commits for one run. It belongs to one goroutine.
type writer struct {
	q        *Queue
	ch       *channel
	topic    topic
	pipeline string
	name     string

	cursor  record.Cursor
	seq     uint64         // of the last cursor message, which the next one expects
	unknown *queue.Attempt // a commit that may or may not have been written
	fenced  bool

	// alone says that nobody else seems to write to the topic, which one server keeps.
	alone bool
	// old counts the cursor messages before the last one, and oldBytes what was written since the first of them.
	old, oldBytes int
}

// To check and to replace the cursor before makes the server read the block it lies in, and a block that was read while
// it was written it keeps in memory for ten seconds: together that is everything of the last ten seconds. A writer that is
// alone therefore does neither with each commit: see send, and old cursors are left until there are so many, or so much
// was written since, and then go all at once.
const (
	oldCursors     = 256
	oldCursorBytes = 256 << 20
)

// Cursor implements queue.Writer.
func (w *writer) Cursor() record.Cursor { return w.cursor }

// Close implements queue.Writer. A claim costs nothing and is fenced by the next one.
func (w *writer) Close(context.Context) error { return nil }

// Commit implements queue.Writer: one atomic batch of records, dead letters and cursor (invariants 1 and 6).
func (w *writer) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	if err := w.q.calls.Enter(); err != nil {
		return err
	}
	defer w.q.calls.Leave()
	if w.fenced {
		return queue.ErrFenced
	}
	failed := w.ch.tooLarge(b.Records, nil, 0)
	if failed = w.ch.tooLarge(b.Dead, failed, len(b.Records)); failed != nil {
		return &queue.BatchError{Failed: failed, Total: b.Len()}
	}
	if err := w.q.info.Limits.Check(b); err != nil {
		return err
	}
	if w.unknown != nil {
		written, err := w.find(ctx)
		if err != nil {
			return err
		}
		if written {
			same := w.unknown.Is(b, next)
			w.done(w.seq, b)
			if same {
				return nil
			}
			return queue.ErrWritten
		}
	}
	if !w.unknown.Is(b, next) {
		w.unknown = queue.NewAttempt(w.q.token(), b, next)
	}
	before := w.seq
	var seq uint64
	var err error
	if w.alone {
		seq, err = w.send(ctx, b, next)
		w.alone = !isConflict(err) // else someone has written to the topic; whether this pipeline's cursor is to be seen
	}
	if !w.alone {
		seq, err = w.send(ctx, b, next)
	}
	for try, end := 1, time.Now().Add(w.q.cfg.Timeout); isConflict(err); try++ {
		// Either an earlier try of this commit came through after all, or someone else has claimed the pipeline, or one of
		// these is about to be decided, and nothing of this try is written.
		written, ferr := w.find(ctx)
		if ferr != nil {
			return ferr
		}
		if written {
			seq, err = w.seq, nil
			break
		}
		if time.Now().After(end) || retry.Sleep(ctx, contended.Wait(try)) != nil {
			break
		}
		seq, err = w.send(ctx, b, next)
	}
	if err != nil {
		return w.failure(ctx, "commit", err)
	}
	w.done(seq, b)
	w.alone = seq == before+uint64(b.Len())+1 && !w.ch.replicated.Load()
	return nil
}

// done is for a commit that was written, whose cursor has that sequence.
func (w *writer) done(seq uint64, b queue.Batch) {
	if w.replaces() {
		w.old, w.oldBytes = 0, 0
	} else {
		w.old++
		w.oldBytes += stored(b)
	}
	w.seq, w.cursor, w.unknown = seq, w.unknown.Next, nil
}

// replaces tells whether the next commit takes the old cursors out.
func (w *writer) replaces() bool {
	return !w.alone || w.old >= oldCursors || w.oldBytes >= oldCursorBytes
}

// stored is about what a batch weighs in the stream.
func stored(b queue.Batch) int {
	size := messageOverhead
	for _, part := range [...][]record.Record{b.Records, b.Dead} {
		for i := range part {
			size += part[i].Size() + messageOverhead
		}
	}
	return size
}

// send writes the batch, if this writer still has the pipeline. That shows in one of two ways, both for the server to
// check: nobody has written anything to the topic since the last commit (alone), or nobody has written the pipeline's
// cursor. The first asks for more than is needed, and fails when another pipeline writes to the same topic; but the server
// knows it by heart, where it has to look the other up in its store.
func (w *writer) send(ctx context.Context, b queue.Batch, next record.Cursor) (uint64, error) {
	if !w.alone || w.q.watched() {
		if err := w.q.pace(ctx, stored(b)); err != nil {
			return 0, err
		}
	}
	dead := queue.DeadTopic(w.topic.name)
	return w.q.sendBatch(ctx, b.Len()+1, func(i int, m *nats.Msg) {
		switch {
		case i < len(b.Records):
			m.Subject = w.topic.name
			encode(m, &b.Records[i])
		case i < b.Len():
			m.Subject = dead
			encode(m, &b.Dead[i-len(b.Records)])
		default:
			s := saved{data: next, writer: w.name, commit: w.unknown.ID}
			if !w.alone {
				replaceCursor(m, w.topic.cursor(w.pipeline), s, w.seq)
				break
			}
			fillCursor(m, w.topic.cursor(w.pipeline), s)
			if w.replaces() {
				put(m.Header, headerRollup, "sub")
			}
		}
		if i == 0 && w.alone {
			put(m.Header, headerExpectedLast, strconv.FormatUint(w.seq, 10))
		}
	})
}

// find reads the cursor to learn what became of the unknown commit: written (w.seq is then its cursor's), or not
// written, or the pipeline is someone else's (ErrFenced).
func (w *writer) find(ctx context.Context) (written bool, err error) {
	last, err := w.q.readCursor(ctx, w.topic, w.pipeline)
	switch {
	case err != nil:
		return false, err
	case last.commit == w.unknown.ID:
		w.seq = last.seq
		return true, nil
	case last.seq == w.seq:
		return false, nil
	}
	w.fenced = true
	return false, queue.ErrFenced
}

func (w *writer) failure(ctx context.Context, what string, err error) error {
	if errors.Is(err, nats.ErrNoResponders) {
		w.ch.ready.Store(false)
	}
	return w.q.mapError(ctx, what, err)
}
