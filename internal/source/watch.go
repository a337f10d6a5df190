package source

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

var (
	errIdle = errors.New("the body was silent for too long")
	errPage = errors.New("the page took too long")
)

// watch ends a request that is silent for too long, or that takes too long as a whole. It is one timer for all of the
// request, which runs only while somebody waits for the other side: not while a part is being committed.
type watch struct {
	ctx     context.Context // of the request
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	idle    time.Duration
	left    time.Duration // of the time for the page
	since   time.Time     // when the waiting began
	waited  time.Duration
	silence atomic.Bool // what the timer stands for: silence, or the page as a whole
}

// newWatch starts a watch for a page; the waiting begins.
func newWatch(ctx context.Context, page, idle time.Duration) *watch {
	w := &watch{idle: idle, left: page, since: time.Now()}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(page, w.fire)
	return w
}

func (w *watch) fire() {
	if w.silence.Load() {
		w.cancel(errIdle)
	} else {
		w.cancel(errPage)
	}
}

// wait is called before a read of the body.
func (w *watch) wait() {
	w.since = time.Now()
	w.silence.Store(w.idle < w.left)
	w.timer.Reset(max(min(w.idle, w.left), 1))
}

// rest is called after an answer's header or a read of the body: nobody waits for the other side now.
func (w *watch) rest() {
	w.timer.Stop()
	d := time.Since(w.since)
	w.waited += d
	w.left -= d
}

// close gives up the request.
func (w *watch) close() {
	w.timer.Stop()
	w.cancel(nil)
}
