package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"ferry/internal/pipeline"
	"ferry/internal/queue"
	"ferry/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pages is a source whose cursor is the number of records read. Each inner slice is a part; a nil part ends a page.
type pages struct {
	parts [][]string // data of each record; the id is the data
	bytes int        // of each part
	fail  map[int]error
	bad   map[string]error
	says  bool // how many records come behind a part
	reads int
	mu    sync.Mutex
}

func rec(data string) record.Record {
	return record.Record{ID: "id-" + data[:min(len(data), 20)], Key: data, Data: []byte(strconv.Quote(data))}
}

// Read yields one part as one page.
func (p *pages) Read(ctx context.Context, from record.Cursor) iter.Seq2[record.Part, error] {
	return func(yield func(record.Part, error) bool) {
		p.mu.Lock()
		p.reads++
		err := p.fail[p.reads]
		p.mu.Unlock()
		if ctx.Err() != nil {
			yield(record.Part{}, context.Cause(ctx))
			return
		}
		if err != nil {
			yield(record.Part{}, err)
			return
		}
		at, _ := strconv.Atoi(string(from)) // empty is 0
		start := 0
		for i, part := range p.parts {
			if at > start+len(part) || at == start+len(part) && i < len(p.parts)-1 {
				start += len(part)
				continue
			}
			next := p.part(part[at-start:], at, i == len(p.parts)-1)
			for _, behind := range p.parts[i+1:] {
				if p.says {
					next.Remaining += int64(len(behind))
				}
			}
			yield(next, nil)
			return
		}
		yield(record.Part{After: func(int) record.Cursor { return from }, PageEnd: true, End: true}, nil)
	}
}

func (p *pages) part(data []string, at int, end bool) record.Part {
	part := record.Part{PageEnd: true, End: end, Bytes: p.bytes}
	for i, d := range data {
		part.Records = append(part.Records, rec(d))
		if err := p.bad[d]; err != nil {
			if part.Bad == nil {
				part.Bad = map[int]error{}
			}
			part.Bad[i] = err
		}
	}
	part.After = func(n int) record.Cursor { return record.Cursor(strconv.Itoa(at + n)) }
	return part
}

func (p *pages) Fetch(context.Context) (record.Part, error) {
	if err := p.fail[0]; err != nil {
		return record.Part{}, err
	}
	return p.part(p.parts[0], 0, true), nil
}

func (p *pages) Split(_ string, body []byte) (record.Part, error) {
	if len(body) == 0 {
		return record.Part{}, errors.New("empty body")
	}
	return p.part(strings.Split(string(body), ","), 0, true), nil
}

// Identify finds no key in what is bad.
func (p *pages) Identify(_ context.Context, data []byte) (record.Record, error) {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return record.Record{}, err
	}
	return rec(text), p.bad[text]
}

// words is a transform that goes by the record's text: "drop…" is filtered, "poison…" is a dead letter, "twoN" gives
// N results, everything else one.
type words struct{}

type stagedError struct{ error }

func (stagedError) DeadStage() string { return "map" }

func (words) Apply(_ context.Context, in record.Record, out []record.Record) ([]record.Record, error) {
	var text string
	if err := json.Unmarshal(in.Data, &text); err != nil {
		return out, err
	}
	switch {
	case strings.HasPrefix(text, "drop"):
		return out, nil
	case strings.HasPrefix(text, "poison"):
		return append(out, in), stagedError{errors.New("cannot map " + text)}
	case strings.HasPrefix(text, "many"):
		n, _, _ := strings.Cut(text[4:], "-")
		k, err := strconv.Atoi(n)
		if err != nil {
			return out, err
		}
		for i := range k {
			r := in
			r.ID = record.SubID(in.ID, i)
			out = append(out, r)
		}
		return out, nil
	}
	return append(out, in), nil
}

// broker is a queue of tier A in memory, with faults to order. Only what the engine calls is there.
type broker struct {
	queue.Queue
	limits queue.Limits

	mu      sync.Mutex
	topics  map[string][]record.Record
	cursor  record.Cursor
	epoch   int
	commits []queue.Batch
	// onCommit and onPublish run before anything is stored; an error means nothing is stored, errStored that it is
	// stored and the answer is lost.
	onCommit  func(queue.Batch) error
	onPublish func(topic string, batch []record.Record) error
	onOpen    func() error
}

var errLost = errors.New("connection lost")

// storedError says that the write happened although its answer is an error.
type storedError struct{ error }

func newBroker() *broker { return &broker{topics: map[string][]record.Record{}} }

func (b *broker) Info() queue.Info {
	return queue.Info{Name: "fake", Tier: queue.ExactlyOnce, Limits: b.limits}
}

func (b *broker) Publish(_ context.Context, topic string, batch []record.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.onPublish != nil {
		if err := b.onPublish(topic, batch); err != nil {
			return err
		}
	}
	failed := map[int]error{}
	for i, r := range batch {
		if strings.Contains(r.ID, "refuse") && !strings.HasSuffix(topic, ".dead") {
			failed[i] = &queue.TooLargeError{Size: 9, Limit: 8}
			continue
		}
		b.topics[topic] = append(b.topics[topic], r)
	}
	if len(failed) > 0 {
		return &queue.BatchError{Failed: failed, Total: len(batch)}
	}
	return nil
}

func (b *broker) OpenWriter(_ context.Context, pipeline, topic string) (queue.Writer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.onOpen != nil {
		if err := b.onOpen(); err != nil {
			return nil, err
		}
	}
	b.epoch++
	return &writer{b: b, topic: topic, epoch: b.epoch, cursor: b.cursor}, nil
}

func (b *broker) ids(topic string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := []string{}
	for _, r := range b.topics[topic] {
		ids = append(ids, strings.TrimPrefix(r.ID, "id-"))
	}
	return ids
}

type writer struct {
	b      *broker
	topic  string
	epoch  int
	cursor record.Cursor
	last   record.Cursor // of a commit whose answer was lost
}

func (w *writer) Cursor() record.Cursor       { return w.cursor }
func (w *writer) Close(context.Context) error { return nil }

func (w *writer) Commit(_ context.Context, batch queue.Batch, next record.Cursor) error {
	b := w.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.epoch != b.epoch {
		return queue.ErrFenced
	}
	if w.last != nil && string(w.last) == string(next) { // it was stored after all
		w.cursor, w.last = next, nil
		return nil
	}
	if b.limits.CommitRecords > 0 && batch.Len() > b.limits.CommitRecords {
		return fmt.Errorf("commit of %d records is over the limit of %d", batch.Len(), b.limits.CommitRecords)
	}
	failed := map[int]error{}
	for i, r := range batch.Records {
		if strings.Contains(r.ID, "refuse") {
			failed[i] = &queue.TooLargeError{Size: 9, Limit: 8}
		}
	}
	if len(failed) > 0 {
		return &queue.BatchError{Failed: failed, Total: batch.Len()}
	}
	var lost error
	if b.onCommit != nil {
		err := b.onCommit(batch)
		var stored storedError
		if err != nil && !errors.As(err, &stored) {
			return err
		}
		lost = err
	}
	b.topics[w.topic] = append(b.topics[w.topic], batch.Records...)
	b.topics[w.topic+".dead"] = append(b.topics[w.topic+".dead"], batch.Dead...)
	b.cursor = next
	b.commits = append(b.commits, batch)
	if lost != nil {
		w.last = next
		return lost
	}
	w.cursor = next
	return nil
}

// stuck is words, but transforms a record whose text begins so until its context ends.
type stuck struct {
	words
	at string
}

func (s stuck) Apply(ctx context.Context, in record.Record, out []record.Record) ([]record.Record, error) {
	if strings.HasPrefix(string(in.Data), `"`+s.at) {
		<-ctx.Done()
		return out, ctx.Err()
	}
	return s.words.Apply(ctx, in, out)
}

func newPipeline(t testing.TB, src pipeline.Source, b *broker, change ...func(*pipeline.Config)) *pipeline.Pipeline {
	t.Helper()
	cfg := pipeline.Config{Name: "orders", Topic: "orders", Source: src, Transform: words{}, Queue: b}
	for _, f := range change {
		f(&cfg)
	}
	p, err := pipeline.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
