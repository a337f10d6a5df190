package api

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// readyPatience is how long a readiness check may take.
const readyPatience = 2 * time.Second

func (h *Handler) registerProbes(rt *router) {
	alive := Alive{Status: "ok", Version: h.opt.Version}
	content := func() map[string]*huma.MediaType {
		return map[string]*huma.MediaType{"application/json": {Schema: schema[Alive](rt), Example: Alive{"ok", "1.0.0"}}}
	}
	raw(rt, operation{
		id: "get-liveness", method: http.MethodGet, path: "/livez", tag: tagService, free: true,
		summary: "Is the process alive?", description: "Always 200 while the process serves. Restart it when this fails; not when /readyz does.",
		says: "Alive.",
	}, nil, content(), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		writeJSON(w, alive)
	})

	raw(rt, operation{
		id: "get-readiness", method: http.MethodGet, path: "/readyz", tag: tagService, free: true, timeout: readyPatience,
		summary: "Can it serve?", description: "200 when requests can be served: the queue answers and the instance is not stopping. Otherwise 503, with what is missing.",
		says: "Ready.", problems: []Code{CodeNotReady, CodeStopping, CodeQueue},
	}, nil, content(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if h.draining.Load() {
			newProblem(CodeStopping, "This instance is stopping; it still serves.").write(w, exchangeOf(r.Context()))
			return
		}
		if err := h.svc.Ready(r.Context()); err != nil {
			p, hidden := notReady(r.Context(), err)
			if hidden {
				h.logFailure(r.Context(), p, err)
			}
			p.write(w, exchangeOf(r.Context()))
			return
		}
		writeJSON(w, alive)
	})

	metrics := h.opt.Metrics
	raw(rt, operation{
		id: "get-metrics", method: http.MethodGet, path: "/metrics", tag: tagService, role: roleRead, free: true,
		summary: "Metrics", description: "In the Prometheus text format. Prometheus sends the key as a bearer token (`authorization:` of its scrape config).",
		says: "Metrics.", problems: []Code{CodeNotFound},
	}, nil, map[string]*huma.MediaType{"text/plain": {
		Schema:  &huma.Schema{Type: huma.TypeString},
		Example: "# HELP ferry_build_info Version of this binary.\n# TYPE ferry_build_info gauge\nferry_build_info{version=\"1.0.0\"} 1\n",
	}}, func(w http.ResponseWriter, r *http.Request) {
		if metrics == nil {
			newProblem(CodeNotFound, "This instance keeps no metrics.").write(w, exchangeOf(r.Context()))
			return
		}
		metrics.ServeHTTP(w, r)
	})

	raw(rt, operation{
		id: "get-problem-type", method: http.MethodGet, path: "/problems/{code}", tag: tagService, free: true,
		summary: "What a problem means", description: "Explains the `type` of a problem document: as a page to browsers, as JSON to programs.",
		says: "What it means and what to do.",
	}, []*huma.Param{{Name: "code", In: "path", Required: true, Description: "The last part of the type.", Example: "not-found", Schema: &huma.Schema{Type: huma.TypeString}}},
		map[string]*huma.MediaType{
			"application/json": {Schema: schema[ProblemType](rt), Example: problemType(kindOf(CodeNotFound))},
			"text/html":        {Schema: &huma.Schema{Type: huma.TypeString}, Example: "<!doctype html><title>Not found</title>"},
		}, h.explain)
}

// notReady tells what is missing as a 503. Words that a Service did not write for callers are for the log (invariant 8):
// hidden is true then.
func notReady(ctx context.Context, err error) (p *Problem, hidden bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		if p = newProblem(e.Code, e.Detail); p.Status != http.StatusServiceUnavailable {
			p = newProblem(CodeNotReady, e.Detail)
		}
		p.retryAfter = e.RetryAfter
		return p, e.Err != nil
	}
	if ctx.Err() != nil {
		return newProblem(CodeNotReady, fmt.Sprintf("The check did not end within %s.", readyPatience)), false
	}
	return newProblem(CodeNotReady, "The check failed. The log tells why."), true
}

// ProblemType explains one kind of problem.
type ProblemType struct {
	Type   string `json:"type" doc:"The type as problems carry it."`
	Title  string `json:"title"`
	Status int    `json:"status" doc:"The HTTP status that comes with it."`
	Help   string `json:"help" doc:"What to do."`
}

func problemType(k kind) ProblemType {
	return ProblemType{problemPath + string(k.code), k.title, k.status, k.help}
}

func (h *Handler) explain(w http.ResponseWriter, r *http.Request) {
	code := Code(r.PathValue("code"))
	k := kindOf(code)
	if k.code != code {
		newProblem(CodeNotFound, "There is no such kind of problem.").write(w, exchangeOf(r.Context()))
		return
	}
	w.Header().Set("Vary", "Accept")
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		writeJSON(w, problemType(k))
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	if err := template.Must(template.New("problem").Parse(problemPage)).Execute(w, problemType(k)); err != nil {
		h.logFailure(r.Context(), newProblem(CodeInternal, ""), err)
	}
}

const problemPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Title}} · ferry</title>
<style>:root{color-scheme:light dark}body{font:16px/1.6 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}code{opacity:.7}</style>
<h1>{{.Title}}</h1><p>{{.Help}}</p><p><code>{{.Type}} · HTTP {{.Status}}</code></p><p><a href="/docs">The API's documentation</a></p></html>
`
