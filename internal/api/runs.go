package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// MostReceiveWait is how long a receive may wait for the first record, on top of server.request_timeout.
const MostReceiveWait = time.Minute

const mostWait = 5 * time.Minute

// WaitQuery is the parameter of operations that can answer later.
type WaitQuery struct {
	Wait string `query:"wait" maxLength:"16" doc:"Answer when the run has ended, or after this long; at most 5m." example:"30s"`

	wait time.Duration
}

// Resolve is huma.Resolver: it reads the duration beside huma's own checks, so that all that is wrong is told at once.
func (q *WaitQuery) Resolve(huma.Context) []error {
	d, why := duration(q.Wait, mostWait)
	if why != "" {
		return []error{&huma.ErrorDetail{Location: "query.wait", Message: why, Value: q.Wait}}
	}
	q.wait = d
	return nil
}

// duration reads a wait; "" is none. why tells what is wrong with it.
func duration(s string, most time.Duration) (d time.Duration, why string) {
	if s == "" {
		return 0, ""
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil || d < 0:
		return 0, "expected a duration such as 30s"
	case d > most:
		return 0, "expected at most " + most.String()
	}
	return d, ""
}

func (h *Handler) registerRuns(rt *router) {
	typed(rt, operation{
		id: "start-run", method: http.MethodPost, path: "/v1/pipelines/{name}/runs", tag: tagRuns, role: roleRun,
		summary: "Start a run",
		description: "Starts a run from the saved cursor and answers 202 at once, with its address in Location. When a run is under way " +
			"no other is started, and the answer is that one. With `wait` it answers 200 when the run has ended, whether it succeeded or not " +
			"(see `status`), or 202 when it has not by then.",
		status: http.StatusAccepted, timeout: -1,
		says: "The run is under way.", example: StartedRun{Run: exampleRunning(), New: true},
		problems: []Code{CodeQueue, CodeStopping, CodeConflict},
	}, func(ctx context.Context, in *struct {
		PipelinePath
		WaitQuery
		Repeatable
	},
	) (*startedOutput, error) {
		start, cancel := context.WithTimeout(ctx, h.opt.Server.RequestTimeout.D())
		run, isNew, err := h.svc.StartRun(start, in.Name)
		cancel()
		if err != nil {
			return nil, err
		}
		if in.wait > 0 && run.Ended == nil {
			if run, err = h.waitRun(ctx, run.ID, in.wait); err != nil {
				return nil, err
			}
		}
		out := &startedOutput{Status: http.StatusAccepted, Location: "/v1/runs/" + run.ID, Body: StartedRun{run, isNew}}
		if in.wait > 0 && run.Ended != nil {
			out.Status = http.StatusOK
		}
		return out, nil
	})
	start := rt.api.OpenAPI().Paths["/v1/pipelines/{name}/runs"].Post
	start.Responses["202"].Headers["Location"].Description = "Address of the run."
	start.Responses["200"] = jsonResponse[StartedRun](rt, "The run has ended (only with `wait`).", StartedRun{Run: exampleRun(), New: true})
	start.Responses["200"].Headers = start.Responses["202"].Headers

	typed(rt, operation{
		id: "list-runs", method: http.MethodGet, path: "/v1/runs", tag: tagRuns, role: roleRead,
		summary: "List runs", description: "The history of runs, the newest first, those under way included.",
		says: "Runs.", example: RunList{Runs: []Run{exampleRun()}}, problems: []Code{CodeInvalid, CodeNotFound},
	}, func(ctx context.Context, in *struct {
		Pipeline string `query:"pipeline" maxLength:"128" doc:"Only this pipeline's runs." example:"orders"`
		Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Most runs to list."`
	},
	) (*body[RunList], error) {
		v, err := h.svc.Runs(ctx, in.Pipeline, in.Limit)
		return reply(RunList{some(v)}, err)
	})

	typed(rt, operation{
		id: "get-run", method: http.MethodGet, path: "/v1/runs/{id}", tag: tagRuns, role: roleRead, timeout: -1,
		summary: "Show a run", description: "State and counters of a run. With `wait` it answers when the run has ended, or after that long with the run as it then is.",
		says: "The run.", example: exampleRun(),
	}, func(ctx context.Context, in *struct {
		RunPath
		WaitQuery
	},
	) (*body[Run], error) {
		if in.wait > 0 {
			return reply(h.waitRun(ctx, in.ID, in.wait))
		}
		ctx, cancel := context.WithTimeout(ctx, h.opt.Server.RequestTimeout.D())
		defer cancel()
		return reply(h.svc.Run(ctx, in.ID))
	})

	typed(rt, operation{
		id: "cancel-run", method: http.MethodPost, path: "/v1/runs/{id}/cancel", tag: tagRuns, role: roleRun,
		summary: "Cancel a run", description: "Asks the run to stop after its next commit. Nothing is lost: the next run goes on from there. A run that has ended stays as it is.",
		says: "The run as it now is.", example: exampleRunning(),
	}, func(ctx context.Context, in *struct {
		RunPath
		Repeatable
	},
	) (*body[Run], error) {
		return reply(h.svc.CancelRun(ctx, in.ID))
	})
}

// RunPath names a run in an address.
type RunPath struct {
	ID string `path:"id" maxLength:"128" doc:"The run." example:"01JNB4X7Z8QK"`
}

type startedOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     StartedRun
}

// waitRun waits for a run to end, for as long as asked, or until this instance stops.
func (h *Handler) waitRun(ctx context.Context, id string, wait time.Duration) (Run, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	go func() {
		select {
		case <-h.stop:
			cancel()
		case <-waiting.Done():
		}
	}()
	run, err := h.svc.WaitRun(waiting, id)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return h.svc.Run(ctx, id) // waiting in vain is no failure
	}
	return run, err
}
