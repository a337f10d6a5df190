package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ferry/internal/api"
	"ferry/internal/pipeline"
	"ferry/internal/queue"
	"ferry/internal/record"
)

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
		stored, err := a.browse(ctx, topic, from, min(500, limit))
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
			reason := stored[i].Header(record.HeaderDeadReason)
			if isCut(&stored[i]) {
				reason += "; only its beginning was kept, which cannot be replayed: mend the cause and pull it again, for example with the cursor set back"
			}
			out = append(out, api.DeadLetter{
				Record: view, Reason: reason,
				Stage: stored[i].Header(record.HeaderDeadStage), Run: stored[i].Header(record.HeaderRun),
			})
		}
	}
	return out, nil
}

// isCut tells whether a letter holds only a text of its record's beginning. It stays a letter: published, it would pass
// for the record.
func isCut(l *queue.Stored) bool { return l.Header(record.HeaderDeadSize) != "" }

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
	out := api.Replayed{Pipeline: pipeline}
	topic := queue.DeadTopic(p.Topic())
	taker, ok := a.queue.(remover)
	if !ok {
		if len(positions) > 0 {
			return out, &api.Error{Code: api.CodeInvalid, Detail: "this queue hands dead letters out one after the other; replay them all, or receive and acknowledge single ones"}
		}
		err := a.replayReceived(ctx, p, topic, &out)
		return out, err
	}
	if len(positions) == 0 {
		err := a.replayAll(ctx, p, taker, topic, &out)
		return out, err
	}
	letters, err := a.letters(ctx, pipeline, topic, positions)
	if err != nil {
		return out, err
	}
	for some := range slices.Chunk(letters, replayBatch) {
		if err := a.replay(ctx, p, taker, topic, some, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// replayAll replays the letters that there are now, batch after batch: there may be more than fit into memory
// (invariant 7).
func (a *App) replayAll(ctx context.Context, p *pipe, taker remover, topic string, out *api.Replayed) error {
	stats, err := a.queue.Stats(ctx, topic)
	if errors.Is(err, queue.ErrNoTopic) {
		return nil
	}
	if err != nil {
		return problem(fmt.Errorf("look at topic %q: %w", topic, err))
	}
	// Up to the present last one: what fails again goes behind it and is not replayed in circles.
	for from := int64(0); from <= stats.Last; {
		stored, err := a.browse(ctx, topic, from, replayBatch)
		if err != nil {
			return problem(fmt.Errorf("read dead letters: %w", err))
		}
		if len(stored) == 0 {
			return nil
		}
		from = stored[len(stored)-1].Position + 1
		letters := slices.DeleteFunc(stored, func(l queue.Stored) bool {
			return l.Position > stats.Last || l.Header(record.HeaderPipeline) != p.Name()
		})
		if err := a.replay(ctx, p, taker, topic, letters, out); err != nil {
			return err
		}
	}
	return nil
}

// replay sends letters through the pipeline again and takes them out. Those that were cut are left.
func (a *App) replay(ctx context.Context, p *pipe, taker remover, topic string, letters []queue.Stored, out *api.Replayed) error {
	var records []record.Record
	var places []int64
	for i := range letters {
		if isCut(&letters[i]) {
			out.Read++
			out.Cut++
			continue
		}
		records, places = append(records, letters[i].Record), append(places, letters[i].Position)
	}
	if len(records) == 0 {
		return nil
	}
	done, err := p.Replay(ctx, a.requestContext(ctx), records, a.lettersStay())
	if err != nil {
		return problem(fmt.Errorf("replay: %w", err))
	}
	stays := a.staying(done)
	i := 0
	places = slices.DeleteFunc(places, func(int64) bool { i++; return stays[records[i-1].ID] })
	if err := taker.Remove(ctx, topic, places...); err != nil {
		return problem(fmt.Errorf("take replayed dead letters out: %w", err))
	}
	addReplayed(out, done)
	return nil
}

// lettersStay tells whether a letter that fails again has to stay where it is: a queue that knows records by their ids
// for a while would take its new letter for the old one, which is about to be taken out, and drop it.
func (a *App) lettersStay() bool { return a.queue.Info().Tier == queue.Deduplicated }

// staying are the ids of those that do.
func (a *App) staying(done pipeline.Done) map[string]bool {
	if !a.lettersStay() {
		return nil
	}
	ids := make(map[string]bool, len(done.Dead))
	for i := range done.Dead {
		ids[done.Dead[i].ID] = true
	}
	return ids
}

func addReplayed(out *api.Replayed, done pipeline.Done) {
	out.Read += int(done.Read)
	out.Published += int(done.Published)
	out.Filtered += int(done.Filtered)
	out.Dead += int(done.Counters.Dead)
}

// replayMost bounds one replay of a queue that only hands letters out.
const replayMost = 100_000

// replayReceived replays letters as the queue hands them out, and acknowledges each batch after what became of it is
// durable. A letter that fails again comes back under its id, by which the end is seen. Other pipelines' letters, and
// those that stay, are given back at the end.
func (a *App) replayReceived(ctx context.Context, p *pipe, topic string, out *api.Replayed) (err error) {
	var others []string
	defer func() {
		if len(others) > 0 {
			err = errors.Join(err, problem(a.queue.Nack(context.WithoutCancel(ctx), topic, others...)))
		}
	}()
	known := make(map[string]bool)
	for again := false; !again && len(known) < replayMost; {
		got, err := a.queue.Receive(ctx, topic, replayBatch, takeWait)
		if errors.Is(err, queue.ErrNoTopic) {
			return nil
		}
		if err != nil {
			return problem(fmt.Errorf("receive dead letters: %w", err))
		}
		if len(got) == 0 {
			return nil
		}
		var letters []record.Record
		var receipts []string
		for i := range got {
			again = again || known[got[i].ID]
			own := got[i].Header(record.HeaderPipeline) == p.Name() && !known[got[i].ID]
			if own && isCut(&got[i].Stored) {
				out.Read++
				out.Cut++
				own = false
			}
			if !own {
				others = append(others, got[i].Receipt)
				continue
			}
			letters, receipts = append(letters, got[i].Record), append(receipts, got[i].Receipt)
		}
		for i := range got {
			known[got[i].ID] = true
		}
		if len(letters) == 0 {
			continue
		}
		done, err := p.Replay(ctx, a.requestContext(ctx), letters, a.lettersStay())
		if err != nil {
			return problem(fmt.Errorf("replay: %w", err))
		}
		stays := a.staying(done)
		var over []string
		for i, r := range receipts {
			if stays[letters[i].ID] {
				others = append(others, r)
			} else {
				over = append(over, r)
			}
		}
		if err := a.queue.Ack(ctx, topic, over...); err != nil {
			return problem(fmt.Errorf("take replayed dead letters out: %w", err))
		}
		addReplayed(out, done)
	}
	return nil
}

// letters reads the dead letters at the positions.
func (a *App) letters(ctx context.Context, pipeline, topic string, positions []int64) ([]queue.Stored, error) {
	letters := make([]queue.Stored, 0, len(positions))
	for _, pos := range positions {
		stored, err := a.browse(ctx, topic, pos, 1)
		if err != nil {
			return nil, problem(fmt.Errorf("read dead letter %d: %w", pos, err))
		}
		if len(stored) == 0 || stored[0].Position != pos || stored[0].Header(record.HeaderPipeline) != pipeline {
			return nil, &api.Error{Code: api.CodeNotFound, Detail: fmt.Sprintf("pipeline %q has no dead letter at position %d", pipeline, pos)}
		}
		letters = append(letters, stored[0])
	}
	return letters, nil
}
