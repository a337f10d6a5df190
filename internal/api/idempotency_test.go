package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// counted answers each call of Process with its number.
func counted(calls *atomic.Int64) *fake {
	return &fake{process: func(context.Context, string) (Processed, error) {
		return Processed{Data: fmt.Appendf(nil, "%d", calls.Add(1))}, nil
	}}
}

func TestIdempotencyKey(t *testing.T) {
	var calls atomic.Int64
	h := newHandler(t, counted(&calls), Options{Auth: keys()})
	run, admin := "X-API-Key: "+keyFor(roleRun), "X-API-Key: "+keyFor(roleAdmin)
	steps := []struct {
		name, method, target, body string
		headers                    []string
		status                     int
		want                       string
		replayed                   bool
	}{
		{"first", "POST", "/process", "", []string{run, "Idempotency-Key: a"}, 200, `"data":1`, false},
		{"again", "POST", "/process", "", []string{run, "Idempotency-Key: a"}, 200, `"data":1`, true},
		{"again, in quotes", "POST", "/process", "", []string{run, `Idempotency-Key: "a"`}, 200, `"data":1`, true},
		{"another key", "POST", "/process", "", []string{run, "Idempotency-Key: b"}, 200, `"data":2`, false},
		{"no key", "POST", "/process", "", []string{run}, 200, `"data":3`, false},
		{"same key, another caller", "POST", "/process", "", []string{admin, "Idempotency-Key: a"}, 200, `"data":4`, false},
		{"same key, another address", "POST", "/v1/pipelines/process/process", "", []string{run, "Idempotency-Key: a"}, 422, string(CodeKeyReused), false},
		{"same key, another query", "POST", "/process?x=1", "", []string{run, "Idempotency-Key: a"}, 422, string(CodeKeyReused), false},
		{"same key, another body", "POST", "/process", "{}", []string{run, "Idempotency-Key: a"}, 422, string(CodeKeyReused), false},
		{"GET does not take it", "GET", "/process", "", []string{run, "Idempotency-Key: a"}, 200, `"data":5`, false},
		{"a caller's mistake is kept", "POST", "/v1/pipelines/none/process", "", []string{run, "Idempotency-Key: c"}, 404, string(CodeNotFound), false},
		{"and answered again", "POST", "/v1/pipelines/none/process", "", []string{run, "Idempotency-Key: c"}, 404, string(CodeNotFound), true},
		{"no right, no answer", "POST", "/process", "", []string{"X-API-Key: " + keyFor(roleRead), "Idempotency-Key: a"}, 403, string(CodeForbidden), false},
		{"empty key", "POST", "/process", "", []string{run, `Idempotency-Key: ""`}, 400, string(CodeMalformed), false},
		{"long key", "POST", "/process", "", []string{run, "Idempotency-Key: " + strings.Repeat("k", 256)}, 400, string(CodeMalformed), false},
		{"strange key", "POST", "/process", "", []string{run, "Idempotency-Key: grüß"}, 400, string(CodeMalformed), false},
	}
	ids := map[string]bool{}
	for _, s := range steps {
		w := do(h, s.method, s.target, s.body, s.headers...)
		if w.Code != s.status || !strings.Contains(w.Body.String(), s.want) {
			t.Errorf("%s: %d %s, want %d %s", s.name, w.Code, w.Body, s.status, s.want)
		}
		if got := w.Header().Get("Idempotent-Replayed") == "true"; got != s.replayed {
			t.Errorf("%s: Idempotent-Replayed = %v", s.name, got)
		}
		if got := w.Header().Get("Content-Type"); s.status < 300 && got != "application/json" {
			t.Errorf("%s: Content-Type = %q", s.name, got)
		}
		if id := w.Header().Get("X-Request-Id"); id == "" || ids[id] {
			t.Errorf("%s: request id %q is not its own", s.name, id)
		} else {
			ids[id] = true
		}
	}
}

// TestKeysAreDocumented: the document and the service take the same keys.
func TestKeysAreDocumented(t *testing.T) {
	k := func(n int) string { return strings.Repeat("k", n) }
	samples := map[string]bool{
		"a": true, k(255): true, `"` + k(255) + `"`: true, `"a"`: true, `a"b`: true, "a b": true,
		k(256): false, k(257): false, `"` + k(256) + `"`: false, `""`: false, `"`: false, `"a`: false, `"` + k(255): false, "ü": false, "a\tb": false,
	}
	takers := 0
	for _, op := range documented(t) {
		for _, p := range asList(op.value["parameters"]) {
			if asMap(p)["name"] != "Idempotency-Key" {
				continue
			}
			takers++
			schema := asMap(asMap(p)["schema"])
			pattern, _ := schema["pattern"].(string)
			most, _ := schema["maxLength"].(float64)
			for key, want := range samples {
				documented := len(key) <= int(most) && regexp.MustCompile(pattern).MatchString(key)
				if _, p := idempotencyKey([]string{key}); documented != want || (p == nil) != want {
					t.Errorf("%s %s: key %.20q (%d): documented %t, taken %t, want %t", op.method, op.path, key, len(key), documented, p == nil, want)
				}
			}
		}
	}
	if takers < 10 {
		t.Errorf("%d operations take a key", takers)
	}
}

func TestFailureIsNotKept(t *testing.T) {
	fails := true
	svc := &fake{process: func(context.Context, string) (Processed, error) {
		if fails {
			return Processed{}, &Error{Code: CodeUpstream, Detail: "It failed."}
		}
		return Processed{Data: json.RawMessage("1")}, nil
	}}
	h := newHandler(t, svc, Options{})
	if w := do(h, "POST", "/process", "", "Idempotency-Key: a"); w.Code != 502 {
		t.Fatalf("first = %d", w.Code)
	}
	fails = false
	if w := do(h, "POST", "/process", "", "Idempotency-Key: a"); w.Code != 200 || w.Header().Get("Idempotent-Replayed") != "" {
		t.Errorf("second = %d %v, want the work done", w.Code, w.Header())
	}
}

// TestWhatPassesIsNotKept: an answer that says when to come back is not what the caller then gets again.
func TestWhatPassesIsNotKept(t *testing.T) {
	held := true
	svc := &fake{startRun: func() (Run, bool, error) {
		if held {
			return Run{}, false, &Error{Code: CodeConflict, Detail: "Another instance holds the lease.", RetryAfter: time.Second}
		}
		return exampleRunning(), true, nil
	}}
	h := newHandler(t, svc, Options{})
	if w := do(h, "POST", "/v1/pipelines/orders/runs", "", "Idempotency-Key: a"); w.Code != 409 || w.Header().Get("Retry-After") == "" {
		t.Fatalf("first = %d %v", w.Code, w.Header())
	}
	held = false
	if w := do(h, "POST", "/v1/pipelines/orders/runs", "", "Idempotency-Key: a"); w.Code >= 300 || w.Header().Get("Idempotent-Replayed") != "" {
		t.Errorf("second = %d %v, want the run started", w.Code, w.Header())
	}
}

// TestPanicIsNotKept: a repetition after a panic is not stuck waiting for an answer that never comes.
func TestPanicIsNotKept(t *testing.T) {
	panics := true
	svc := &fake{process: func(context.Context, string) (Processed, error) {
		if panics {
			panic("a defect")
		}
		return Processed{Data: json.RawMessage("1")}, nil
	}}
	h := newHandler(t, svc, Options{})
	if w := do(h, "POST", "/process", "", "Idempotency-Key: a"); w.Code != 500 {
		t.Fatalf("first = %d", w.Code)
	}
	panics = false
	if w := do(h, "POST", "/process", "", "Idempotency-Key: a"); w.Code != 200 {
		t.Errorf("second = %d", w.Code)
	}
}

// TestRepetitionWaits: a repetition that comes while the first is under way gets its answer, and the work is done once,
// also when the first caller has left.
func TestRepetitionWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		svc := &fake{process: func(ctx context.Context, _ string) (Processed, error) {
			n := calls.Add(1)
			select {
			case <-time.After(10 * time.Second):
			case <-ctx.Done():
				return Processed{}, ctx.Err()
			}
			return Processed{Data: fmt.Appendf(nil, "%d", n)}, nil
		}}
		h := newHandler(t, svc, Options{})
		leaving, leave := context.WithCancel(t.Context())
		send := func(ctx context.Context, got chan<- *httptest.ResponseRecorder) {
			r := httptest.NewRequest("POST", "/process", nil).WithContext(ctx)
			r.Header.Set("Idempotency-Key", "a")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			got <- w
		}
		first, second := make(chan *httptest.ResponseRecorder, 1), make(chan *httptest.ResponseRecorder, 1)
		go send(leaving, first)
		time.Sleep(time.Second)
		leave()
		go send(t.Context(), second)
		if w := <-second; w.Code != 200 || !strings.Contains(w.Body.String(), `"data":1`) || w.Header().Get("Idempotent-Replayed") != "true" {
			t.Errorf("repetition = %d %v %s", w.Code, w.Header(), w.Body)
		}
		<-first
		if n := calls.Load(); n != 1 {
			t.Errorf("the work was done %d times", n)
		}
	})
}

func TestAnswerTooLargeToKeep(t *testing.T) {
	var calls atomic.Int64
	big := strings.Repeat("x", answerBytes)
	svc := &fake{process: func(context.Context, string) (Processed, error) {
		calls.Add(1)
		return Processed{Data: json.RawMessage(`"` + big + `"`)}, nil
	}}
	h := newHandler(t, svc, Options{})
	if w := do(h, "POST", "/process", "", "Idempotency-Key: a"); w.Code != 200 || w.Body.Len() < answerBytes {
		t.Fatalf("first = %d, %d bytes", w.Code, w.Body.Len())
	}
	w := do(h, "POST", "/process", "", "Idempotency-Key: a")
	if w.Code != 409 || problemIn(t, w).Code() != CodeConflict || calls.Load() != 1 {
		t.Errorf("second = %d %s after %d calls", w.Code, w.Body, calls.Load())
	}
}

func TestAnswersAreBounded(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a := newAnswers()
	a.now = func() time.Time { return now }
	keep := func(key string, body int) {
		t.Helper()
		answer, finish, err := a.Begin(t.Context(), key, [32]byte{})
		if answer != nil || err != nil {
			t.Fatalf("%s is known already: %v", key, err)
		}
		finish(&Answer{Status: 200, Body: make([]byte, body)})
	}
	known := func(key string) bool {
		_, ok := a.byKey[key]
		return ok
	}
	keep("old", 1)
	now = now.Add(IdempotencyTTL + time.Second)
	keep("new", 1)
	if known("old") || !known("new") {
		t.Error("an answer is kept past its time, or not until then")
	}
	for i := range idempotencyCount {
		keep(fmt.Sprint("n", i), 0)
	}
	if len(a.byKey) > idempotencyCount || known("new") || !known(fmt.Sprint("n", idempotencyCount-1)) {
		t.Errorf("%d answers kept, or the wrong ones", len(a.byKey))
	}
	for i := range 80 {
		keep(fmt.Sprint("b", i), 1<<20)
	}
	if a.bytes > idempotencyBytes || !known("b79") || known("b0") {
		t.Errorf("%d bytes kept, or the wrong ones", a.bytes)
	}
	sum := 0
	for e := a.order.Front(); e != nil; e = e.Next() {
		sum += e.Value.(*remembered).size()
	}
	if d := cmp.Diff([]int{sum, a.order.Len()}, []int{a.bytes, len(a.byKey)}); d != "" {
		t.Errorf("the books are wrong: %s", d)
	}
}

func TestBeginWaitsNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		_, finish, err := a.Begin(t.Context(), "k", [32]byte{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := a.Begin(ctx, "k", [32]byte{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v", err)
		}
		finish(nil)
		if answer, finish, err := a.Begin(t.Context(), "k", [32]byte{}); answer != nil || finish == nil || err != nil {
			t.Errorf("after it was forgotten: %v, %v", answer, err)
		}
	})
}
