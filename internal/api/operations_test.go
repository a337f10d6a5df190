package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOperations(t *testing.T) {
	const running = `"run":"01JNB4X7Z8QK"`
	tests := []struct {
		name         string
		method, path string
		body         string
		status       int
		want         string   // part of the answer
		calls        []string // of the service
	}{
		{"process", "GET", "/process", "", 200, `{"message":"Data processed","data":{"id":1}}` + "\n", []string{"Process process"}},
		{"process by post", "POST", "/process", "", 200, `{"message":"Data processed","data":{"id":1}}` + "\n", []string{"Process process"}},
		{"process another", "POST", "/v1/pipelines/orders/process", "", 200, `"data":{"id":1}`, []string{"Process orders"}},
		{"process unknown", "POST", "/v1/pipelines/none/process", "", 404, `"/problems/not-found"`, []string{"Process none"}},
		{"push", "POST", "/v1/pipelines/orders/records", `[{"id":1}]`, 200, `"ids":[]`, []string{`Push orders application/json [{"id":1}]`}},
		{"push nothing", "POST", "/v1/pipelines/orders/records", "", 400, `empty`, nil},
		{"preview", "POST", "/v1/pipelines/orders/preview", `{"limit":3,"cursor":null,"transform":[{"where":".x"}]}`, 200, `"before":{"id":4711`, []string{"Preview orders null 1 3"}},
		{"preview without body", "POST", "/v1/pipelines/orders/preview", "", 200, `"after":[{`, []string{"Preview orders  0 0"}},
		{"preview of too much", "POST", "/v1/pipelines/orders/preview", `{"limit":1000}`, 422, `body.limit`, nil},
		{"pipelines", "GET", "/v1/pipelines", "", 200, `{"pipelines":[{"name":"orders"`, []string{"Pipelines"}},
		{"pipeline", "GET", "/v1/pipelines/orders", "", 200, `"state":"idle"`, []string{"Pipeline orders"}},
		{"unknown pipeline", "GET", "/v1/pipelines/none", "", 404, `"/problems/not-found"`, []string{"Pipeline none"}},
		{"start", "POST", "/v1/pipelines/orders/runs", "", 202, `"new":true`, []string{"StartRun orders"}},
		{"start and wait", "POST", "/v1/pipelines/orders/runs?wait=30s", "", 200, `"status":"succeeded"`, []string{"StartRun orders", "WaitRun 01JNB4X7Z8QK"}},
		{"start and wait too long", "POST", "/v1/pipelines/orders/runs?wait=6m", "", 422, `at most 5m0s`, nil},
		{"start and wait for nonsense", "POST", "/v1/pipelines/orders/runs?wait=soon", "", 422, `a duration such as 30s`, nil},
		{"runs", "GET", "/v1/runs", "", 200, running, []string{"Runs  50"}},
		{"instances", "GET", "/v1/instances", "", 200, `"holds":[{"pipeline":"orders"`, []string{"Instances"}},
		{"runs of one", "GET", "/v1/runs?pipeline=orders&limit=2", "", 200, running, []string{"Runs orders 2"}},
		{"runs misspelled", "GET", "/v1/runs?pipelines=orders", "", 422, `query.pipelines`, nil},
		{"run", "GET", "/v1/runs/01JNB4X7Z8QK", "", 200, running, []string{"Run 01JNB4X7Z8QK"}},
		{"run and wait", "GET", "/v1/runs/01JNB4X7Z8QK?wait=1s", "", 200, `"status":"succeeded"`, []string{"WaitRun 01JNB4X7Z8QK"}},
		{"unknown run", "GET", "/v1/runs/none", "", 404, `"/problems/not-found"`, []string{"Run none"}},
		{"cancel", "POST", "/v1/runs/01JNB4X7Z8QK/cancel", "", 200, running, []string{"CancelRun 01JNB4X7Z8QK"}},
		{"pause", "POST", "/v1/pipelines/orders/pause", "", 200, `"state":"paused"`, []string{"Pause orders"}},
		{"resume", "POST", "/v1/pipelines/orders/resume", "", 200, `"state":"idle"`, []string{"Resume orders"}},
		{"cursor keeps big numbers", "GET", "/v1/pipelines/orders/cursor", "", 200, `{"pipeline":"orders","cursor":{"n":12345678901234567890}}` + "\n", []string{"Cursor orders"}},
		{"set cursor", "PUT", "/v1/pipelines/orders/cursor", `{"cursor":{"n":12345678901234567890}}`, 200, `"n":12345678901234567890`, []string{`SetCursor orders {"n":12345678901234567890}`}},
		{"set cursor to what get said", "PUT", "/v1/pipelines/orders/cursor", `{"pipeline":"orders","cursor":"x"}`, 200, `"x"`, []string{`SetCursor orders "x"`}},
		{"set cursor of another", "PUT", "/v1/pipelines/orders/cursor", `{"pipeline":"users","cursor":"x"}`, 422, `body.pipeline`, nil},
		{"set cursor to the beginning", "PUT", "/v1/pipelines/orders/cursor", `{"cursor":null}`, 200, `"cursor":null`, []string{"SetCursor orders"}},
		{"set no cursor", "PUT", "/v1/pipelines/orders/cursor", `{}`, 422, `cursor`, nil},
		{"reset cursor", "DELETE", "/v1/pipelines/orders/cursor", "", 200, `"cursor":null`, []string{"SetCursor orders"}},
		{"topics", "GET", "/v1/topics", "", 200, `{"topics":[{"topic":"orders"`, []string{"Topics"}},
		{"topic", "GET", "/v1/topics/orders", "", 200, `"waiting":9990`, []string{"Topic orders"}},
		{"dead topic", "GET", "/v1/topics/orders.dead", "", 200, `"topic"`, []string{"Topic orders.dead"}},
		{"records", "GET", "/v1/topics/orders/records?from=-20&limit=20", "", 200, `"next":43`, []string{"Browse orders -20 20"}},
		{"too many records", "GET", "/v1/topics/orders/records?from=x&limit=5000", "", 422, `query.limit`, nil},
		{"receive", "POST", "/v1/topics/orders/receive", `{"limit":5}`, 200, `"receipt":"r1"`, []string{"Receive orders 5 0s"}},
		{"receive by default", "POST", "/v1/topics/orders/receive", "", 200, `"attempt":1`, []string{"Receive orders 10 0s"}},
		{"receive and wait too long", "POST", "/v1/topics/orders/receive", `{"wait":"2m"}`, 422, `body.wait`, nil},
		{"ack", "POST", "/v1/topics/orders/ack", `{"receipts":["a","b"],"nack":["c"]}`, 200, `{"acked":2,"nacked":1}`, []string{"Ack orders [a b]", "Nack orders [c]"}},
		{"ack nothing", "POST", "/v1/topics/orders/ack", `{}`, 422, `receipts or nack`, nil},
		{"ack misspelled", "POST", "/v1/topics/orders/ack", `{"receipt":["a"]}`, 422, `body.receipt`, nil},
		{"dead", "GET", "/v1/pipelines/orders/dead", "", 200, `"stage":"map"`, []string{"Dead orders 0 100"}},
		{"replay", "POST", "/v1/pipelines/orders/dead/replay", `{"positions":[7,8]}`, 200, `"read":2`, []string{"Replay orders [7 8]"}},
		{"replay all", "POST", "/v1/pipelines/orders/dead/replay", "", 200, `"read":0`, []string{"Replay orders []"}},
		{"replay none", "POST", "/v1/pipelines/orders/dead/replay", `{"positions":[]}`, 422, `body.positions`, nil},
		{"discard", "POST", "/v1/pipelines/orders/dead/discard", `{"positions":[7,8]}`, 200, `"discarded":2`, []string{"Discard orders [7 8]"}},
		{"discard all", "POST", "/v1/pipelines/orders/dead/discard", `{"all":true}`, 200, `"discarded":0`, []string{"Discard orders []"}},
		{"discard what", "POST", "/v1/pipelines/orders/dead/discard", `{}`, 422, `expected positions, or all`, nil},
		{"discard both", "POST", "/v1/pipelines/orders/dead/discard", `{"positions":[7],"all":true}`, 422, `expected positions, or all`, nil},
		{"discard none", "POST", "/v1/pipelines/orders/dead/discard", `{"positions":[]}`, 422, `body.positions`, nil},
		{"discard, no body", "POST", "/v1/pipelines/orders/dead/discard", "", 400, ``, nil},
		{"alive", "GET", "/livez", "", 200, `{"status":"ok","version":"1.2.3"}`, nil},
		{"ready", "GET", "/readyz", "", 200, `{"status":"ok","version":"1.2.3"}`, nil},
		{"no metrics", "GET", "/metrics", "", 404, `/problems/not-found`, nil},
		{"a problem's meaning", "GET", "/problems/queue-full", "", 200, `"status":503`, nil},
		{"no such problem", "GET", "/problems/none", "", 404, `/problems/not-found`, nil},
	}
	covered := map[string]bool{"GET /v1/stream": true} // has tests of its own
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svc := &fake{}
			h := newHandler(t, svc, Options{Version: "1.2.3"})
			w := do(h, tt.method, tt.path, tt.body)
			if w.Code != tt.status {
				t.Fatalf("status = %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			if !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("answer = %s\nwant %s in it", w.Body, tt.want)
			}
			if d := cmp.Diff(tt.calls, svc.took()); d != "" {
				t.Errorf("calls (-want +got):\n%s", d)
			}
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("answer is not JSON: %s", w.Body)
			}
			if tt.status >= 400 {
				problemIn(t, w)
			}
		})
		r, _ := http.NewRequest(tt.method, tt.path, nil)
		_, pattern := newHandler(t, &fake{}, Options{}).mux.Handler(r)
		covered[pattern] = true
	}
	for _, op := range documented(t) {
		if !covered[op.method+" "+op.path] {
			t.Errorf("%s %s has no row in this table", op.method, op.path)
		}
	}
}

// TestProcessOfNothing: where all was filtered out, data is the empty array that the document promises.
func TestProcessOfNothing(t *testing.T) {
	h := newHandler(t, &fake{process: func(context.Context, string) (Processed, error) { return Processed{Filtered: 1}, nil }}, Options{})
	if got := do(h, "GET", "/process", "").Body.String(); got != answerStart+"[]"+answerEnd {
		t.Errorf("answered %s", got)
	}
}

// documentedOperation is an operation as the OpenAPI document shows it.
type documentedOperation struct {
	method, path string
	role         string
	value        map[string]any
}

// documented reads the operations from the served OpenAPI document, sorted.
func documented(t testing.TB) []documentedOperation {
	t.Helper()
	w := do(newHandler(t, &fake{}, Options{Version: "test"}), "GET", "/openapi.json", "")
	var doc struct {
		Paths map[string]map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	var ops []documentedOperation
	for path, item := range doc.Paths {
		for method, value := range item {
			role, _ := value["x-ferry-role"].(string)
			ops = append(ops, documentedOperation{strings.ToUpper(method), path, role, value})
		}
	}
	if len(ops) < 25 {
		t.Fatalf("only %d operations in the document", len(ops))
	}
	slices.SortFunc(ops, func(a, b documentedOperation) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	return ops
}
