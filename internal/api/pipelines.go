package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// PipelinePath names a pipeline in the address. (Types that inputs embed are exported because huma fills only those.)
type PipelinePath struct {
	Name string `path:"name" maxLength:"128" doc:"The pipeline." example:"orders"`
}

// Repeatable is part of the input of every POST: the guard reads the header, huma documents it.
type Repeatable struct {
	Key string `header:"Idempotency-Key" doc:"Makes a repetition safe: see the introduction. 1 to 255 printable ASCII characters, in double quotes or without." minLength:"1" maxLength:"257" pattern:"^(\"[ -~]{1,255}\"|[!#-~][ -~]{0,254})$" example:"order-4711-try"`
}

func (h *Handler) registerPipelines(rt *router) {
	typed(rt, operation{
		id: "list-pipelines", method: http.MethodGet, path: "/v1/pipelines", tag: tagPipelines, role: roleRead,
		summary: "List pipelines", description: "Every pipeline with its state, the reason for it, counters and the next scheduled run.",
		says: "All pipelines.", example: PipelineList{Pipelines: []Pipeline{examplePipeline()}},
	}, func(ctx context.Context, _ *struct{}) (*body[PipelineList], error) {
		v, err := h.svc.Pipelines(ctx)
		return reply(PipelineList{some(v)}, err)
	})

	typed(rt, operation{
		id: "get-pipeline", method: http.MethodGet, path: "/v1/pipelines/{name}", tag: tagPipelines, role: roleRead,
		summary: "Show a pipeline", description: "State, reason, counters, next scheduled run and last run.",
		says: "The pipeline.", example: examplePipeline(),
	}, func(ctx context.Context, in *PipelinePath) (*body[Pipeline], error) {
		return reply(h.svc.Pipeline(ctx, in.Name))
	})

	typed(rt, operation{
		id: "preview-pipeline", method: http.MethodPost, path: "/v1/pipelines/{name}/preview", tag: tagPipelines, role: roleRun,
		summary: "Try a pipeline without publishing",
		description: "Reads the first page from the saved cursor, or from the one given, and shows its records before and after the transform. " +
			"Nothing is published and no cursor moves. `transform` tries other steps; they run under tight limits of time and memory.",
		says: "What a run would do with the page.", example: examplePreview(), request: PreviewRequest{Limit: 5},
		problems: []Code{CodeUpstream, CodeRateLimited},
	}, func(ctx context.Context, in *struct {
		PipelinePath
		Repeatable
		Body *PreviewRequest
	},
	) (*body[Preview], error) {
		var req PreviewRequest
		if in.Body != nil {
			req = *in.Body
		}
		v, err := h.svc.Preview(ctx, in.Name, req)
		v.Records = some(v.Records)
		for i := range v.Records {
			v.Records[i].After = some(v.Records[i].After)
		}
		return reply(v, err)
	})

	typed(rt, operation{
		id: "pause-pipeline", method: http.MethodPost, path: "/v1/pipelines/{name}/pause", tag: tagPipelines, role: roleAdmin,
		summary: "Pause a pipeline", description: "No scheduled run starts until it is resumed, also after a restart. A run under way goes on.",
		says: "The pipeline as it now is.", example: examplePaused(),
	}, func(ctx context.Context, in *struct {
		PipelinePath
		Repeatable
	},
	) (*body[Pipeline], error) {
		return reply(h.svc.Pause(ctx, in.Name))
	})

	typed(rt, operation{
		id: "resume-pipeline", method: http.MethodPost, path: "/v1/pipelines/{name}/resume", tag: tagPipelines, role: roleAdmin,
		summary: "Resume a pipeline", description: "The schedule starts runs again.",
		says: "The pipeline as it now is.", example: examplePipeline(),
	}, func(ctx context.Context, in *struct {
		PipelinePath
		Repeatable
	},
	) (*body[Pipeline], error) {
		return reply(h.svc.Resume(ctx, in.Name))
	})
}

func (h *Handler) registerCursors(rt *router) {
	example := Cursor{Pipeline: "orders", Cursor: json.RawMessage(`{"v":1,"next":"eyJpZCI6NDIwMH0"}`)}

	typed(rt, operation{
		id: "get-cursor", method: http.MethodGet, path: "/v1/pipelines/{name}/cursor", tag: tagCursors, role: roleRead,
		summary: "Show the cursor", description: "The pipeline's saved progress: everything before it is durable in the queue.",
		says: "The cursor; null means the beginning.", example: example,
	}, func(ctx context.Context, in *PipelinePath) (*body[Cursor], error) {
		return reply(h.svc.Cursor(ctx, in.Name))
	})

	typed(rt, operation{
		id: "set-cursor", method: http.MethodPut, path: "/v1/pipelines/{name}/cursor", tag: tagCursors, role: roleAdmin,
		summary: "Set the cursor", description: "The next run reads from here: a backfill. A run under way is fenced and ends.",
		says: "The cursor as it now is.", example: example, request: SetCursor{Cursor: json.RawMessage(`{"v":1,"next":"eyJpZCI6NDIwMH0"}`)},
	}, func(ctx context.Context, in *struct {
		PipelinePath
		Body SetCursor
	},
	) (*body[Cursor], error) {
		if in.Body.Pipeline != "" && in.Body.Pipeline != in.Name {
			return nil, invalid("body.pipeline", "is not the pipeline in the address")
		}
		value := in.Body.Cursor
		if string(value) == "null" {
			value = nil
		}
		return reply(h.svc.SetCursor(ctx, in.Name, value))
	})

	typed(rt, operation{
		id: "reset-cursor", method: http.MethodDelete, path: "/v1/pipelines/{name}/cursor", tag: tagCursors, role: roleAdmin,
		summary: "Reset the cursor", description: "The next run reads from the beginning. Records keep their ids. A run under way is fenced and ends.",
		says: "The cursor as it now is.", example: Cursor{Pipeline: "orders", Cursor: json.RawMessage("null")},
	}, func(ctx context.Context, in *PipelinePath) (*body[Cursor], error) {
		return reply(h.svc.SetCursor(ctx, in.Name, nil))
	})
}

func exampleRun() Run {
	started := time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)
	ended := started.Add(4200 * time.Millisecond)
	return Run{
		ID: "01JNB4X7Z8QK", Pipeline: "orders", Trigger: "request", Status: "succeeded",
		Counters: Counters{Pages: 100, Read: 10_000, Published: 9_940, Filtered: 48, Seen: 10, Dead: 2, RecordsOut: 9_940},
		Started:  started, Ended: &ended, LastProgress: ended, Seconds: 4.2, TotalHint: 10_000,
	}
}

func exampleRunning() Run {
	r := exampleRun()
	r.Status, r.Ended = "running", nil
	r.Counters = Counters{Pages: 40, Read: 4_000, Published: 3_975, Filtered: 20, Seen: 4, Dead: 1, RecordsOut: 3_975}
	return r
}

func examplePipeline() Pipeline {
	run := exampleRun()
	next := run.Started.Add(5 * time.Minute)
	return Pipeline{Name: "orders", Topic: "orders", State: "idle", Schedule: "every 5m0s", NextRun: &next, LastRun: &run, Counters: run.Counters}
}

func examplePaused() Pipeline {
	p := examplePipeline()
	p.State, p.Reason, p.NextRun = "paused", "paused by ops", nil
	return p
}

func examplePreview() Preview {
	return Preview{
		Pipeline: "orders", Request: "GET https://api.example.com/v1/orders?status=open", Read: 100,
		Records: []PreviewRecord{{
			ID: "9f86d081884c7d659a2feaa0c55ad015", Key: "4711", Outcome: "published",
			Before: json.RawMessage(`{"id":4711,"lines":[{"price":10,"qty":2}]}`),
			After:  []json.RawMessage{json.RawMessage(`{"id":4711,"total":20}`)},
		}},
		Next: json.RawMessage(`{"v":1,"next":"eyJpZCI6NDIwMH0"}`),
		Then: "GET https://api.example.com/v1/orders?status=open&after=eyJpZCI6NDIwMH0",
	}
}
