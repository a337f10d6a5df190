package api

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// processed documents the answer of /process, which is written by hand.
type processed struct {
	Message string          `json:"message" enum:"Data processed" doc:"Always \"Data processed\": the record is durable in the queue."`
	Data    json.RawMessage `json:"data" doc:"The record as it was published; an array of them when the fetch gave several, an empty one when all were filtered out."`
}

const (
	processPath   = "/process"
	processAllows = "GET, POST"
	// defaultPipeline is the one that /process runs.
	defaultPipeline = "process"
)

func (h *Handler) registerProcess(rt *router) {
	content := func() map[string]*huma.MediaType {
		return map[string]*huma.MediaType{"application/json": {
			Schema: schema[processed](rt),
			Example: processed{"Data processed", json.RawMessage(
				`{"transformed_data":{"id":1,"name":"Sample Data","value":100},"status":"processed"}`)},
		}}
	}
	about := "Fetches once from the pipeline's source, transforms what came, and answers when the result is durable in the queue. " +
		"There is no cursor: any number of these may run at once."
	problems := []Code{CodeUpstream, CodeRateLimited, CodeTimeout, CodeQueue, CodeQueueFull, CodeStopping, CodeDead, CodeNotFound, CodeInvalid} // invalid: a pipeline that takes only what is pushed, or the query
	says := "The record is durable in the queue."

	raw(rt, operation{
		id: "process", method: http.MethodGet, path: processPath, tag: tagProcess, role: roleRun, runs: true,
		summary: "Fetch, transform, publish", says: says, problems: problems,
		description: about + "\n\nThis GET runs something, so HEAD is refused, nothing may cache the answer, and a page of another " +
			"origin may not call it. A proxy has to be kept from repeating it by itself.",
	}, nil, content(), func(w http.ResponseWriter, r *http.Request) { h.process(w, r, defaultPipeline) })

	raw(rt, operation{
		id: "process-post", method: http.MethodPost, path: processPath, tag: tagProcess, role: roleRun,
		summary: "Fetch, transform, publish (POST)", says: says, problems: problems,
		description: about + "\n\nThe same as GET /process. Honours Idempotency-Key.",
	}, []*huma.Param{idempotencyParam()}, content(), func(w http.ResponseWriter, r *http.Request) { h.process(w, r, defaultPipeline) })

	raw(rt, operation{
		id: "process-pipeline", method: http.MethodPost, path: "/v1/pipelines/{name}/process", tag: tagProcess, role: roleRun,
		summary: "Fetch, transform, publish, for any pipeline", says: says, problems: problems,
		description: about,
	}, []*huma.Param{nameParam(), idempotencyParam()}, content(), func(w http.ResponseWriter, r *http.Request) { h.process(w, r, r.PathValue("name")) })

	push := operation{
		id: "push-records", method: http.MethodPost, path: "/v1/pipelines/{name}/records", tag: tagProcess, role: roleRun,
		summary: "Push records",
		description: "Carries the records in the body through the pipeline's transform. A JSON array holds several records, any other JSON " +
			"value is one; NDJSON holds one a line. A pipeline that takes nothing else says source: {push: true}. When it answers, every record is durable in the queue, filtered out, or kept as a dead letter.",
		body: int64(h.opt.Server.BodyBytes), says: "What became of the records: read = published + filtered + dead.",
		problems: []Code{CodeQueue, CodeQueueFull, CodeStopping},
	}
	rawWithBody(rt, push, []*huma.Param{nameParam(), idempotencyParam()}, &huma.RequestBody{
		Required:    true,
		Description: "The records.",
		Content: map[string]*huma.MediaType{
			"application/json":     {Schema: &huma.Schema{Description: "One record, which may be any JSON value but an array, or an array of them."}, Example: []any{map[string]any{"id": 7, "total": 12.5}}},
			"application/x-ndjson": {Schema: &huma.Schema{Type: huma.TypeString, Description: "One record a line."}, Example: "{\"id\":7}\n{\"id\":8}\n"},
		},
	}, map[string]*huma.MediaType{"application/json": {
		Schema:  schema[Pushed](rt),
		Example: Pushed{Pipeline: "orders", Read: 1, Published: 1, RecordsOut: 1, IDs: []string{"9f86d081884c7d659a2feaa0c55ad015"}},
	}}, h.push)
}

func rawWithBody(rt *router, o operation, params []*huma.Param, in *huma.RequestBody, out map[string]*huma.MediaType, handle http.HandlerFunc) {
	raw(rt, o, params, out, handle)
	rt.api.OpenAPI().Paths[o.path].Post.RequestBody = in
}

func nameParam() *huma.Param {
	most := 128
	return &huma.Param{
		Name: "name", In: "path", Required: true, Description: "The pipeline.", Example: "orders",
		Schema: &huma.Schema{Type: huma.TypeString, MaxLength: &most},
	}
}

// idempotencyParam is Repeatable for operations that huma does not see.
func idempotencyParam() *huma.Param {
	least, most := 1, 257
	return &huma.Param{
		Name: "Idempotency-Key", In: "header", Example: "order-4711-try",
		Description: "Makes a repetition safe: see the introduction. 1 to 255 printable ASCII characters, in double quotes or without.",
		Schema:      &huma.Schema{Type: huma.TypeString, MinLength: &least, MaxLength: &most, Pattern: `^("[ -~]{1,255}"|[!#-~][ -~]{0,254})$`},
	}
}

const (
	answerStart = `{"message":"Data processed","data":`
	answerEnd   = "}\n"
)

// process is the busiest handler: it writes its answer without reflection, and answers only when Service.Process says
// that the result is durable (invariant 2).
func (h *Handler) process(w http.ResponseWriter, r *http.Request, pipeline string) {
	if r.Method == http.MethodHead { // the mux sends HEAD where GET goes, and HEAD must not run anything
		w.Header().Set("Allow", processAllows)
		newProblem(CodeMethod, "HEAD would run the pipeline. Use GET or POST.").write(w, exchangeOf(r.Context()))
		return
	}
	result, err := h.svc.Process(r.Context(), pipeline)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	data := []byte(result.Data)
	if len(data) == 0 {
		data = []byte("[]")
	}
	buf, _ := h.answers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	b := append((*buf)[:0], answerStart...) //nolint:gocritic // the grown one goes back below
	b = append(b, data...)
	b = append(b, answerEnd...)
	header := w.Header()
	header["Content-Type"] = []string{"application/json"}
	header["Cache-Control"] = []string{"no-store"}
	header["Content-Length"] = []string{strconv.Itoa(len(b))}
	w.WriteHeader(http.StatusOK)
	w.Write(b)
	if cap(b) <= 64<<10 { // one huge answer must not stay in the pool
		*buf = b
		h.answers.Put(buf)
	}
}

// push hands the body to the pipeline as it is.
func (h *Handler) push(w http.ResponseWriter, r *http.Request) {
	given := r.Header.Get("Content-Type")
	contentType, _, err := mime.ParseMediaType(given)
	switch {
	case given == "":
		contentType = "application/json"
	case err != nil || !(contentType == "application/x-ndjson" || contentType == "application/ndjson" ||
		contentType == "application/json" || strings.HasSuffix(contentType, "+json")):
		newProblem(CodeMediaType, fmt.Sprintf("Send application/json or application/x-ndjson, not %s.", printable(given))).write(w, exchangeOf(r.Context()))
		return
	}
	body, ok := r.Body.(*requestBody)
	if !ok || len(body.whole) == 0 {
		newProblem(CodeMalformed, "The body is empty; it has to hold records.").write(w, exchangeOf(r.Context()))
		return
	}
	pushed, err := h.svc.Push(r.Context(), r.PathValue("name"), contentType, body.whole)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	pushed.IDs = some(pushed.IDs)
	writeJSON(w, pushed)
}

// writeJSON answers 200 with a value of one of this package's types, all of which can be marshalled.
func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %s: %v", reflect.TypeOf(v), err)) // a defect: Service gave JSON that is none
	}
	b = append(b, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	w.Write(b)
}
