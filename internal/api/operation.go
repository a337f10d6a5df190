package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// operation is one row of the API: where it is, who may call it, and how it is documented. Everything that the OpenAPI
// document and the guard need comes from here.
type operation struct {
	id, method, path string
	tag              string
	summary          string
	description      string
	role             role
	runs             bool          // does something even by GET
	free             bool          // does not count against server.in_flight: probes and what waits long
	timeout          time.Duration // 0: server.request_timeout; < 0: none
	body             int64         // largest body; 0: smallBody, or openBody without a key
	status           int           // of success; 0: 200
	says             string        // what the answer of success holds
	example          any           // of the answer: a value of its Go type
	request          any           // example of the body
	problems         []Code        // beside those that every operation shares
}

// router registers operations with huma and the mux. It is used while New runs only.
type router struct {
	h   *Handler
	api huma.API
}

// Handle is huma.Adapter: it hands requests to huma behind the guard.
func (rt *router) Handle(op *huma.Operation, next func(huma.Context)) {
	a := op.Metadata[accessKey].(access)
	known := queryNames(op.Parameters)
	rt.h.mux.HandleFunc(op.Method+" "+op.Path, rt.h.guard(op.Path, a, func(w http.ResponseWriter, r *http.Request) {
		exchangeOf(r.Context()).query = checkQuery(r.URL.RawQuery, known)
		next(humago.NewContext(op, r, w))
	}))
}

func queryNames(params []*huma.Param) map[string]bool {
	names := map[string]bool{}
	for _, p := range params {
		names[p.Name] = p.In == "query"
	}
	return names
}

// checkQuery finds parameters that the operation does not have: misspelled, most of all. huma could refuse them, but
// would not look at the rest then; here they are told beside whatever huma finds. So are parts that cannot be read, which
// net/http leaves out, as if they had not been sent.
func checkQuery(query string, known map[string]bool) []Violation {
	if query == "" {
		return nil
	}
	var wrong []Violation
	for part := range strings.SplitSeq(query, "&") {
		given, err := url.ParseQuery(part)
		if err != nil {
			name, value, _ := strings.Cut(part, "=")
			at := "query." + printable(name)
			wrong = append(wrong, Violation{at, "cannot be read: write & between parameters, a % as %25 and a ; as %3B", echo(at, value)})
		}
		for name := range given {
			if !known[name] {
				wrong = append(wrong, Violation{Location: "query." + printable(name), Message: "unknown query parameter"})
			}
		}
	}
	slices.SortFunc(wrong, func(a, b Violation) int { return strings.Compare(a.Location, b.Location) })
	return slices.CompactFunc(wrong, func(a, b Violation) bool { return a.Location == b.Location })
}

// ServeHTTP is huma.Adapter's other half; nothing calls it.
func (rt *router) ServeHTTP(w http.ResponseWriter, r *http.Request) { rt.h.mux.ServeHTTP(w, r) }

const accessKey = "access"

// typed registers an operation whose input is parsed and checked, and whose output is written, by huma.
func typed[I, O any](rt *router, o operation, handle func(ctx context.Context, in *I) (*O, error)) {
	o.problems = append(slices.Clip(o.problems), CodeInvalid) // for the query
	op := rt.document(o)
	huma.Register(rt.api, op, func(ctx context.Context, in *I) (*O, error) {
		if len(exchangeOf(ctx).query) > 0 {
			return nil, newProblem(CodeInvalid, "") // they are added where all problems pass
		}
		out, err := handle(ctx, in)
		if err != nil {
			p, hidden := problemOf(ctx, err)
			if hidden {
				rt.h.logFailure(ctx, p, err)
			}
			return nil, p
		}
		return out, nil
	})
}

// raw registers an operation that answers by itself, for where huma's reflection costs too much or the body is not
// JSON. It is documented like every other: answer says what success looks like, and params are read by the handler. What
// does something refuses a query that it does not know, as typed operations do; a probe may be asked with anything.
func raw(rt *router, o operation, params []*huma.Param, content map[string]*huma.MediaType, handle http.HandlerFunc) {
	op := rt.document(o)
	op.Parameters = params
	ok := op.Responses[strconv.Itoa(op.DefaultStatus)]
	ok.Content = content
	rt.api.OpenAPI().AddOperation(&op)
	a := op.Metadata[accessKey].(access)
	known := queryNames(params)
	rt.h.mux.HandleFunc(op.Method+" "+op.Path, rt.h.guard(op.Path, a, func(w http.ResponseWriter, r *http.Request) {
		if a.runs && r.Method != http.MethodHead { // which is refused whatever is asked
			if wrong := checkQuery(r.URL.RawQuery, known); len(wrong) > 0 {
				p := newProblem(CodeInvalid, "")
				p.violated(wrong)
				p.write(w, exchangeOf(r.Context()))
				return
			}
		}
		handle(w, r)
	}))
}

// document turns the row into huma's form.
func (rt *router) document(o operation) huma.Operation {
	s := rt.h.opt.Server
	if o.method == http.MethodPost && o.request == nil && o.body == 0 {
		o.description += " A body is ignored."
	}
	a := access{role: o.role, runs: o.runs || unsafeMethod(o.method), work: !o.free, body: o.body, timeout: o.timeout}
	switch {
	case o.role == roleOpen:
		a.body = min(openBody, int64(s.BodyBytes))
	case a.body == 0:
		a.body = min(smallBody, int64(s.BodyBytes))
	}
	if a.timeout == 0 {
		a.timeout = s.RequestTimeout.D()
	}
	op := huma.Operation{
		OperationID: o.id, Method: o.method, Path: o.path, Tags: []string{o.tag},
		Summary:       o.summary,
		Description:   strings.TrimSpace(o.description) + "\n\n" + neededRole(o.role),
		DefaultStatus: o.status,
		Responses:     map[string]*huma.Response{},
		Security:      security(o.role),
		Metadata:      map[string]any{accessKey: a},
		Extensions:    map[string]any{"x-ferry-role": o.role.String()},
		// The guard has read the body already, within its own limits.
		MaxBodyBytes:    a.body + 1,
		BodyReadTimeout: -1,
	}
	if op.DefaultStatus == 0 {
		op.DefaultStatus = http.StatusOK
	}
	success := &huma.Response{Description: o.says}
	if o.example != nil {
		success.Content = map[string]*huma.MediaType{"application/json": {Example: o.example}}
	}
	op.Responses[strconv.Itoa(op.DefaultStatus)] = success
	if o.request != nil {
		op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{"application/json": {Example: o.request}}}
	}
	codes := append(rt.shared(o, a), o.problems...)
	for _, k := range kinds() {
		if slices.Contains(codes, k.code) {
			rt.problem(&op, k)
		}
	}
	return op
}

// shared are the codes that follow from what an operation is.
func (rt *router) shared(o operation, a access) []Code {
	codes := []Code{CodeInternal, CodeOriginRefused}
	if o.role > roleOpen {
		codes = append(codes, CodeUnauthorized, CodeForbidden)
	}
	if a.work {
		codes = append(codes, CodeOverloaded, CodeTimeout)
	}
	if strings.Contains(o.path, "{") {
		codes = append(codes, CodeNotFound, CodeInvalid)
	}
	if o.request != nil || o.body > 0 {
		codes = append(codes, CodeMalformed, CodeSlowClient, CodeTooLarge, CodeMediaType, CodeInvalid)
	}
	if o.method == http.MethodPost { // whose body the guard reads, wanted or not, and whose answers are kept by key
		codes = append(codes, CodeMalformed, CodeSlowClient, CodeTooLarge, CodeKeyReused, CodeConflict)
	}
	return codes
}

// problem adds a code to the operation's answers, beside others of the same status.
func (rt *router) problem(op *huma.Operation, k kind) {
	status := strconv.Itoa(k.status)
	resp := op.Responses[status]
	if resp == nil {
		resp = &huma.Response{
			Content: map[string]*huma.MediaType{contentTypeProblem: {
				Schema:   rt.problemSchema(),
				Examples: map[string]*huma.Example{},
			}},
			Headers: map[string]*huma.Header{"X-Request-Id": {Ref: "#/components/headers/X-Request-Id"}},
		}
		op.Responses[status] = resp
	}
	if resp.Description != "" {
		resp.Description += " "
	}
	resp.Description += "`" + problemPath + string(k.code) + "`: " + k.title + "."
	resp.Content[contentTypeProblem].Examples[string(k.code)] = &huma.Example{Ref: "#/components/examples/" + string(k.code)}
	switch {
	case k.status == http.StatusServiceUnavailable:
		resp.Headers["Retry-After"] = &huma.Header{Ref: "#/components/headers/Retry-After"}
	case k.status == http.StatusUnauthorized:
		resp.Headers["WWW-Authenticate"] = &huma.Header{Ref: "#/components/headers/WWW-Authenticate"}
	}
}

func unsafeMethod(m string) bool { return m != http.MethodGet && m != http.MethodHead }

func neededRole(r role) string {
	if r == roleOpen {
		return "Open to everybody."
	}
	return "Needs the role **" + r.String() + "** when API keys are configured."
}

func security(r role) []map[string][]string {
	if r == roleOpen {
		return []map[string][]string{}
	}
	return []map[string][]string{{"apiKey": {}}, {"bearer": {}}}
}

// invalid is the error of a rule that a handler checks itself.
func invalid(location, message string) error {
	p := newProblem(CodeInvalid, "")
	p.Errors = []Violation{{Location: location, Message: message}}
	return p
}

// body is an output that is only a body.
type body[T any] struct{ Body T }

func reply[T any](v T, err error) (*body[T], error) {
	if err != nil {
		return nil, err
	}
	return &body[T]{v}, nil
}

// some is v, but never null in JSON.
func some[T any](v []T) []T {
	if v == nil {
		return []T{}
	}
	return v
}
