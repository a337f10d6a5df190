package app

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"

	"ferry/internal/config"
	"ferry/internal/jq"
	"ferry/internal/queue/natsqueue"
	"ferry/internal/scheduler"
	"ferry/internal/source"
	"ferry/internal/state/pgstate"
	"ferry/internal/transform"
)

// demo is the configuration of a ferry that was given none.
//
//go:embed demo.yaml
var demo []byte

// LoadConfig reads the configuration with the checks that need other rooms: jq programs, schedules, queue addresses.
// Where there is no configuration at all, and the environment is dev, it is the built-in demonstration.
func LoadConfig(o config.Options) (*config.Config, error) {
	o.Checks = checks()
	cfg, err := config.Load(o)
	if err == nil {
		_, err = clusterOf(cfg)
	}
	if err != nil || cfg.File != "" || len(cfg.Pipelines) > 0 {
		return cfg, err
	}
	if cfg.Env == "prod" {
		return nil, errors.New("no configuration: name a file with --config, or set API_URL and MESSAGE_QUEUE_URL (the demonstration is for dev only)")
	}
	if cfg, err = config.Parse(demo, "the built-in demonstration", o); err != nil {
		return nil, err
	}
	cfg.Demo = true
	return cfg, nil
}

// checks are the config package's checkers, by tag.
func checks() map[string]func(string) error {
	return map[string]func(string) error{
		"jq":     jq.Check,
		"jqpath": jq.CheckPath,
		"cron":   scheduler.CheckCron,
		"queue":  checkQueue,
		"state":  checkState,
		"schema": transform.CheckSchema,
	}
}

func checkQueue(u string) error {
	_, err := queueOf(config.URL(u))
	return err
}

func checkState(u string) error {
	var err error
	switch s := scheme(config.URL(u)); s {
	case "postgres", "postgresql":
		_, err = pgstate.ParseURL(config.URL(u))
	case "embedded", "nats", "tls":
		_, err = natsqueue.ParseURL(config.URL(u))
	default:
		err = fmt.Errorf("state URL: %q keeps no state; write embedded:, nats://host or postgres://user:password@host/database", s)
	}
	return err
}

// Check puts together what the configuration names without running anything: sources, transforms, and with connect the
// queue and the state store. It returns what there is to say, line by line.
func Check(ctx context.Context, cfg *config.Config, connect bool) ([]string, error) {
	lines := []string{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Pipelines)) {
		p := cfg.Pipelines[name]
		when := "on request"
		switch {
		case p.Every > 0:
			when = "every " + p.Every.String()
		case p.Cron != "":
			when = "cron " + p.Cron + " " + p.Timezone
		}
		from := p.Source.Address()
		if p.Source.Push {
			from, when = "pushed records", "when they come"
		}
		lines = append(lines, fmt.Sprintf("pipeline %s: %s → %s, %s", name, from, p.Topic, when))
	}
	if !connect {
		if err := assemble(cfg); err != nil {
			return nil, err
		}
		return append(lines, "configuration is well-formed"), nil
	}
	a, err := New(ctx, Options{Config: cfg, Command: "check", Version: "check", Logger: discard()})
	if err != nil {
		return nil, err
	}
	err = a.Ready(ctx)
	info := a.queue.Info()
	if cerr := a.Close(context.WithoutCancel(ctx)); cerr != nil || err != nil {
		return nil, errors.Join(err, cerr)
	}
	lines = append(lines, fmt.Sprintf("queue %s %s: %s", info.Name, info.Server, info.Tier))
	if info.Note != "" {
		lines = append(lines, info.Note)
	}
	return append(lines, "configuration holds"), nil
}

// assemble makes the parts of every pipeline, to see that they can be.
func assemble(cfg *config.Config) error {
	var all []error
	for _, name := range slices.Sorted(maps.Keys(cfg.Pipelines)) {
		p := cfg.Pipelines[name]
		p.Source = located(p.Source, "http://localhost")
		src, _, err := parts(p, cfg.File, source.Options{Pipeline: name})
		if err != nil {
			all = append(all, &PipelineError{File: cfg.File, Pipeline: name, Err: err})
			continue
		}
		src.Close()
	}
	return errors.Join(all...)
}
