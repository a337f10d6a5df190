package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ferry/internal/api"
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
			if isCut(&stored[i].Record) {
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
func isCut(l *record.Record) bool { return l.Header(record.HeaderDeadSize) != "" }

// remover is what a queue can do that lets single records be taken out of a topic for good.
type remover interface {
	// Remove deletes the records at these positions, durably. Positions without a record are passed over.
	Remove(ctx context.Context, topic string, positions ...int64) error
}

// deadBatch is how many dead letters are held and settled at once.
const deadBatch = 100

// Replay sends dead letters through the pipeline again. They are taken out of the dead letters only after what became
// of them is durable: a crash in between replays some a second time, with the same ids.
func (a *App) Replay(ctx context.Context, pipeline string, positions []int64) (api.Replayed, error) {
	out := api.Replayed{Pipeline: pipeline}
	err := a.takeOut(ctx, pipeline, positions, func(ctx context.Context, p *pipe, letters []record.Record) ([]bool, error) {
		return a.carryAgain(ctx, p, letters, &out)
	})
	return out, soFar(err, out.Read)
}

// Discard takes dead letters out for good.
func (a *App) Discard(ctx context.Context, pipeline string, positions []int64) (api.Discarded, error) {
	out := api.Discarded{Pipeline: pipeline}
	err := a.takeOut(ctx, pipeline, positions, func(_ context.Context, _ *pipe, letters []record.Record) ([]bool, error) {
		out.Discarded += len(letters)
		return make([]bool, len(letters)), nil
	})
	return out, soFar(err, out.Discarded)
}

// soFar adds to an error how far the work had come, since its counters are not told beside it.
func soFar(err error, done int) error {
	var known *api.Error
	if done == 0 || !errors.As(err, &known) {
		return err
	}
	more := *known
	more.Detail += fmt.Sprintf("; %d dead letters had been gone through by then, of which the last ones may be there still; the same request goes on with the rest", done)
	return &more
}

// settle does what is to be done with a batch of letters before they are taken out, and says which of them stay.
type settle func(ctx context.Context, p *pipe, letters []record.Record) (stays []bool, err error)

// takeOut takes a pipeline's dead letters out, those at the positions or all, as f settles them. It holds one batch of
// them at a time: there may be more than fit into memory (invariant 7).
func (a *App) takeOut(ctx context.Context, pipeline string, positions []int64, f settle) error {
	p, err := a.pipeline(pipeline)
	if err != nil {
		return err
	}
	topic := queue.DeadTopic(p.Topic())
	return a.alone(ctx, topic, func(ctx context.Context) error { return a.takeAlone(ctx, p, topic, positions, f) })
}

func (a *App) takeAlone(ctx context.Context, p *pipe, topic string, positions []int64, f settle) (err error) {
	taker, ok := a.queue.(remover)
	switch {
	case !ok && len(positions) > 0:
		return &api.Error{Code: api.CodeInvalid, Detail: "this queue hands dead letters out one after the other; take all of them, or receive and acknowledge single ones"}
	case !ok:
		return a.takeReceived(ctx, p, topic, f)
	case len(positions) == 0:
		return a.takeAll(ctx, p, taker, topic, f)
	}
	positions = slices.Compact(slices.Sorted(slices.Values(positions)))
	for _, at := range positions { // all have to be there before one is touched
		if _, err := a.letter(ctx, p.Name(), topic, at); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(positions, deadBatch) {
		letters := make([]queue.Stored, len(some))
		for i, at := range some {
			if letters[i], err = a.letter(ctx, p.Name(), topic, at); err != nil {
				return err
			}
		}
		if err := a.takeSome(ctx, p, taker, topic, letters, f); err != nil {
			return err
		}
	}
	return nil
}

// takeAll takes out the letters that there are now.
func (a *App) takeAll(ctx context.Context, p *pipe, taker remover, topic string, f settle) error {
	stats, err := a.queue.Stats(ctx, topic)
	if errors.Is(err, queue.ErrNoTopic) {
		return nil
	}
	if err != nil {
		return problem(fmt.Errorf("look at topic %q: %w", topic, err))
	}
	// Up to the present last one: what fails again goes behind it and is not replayed in circles.
	for from := int64(0); from <= stats.Last; {
		stored, err := a.browse(ctx, topic, from, deadBatch)
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
		if err := a.takeSome(ctx, p, taker, topic, letters, f); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) takeSome(ctx context.Context, p *pipe, taker remover, topic string, letters []queue.Stored, f settle) error {
	records := make([]record.Record, len(letters))
	for i := range letters {
		records[i] = letters[i].Record
	}
	stays, err := f(ctx, p, records)
	if err != nil {
		return err
	}
	var over []int64
	for i := range letters {
		if !stays[i] {
			over = append(over, letters[i].Position)
		}
	}
	if len(over) == 0 {
		return nil
	}
	if err := taker.Remove(ctx, topic, over...); err != nil {
		return problem(fmt.Errorf("take dead letters out: %w", err))
	}
	return nil
}

// takeMost bounds what is taken at once out of a queue that only hands letters out.
const takeMost = 100_000

// takeReceived takes letters as the queue hands them out, and acknowledges each batch when it is settled. A letter that
// fails again comes back under its id, by which the end is seen. Other pipelines' letters, and those that stay, are given
// back at the end.
func (a *App) takeReceived(ctx context.Context, p *pipe, topic string, f settle) (err error) {
	var others []string
	defer func() {
		if len(others) > 0 {
			err = errors.Join(err, problem(a.queue.Nack(context.WithoutCancel(ctx), topic, others...)))
		}
	}()
	known := make(map[string]bool)
	for again := false; !again && len(known) < takeMost; {
		got, err := a.queue.Receive(ctx, topic, deadBatch, takeWait)
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
			if got[i].Header(record.HeaderPipeline) != p.Name() || known[got[i].ID] {
				others = append(others, got[i].Receipt)
				continue
			}
			letters, receipts = append(letters, got[i].Record), append(receipts, got[i].Receipt)
		}
		for i := range got {
			known[got[i].ID] = true
		}
		stays, err := f(ctx, p, letters)
		if err != nil {
			return err
		}
		var over []string
		for i, r := range receipts {
			if stays[i] {
				others = append(others, r)
			} else {
				over = append(over, r)
			}
		}
		if len(over) == 0 {
			continue
		}
		if err := a.queue.Ack(ctx, topic, over...); err != nil {
			return problem(fmt.Errorf("take dead letters out: %w", err))
		}
	}
	return nil
}

// carryAgain sends letters through the pipeline, counts what became of them, and says which are to stay where they are:
// those that were cut, which are not sent, and, on a queue that knows records by their ids for a while, those that fail
// again: it would take the new letter for the old one, which is about to be taken out, and drop it.
func (a *App) carryAgain(ctx context.Context, p *pipe, letters []record.Record, out *api.Replayed) (stays []bool, err error) {
	stays = make([]bool, len(letters))
	sent, of := make([]record.Record, 0, len(letters)), make([]int, 0, len(letters)) // and which letter each is of
	for i := range letters {
		if isCut(&letters[i]) {
			stays[i] = true
			out.Read++
			out.Cut++
			continue
		}
		sent, of = append(sent, letters[i]), append(of, i)
	}
	if len(sent) == 0 {
		return stays, nil
	}
	keep := a.queue.Info().Tier == queue.Deduplicated
	done, err := p.Replay(ctx, a.requestContext(ctx), sent, keep)
	if err != nil {
		return nil, problem(fmt.Errorf("replay: %w", err))
	}
	out.Read += int(done.Read)
	out.Published += int(done.Published)
	out.Filtered += int(done.Filtered)
	out.Dead += int(done.Counters.Dead)
	if keep {
		for _, i := range done.DeadAt { // not by id: a letter may have got another one on its way
			stays[of[i]] = true
		}
	}
	return stays, nil
}

// letter reads a pipeline's dead letter.
func (a *App) letter(ctx context.Context, pipeline, topic string, at int64) (queue.Stored, error) {
	stored, err := a.browse(ctx, topic, at, 1)
	if err != nil && !errors.Is(err, queue.ErrNoTopic) {
		return queue.Stored{}, problem(fmt.Errorf("read dead letter %d: %w", at, err))
	}
	if len(stored) == 0 || stored[0].Position != at || stored[0].Header(record.HeaderPipeline) != pipeline {
		return queue.Stored{}, &api.Error{Code: api.CodeNotFound, Detail: fmt.Sprintf("pipeline %q has no dead letter at position %d", pipeline, at)}
	}
	return stored[0], nil
}
