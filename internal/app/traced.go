package app

import (
	"context"
	"iter"

	"ferry/internal/pipeline"
	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/telemetry"
)

// tracedSource makes a span of each page. It ends when the last part of the page was handed on.
type tracedSource struct {
	pipeline.Source
	tracing  *telemetry.Tracing
	pipeline string
}

func (s tracedSource) Read(ctx context.Context, from record.Cursor) iter.Seq2[record.Part, error] {
	return func(yield func(record.Part, error) bool) {
		ctx, end := s.tracing.Page(ctx, s.pipeline)
		var failure error
		defer func() { end(failure) }()
		for part, err := range s.Source.Read(ctx, from) {
			failure = err
			if !yield(part, err) {
				return
			}
		}
	}
}

// tracedQueue makes a span of each commit and publish of one pipeline.
type tracedQueue struct {
	queue.Queue
	tracing  *telemetry.Tracing
	pipeline string
}

func (q tracedQueue) Publish(ctx context.Context, topic string, batch []record.Record) error {
	ctx, end := q.tracing.Commit(ctx, q.pipeline, len(batch))
	err := q.Queue.Publish(ctx, topic, batch)
	end(err)
	return err
}

func (q tracedQueue) OpenWriter(ctx context.Context, pipeline, topic string) (queue.Writer, error) {
	w, err := q.Queue.OpenWriter(ctx, pipeline, topic)
	if err != nil {
		return nil, err
	}
	return tracedWriter{w, q}, nil
}

type tracedWriter struct {
	queue.Writer
	q tracedQueue
}

func (w tracedWriter) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	ctx, end := w.q.tracing.Commit(ctx, w.q.pipeline, b.Len())
	err := w.Writer.Commit(ctx, b, next)
	end(err)
	return err
}

// Warning implements queue.Warner.
func (w tracedWriter) Warning() string {
	if warner, ok := w.Writer.(queue.Warner); ok {
		return warner.Warning()
	}
	return ""
}
