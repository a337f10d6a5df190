// Package cloudevents writes records as CloudEvents 1.0.2: in binary mode, with the attributes as headers named by the
// broker's published protocol binding, or in structured mode, as one JSON value around the data, where no binding is
// published. Dead letters stay as they are: their bytes are the source's.
package cloudevents

import (
	"context"
	"encoding/json"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// Options of Wrap. All are required.
type Options struct {
	// Topic whose records are events; everything else passes through.
	Topic string
	// Source and Type are the attributes of these names: where the events come from (a URI reference) and what kind
	// they are. Source and a record's id together are unique.
	Source, Type string
}

// contentType of an event in structured mode (CloudEvents JSON format 1.0.2, section 3).
const contentType = "application/cloudevents+json; charset=utf-8"

// reserve is kept free in a record for the attributes, beside source and type.
const reserve = 512

// Wrap gives the queue, with the records of one topic as events.
func Wrap(q queue.Queue, o Options) queue.Queue {
	w := &events{Queue: q, o: o, info: q.Info()}
	w.prefix = w.info.EventPrefix
	cost := reserve + len(o.Source) + len(o.Type)
	l := &w.info.Limits
	if l.RecordBytes > 0 {
		l.RecordBytes = max(1, l.RecordBytes-cost)
	}
	if l.CommitBytes > 0 { // half for the records, half for their attributes
		l.CommitBytes /= 2
		if n := max(1, l.CommitBytes/cost); l.CommitRecords == 0 || n < l.CommitRecords {
			l.CommitRecords = n
		}
	}
	return w
}

type events struct {
	queue.Queue
	o      Options
	prefix string // of headers; empty: structured mode
	info   queue.Info
}

// Info implements queue.Queue: the limits leave room for the attributes.
func (q *events) Info() queue.Info { return q.info }

// Publish implements queue.Queue.
func (q *events) Publish(ctx context.Context, topic string, batch []record.Record) error {
	if topic == q.o.Topic {
		batch = q.wrap(batch)
	}
	return q.Queue.Publish(ctx, topic, batch)
}

// OpenWriter implements queue.Queue.
func (q *events) OpenWriter(ctx context.Context, pipeline, topic string) (queue.Writer, error) {
	w, err := q.Queue.OpenWriter(ctx, pipeline, topic)
	if err != nil || topic != q.o.Topic {
		return w, err
	}
	return &writer{w, q}, nil
}

type writer struct {
	queue.Writer
	q *events
}

// Commit implements queue.Writer.
func (w *writer) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	b.Records = w.q.wrap(b.Records)
	return w.Writer.Commit(ctx, b, next)
}

// Warning implements queue.Warner.
func (w *writer) Warning() string {
	if warner, ok := w.Writer.(queue.Warner); ok {
		return warner.Warning()
	}
	return ""
}

func (q *events) wrap(batch []record.Record) []record.Record {
	out := make([]record.Record, len(batch))
	for i := range batch {
		if q.prefix == "" {
			out[i] = q.structured(&batch[i])
		} else {
			out[i] = q.binary(&batch[i])
		}
	}
	return out
}

// attribute is a name and value of an event beside its data.
type attribute struct{ name, value string }

// attributes in the order of the specification. There is no time: the same record pulled again is the same event.
func (q *events) attributes(r *record.Record) []attribute {
	all := []attribute{{"specversion", "1.0"}, {"id", r.ID}, {"source", q.o.Source}, {"type", q.o.Type}}
	if r.Key != "" {
		all = append(all, attribute{"subject", r.Key})
	}
	if trace := r.Header(record.HeaderTraceparent); trace != "" { // extension "distributed tracing"
		all = append(all, attribute{record.HeaderTraceparent, trace})
	}
	return all
}

// binary leaves the data as it is, with its content type, and adds the attributes to the headers.
func (q *events) binary(r *record.Record) record.Record {
	out := *r
	attributes := q.attributes(r)
	out.Headers = make([]record.Header, 0, len(r.Headers)+len(attributes))
	out.Headers = append(out.Headers, r.Headers...)
	for _, a := range attributes {
		out.Headers = append(out.Headers, record.Header{Name: q.prefix + a.name, Value: a.value})
	}
	return out
}

// structured writes event and data as one JSON value.
func (q *events) structured(r *record.Record) record.Record {
	out := *r
	b := make([]byte, 0, len(r.Data)+reserve)
	separator := byte('{')
	for _, a := range append(q.attributes(r), attribute{"datacontenttype", "application/json"}) {
		text, _ := json.Marshal(a.value) // of a string it cannot fail
		b = append(b, separator, '"')
		b = append(b, a.name...)
		b = append(b, `":`...)
		b = append(b, text...)
		separator = ','
	}
	b = append(b, `,"data":`...)
	b = append(b, r.Data...)
	b = append(b, '}')
	out.Data = b
	out.Headers = make([]record.Header, 0, len(r.Headers)+1)
	for _, h := range r.Headers {
		if h.Name != record.HeaderContentType {
			out.Headers = append(out.Headers, h)
		}
	}
	out.Headers = append(out.Headers, record.Header{Name: record.HeaderContentType, Value: contentType})
	return out
}
