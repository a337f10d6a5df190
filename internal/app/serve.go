package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"ferry/internal/api"
	"ferry/internal/config"
	"ferry/internal/console"
	"ferry/internal/telemetry"
)

// Start listens, serves and schedules. On an error everything it began is ended by Close.
func (a *App) Start(ctx context.Context) error {
	if err := a.listen(ctx); err != nil {
		return err
	}
	// Before a run can end, which knows better.
	a.recallCursors(ctx)
	var idempotency api.Idempotency // nil: in this process's memory
	if a.shares() {
		shared := newSharedAnswers(a.store, a.cfg.Server.RequestTimeout.D())
		a.onClose("answers", shared.start(ctx, a.log))
		idempotency = shared
	}
	handler, err := api.New(a, api.Options{
		Idempotency: idempotency,
		Auth:        a.auth(), Server: a.cfg.Server, Listen: a.cfg.Listen, Logger: a.log,
		Metrics: a.metricsHandler(), Console: console.Handler(), Version: a.opt.Version,
		Observe: a.metrics.Request, InFlight: a.metrics.InFlight, Tracing: a.tracing.Middleware,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("build API: %w", err), a.listener.Close())
	}
	a.drain = handler.Drain
	a.server = api.NewServer(a.cfg.Listen, handler, a.cfg.Server)
	go a.serve(a.server, a.listener)
	a.onClose("HTTP server", func(context.Context) error { return a.server.Close() })
	if a.cfg.Debug.Listen != "" {
		if err := a.startDebug(ctx); err != nil {
			return err
		}
	}
	if err := a.announce(ctx); err != nil {
		return fmt.Errorf("join the other instances: %w", err)
	}
	if err := a.scheduler.Start(ctx); err != nil {
		return fmt.Errorf("start scheduler: %w", err)
	}
	if a.folder != nil {
		if err := a.folder.announce(a.URL()); err != nil {
			return err
		}
	}
	a.log.Info("ready", "url", a.URL(), "queue", a.cfg.Queue.String(), "tier", a.queue.Info().Tier,
		"pipelines", len(a.pipes), "version", a.opt.Version)
	if a.cfg.Demo {
		a.log.Info("this is the demonstration: no configuration was found, so ferry carries the simulated API that is built in; " +
			"name a file with --config, or set API_URL and MESSAGE_QUEUE_URL")
	}
	return nil
}

// metricsHandler brings what nobody has asked for lately up to date before it is read: whether the queue takes records,
// and when pipelines run next.
func (a *App) metricsHandler() http.Handler {
	metrics := a.metrics.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		_ = a.Ready(ctx)        // sets the gauge
		_, _ = a.Pipelines(ctx) // sets theirs; what cannot be told keeps its last value
		metrics.ServeHTTP(w, r)
	})
}

func (a *App) serve(s *http.Server, l net.Listener) {
	if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		a.failed <- &EnvironmentError{fmt.Errorf("serve %s: %w", l.Addr(), err)}
	}
}

func (a *App) startDebug(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", a.cfg.Debug.Listen)
	if err != nil {
		return &EnvironmentError{fmt.Errorf("listen for pprof: %w; choose another address in debug.listen", err)}
	}
	if a.debug, err = telemetry.Debug(a.cfg.Debug); err != nil {
		return errors.Join(err, l.Close())
	}
	go a.serve(a.debug, l)
	a.onClose("pprof server", func(context.Context) error { return a.debug.Close() })
	return nil
}

// auth is who may call: what the configuration says, and, where keys are needed, whoever can read the data folder.
func (a *App) auth() config.Auth {
	auth := a.cfg.Auth
	if len(auth.Keys) > 0 && a.folder != nil {
		auth.Keys = append(slices.Clip(auth.Keys),
			config.APIKey{Name: "local", Key: config.Secret(a.folder.self.Token), Role: "admin"})
	}
	return auth
}

// Stop ends the service without losing or failing anything accepted (invariant 10): readyz turns red, the listener
// stays open for the drain delay, then requests under way end and runs stop at their next commit, all within the
// grace; then everything is closed. A second call waits for the first and gives its result.
func (a *App) Stop(ctx context.Context) error {
	a.stopOnce.Do(func() { a.stopErr = a.stop(ctx) })
	return a.stopErr
}

func (a *App) stop(ctx context.Context) error {
	a.log.Info("stopping", "grace", a.cfg.Server.Grace.String())
	a.drain()
	if d := a.cfg.Server.DrainDelay.D(); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Server.Grace.D())
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- a.scheduler.Stop(ctx) }()
	var errs []error
	if a.server != nil {
		if err := a.server.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("end requests: %w", err))
		}
	}
	if err := <-stopped; err != nil {
		errs = append(errs, fmt.Errorf("end runs: %w", err))
	}
	// Closing has time of its own: what is durable is durable already, but a clean end starts faster next time.
	closing, cancelClosing := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancelClosing()
	errs = append(errs, a.Close(closing))
	err := errors.Join(errs...)
	a.log.Info("stopped")
	return err
}

// URL is where the API is reached from this machine, or "" before Start.
func (a *App) URL() string {
	if a.listener == nil {
		return ""
	}
	return LocalURL(a.listener.Addr().String())
}

// LocalURL is how to reach a listening address from its own machine.
func LocalURL(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "http://" + listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}
