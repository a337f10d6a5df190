package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// heartbeat keeps proxies from closing a quiet stream, and shows a dead connection.
const heartbeat = 15 * time.Second

func (h *Handler) registerStream(rt *router) {
	schema[Update](rt) // the document tells what data holds
	raw(rt, operation{
		id: "stream-updates", method: http.MethodGet, path: "/v1/stream", tag: tagService, role: roleRead, free: true, timeout: -1,
		summary: "Live updates",
		description: "What this instance does, as server-sent updates (`text/event-stream`): named `run` or `pipeline`, their data is an Update as JSON. " +
			"A comment comes every 15 s. A slow reader misses updates; there is no replay, so `Last-Event-ID` is taken and ignored: read the state once " +
			"after connecting, and now and then where other instances run too. The stream ends when the instance stops.",
		says: "Updates, until the caller leaves or the instance stops.", problems: []Code{CodeOverloaded, CodeStopping},
	}, []*huma.Param{{Name: "Last-Event-ID", In: "header", Description: "Sent by browsers that connect again; ignored.", Schema: &huma.Schema{Type: huma.TypeString}}},
		map[string]*huma.MediaType{"text/event-stream": {
			Schema:  &huma.Schema{Type: huma.TypeString, Description: "Each data line is an Update (see the schemas)."},
			Example: "event: run\ndata: {\"type\":\"run\",\"run\":{\"run\":\"01JNB4X7Z8QK\",\"pipeline\":\"orders\",\"status\":\"running\"}}\n\n",
		}}, h.stream)
}

// stream sends updates as they come. Each write has to be taken within server.body_timeout.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	defer h.streams.Add(-1)
	if h.streams.Add(1) > mostStreams {
		p := newProblem(CodeOverloaded, "This instance serves as many streams as it may.")
		p.retryAfter = heartbeat
		p.write(w, x)
		return
	}
	select {
	case <-h.stop:
		newProblem(CodeStopping, "This instance is stopping.").write(w, x)
		return
	default:
	}
	updates := h.svc.Subscribe(r.Context())
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would hold updates back
	w.WriteHeader(http.StatusOK)
	send := func(b []byte) bool {
		x.patience(x.patient)
		if _, err := w.Write(b); err != nil {
			return false
		}
		return http.NewResponseController(w).Flush() == nil
	}
	if r.Method == http.MethodHead || !send([]byte("retry: 2000\n\n")) {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case u, open := <-updates:
			if !open {
				return
			}
			data, err := json.Marshal(u)
			if err != nil {
				h.logFailure(r.Context(), newProblem(CodeInternal, ""), err)
				return
			}
			b := append([]byte("event: "+u.Type+"\ndata: "), data...)
			if !send(append(b, "\n\n"...)) {
				return
			}
		case <-beat.C:
			if !send([]byte(": still here\n\n")) {
				return
			}
		case <-h.stop:
			return
		case <-r.Context().Done():
			return
		}
	}
}
