package api

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Answer is a whole HTTP answer, kept for a repeated Idempotency-Key. One without a Header says that the request was
// carried out and its answer was too large to keep.
type Answer struct {
	Status int         `json:"status"`
	Header http.Header `json:"header,omitempty"`
	Body   []byte      `json:"body,omitempty"`
}

// ErrKeyReused: the Idempotency-Key was sent before with another request.
var ErrKeyReused = errors.New("idempotency key was used for another request")

// Idempotency remembers answers by key (draft-ietf-httpapi-idempotency-key-header). Safe for concurrent use.
type Idempotency interface {
	// Begin asks for the right to answer the request of this key and fingerprint. It returns the answer when there is
	// one; ErrKeyReused when the key belongs to another fingerprint; otherwise finish, which the caller has to call
	// once: with the answer to keep, or with nil to forget the key. While somebody else holds the right Begin waits,
	// until the context ends.
	Begin(ctx context.Context, key string, print [32]byte) (answer *Answer, finish func(*Answer), err error)
}

const (
	// IdempotencyTTL is how long an answer is kept.
	IdempotencyTTL   = 24 * time.Hour
	idempotencyCount = 10_000
	idempotencyBytes = 64 << 20
	answerBytes      = 1 << 20 // a larger answer is not kept whole
)

// answers keeps answers in this process, bounded by number, bytes and age; the oldest go first (invariant 7). Answers
// are lost with the process: a repetition after a restart, or on another instance, runs again.
type answers struct {
	mu    sync.Mutex
	byKey map[string]*list.Element // of *remembered
	order *list.List               // oldest first
	bytes int
	now   func() time.Time
}

type remembered struct {
	key    string
	print  [32]byte
	at     time.Time
	answer *Answer       // nil while in flight
	done   chan struct{} // closed when answered or forgotten
}

func (r *remembered) size() int {
	n := len(r.key) + 512
	if r.answer != nil {
		n += len(r.answer.Body)
	}
	return n
}

func newAnswers() *answers {
	return &answers{byKey: map[string]*list.Element{}, order: list.New(), now: time.Now}
}

func (a *answers) Begin(ctx context.Context, key string, print [32]byte) (*Answer, func(*Answer), error) {
	for {
		a.mu.Lock()
		a.drop()
		e, ok := a.byKey[key]
		if !ok {
			r := &remembered{key: key, print: print, at: a.now(), done: make(chan struct{})}
			a.byKey[key] = a.order.PushBack(r)
			a.bytes += r.size()
			a.mu.Unlock()
			return nil, func(answer *Answer) { a.finish(r, answer) }, nil
		}
		r := e.Value.(*remembered)
		answer := r.answer
		a.mu.Unlock()
		switch {
		case r.print != print:
			return nil, nil, ErrKeyReused
		case answer != nil:
			return answer, nil, nil
		}
		select {
		case <-r.done: // look again: answered, or forgotten and ours to try
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

func (a *answers) finish(r *remembered, answer *Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer close(r.done)
	e := a.byKey[r.key]
	if e == nil || e.Value != r {
		return
	}
	a.bytes -= r.size()
	if answer == nil {
		delete(a.byKey, r.key)
		a.order.Remove(e)
		return
	}
	r.answer = answer
	a.bytes += r.size()
	a.drop()
}

// drop forgets what is too old or too much. What is in flight stays, so that its repetitions keep waiting for it.
func (a *answers) drop() {
	oldest := a.now().Add(-IdempotencyTTL)
	for e := a.order.Front(); e != nil; {
		next, r := e.Next(), e.Value.(*remembered)
		over := r.at.Before(oldest) || len(a.byKey) > idempotencyCount || a.bytes > idempotencyBytes
		if !over {
			return
		}
		if r.answer != nil {
			a.bytes -= r.size()
			delete(a.byKey, r.key)
			a.order.Remove(e)
		}
		e = next
	}
}

// kept copies an answer while it is written.
type kept struct {
	answer Answer
	full   bool // the answer is over answerBytes
}

func (k *kept) header(status int, h http.Header) {
	k.answer.Status, k.answer.Header = status, maps.Clone(h)
}

func (k *kept) write(p []byte) {
	if len(k.answer.Body)+len(p) > answerBytes {
		k.full = true
		return
	}
	k.answer.Body = append(k.answer.Body, p...)
}

// result is what to remember: success and what the caller did wrong, but not a failure of ours or of the upstream, nor what
// passes by itself, so that a repetition tries again. An answer too large to keep is remembered by a problem that says so, rather than
// doing the work twice.
func (k *kept) result() *Answer {
	switch {
	case k.answer.Status == 0 || k.answer.Status >= 500 || k.answer.Status == http.StatusRequestTimeout, k.answer.Header.Get("Retry-After") != "":
		return nil
	case k.full:
		return &Answer{Status: http.StatusConflict}
	}
	return &k.answer
}

// idempotent runs next once for all requests with the same Idempotency-Key, caller and content.
func (h *Handler) idempotent(w http.ResponseWriter, r *http.Request, x *exchange, body []byte, next http.HandlerFunc) {
	key, problem := idempotencyKey(r.Header.Values("Idempotency-Key"))
	if problem != nil {
		problem.write(w, x)
		return
	}
	// Callers do not share keys: one could read another's answer.
	answer, finish, err := h.idempotency.Begin(r.Context(), x.caller+"\x00"+key, fingerprint(r, body))
	switch {
	case errors.Is(err, ErrKeyReused):
		newProblem(CodeKeyReused, "This Idempotency-Key came before with another method, address or body.").write(w, x)
		return
	case err != nil:
		h.fail(w, r, err)
		return
	case answer != nil:
		replay(w, x, answer)
		return
	}
	x.keep = &kept{}
	var result *Answer // stays nil when next panics
	defer func() { finish(result) }()
	// The work goes on when the caller leaves: it will come back with the same key for the answer.
	next(w, r.WithContext(context.WithoutCancel(r.Context())))
	result = x.keep.result()
}

func replay(w http.ResponseWriter, x *exchange, a *Answer) {
	if a.Header == nil {
		newProblem(CodeConflict, "This request has been carried out, but its answer was too large to keep.").write(w, x)
		return
	}
	header := w.Header()
	for name, values := range a.Header {
		if name != "X-Request-Id" {
			header[name] = values
		}
	}
	header.Set("Idempotent-Replayed", "true")
	w.WriteHeader(a.Status)
	w.Write(a.Body) //nolint:gosec // the same answer with the same content type as the first time
}

// idempotencyKey reads the header: a string of RFC 8941 ("…"), or the same without quotes, as most clients send it.
func idempotencyKey(values []string) (string, *Problem) {
	const most = 255
	bad := func(why string) (string, *Problem) {
		p := newProblem(CodeMalformed, "The Idempotency-Key cannot be read.")
		p.Errors = []Violation{{Location: "header.Idempotency-Key", Message: why}}
		return "", p
	}
	if len(values) != 1 {
		return bad("must come once, not " + strconv.Itoa(len(values)) + " times")
	}
	key := strings.TrimSpace(values[0])
	if unquoted, ok := strings.CutPrefix(key, `"`); ok {
		if key, ok = strings.CutSuffix(unquoted, `"`); !ok {
			return bad("begins with a quote and does not end with one")
		}
	}
	if key == "" || len(key) > most {
		return bad("must have 1 to " + strconv.Itoa(most) + " characters, quotes around them not counted")
	}
	for i := range len(key) {
		if key[i] < 0x20 || key[i] > 0x7e {
			return bad("must be of printable ASCII characters")
		}
	}
	return key, nil
}

// fingerprint tells requests apart that come with one key: method, address, content type and body.
func fingerprint(r *http.Request, body []byte) (sum [32]byte) {
	d := sha256.New()
	for _, s := range []string{r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type")} {
		d.Write([]byte(strconv.Itoa(len(s)) + ":" + s))
	}
	d.Write(body)
	d.Sum(sum[:0])
	return sum
}
