// Package app is the one place that knows every concrete type: it opens what the configuration names, wires it
// together, and takes it down again in the opposite order.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"ferry/internal/config"
	"ferry/internal/embedded"
	"ferry/internal/jq"
	"ferry/internal/mockapi"
	"ferry/internal/queue"
	"ferry/internal/scheduler"
	"ferry/internal/state"
	"ferry/internal/telemetry"
)

// Options are what New needs.
type Options struct {
	Config  *config.Config
	Command string // serve, dev, run, …: how this process calls itself to others
	Version string
	Logger  *slog.Logger
}

// App is ferry in one process: opened by New, serving between Start and Stop. It implements api.Service.
type App struct {
	cfg     *config.Config
	opt     Options
	log     *slog.Logger
	metrics *telemetry.Metrics
	tracing *telemetry.Tracing

	folder    *folder // nil when nothing embedded is used
	embedded  *embedded.Server
	cluster   *embedded.Cluster // of which the embedded server is a part, or nil
	mock      *mockapi.Running
	queue     queue.Queue
	store     state.Store
	pipes     map[string]*pipe
	turns     map[string]chan struct{} // by dead topic: who holds the one place takes letters out
	letters   scheduler.Leases         // the same among instances; nil where none shares the state
	scheduler *scheduler.Scheduler
	updates   *updates
	guard     *jq.Guard // for programs that callers send

	listener net.Listener
	server   *http.Server
	debug    *http.Server
	drain    func()
	failed   chan error

	requests atomic.Uint64 // for ids of requests that came without one
	closers  []closer
	stopOnce sync.Once
	stopErr  error
}

// closer takes one thing down; they are run last opened, first closed.
type closer struct {
	what  string
	close func(context.Context) error
}

func (a *App) onClose(what string, f func(context.Context) error) {
	a.closers = append(a.closers, closer{what, f})
}

// New opens everything but the listener and the schedules: after it, pipelines can be run. What was opened before an
// error is closed again. Errors: *HeldError when another process has the data folder, *EnvironmentError when
// something cannot be reached.
func New(ctx context.Context, opt Options) (*App, error) {
	a := &App{
		cfg: opt.Config, opt: opt, log: opt.Logger, pipes: make(map[string]*pipe), turns: make(map[string]chan struct{}),
		updates: newUpdates(), guard: jq.NewGuard(guardPlaces, guardTime), failed: make(chan error, 2), drain: func() {},
	}
	if err := a.open(ctx); err != nil {
		return nil, errors.Join(err, a.Close(context.WithoutCancel(ctx)))
	}
	return a, nil
}

func (a *App) open(ctx context.Context) error {
	if err := a.openTelemetry(ctx); err != nil {
		return err
	}
	if err := a.openFolder(ctx); err != nil {
		return err
	}
	if err := a.openMock(); err != nil {
		return err
	}
	if err := a.openState(ctx); err != nil { // some queues keep their cursors there
		return err
	}
	if err := a.openQueue(ctx); err != nil {
		return err
	}
	if err := a.openPipelines(); err != nil {
		return err
	}
	return a.openScheduler()
}

// Close takes down what is open, last opened first, and returns every error.
func (a *App) Close(ctx context.Context) error {
	var errs []error
	for _, v := range slices.Backward(a.closers) {
		if err := v.close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", v.what, err))
		}
	}
	a.closers = nil
	return errors.Join(errs...)
}

// Failed gives the error that ended the service by itself, if one does.
func (a *App) Failed() <-chan error { return a.failed }

// MockURL is the address of the simulated API in this process, or "".
func (a *App) MockURL() string {
	if a.mock == nil {
		return ""
	}
	return a.mock.URL
}
