package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// problemPath is where the types of problems begin. A type is "/problems/<code>": stable, comparable as text, and an
// address on this server that explains it.
const problemPath = "/problems/"

const contentTypeProblem = "application/problem+json"

// kind is a row of the one table from Code to what a caller sees.
type kind struct {
	code   Code
	status int
	title  string // the same for every occurrence
	help   string // what to do, for GET /problems/{code} and the OpenAPI document
}

// kinds is the table, by status.
func kinds() []kind {
	return []kind{
		{CodeMalformed, 400, "Malformed request", "The body is missing or is not JSON, or a header cannot be read. Mend the request before sending it again."},
		{CodeUnauthorized, 401, "No valid API key", "Send a key as X-API-Key: KEY or as Authorization: Bearer KEY."},
		{CodeForbidden, 403, "The key's role does not reach", "Use a key of the role that the detail names: read looks, run also starts runs and publishes, admin also steers."},
		{CodeOriginRefused, 403, "Refused for where it comes from", "A page of another site sent this, or it was sent to a host name that is not this service's. Call from the service's own address, from a program, or set server.public_url."},
		{CodeNotFound, 404, "Not found", "There is no pipeline, run, topic or record of that name. The lists GET /v1/pipelines, /v1/runs and /v1/topics show what there is."},
		{CodeNoRoute, 404, "No such address", "The API has no such path. GET /docs shows all of them."},
		{CodeMethod, 405, "Method not allowed", "The header Allow names the methods of this address."},
		{CodeSlowClient, 408, "The body came too slowly", "The body has to arrive within server.body_timeout."},
		{CodeConflict, 409, "Conflict", "The request does not fit the present state. Read the state, then decide."},
		{CodeTooLarge, 413, "Body too large", "Send less at once, or raise server.body_bytes."},
		{CodeMediaType, 415, "Unsupported media type", "Send one of the content types that the operation documents."},
		{CodeInvalid, 422, "Invalid request", "Every rule that was broken is in errors, with its place."},
		{CodeKeyReused, 422, "Idempotency-Key was used for another request", "Use a new Idempotency-Key for a new request."},
		{CodeDead, 422, "The record was dead-lettered", "The fetched record could not go through the pipeline. It is kept: GET /v1/pipelines/{name}/dead shows it and why."},
		{CodeInternal, 500, "Internal error", "A defect of this service. The log tells more under the request id."},
		{CodeUpstream, 502, "The third-party API failed", "The API that the pipeline reads failed or answered something that cannot be right. Nothing was published."},
		{CodeRateLimited, 503, "The third-party API asks to wait", "Come back after Retry-After."},
		{CodeQueue, 503, "The queue is unavailable", "Nothing is lost. Try again."},
		{CodeQueueFull, 503, "The queue is full", "Nothing more fits until records are taken out, limits are raised or space is made."},
		{CodeOverloaded, 503, "Too many requests at once", "Come back after Retry-After."},
		{CodeStopping, 503, "This instance is stopping", "Try again: another instance, or this one after its restart, will answer."},
		{CodeNotReady, 503, "Not ready", "The detail says what is missing."},
		{CodeTimeout, 504, "The time for the request ran out", "Mostly the third-party API was too slow. It may work again later."},
	}
}

func kindOf(code Code) kind {
	all := kinds()
	if i := slices.IndexFunc(all, func(k kind) bool { return k.code == code }); i >= 0 {
		return all[i]
	}
	return kindOf(CodeInternal)
}

// Problem is the answer to every request that fails (RFC 9457, application/problem+json).
type Problem struct {
	Type     string      `json:"type" format:"uri-reference" doc:"Kind of problem, stable: /problems/ and a code. GET it to read what to do."`
	Title    string      `json:"title" doc:"The kind in words; the same for every occurrence."`
	Status   int         `json:"status" minimum:"400" maximum:"599" doc:"HTTP status."`
	Detail   string      `json:"detail,omitempty" doc:"What was wrong this time."`
	Instance string      `json:"instance,omitempty" format:"uri" doc:"This occurrence: urn:ferry:request: and the request id, which is in X-Request-Id and in the log."`
	Errors   []Violation `json:"errors,omitempty" nullable:"false" doc:"Every rule that the request broke."`

	retryAfter time.Duration
}

// Violation is one broken rule.
type Violation struct {
	Location string `json:"location" doc:"Where: path.NAME, query.NAME, header.NAME or body.PATH." example:"query.limit"`
	Message  string `json:"message" doc:"What is wrong there." example:"expected number <= 1000"`
	Value    any    `json:"value,omitempty" doc:"What was sent, for path and query only; bodies and headers may hold secrets."`
}

// newProblem makes the problem of a code. Detail is for the caller and must hold no secret (invariant 8).
func newProblem(code Code, detail string) *Problem {
	k := kindOf(code)
	return &Problem{Type: problemPath + string(k.code), Title: k.title, Status: k.status, Detail: detail}
}

// violated adds broken rules, and says how many there are where nothing else is said.
func (p *Problem) violated(more []Violation) {
	p.Errors = append(p.Errors, more...)
	if n := len(p.Errors); p.Detail == "" && n > 0 {
		p.Detail = fmt.Sprintf("%d of the request's parts cannot be taken as they are.", n)
	}
}

// Code is the code in the problem's type.
func (p *Problem) Code() Code { return Code(strings.TrimPrefix(p.Type, problemPath)) }

// Error, GetStatus, GetHeaders and ContentType are what huma asks of an error that a handler returns.
func (p *Problem) Error() string { return string(p.Code()) + ": " + p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders are the answer's further headers.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{"Cache-Control": {"no-store"}}
	if p.retryAfter > 0 {
		h.Set("Retry-After", retryAfter(p.retryAfter))
	}
	return h
}

// ContentType is the problem's media type.
func (p *Problem) ContentType(string) string { return contentTypeProblem }

// retryAfter is a wait in whole seconds, rounded up (RFC 9110, 10.2.3).
func retryAfter(d time.Duration) string {
	return strconv.FormatInt(int64(math.Ceil(d.Seconds())), 10)
}

// write sends the problem as the whole answer.
func (p *Problem) write(w http.ResponseWriter, x *exchange) {
	h := w.Header()
	maps.Copy(h, p.GetHeaders())
	h.Del("Content-Encoding")
	h.Set("Content-Type", contentTypeProblem)
	p.Instance = x.instance()
	body, err := json.Marshal(p)
	if err != nil { // Value came out of JSON or a URL, so it goes back in
		body = []byte(`{"type":"/problems/internal","title":"Internal error","status":500}`)
	}
	body = append(body, '\n')
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	w.Write(body)
}

// problemOf turns what a Service returned into what the caller sees. hidden is true when the error's own text is not
// for the caller and has to be logged.
func problemOf(ctx context.Context, err error) (p *Problem, hidden bool) {
	if e, ok := errors.AsType[*Problem](err); ok {
		return e, false
	}
	if e, ok := errors.AsType[*Error](err); ok {
		detail := e.Detail
		if e.Code == CodeInternal && detail == "" {
			detail = "Something went wrong here. The log tells more under this request id."
		}
		p := newProblem(e.Code, detail)
		p.retryAfter = e.RetryAfter
		return p, e.Err != nil && p.Status >= 500
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return newProblem(CodeTimeout, "The time for this request ran out."), true
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return newProblem(CodeStopping, "The request was given up."), false
	}
	return newProblem(CodeInternal, "Something went wrong here. The log tells more under this request id."), true
}

// fromHuma turns huma's own errors (validation, body reading) into a Problem with one of our types.
func fromHuma(e *huma.ErrorModel) *Problem {
	code, detail := CodeInternal, "Something went wrong here. The log tells more under this request id."
	switch e.Status {
	case http.StatusBadRequest:
		code, detail = CodeMalformed, sentence(e.Detail)
	case http.StatusRequestTimeout:
		code, detail = CodeSlowClient, sentence(e.Detail)
	case http.StatusRequestEntityTooLarge:
		code, detail = CodeTooLarge, sentence(e.Detail)
	case http.StatusUnsupportedMediaType:
		code, detail = CodeMediaType, "This content type is not taken here."
	case http.StatusUnprocessableEntity:
		code, detail = CodeInvalid, "" // told once all violations are together
	}
	p := newProblem(code, detail)
	if p.Status >= 500 {
		return p // what huma says of a defect is for the log
	}
	for _, d := range e.Errors {
		if at, what, ok := strings.Cut(d.Message, unfit); ok && d.Location == "body" {
			d.Location, d.Message = "body."+at, "expected "+what
		}
		p.Errors = append(p.Errors, Violation{Location: d.Location, Message: d.Message, Value: echo(d.Location, d.Value)})
	}
	return p
}

// unfit stands between the place of a value that cannot be decoded and what is expected there: huma passes an error's words
// on, and no place.
const unfit = " does not fit: expected "

// decode is json.Unmarshal that speaks of the API instead of Go. By then huma has looked at the types; what is left are
// numbers that JSON Schema calls integers and Go does not take as such: 1.0, 1e3, and those of more than 64 bits.
func decode(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		what := "another type"
		if e.Type.Kind() == reflect.Int || e.Type.Kind() == reflect.Int64 {
			what = "integer of up to 64 bits, in digits alone"
		}
		return errors.New(e.Field + unfit + what)
	}
	return err
}

// echo is the value to show for a violation: only what stood in the address, and not without end (invariant 8).
func echo(location string, value any) any {
	if !strings.HasPrefix(location, "path.") && !strings.HasPrefix(location, "query.") {
		return nil
	}
	s, ok := value.(string)
	if !ok {
		s = fmt.Sprint(value)
	}
	if value == nil || s == "" {
		return nil
	}
	const most = 100
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// sentence gives s a capital and a full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}
