package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"ferry/internal/api"
	"ferry/internal/queue"
	"ferry/internal/record"
)

// Topics lists the queue's topics with their lengths.
func (a *App) Topics(ctx context.Context) ([]api.Topic, error) {
	names, err := a.queue.Topics(ctx)
	if err != nil {
		return nil, problem(fmt.Errorf("list topics: %w", err))
	}
	out := make([]api.Topic, 0, len(names))
	for _, name := range names {
		t, err := a.Topic(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// Topic describes one topic.
func (a *App) Topic(ctx context.Context, topic string) (api.Topic, error) {
	s, err := a.queue.Stats(ctx, topic)
	if err != nil {
		return api.Topic{}, problem(fmt.Errorf("look at topic %q: %w", topic, err))
	}
	return api.Topic{Topic: topic, Records: s.Records, Waiting: s.Waiting, Bytes: s.Bytes, First: s.First, Last: s.Last}, nil
}

// Browse looks at records without taking them.
func (a *App) Browse(ctx context.Context, topic string, from int64, limit int) ([]api.Record, error) {
	stored, err := a.browse(ctx, topic, from, limit)
	if errors.Is(err, queue.ErrNoTopic) {
		if names, terr := a.queue.Topics(ctx); terr == nil && len(names) > 0 {
			err = fmt.Errorf("%w; there are: %s", err, strings.Join(names, ", "))
		}
	}
	if err != nil {
		return nil, problem(fmt.Errorf("look into topic %q: %w", topic, err))
	}
	out := make([]api.Record, len(stored))
	for i := range stored {
		out[i] = recordView(topic, &stored[i])
	}
	return out, nil
}

// browse looks into a topic. Where the queue can only hand records out (SQS, RabbitMQ), it takes the next ones and
// gives them back at once: they count one delivery more, and have no positions to go on from.
func (a *App) browse(ctx context.Context, topic string, from int64, limit int) ([]queue.Stored, error) {
	stored, err := a.queue.Browse(ctx, topic, from, limit)
	if !errors.Is(err, errors.ErrUnsupported) {
		return stored, err
	}
	if from > 0 {
		return nil, nil
	}
	taken, err := a.take(ctx, topic, limit)
	receipts := make([]string, len(taken))
	for i := range taken {
		receipts[i], taken[i].Position = taken[i].Receipt, 0
		stored = append(stored, taken[i].Stored)
	}
	if len(receipts) > 0 {
		err = errors.Join(err, a.queue.Nack(ctx, topic, receipts...))
	}
	return stored, err
}

// take receives what is there, up to limit.
func (a *App) take(ctx context.Context, topic string, limit int) ([]queue.Delivery, error) {
	var all []queue.Delivery
	for len(all) < limit {
		got, err := a.queue.Receive(ctx, topic, limit-len(all), takeWait)
		if err != nil || len(got) == 0 {
			return all, err
		}
		all = append(all, got...)
	}
	return all, nil
}

// takeWait is how long a record that is there may take to be handed out.
const takeWait = 300 * time.Millisecond

// Receive takes records for a while; see queue.Reader.
func (a *App) Receive(ctx context.Context, topic string, limit int, wait time.Duration) ([]api.Delivery, error) {
	got, err := a.queue.Receive(ctx, topic, limit, wait)
	if err != nil {
		return nil, problem(fmt.Errorf("receive from topic %q: %w", topic, err))
	}
	out := make([]api.Delivery, len(got))
	for i := range got {
		out[i] = api.Delivery{Record: recordView(topic, &got[i].Stored), Receipt: got[i].Receipt, Attempt: got[i].Attempt}
	}
	return out, nil
}

// Ack says that received records are done with.
func (a *App) Ack(ctx context.Context, topic string, receipts []string) error {
	return problem(a.queue.Ack(ctx, topic, receipts...))
}

// Nack gives received records back.
func (a *App) Nack(ctx context.Context, topic string, receipts []string) error {
	return problem(a.queue.Nack(ctx, topic, receipts...))
}

func recordView(topic string, s *queue.Stored) api.Record {
	headers := make(map[string]string, len(s.Headers)+1)
	for _, h := range s.Headers {
		headers[h.Name] = h.Value
	}
	headers[record.HeaderID] = s.ID
	return api.Record{ID: s.ID, Topic: topic, Position: s.Position, Time: s.Time, Headers: headers, Data: rawJSON(s.Data)}
}

// rawJSON is data as it stands when it is JSON, and as a JSON text when somebody else has written something else into
// the topic.
func rawJSON(data []byte) json.RawMessage {
	if json.Valid(data) {
		return data
	}
	text, err := json.Marshal(string(data))
	if err != nil {
		return json.RawMessage("null") // a string always marshals
	}
	return text
}
