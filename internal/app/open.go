package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"ferry/internal/config"
	"ferry/internal/embedded"
	"ferry/internal/mockapi"
	"ferry/internal/pipeline"
	"ferry/internal/queue"
	"ferry/internal/queue/cloudevents"
	"ferry/internal/queue/natsqueue"
	"ferry/internal/scheduler"
	"ferry/internal/source"
	"ferry/internal/state/natsstate"
	"ferry/internal/state/pgstate"
	"ferry/internal/telemetry"
	"ferry/internal/transform"
)

func (a *App) openTelemetry(ctx context.Context) (err error) {
	a.metrics = telemetry.NewMetrics(a.opt.Version)
	if a.tracing, err = telemetry.NewTracing(ctx, a.cfg.Trace, a.opt.Version, a.log); err != nil {
		return fmt.Errorf("open traces: %w", err)
	}
	a.onClose("traces", func(ctx context.Context) error { a.tracing.Shutdown(ctx); return nil })
	return nil
}

func scheme(u config.URL) string {
	s, _, _ := strings.Cut(u.Reveal(), ":")
	return strings.ToLower(s) // RFC 3986, 3.1
}

// openFolder takes the data folder and starts the embedded server, when something of this process lies there.
func (a *App) openFolder(ctx context.Context) error {
	if scheme(a.cfg.Queue) != "embedded" && scheme(a.cfg.State) != "embedded" {
		return nil
	}
	f, err := hold(a.cfg.Data, a.opt.Command)
	if err != nil {
		return err
	}
	a.folder = f
	a.onClose("data folder", func(context.Context) error { f.release(); return nil })

	opt := embedded.Options{Dir: filepath.Join(a.cfg.Data, "queue"), Logger: a.log}
	if scheme(a.cfg.Queue) == "embedded" {
		qc, err := natsqueue.ParseURL(a.cfg.Queue)
		if err != nil {
			return err
		}
		opt.Listen = qc.Listen
	}
	if opt.Cluster, err = clusterOf(a.cfg); err != nil {
		return err
	}
	if a.embedded, err = embedded.Start(ctx, opt); err != nil {
		return &EnvironmentError{err}
	}
	a.cluster = opt.Cluster
	a.onClose("embedded queue", a.embedded.Close)
	return nil
}

// openMock starts the simulated API when a pipeline reads "mock:".
func (a *App) openMock() error {
	wanted := a.opt.Command == "dev"
	for _, p := range a.cfg.Pipelines {
		wanted = wanted || strings.HasPrefix(p.Source.Base, mockBase)
	}
	if !wanted {
		return nil
	}
	m, err := mockapi.Start("127.0.0.1:0", mockapi.Options{Seed: 1})
	if err != nil {
		return &EnvironmentError{fmt.Errorf("start simulated API: %w", err)}
	}
	a.mock = m
	a.onClose("simulated API", m.Close)
	return nil
}

// mockBase as a source's base means the simulated API in this process.
const mockBase = "mock:"

func (a *App) openState(ctx context.Context) error {
	var nc *nats.Conn
	var err error
	var opt natsstate.Options
	switch s := scheme(a.cfg.State); s {
	case "embedded":
		nc, err = a.embedded.Connect()
		if a.cluster != nil {
			opt.Replicas = 3
		}
	case "nats", "tls":
		var qc natsqueue.Config
		if qc, err = natsqueue.ParseURL(a.cfg.State); err != nil {
			return err
		}
		nc, err = qc.Dial(ctx)
		opt.Domain, opt.Replicas, opt.Timeout = qc.Domain, qc.Replicas, qc.Timeout
	case "postgres", "postgresql":
		return a.openPostgres(ctx)
	default:
		return fmt.Errorf("state: %s: it is kept in embedded:, nats:// or postgres://, not in %s", a.cfg.State, s)
	}
	if err != nil {
		return &EnvironmentError{fmt.Errorf("connect to state: %w", unreachable("state", a.cfg.State, err))}
	}
	a.onClose("state connection", func(context.Context) error { nc.Close(); return nil })
	err = a.patiently(ctx, "state", func(ctx context.Context) (err error) {
		a.store, err = natsstate.Open(ctx, nc, opt)
		return err
	})
	if err != nil {
		return &EnvironmentError{fmt.Errorf("open state: %w", err)}
	}
	return nil
}

func (a *App) openPostgres(ctx context.Context) error {
	c, err := pgstate.ParseURL(a.cfg.State)
	if err != nil {
		return err
	}
	store, err := pgstate.Open(ctx, c)
	if err != nil {
		return &EnvironmentError{fmt.Errorf("open state: %w", unreachable("state", a.cfg.State, err))}
	}
	a.store = store
	a.onClose("state", func(context.Context) error { store.Close(); return nil })
	return nil
}

func (a *App) openPipelines() error {
	var turns source.Turns
	if a.shares() {
		turns = sharedTurns{a.store}
	}
	limiters := source.NewLimiters(turns)
	var all []error
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Pipelines)) {
		if err := a.openPipeline(name, a.cfg.Pipelines[name], limiters); err != nil {
			all = append(all, &PipelineError{File: a.cfg.File, Pipeline: name, Err: err})
		}
	}
	return errors.Join(all...)
}

// located gives a source of the simulated API that API's address.
func located(cfg config.Source, mock string) config.Source {
	if rest, ok := strings.CutPrefix(cfg.Base, mockBase); ok {
		cfg.Base = mock + rest
	}
	if o := cfg.Auth.OAuth2; o != nil && strings.HasPrefix(o.TokenURL, "/") { // beside the simulated API
		absolute := *o
		absolute.TokenURL = cfg.Base + o.TokenURL
		cfg.Auth.OAuth2 = &absolute
	}
	return cfg
}

// hosts are those that a source names. That of a token_url is none of them: only requests for pages are counted.
func hosts(cfg config.Source) []string {
	named := slices.Clone(cfg.Allow.Hosts)
	for _, address := range []string{cfg.Base, cfg.Get, cfg.Post} {
		if u, err := url.Parse(address); err == nil && u.IsAbs() && u.Host != "" {
			named = append(named, u.Host)
		}
	}
	return named
}

// parts makes a pipeline's source and transform, which asks nobody. The file is that of the configuration.
func parts(cfg config.Pipeline, file string, opt source.Options) (*source.Source, pipeline.Transform, error) {
	src, err := source.New(cfg.Source, opt)
	if err != nil {
		return nil, nil, err
	}
	tr, err := transform.New(cfg.Transform, transform.Options{Dir: filepath.Dir(file)})
	if err != nil {
		src.Close()
		return nil, nil, err
	}
	return src, tr, nil
}

func (a *App) openPipeline(name string, cfg config.Pipeline, limiters *source.Limiters) error {
	cfg.Source = located(cfg.Source, a.MockURL())
	a.metrics.AddHosts(hosts(cfg.Source)...)
	p := &pipe{metrics: a.metrics.Pipeline(name)}
	src, tr, err := parts(cfg, a.cfg.File, source.Options{
		Pipeline: name, Limiters: limiters, Observer: p.metrics, UserAgent: "ferry/" + a.opt.Version,
	})
	if err != nil {
		return err
	}
	p.source = src
	a.onClose("source of "+name, func(context.Context) error { src.Close(); return nil })
	q := a.queue
	if cfg.Format == "cloudevents" {
		q = cloudevents.Wrap(q, cloudevents.Options{Topic: cfg.Topic, Source: cfg.Event.Source, Type: cfg.Event.Type})
	}
	var reader pipeline.Source = src
	if a.tracing.Enabled() {
		reader, q = tracedSource{reader, a.tracing, name}, tracedQueue{q, a.tracing, name}
	}
	p.Pipeline, err = pipeline.New(pipeline.Config{
		Name: name, Topic: cfg.Topic, Source: reader, Transform: tr, Queue: q,
		MaxPages: cfg.Source.MaxPages, CommitRecords: cfg.Commit.Records, CommitBytes: int(cfg.Commit.Bytes), Buffer: int(cfg.Commit.Buffer),
		Linger: cfg.Commit.Linger.D(), Hooks: a.hooks(p),
	})
	if err != nil {
		return err
	}
	a.pipes[name] = p
	if dead := queue.DeadTopic(cfg.Topic); a.turns[dead] == nil { // pipelines may share a topic
		a.turns[dead] = make(chan struct{}, 1)
	}
	return nil
}

func (a *App) openScheduler() error {
	cfg := scheduler.Config{
		Runner: runner{a}, Store: a.store, Instance: a.instance(), Logger: a.log, OnUpdate: a.runChanged,
		LeaseTTL: a.cfg.Lease.D(), Sole: a.sole(),
	}
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Pipelines)) {
		p := a.cfg.Pipelines[name]
		zone, err := time.LoadLocation(p.Timezone)
		if err != nil {
			return fmt.Errorf("pipeline %s: timezone: %w", name, err)
		}
		cfg.Pipelines = append(cfg.Pipelines, scheduler.Pipeline{
			Name: name, Every: p.Every.D(), Cron: p.Cron, Location: zone, Jitter: p.Jitter.D(), Missed: p.Missed,
			Paused: p.Paused, Timeout: p.Timeout.D(), Stall: p.Stall.D(),
		})
	}
	s, err := scheduler.New(cfg)
	if err != nil {
		return err
	}
	a.scheduler = s
	if a.shares() {
		a.letters = scheduler.NewStoreLeases(a.store, lettersPrefix, s.Instance(), a.cfg.Lease.D())
	}
	a.onClose("scheduler", s.Stop)
	return nil
}

// sole tells whether the state store is this process's alone, as long as it holds the folder.
func (a *App) sole() bool { return a.folder != nil && !a.shares() }

// instance names this process among those that share a state store.
func (a *App) instance() string {
	if a.sole() {
		return "local" // one process holds the folder: after a crash the next one takes its leases over at once
	}
	// The end is new with every process: one that comes back under its name must not take the leases of the one before
	// for its own while that is still around.
	return instanceName(a.cfg) + "-" + strings.ToLower(rand.Text()[:6])
}

// listen opens the API's port.
func (a *App) listen(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", a.cfg.Listen)
	if err != nil {
		var op *net.OpError
		why := err
		if errors.As(err, &op) {
			why = op.Err
		}
		return &EnvironmentError{fmt.Errorf("listen on %s: %w; free it, or choose another address with --listen (FERRY_LISTEN)", a.cfg.Listen, why)}
	}
	a.listener = l
	return nil
}
