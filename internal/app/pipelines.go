package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ferry/internal/api"
	"ferry/internal/config"
	"ferry/internal/pipeline"
	"ferry/internal/record"
	"ferry/internal/scheduler"
	"ferry/internal/telemetry"
	"ferry/internal/transform"
)

// pipe is one pipeline with what app needs around it.
type pipe struct {
	*pipeline.Pipeline
	source  sourceDescriber
	metrics *telemetry.PipelineMetrics
	totals  counters
}

type sourceDescriber interface {
	Describe(from record.Cursor) (string, error)
	Close()
}

func (a *App) pipeline(name string) (*pipe, error) {
	p, ok := a.pipes[name]
	if !ok {
		return nil, &api.Error{Code: api.CodeNotFound, Detail: fmt.Sprintf("there is no pipeline %q; there are: %s", name, names(a.pipes))}
	}
	return p, nil
}

// reader is a pipeline that has something to read. Of one whose records are only pushed it says so.
func (a *App) reader(name string) (*pipe, error) {
	p, err := a.pipeline(name)
	if err != nil {
		return nil, err
	}
	if _, err := p.source.Describe(nil); err != nil {
		return nil, problem(err)
	}
	return p, nil
}

func names(m map[string]*pipe) string {
	if len(m) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// Process runs a pipeline for one fetch.
func (a *App) Process(ctx context.Context, name string) (api.Processed, error) {
	p, err := a.pipeline(name)
	if err != nil {
		return api.Processed{}, err
	}
	done, err := p.Process(ctx, a.requestContext(ctx))
	if err != nil {
		return api.Processed{}, problem(err)
	}
	out := api.Processed{Published: int(done.Published), Filtered: int(done.Filtered), Dead: len(done.Dead)}
	if len(done.Dead) > 0 && len(done.Results) == 0 {
		first := done.Dead[0]
		return out, &api.Error{Code: api.CodeDead, Detail: fmt.Sprintf(
			"%d record(s) became dead letters; the first (id %s) at %s: %s", len(done.Dead), first.ID,
			first.Header(record.HeaderDeadStage), first.Header(record.HeaderDeadReason))}
	}
	out.Data = joinResults(done.Results)
	return out, nil
}

// joinResults is the data of an answer: the one value, or an array of them.
func joinResults(results []record.Record) json.RawMessage {
	switch len(results) {
	case 0:
		return json.RawMessage("[]")
	case 1:
		return results[0].Data
	}
	size := 2
	for i := range results {
		size += len(results[i].Data) + 1
	}
	b := make([]byte, 0, size)
	b = append(b, '[')
	for i := range results {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, results[i].Data...)
	}
	return append(b, ']')
}

// Push carries records of a request's body.
func (a *App) Push(ctx context.Context, name, contentType string, body []byte) (api.Pushed, error) {
	p, err := a.pipeline(name)
	if err != nil {
		return api.Pushed{}, err
	}
	done, err := p.Push(ctx, a.requestContext(ctx), contentType, body)
	if err != nil {
		var bad *pipeline.BodyError
		if errors.As(err, &bad) {
			return api.Pushed{}, &api.Error{Code: api.CodeInvalid, Detail: bad.Error(), Err: err}
		}
		return api.Pushed{}, problem(err)
	}
	out := api.Pushed{
		Pipeline: name, Read: int(done.Read), Published: int(done.Published), RecordsOut: int(done.RecordsOut),
		Filtered: int(done.Filtered), Dead: len(done.Dead), IDs: make([]string, len(done.Results)),
	}
	for i := range done.Results {
		out.IDs[i] = done.Results[i].ID
	}
	return out, nil
}

// Preview reads one page and publishes nothing.
func (a *App) Preview(ctx context.Context, name string, req api.PreviewRequest) (api.Preview, error) {
	p, err := a.reader(name)
	if err != nil {
		return api.Preview{}, err
	}
	from := record.Cursor(req.Cursor)
	switch {
	case string(from) == "null":
		from = nil
	case len(from) == 0:
		if from, err = a.queue.Cursor(ctx, name, p.Topic()); err != nil {
			return api.Preview{}, problem(fmt.Errorf("read cursor: %w", err))
		}
	}
	var tr pipeline.Transform
	if len(req.Transform) > 0 {
		if tr, err = a.previewTransform(req.Transform); err != nil {
			return api.Preview{}, &api.Error{Code: api.CodeInvalid, Detail: err.Error()}
		}
	}
	out := api.Preview{Pipeline: name, Records: []api.PreviewRecord{}}
	if out.Request, err = p.source.Describe(from); err != nil {
		return out, &api.Error{Code: api.CodeInvalid, Detail: err.Error(), Err: err}
	}
	limit := req.Limit
	if limit <= 0 {
		limit = 20
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Server.RequestTimeout.D())
	defer cancel()
	got, err := p.Preview(ctx, from, tr, limit)
	if err != nil {
		return out, problem(err)
	}
	out.Read, out.End, out.Next, out.Warning = got.Read, got.End, json.RawMessage(got.Next), got.Warning
	if !got.End {
		if out.Then, err = p.source.Describe(got.Next); err != nil {
			return out, problem(err)
		}
	}
	for _, o := range got.Outcomes {
		view := api.PreviewRecord{ID: o.Record.ID, Key: o.Record.Key, Before: rawJSON(o.Record.Data), After: []json.RawMessage{}, Outcome: "published"}
		for i := range o.Results {
			view.After = append(view.After, json.RawMessage(o.Results[i].Data))
		}
		switch {
		case o.Dead != nil:
			view.Outcome, view.Reason = "dead", o.Dead.Error()
		case len(o.Results) == 0:
			view.Outcome = "filtered"
		}
		out.Records = append(out.Records, view)
	}
	return out, nil
}

// Programs that callers send run at most this many at once, each for at most this long.
const (
	guardPlaces = 4
	guardTime   = 2 * time.Second
)

// previewTransform compiles the steps that a caller wants to try. Schema files are the operator's: a caller names none.
func (a *App) previewTransform(raw []json.RawMessage) (pipeline.Transform, error) {
	steps := make([]config.Step, len(raw))
	for i, r := range raw {
		var s struct {
			Where string `json:"where"`
			Map   string `json:"map"`
		}
		if err := json.Unmarshal(r, &s); err != nil {
			return nil, fmt.Errorf("transform step %d: %w", i+1, err)
		}
		if (s.Where == "") == (s.Map == "") {
			return nil, fmt.Errorf("transform step %d: want either where or map", i+1)
		}
		steps[i] = config.Step{Where: s.Where, Map: s.Map}
	}
	return transform.New(steps, transform.Options{Guard: a.guard})
}

// Cursor reads a pipeline's saved progress.
func (a *App) Cursor(ctx context.Context, name string) (api.Cursor, error) {
	p, err := a.pipeline(name)
	if err != nil {
		return api.Cursor{}, err
	}
	cur, err := a.queue.Cursor(ctx, name, p.Topic())
	if err != nil {
		return api.Cursor{}, problem(fmt.Errorf("read cursor: %w", err))
	}
	return cursorView(name, cur), nil
}

func cursorView(name string, cur record.Cursor) api.Cursor {
	if len(cur) == 0 {
		return api.Cursor{Pipeline: name, Cursor: json.RawMessage("null")}
	}
	return api.Cursor{Pipeline: name, Cursor: rawJSON(cur)}
}

// SetCursor replaces the saved progress. It claims the pipeline's writer, so a run under way is fenced (invariant 6).
func (a *App) SetCursor(ctx context.Context, name string, value json.RawMessage) (api.Cursor, error) {
	p, err := a.reader(name)
	if err != nil {
		return api.Cursor{}, err
	}
	cur := record.Cursor(value)
	if string(cur) == "null" {
		cur = nil
	}
	if _, err := p.source.Describe(cur); err != nil {
		return api.Cursor{}, &api.Error{Code: api.CodeInvalid, Detail: err.Error(), Err: err}
	}
	if err := p.SetCursor(ctx, cur); err != nil {
		return api.Cursor{}, problem(err)
	}
	return cursorView(name, cur), nil
}

// requestContext names a request in its records' headers.
func (a *App) requestContext(ctx context.Context) pipeline.Context {
	return pipeline.Context{ID: a.requestID(ctx), Traceparent: a.tracing.Traceparent(ctx)}
}

// runner lets the scheduler run pipelines.
type runner struct{ app *App }

func (r runner) Run(ctx context.Context, info scheduler.Info) (scheduler.Outcome, error) {
	p, err := r.app.pipeline(info.Pipeline)
	if err != nil {
		return scheduler.Outcome{}, err
	}
	return r.app.runPipeline(ctx, p, info)
}
