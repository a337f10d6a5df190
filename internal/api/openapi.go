package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const description = `ferry carries records from HTTP APIs to a message queue, each record exactly once where the queue makes that possible.

**Keys.** When API keys are configured, send one as ` + "`X-API-Key`" + ` or as ` + "`Authorization: Bearer`" + `. The roles are read (look), run (also start runs, publish and take records) and admin (also steer). ` + "`/livez`, `/readyz`" + ` and this documentation are open.

**Errors** are problem documents (RFC 9457, ` + "`application/problem+json`" + `). Their ` + "`type`" + ` is stable: ` + "`/problems/`" + ` and a code; GET it to read what to do. Every broken rule of a request is listed at once.

**Safe repetition.** Send an ` + "`Idempotency-Key`" + ` with a POST: the same request with the same key gets the first answer again, with ` + "`Idempotent-Replayed: true`" + `, for 24 hours, on every instance that shares the state. A failure (5xx) is not kept: the repetition tries again.

**Durability.** An answer that says "processed" is sent only after the record is durable in the queue.

**Browsers.** Writes from pages of other origins are refused, and so is a cross-origin GET of /process, because it runs a pipeline.`

// register builds the API: every operation, its documentation, and the pages around it.
func (h *Handler) register() {
	rt := &router{h: h}
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: decode}
	config := huma.Config{
		OpenAPI: h.skeleton(),
		Formats: map[string]huma.Format{"application/json": format, "json": format},

		DefaultFormat: "application/json",
		Transformers: []huma.Transformer{func(ctx huma.Context, _ string, v any) (any, error) {
			p, ok := v.(*Problem)
			if e, is := v.(*huma.ErrorModel); is {
				p, ok = fromHuma(e), true
			}
			if !ok {
				return v, nil
			}
			x := exchangeOf(ctx.Context())
			p.Instance = x.instance()
			if p.Code() == CodeInvalid {
				p.violated(x.query)
			}
			return p, nil
		}},
	}
	rt.api = huma.NewAPI(config, rt)
	rt.components()

	h.registerProcess(rt)
	h.registerPipelines(rt)
	h.registerRuns(rt)
	h.registerInstances(rt)
	h.registerCursors(rt)
	h.registerTopics(rt)
	h.registerDead(rt)
	h.registerStream(rt)
	h.registerProbes(rt)
	h.registerDocument(rt.api.OpenAPI())
	h.registerPages()
}

// skeleton is the OpenAPI document before its operations.
func (h *Handler) skeleton() *huma.OpenAPI {
	server := &huma.Server{URL: "/", Description: "This instance"}
	if u := h.opt.Server.PublicURL; u != "" {
		server.URL = u
	}
	version := h.opt.Version
	if version == "" {
		version = "dev"
	}
	return &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "ferry", Version: version, Description: description,
			Contact: &huma.Contact{Name: "The people who run this instance"},
			License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
		},
		Servers: []*huma.Server{server},
		Tags: []*huma.Tag{
			{Name: tagProcess, Description: "One fetch, one answer: no cursor, any number at once."},
			{Name: tagPipelines, Description: "What each pipeline is doing, and steering it."},
			{Name: tagRuns, Description: "A run reads pages from the cursor until there is no more."},
			{Name: tagCursors, Description: "A pipeline's saved progress. A backfill is a PUT of the cursor."},
			{Name: tagTopics, Description: "Records in the queue: count, look, take, acknowledge."},
			{Name: tagDead, Description: "Records that could not go on, with the reason, kept for replay."},
			{Name: tagService, Description: "Live updates, probes, metrics."},
		},
		Components: &huma.Components{
			Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
			SecuritySchemes: map[string]*huma.SecurityScheme{
				"apiKey": {Type: "apiKey", In: "header", Name: "X-API-Key", Description: "A key of auth.keys."},
				"bearer": {Type: "http", Scheme: "bearer", Description: "The same key as Authorization: Bearer KEY."},
			},
			Headers: map[string]*huma.Header{
				"X-Request-Id":     {Description: "Id of this request; the log has it too. A caller may send its own.", Schema: &huma.Schema{Type: huma.TypeString}, Example: "1f0a3c5e77-2s"},
				"Retry-After":      {Description: "Seconds to wait before another try, when that is known.", Schema: &huma.Schema{Type: huma.TypeInteger}, Example: 1},
				"WWW-Authenticate": {Description: "How to authenticate.", Schema: &huma.Schema{Type: huma.TypeString}, Example: `Bearer realm="ferry"`},
			},
			Examples: map[string]*huma.Example{},
		},
	}
}

const (
	tagProcess   = "process"
	tagPipelines = "pipelines"
	tagRuns      = "runs"
	tagCursors   = "cursors"
	tagTopics    = "topics"
	tagDead      = "dead letters"
	tagService   = "service"
)

// components puts an example of every problem where operations refer to it.
func (rt *router) components() {
	for _, k := range kinds() {
		if k.code == CodeNoRoute || k.code == CodeMethod {
			continue // no operation answers so
		}
		p := newProblem(k.code, exampleDetail(k))
		p.Instance = "urn:ferry:request:1f0a3c5e77-2s"
		if k.code == CodeInvalid {
			p.Errors = []Violation{{Location: "query.limit", Message: "expected number <= 1000", Value: "5000"}}
		}
		rt.api.OpenAPI().Components.Examples[string(k.code)] = &huma.Example{Summary: k.title, Description: k.help, Value: p}
	}
}

func exampleDetail(k kind) string {
	switch k.code {
	case CodeInvalid:
		return "1 of the request's parts cannot be taken as they are."
	case CodeForbidden:
		return `The key "dashboard" has the role read; this needs admin.`
	case CodeNotFound:
		return `There is no pipeline "ordres".`
	case CodeUpstream:
		return "GET https://api.example.com/v1/orders answered 500 Internal Server Error, 6 times."
	}
	return k.help
}

func (rt *router) problemSchema() *huma.Schema {
	return rt.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
}

// schema is a reference to the schema of T.
func schema[T any](rt *router) *huma.Schema {
	return rt.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

// registerDocument serves the finished document; nothing is added to it afterwards. It is written when it is first asked
// for, because that takes longer than all the rest of the start.
func (h *Handler) registerDocument(doc *huma.OpenAPI) {
	h.serveText("GET /openapi.json", "/openapi.json", "application/openapi+json", func() ([]byte, error) {
		plain, err := json.Marshal(doc)
		if err != nil {
			return nil, fmt.Errorf("write OpenAPI document: %w", err)
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, plain, "", "  "); err != nil {
			return nil, fmt.Errorf("indent OpenAPI document: %w", err)
		}
		return append(pretty.Bytes(), '\n'), nil
	})
	h.serveText("GET /openapi.yaml", "/openapi.yaml", "application/openapi+yaml", doc.YAML)
}

// serveText serves bytes that do not change while the process runs, made when they are first asked for, with a
// validator so that callers can ask cheaply whether they have them. headers are names and values in turn.
func (h *Handler) serveText(pattern, route, contentType string, content func() ([]byte, error), headers ...string) {
	type text struct {
		bytes []byte
		etag  string
	}
	made := sync.OnceValues(func() (text, error) {
		b, err := content()
		sum := sha256.Sum256(b)
		return text{b, strconv.Quote(hex.EncodeToString(sum[:12]))}, err
	})
	headers = append(headers, "Content-Type", contentType, "Cache-Control", "no-cache")
	h.open(pattern, route, func(w http.ResponseWriter, r *http.Request) {
		t, err := made()
		if err != nil {
			h.fail(w, r, err)
			return
		}
		w.Header().Set("ETag", t.etag)
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(t.bytes))
	})
}

// open registers a page that needs no key and is not part of the OpenAPI document.
func (h *Handler) open(pattern, route string, handle http.HandlerFunc) {
	h.mux.HandleFunc(pattern, h.guard(route, access{role: roleOpen, body: openBody}, handle))
}
