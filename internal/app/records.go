package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	stored, err := a.queue.Browse(ctx, topic, from, limit)
	if err != nil {
		return nil, problem(fmt.Errorf("look into topic %q: %w", topic, err))
	}
	out := make([]api.Record, len(stored))
	for i := range stored {
		out[i] = recordView(topic, &stored[i])
	}
	return out, nil
}

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

// Dead lists a pipeline's dead letters, oldest first. Pipelines that share a topic share its dead letters' topic:
// only those of this pipeline are shown.
func (a *App) Dead(ctx context.Context, pipeline string, from int64, limit int) ([]api.DeadLetter, error) {
	p, err := a.pipeline(pipeline)
	if err != nil {
		return nil, err
	}
	topic := queue.DeadTopic(p.Topic())
	out := []api.DeadLetter{}
	for len(out) < limit {
		stored, err := a.queue.Browse(ctx, topic, from, min(500, limit))
		if errors.Is(err, queue.ErrNoTopic) {
			return out, nil
		}
		if err != nil {
			return nil, problem(fmt.Errorf("look into topic %q: %w", topic, err))
		}
		if len(stored) == 0 {
			return out, nil
		}
		for i := range stored {
			from = stored[i].Position + 1
			if stored[i].Header(record.HeaderPipeline) != pipeline || len(out) == limit {
				continue
			}
			view := recordView(topic, &stored[i])
			out = append(out, api.DeadLetter{
				Record: view, Reason: stored[i].Header(record.HeaderDeadReason),
				Stage: stored[i].Header(record.HeaderDeadStage), Run: stored[i].Header(record.HeaderRun),
			})
		}
	}
	return out, nil
}

// remover is what a queue can do that lets single records be taken out of a topic for good.
type remover interface {
	// Remove deletes the records at these positions, durably. Positions without a record are passed over.
	Remove(ctx context.Context, topic string, positions ...int64) error
}

// replayBatch is how many dead letters are sent again at once.
const replayBatch = 100

// Replay sends dead letters through the pipeline again. They are taken out of the dead letters only after what became
// of them is durable: a crash in between replays some a second time, with the same ids.
func (a *App) Replay(ctx context.Context, pipeline string, positions []int64) (api.Replayed, error) {
	p, err := a.pipeline(pipeline)
	if err != nil {
		return api.Replayed{}, err
	}
	taker, ok := a.queue.(remover)
	if !ok {
		return api.Replayed{}, &api.Error{Code: api.CodeInvalid, Detail: "this queue cannot take single dead letters out; receive and acknowledge them instead"}
	}
	out := api.Replayed{Pipeline: pipeline}
	topic := queue.DeadTopic(p.Topic())
	letters, places, err := a.letters(ctx, pipeline, topic, positions)
	if err != nil {
		return out, err
	}
	for len(letters) > 0 {
		n := min(replayBatch, len(letters))
		done, err := p.Replay(ctx, a.requestContext(ctx), letters[:n])
		if err != nil {
			return out, problem(fmt.Errorf("replay: %w", err))
		}
		if err := taker.Remove(ctx, topic, places[:n]...); err != nil {
			return out, problem(fmt.Errorf("take replayed dead letters out: %w", err))
		}
		out.Read += int(done.Read)
		out.Published += int(done.Published)
		out.Filtered += int(done.Filtered)
		out.Dead += int(done.Counters.Dead)
		letters, places = letters[n:], places[n:]
	}
	return out, nil
}

// letters reads the dead letters at the positions, or all there are now.
func (a *App) letters(ctx context.Context, pipeline, topic string, positions []int64) ([]record.Record, []int64, error) {
	var letters []record.Record
	var places []int64
	take := func(from int64, limit int) (next int64, n int, err error) {
		stored, err := a.queue.Browse(ctx, topic, from, limit)
		if err != nil {
			return 0, 0, err
		}
		for i := range stored {
			next = stored[i].Position + 1
			if stored[i].Header(record.HeaderPipeline) == pipeline {
				letters = append(letters, stored[i].Record)
				places = append(places, stored[i].Position)
			}
		}
		return next, len(stored), nil
	}
	if len(positions) > 0 {
		for _, pos := range positions {
			before := len(places)
			if _, _, err := take(pos, 1); err != nil {
				return nil, nil, problem(fmt.Errorf("read dead letter %d: %w", pos, err))
			}
			if len(places) == before || places[before] != pos {
				return nil, nil, &api.Error{Code: api.CodeNotFound, Detail: fmt.Sprintf("pipeline %q has no dead letter at position %d", pipeline, pos)}
			}
		}
		return letters, places, nil
	}
	stats, err := a.queue.Stats(ctx, topic)
	if errors.Is(err, queue.ErrNoTopic) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, problem(fmt.Errorf("look at topic %q: %w", topic, err))
	}
	// Up to the present last one: what fails again goes behind it and is not replayed in circles.
	for from := int64(0); from <= stats.Last; {
		next, n, err := take(from, 500)
		if err != nil {
			return nil, nil, problem(fmt.Errorf("read dead letters: %w", err))
		}
		if n == 0 {
			break
		}
		from = next
	}
	for len(places) > 0 && places[len(places)-1] > stats.Last {
		letters, places = letters[:len(letters)-1], places[:len(places)-1]
	}
	return letters, places, nil
}
