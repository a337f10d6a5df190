package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"ferry/internal/api"
	"ferry/internal/api/client"
	"ferry/internal/app"
	"ferry/internal/config"
	"ferry/internal/telemetry"
)

// load reads the configuration with the flags on top.
func (c *command) load(extra map[string]string) (*config.Config, error) {
	set := map[string]string{}
	maps.Copy(set, extra)
	if c.data != "" {
		set["data"] = c.data
	}
	if c.env != "" {
		set["env"] = c.env
	}
	if c.logLevel != "" {
		set["log.level"] = c.logLevel
	}
	for _, kv := range c.set {
		key, v, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, usage("--set wants key=value, not %q", kv)
		}
		set[key] = v
	}
	file := cmp.Or(c.configFile, c.getenv("FERRY_CONFIG"))
	cfg, err := app.LoadConfig(config.Options{File: file, Dir: c.Dir, Environ: c.Environ, Set: set})
	if err != nil {
		var unread *fs.PathError
		if c.configFile == "" && errors.As(err, &unread) && unread.Path == file {
			err = fmt.Errorf("FERRY_CONFIG: %w", err) // nobody sees it in what was typed
		}
		return nil, &codedError{ExitConfig, err}
	}
	return cfg, nil
}

func (c *command) getenv(name string) string {
	for _, v := range slices.Backward(c.Environ) {
		if v, ok := strings.CutPrefix(v, name+"="); ok {
			return v
		}
	}
	return ""
}

func (c *command) logger(cfg config.Log) *slog.Logger {
	return telemetry.NewLogger(cfg, c.Err, c.ErrTerminal)
}

// service is what commands ask for: of this process itself, or of a running instance through its API.
type service interface {
	Preview(ctx context.Context, pipeline string, req api.PreviewRequest) (api.Preview, error)
	StartRun(ctx context.Context, pipeline string) (run api.Run, started bool, err error)
	WaitRun(ctx context.Context, id string) (api.Run, error)
	CancelRun(ctx context.Context, id string) (api.Run, error)
	Cursor(ctx context.Context, pipeline string) (api.Cursor, error)
	SetCursor(ctx context.Context, pipeline string, value json.RawMessage) (api.Cursor, error)
	Browse(ctx context.Context, topic string, from int64, limit int) ([]api.Record, error)
	Dead(ctx context.Context, pipeline string, from int64, limit int) ([]api.DeadLetter, error)
	Replay(ctx context.Context, pipeline string, positions []int64) (api.Replayed, error)
	Discard(ctx context.Context, pipeline string, positions []int64) (api.Discarded, error)
}

// connection is a service, and what to do when one is done with it.
type connection struct {
	service
	// Where says whose Service it is, when it is not this process's own.
	Where string
	Close func()
}

// connect finds the service to talk to: the instance named by --server; otherwise this process, which opens the data
// folder itself; or, where a running instance holds the folder, that instance.
func (c *command) connect(ctx context.Context, name string) (*connection, error) {
	server := c.server
	if server == "" {
		server = c.getenv("FERRY_SERVER")
	}
	if server != "" {
		remote, err := client.New(server, c.getenv("FERRY_API_KEY"))
		if err != nil {
			return nil, usage("--server: %w", err)
		}
		return &connection{service: remote, Where: remote.URL(), Close: func() {}}, nil
	}
	cfg, err := c.load(nil)
	if err != nil {
		return nil, err
	}
	if !cfg.Log.LevelSet {
		cfg.Log.Level = "warn" // a command's own words are enough
	}
	a, err := app.New(ctx, app.Options{Config: cfg, Command: name, Version: Version(), Logger: c.logger(cfg.Log)})
	var held *app.HeldError
	if errors.As(err, &held) && held.By != nil && held.By.URL != "" {
		remote, cerr := client.New(held.By.URL, held.By.Token)
		if cerr != nil {
			return nil, fmt.Errorf("%w (%w)", err, cerr)
		}
		return &connection{
			service: remote,
			Where:   fmt.Sprintf("%s (process %d, which holds %s)", held.By.URL, held.By.PID, held.Folder),
			Close:   func() {},
		}, nil
	}
	c.warn(cfg.Warnings) // here, because a running instance has a configuration of its own
	if err != nil {
		return nil, err
	}
	return &connection{service: a, Close: func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := a.Close(ctx); err != nil {
			fmt.Fprintf(c.Err, "ferry: %v\n", err)
		}
	}}, nil
}
