package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEveryCodeHasItsRow(t *testing.T) {
	seen := map[Code]bool{}
	for _, k := range kinds() {
		if seen[k.code] {
			t.Errorf("%s comes twice", k.code)
		}
		seen[k.code] = true
		if http.StatusText(k.status) == "" || k.status < 400 || k.title == "" || !strings.HasSuffix(k.help, ".") {
			t.Errorf("%+v is not a whole row", k)
		}
	}
	for _, c := range []Code{
		CodeInvalid, CodeNotFound, CodeConflict, CodeDead, CodeUpstream, CodeTimeout, CodeRateLimited, CodeQueue, CodeQueueFull, CodeOverloaded,
		CodeStopping, CodeNotReady, CodeInternal, CodeMalformed, CodeUnauthorized, CodeForbidden, CodeOriginRefused, CodeNoRoute, CodeMethod,
		CodeSlowClient, CodeTooLarge, CodeMediaType, CodeKeyReused,
	} {
		if !seen[c] {
			t.Errorf("%s has no row", c)
		}
		delete(seen, c)
	}
	if len(seen) > 0 {
		t.Errorf("codes without a test: %v", seen)
	}
}

// TestFailures: whatever a Service returns, on the raw and on the typed way, the caller sees the right problem, the log
// holds what is not for the caller, and neither holds too much.
func TestFailures(t *testing.T) {
	secret := errors.New("dial amqp://user:hunter2@10.0.0.7: refused")
	tests := []struct {
		name       string
		err        error
		status     int
		code       Code
		detail     string
		retryAfter string
		logged     bool
	}{
		{"not found", &Error{Code: CodeNotFound, Detail: `There is no pipeline "x".`}, 404, CodeNotFound, `There is no pipeline "x".`, "", false},
		{"wrapped", fmt.Errorf("get run: %w", &Error{Code: CodeConflict, Detail: "A run is under way."}), 409, CodeConflict, "A run is under way.", "", false},
		{"caller's mistake with a cause", &Error{Code: CodeInvalid, Detail: "The cursor is of another source.", Err: secret}, 422, CodeInvalid, "The cursor is of another source.", "", false},
		{"rate limited", &Error{Code: CodeRateLimited, Detail: "Asked to wait.", RetryAfter: 90*time.Second + time.Millisecond}, 503, CodeRateLimited, "Asked to wait.", "91", false},
		{"queue with a cause", &Error{Code: CodeQueue, Detail: "The queue does not answer.", Err: secret}, 503, CodeQueue, "The queue does not answer.", "", true},
		{"upstream", &Error{Code: CodeUpstream, Detail: "It answered 500.", Err: secret}, 502, CodeUpstream, "It answered 500.", "", true},
		{"dead-lettered", &Error{Code: CodeDead, Detail: "No id."}, 422, CodeDead, "No id.", "", false},
		{"unknown code", &Error{Code: "surprise", Detail: "What."}, 500, CodeInternal, "What.", "", false},
		{"unknown error", secret, 500, CodeInternal, "Something went wrong here. The log tells more under this request id.", "", true},
		{"time ran out", fmt.Errorf("read page: %w", context.DeadlineExceeded), 504, CodeTimeout, "The time for this request ran out.", "", true},
	}
	for _, tt := range tests {
		for way, target := range map[string]string{"raw": "/process", "typed": "/v1/topics"} {
			t.Run(tt.name+" "+way, func(t *testing.T) {
				var log bytes.Buffer
				h := newHandler(t, &fake{fail: tt.err}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				w := do(h, "GET", target, "", "X-Request-Id: my-id.1")
				p := problemIn(t, w)
				got := []any{w.Code, p.Code(), p.Detail, w.Header().Get("Retry-After"), w.Header().Get("Cache-Control")}
				if d := cmp.Diff([]any{tt.status, tt.code, tt.detail, tt.retryAfter, "no-store"}, got); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
				if strings.Contains(w.Body.String(), "hunter2") {
					t.Error("the caller sees what is not for callers")
				}
				if (log.Len() > 0) != tt.logged {
					t.Errorf("log = %s", &log)
				}
				if tt.logged && (!strings.Contains(log.String(), "request=my-id.1") || !strings.Contains(log.String(), "route="+target)) {
					t.Errorf("the log cannot be matched to the request: %s", &log)
				}
			})
		}
	}
}

func TestPanics(t *testing.T) {
	var log bytes.Buffer
	svc := &fake{process: func(context.Context, string) (Processed, error) { panic("hunter2") }}
	var observed []string
	var inFlight []int
	h := newHandler(t, svc, Options{
		Logger:   slog.New(slog.NewTextHandler(&log, nil)),
		InFlight: func(delta int) { inFlight = append(inFlight, delta) },
		Observe: func(route, method string, status int, _ time.Duration) {
			observed = append(observed, fmt.Sprintln(method, route, status))
		},
	})
	w := do(h, "GET", "/process", "")
	if p := problemIn(t, w); w.Code != 500 || p.Code() != CodeInternal || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("answer = %d %s", w.Code, w.Body)
	}
	for _, want := range []string{"request panicked", "hunter2", "problem_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log: %s", want, &log)
		}
	}
	if d := cmp.Diff([]string{"GET /process 500\n"}, observed); d != "" {
		t.Error(d)
	}
	if n := h.inFlight.Load(); n != 0 || !slices.Equal(inFlight, []int{1, -1}) {
		t.Errorf("%d requests in flight after the panic; heard of %v", n, inFlight)
	}
}

// TestViolationsComeAllAtOnce, each with its place, and values only where they cannot be secret (invariant 8).
func TestViolationsComeAllAtOnce(t *testing.T) {
	svc := &fake{}
	h := newHandler(t, svc, Options{})
	const unreadable = "cannot be read: write & between parameters, a % as %25 and a ; as %3B"
	const digits = "expected integer of up to 64 bits, in digits alone"
	tests := []struct {
		name, method, target, body string
		code                       Code
		want                       []Violation
	}{
		{"query", "GET", "/v1/topics/orders/records?from=x&limit=5000&colour=red", "", CodeInvalid, []Violation{
			{"query.from", "invalid integer", "x"}, {"query.limit", "expected number <= 1000", "5000"}, {"query.colour", "unknown query parameter", nil},
		}},
		{"unknown alone", "GET", "/v1/topics/orders/records?size=2&colour=red", "", CodeInvalid, []Violation{
			{"query.colour", "unknown query parameter", nil}, {"query.size", "unknown query parameter", nil},
		}},
		{"query values", "GET", "/v1/topics/orders/records?from=x&limit=5000", "", CodeInvalid, []Violation{
			{"query.from", "invalid integer", "x"}, {"query.limit", "expected number <= 1000", "5000"},
		}},
		{"a query that cannot be read", "GET", "/v1/runs?pipeline=tick;limit=1&limit=5000&%zz=1&colour", "", CodeInvalid, []Violation{
			{"query.limit", "expected number <= 1000", "5000"},
			{"query.%zz", unreadable, "1"},
			{"query.colour", "unknown query parameter", nil},
			{"query.pipeline", unreadable, "tick;limit=1"},
		}},
		{"a wait that cannot be read", "POST", "/v1/pipelines/orders/runs?wait=5s%", "", CodeInvalid, []Violation{{"query.wait", unreadable, "5s%"}}},
		{"nothing but a percent sign", "GET", "/v1/topics/orders/records?%", "", CodeInvalid, []Violation{{"query.%", unreadable, nil}}},
		{"query of a push", "POST", "/v1/pipelines/orders/records?x=1&wait=%", "[1]", CodeInvalid, []Violation{
			{"query.wait", unreadable, "%"}, {"query.x", "unknown query parameter", nil},
		}},
		{"query of process", "GET", "/process?pipeline=orders", "", CodeInvalid, []Violation{{"query.pipeline", "unknown query parameter", nil}}},
		{"query of process by post", "POST", "/process?pipeline=orders", "", CodeInvalid, []Violation{{"query.pipeline", "unknown query parameter", nil}}},
		{"query of another process", "POST", "/v1/pipelines/orders/process?wait=5s", "", CodeInvalid, []Violation{{"query.wait", "unknown query parameter", nil}}},
		{"wait and more", "GET", "/v1/runs/" + strings.Repeat("r", 200) + "?wait=forever", "", CodeInvalid, []Violation{
			{"path.id", "expected length <= 128", strings.Repeat("r", 100) + "…"}, {"query.wait", "expected a duration such as 30s", "forever"},
		}},
		{"body", "POST", "/v1/pipelines/orders/preview", `{"limit":0,"password":"hunter2","transform":7}`, CodeInvalid, []Violation{
			{"body.limit", "expected number >= 1", nil}, {"body.transform", "expected array", nil}, {"body.password", "unexpected property", nil},
		}},
		{"numbers that JSON counts as whole", "POST", "/v1/pipelines/orders/dead/discard", `{"positions":[7,33.0]}`, CodeInvalid, []Violation{{"body.positions", digits, nil}}},
		{"numbers that are too large", "POST", "/v1/pipelines/orders/dead/replay", `{"positions":[99999999999999999999]}`, CodeInvalid, []Violation{{"body.positions", digits, nil}}},
		{"one such number", "POST", "/v1/topics/orders/receive", `{"limit":1e1}`, CodeInvalid, []Violation{{"body.limit", digits, nil}}},
		{"steps", "POST", "/v1/pipelines/orders/preview", `{"limit":1.0,"transform":["map",{"map":7,"schema":"a.json"},{"where":".x"}]}`, CodeInvalid, []Violation{
			{"body.transform[0]", "expected object", nil}, {"body.transform[1].map", "expected string", nil}, {"body.transform[1].schema", "unexpected property", nil},
		}},
		{"not JSON", "PUT", "/v1/pipelines/orders/cursor", `{"cursor":"hunter2"`, CodeMalformed, []Violation{
			{"body", "unexpected end of JSON input", nil},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := do(h, tt.method, tt.target, tt.body)
			p := problemIn(t, w)
			if p.Code() != tt.code {
				t.Errorf("code = %s", p.Code())
			}
			if tt.code == CodeInvalid && p.Detail != fmt.Sprintf("%d of the request's parts cannot be taken as they are.", len(tt.want)) {
				t.Errorf("detail = %s", p.Detail)
			}
			if d := cmp.Diff(tt.want, p.Errors); d != "" {
				t.Errorf("errors (-want +got):\n%s", d)
			}
			if strings.Contains(w.Body.String(), "hunter2") {
				t.Error("the body is shown back")
			}
			if calls := svc.took(); len(calls) > 0 {
				t.Errorf("something was done: %v", calls)
			}
		})
	}
	if w := do(h, "PUT", "/v1/pipelines/orders/cursor", ""); problemIn(t, w).Code() != CodeMalformed {
		t.Errorf("no body = %d %s", w.Code, w.Body)
	}
	if w := do(h, "PUT", "/v1/pipelines/orders/cursor", "cursor: 1", "Content-Type: application/yaml"); problemIn(t, w).Code() != CodeMediaType {
		t.Errorf("YAML = %d %s", w.Code, w.Body)
	}
	if w := do(h, "POST", "/v1/pipelines/orders/records", "a,b", "Content-Type: text/csv"); problemIn(t, w).Code() != CodeMediaType {
		t.Errorf("CSV = %d %s", w.Code, w.Body)
	}
}

func TestNoRoute(t *testing.T) {
	var routes []string
	h := newHandler(t, &fake{}, Options{Observe: func(route, method string, status int, _ time.Duration) {
		routes = append(routes, fmt.Sprint(method, " ", route, " ", status))
	}})
	tests := []struct {
		method, target string
		status         int
		code           Code
		allow          string
	}{
		{"GET", "/nowhere", 404, CodeNoRoute, ""},
		{"GET", "/v1/pipelines/a/b/c", 404, CodeNoRoute, ""},
		{"GET", "/docs/swagger-ui-5.35.0/none.js", 404, CodeNoRoute, ""},
		{"GET", "/docs/swagger-ui-5.35.0/..%2f..%2fdocs.go", 404, CodeNoRoute, ""},
		{"PUT", "/process", 405, CodeMethod, "GET, POST"},
		{"OPTIONS", "/process", 405, CodeMethod, "GET, POST"},
		{"HEAD", "/process", 405, CodeMethod, "GET, POST"},
		{"HEAD", "/process?x=1", 405, CodeMethod, "GET, POST"},
		{"POST", "/v1/pipelines", 405, CodeMethod, "GET, HEAD"},
		{"BREW", "/livez", 405, CodeMethod, "GET, HEAD"},
	}
	for _, tt := range tests {
		w := do(h, tt.method, tt.target, "")
		if p := problemIn(t, w); w.Code != tt.status || p.Code() != tt.code || w.Header().Get("Allow") != tt.allow {
			t.Errorf("%s %s = %d %s, Allow %q", tt.method, tt.target, w.Code, p.Code(), w.Header().Get("Allow"))
		}
	}
	want := []string{"GET  404", "GET  404", "GET /docs/* 404", "GET /docs/* 404", "PUT  405", "OPTIONS  405", "HEAD /process 405", "HEAD /process 405", "POST  405", "OTHER  405"}
	if d := cmp.Diff(want, routes); d != "" {
		t.Errorf("observed (-want +got):\n%s", d)
	}
}

func TestProblemPages(t *testing.T) {
	h := newHandler(t, &fake{}, Options{})
	for _, k := range kinds() {
		target := newProblem(k.code, "").Type
		if w := do(h, "GET", target, ""); w.Code != 200 || !strings.Contains(w.Body.String(), fmt.Sprintf(`"type":%q`, target)) {
			t.Errorf("GET %s = %d %s", target, w.Code, w.Body)
		}
		w := do(h, "GET", target, "", "Accept: text/html,*/*")
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || !strings.Contains(w.Body.String(), "HTTP "+fmt.Sprint(k.status)) {
			t.Errorf("GET %s as a page = %d %s", target, w.Code, w.Body)
		}
	}
}

func TestRequestID(t *testing.T) {
	h := newHandler(t, &fake{}, Options{})
	for given, kept := range map[string]bool{"abc-123_X.y": true, "": false, strings.Repeat("a", 65): false, "a b": false, "a\"b": false, "ä": false} {
		got := do(h, "GET", "/livez", "", "X-Request-Id: "+given).Header().Get("X-Request-Id")
		if (got == given) != kept || got == "" {
			t.Errorf("request id %q became %q", given, got)
		}
	}
}
