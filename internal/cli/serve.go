package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"ferry/internal/api/client"
	"ferry/internal/app"
	"ferry/internal/config"
	"ferry/internal/mockapi"
)

func (c *command) serveCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the service: HTTP API, schedules, pipelines",
		Args:  needArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load(listenFlag(listen))
			if err != nil {
				return err
			}
			c.warn(ofServing(cfg))
			a, err := c.start(cmd.Context(), cfg, "serve")
			if err != nil {
				return err
			}
			if c.ErrTerminal {
				c.say("ferry serves %s   docs %s/docs", a.URL(), a.URL())
			}
			return c.serveUntil(cmd.Context(), a)
		},
	}
	cmd.Flags().StringVarP(&listen, "listen", "l", "", "address of the HTTP API (default 127.0.0.1:8080)")
	return cmd
}

func listenFlag(listen string) map[string]string {
	if listen == "" {
		return nil
	}
	return map[string]string{"listen": listen}
}

// start opens everything and begins to serve.
func (c *command) start(ctx context.Context, cfg *config.Config, name string) (*app.App, error) {
	a, err := app.New(ctx, app.Options{Config: cfg, Command: name, Version: Version(), Logger: c.logger(cfg.Log)})
	if err != nil {
		return nil, err
	}
	if err := a.Start(ctx); err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, a.Close(closing))
	}
	return a, nil
}

// serveUntil serves until ctx ends, then stops within the configured grace. A stop on request is a success.
func (c *command) serveUntil(ctx context.Context, a *app.App) error {
	select {
	case <-ctx.Done():
	case err := <-a.Failed():
		return errors.Join(err, a.Stop(context.WithoutCancel(ctx)))
	}
	return a.Stop(context.WithoutCancel(ctx))
}

func (c *command) checkCommand() *cobra.Command {
	var connect, show bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration; with --connect also the queue",
		Args:  needArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load(nil)
			if err != nil {
				return err
			}
			c.warn(ofServing(cfg))
			if show && c.json {
				return c.line(cfg.RedactedTree())
			}
			if show {
				text, err := cfg.Redacted()
				if err != nil {
					return err
				}
				return c.printf("%s", text)
			}
			lines, err := app.Check(cmd.Context(), cfg, connect)
			if err != nil {
				return err
			}
			if c.json {
				return c.line(map[string]any{"ok": true, "pipelines": len(cfg.Pipelines), "notes": lines})
			}
			for _, l := range lines {
				if err := c.printf("%s\n", l); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&connect, "connect", false, "open the queue and the state store too")
	cmd.Flags().BoolVar(&show, "show", false, "print the whole configuration as it holds, secrets hidden")
	return cmd
}

func (c *command) mockCommand() *cobra.Command {
	var (
		listen string
		seed   uint64
	)
	cmd := &cobra.Command{
		Use:   "mock",
		Short: "Run the simulated third-party API alone",
		Long:  "Run the simulated third-party API: orders, users and events in every pagination style, behind every login, with every fault on request. GET / lists what it can do.",
		Args:  needArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := mockapi.Start(listen, mockapi.Options{Seed: seed})
			if err != nil {
				return &codedError{ExitEnvironment, fmt.Errorf("%w; choose another address with --listen", err)}
			}
			if c.json {
				err = c.line(map[string]string{"url": m.URL})
			} else {
				err = c.printf("simulated API on %s\n", m.URL)
			}
			if err != nil {
				return err
			}
			<-cmd.Context().Done()
			ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 5*time.Second)
			defer cancel()
			return m.Close(ctx)
		},
	}
	cmd.Flags().StringVarP(&listen, "listen", "l", "127.0.0.1:8081", "loopback address")
	cmd.Flags().Uint64Var(&seed, "seed", 1, "seed of the data sets: the same seed gives the same data")
	return cmd
}

func (c *command) healthCommand() *cobra.Command {
	var live bool
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a running ferry whether it is ready; for containers",
		Args:  needArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			url := c.server
			if url == "" {
				url = c.getenv("FERRY_SERVER")
			}
			if url == "" {
				cfg, err := c.load(nil)
				if err != nil {
					return err
				}
				url = app.LocalURL(cfg.Listen)
			}
			url, err := client.Address(url)
			if err != nil {
				return usage("--server: %w", err)
			}
			path := "/readyz"
			if live {
				path = "/livez"
			}
			return c.health(cmd.Context(), url+path)
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "ask whether it lives, not whether it is ready")
	return cmd
}

func (c *command) health(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usage("healthcheck: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return &codedError{ExitEnvironment, fmt.Errorf("healthcheck: %w", err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if c.json {
			return c.line(map[string]bool{"ok": true})
		}
		return c.printf("ok\n")
	}
	var problem struct{ Detail string }
	_ = json.NewDecoder(resp.Body).Decode(&problem) // the status says enough
	return &codedError{ExitFailed, fmt.Errorf("healthcheck: %s: %s %s", config.URL(url), resp.Status, problem.Detail)}
}
