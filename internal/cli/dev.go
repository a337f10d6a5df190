package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"ferry/internal/app"
	"ferry/internal/config"
)

func (c *command) devCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Everything on this machine: simulated API, embedded queue, HTTP API",
		Long: `Start everything on this machine: the simulated third-party API, the embedded queue, and the HTTP API with its
docs. Without a configuration file it carries the simulated API's data; with one it starts again on every change of a file
that it has read. A file that is made later, such as .env, is not noticed.`,
		Args: needArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.dev(cmd.Context(), listen) },
	}
	cmd.Flags().StringVarP(&listen, "listen", "l", "", "address of the HTTP API (default 127.0.0.1:8080)")
	return cmd
}

func (c *command) dev(ctx context.Context, listen string) error {
	if c.env == "" && c.getenv("FERRY_ENV") == "" {
		c.env = "dev"
	}
	load := func() (*config.Config, error) {
		return c.load(listenFlag(listen))
	}
	cfg, err := load()
	if err != nil {
		return err
	}
	c.warn(ofServing(cfg))
	// Watched before it is ready, so that no change is missed.
	changes, stop := c.watch(cfg)
	defer func() { stop() }()
	a, err := c.start(ctx, cfg, "dev")
	if err != nil {
		return err
	}
	c.welcome(a, cfg)
	for {
		select {
		case <-ctx.Done():
			return a.Stop(context.WithoutCancel(ctx))
		case err := <-a.Failed():
			return errors.Join(err, a.Stop(context.WithoutCancel(ctx)))
		case <-changes:
		}
		next, err := load()
		if err != nil {
			c.report(err)
			c.say("the configuration above does not hold: going on with the one before")
			continue
		}
		if w := ofServing(next); !slices.Equal(w, ofServing(cfg)) {
			c.warn(w)
		}
		cfg = next
		if err := a.Stop(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		stop() // the new configuration may be made of other files
		changes, stop = c.watch(next)
		if a, err = c.start(ctx, next, "dev"); err != nil {
			return err
		}
		c.say("the configuration has changed: started again")
	}
}

// welcome prints where everything is, and what to type next.
func (c *command) welcome(a *app.App, cfg *config.Config) {
	if c.json {
		_ = c.line(map[string]string{"url": a.URL(), "docs": a.URL() + "/docs", "mock": a.MockURL(), "data": cfg.Data}) // a closed stdout is no reason to stop
		return
	}
	c.say("%s", greeting(cfg, a.URL(), a.MockURL(), invocation(os.Args), c.given()))
}

// given are the flags without which another command would not find this process or its configuration, with a space before
// each: those that were typed. The environment's variables are the person's own affair.
func (c *command) given() flags {
	var f flags
	if c.configFile != "" {
		f.config = " -c " + shellWord(c.configFile)
	}
	if c.data != "" {
		f.data = " --data " + shellWord(c.data)
	}
	return f
}

type flags struct{ config, data string }

func (f flags) String() string { return f.config + f.data }

// shellWord quotes what a shell would not take for one word.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:=@%+,", r)
	}
	if strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// greeting is what dev says when it is ready; ferry is how to call this program, with the flags that are given to it.
func greeting(cfg *config.Config, url, mock, ferry string, given flags) string {
	from := cfg.File
	switch {
	case cfg.Demo:
		from = "the demonstration that is built in (make a ferry.yaml to leave it)"
	case from == "":
		from = "the environment"
	}
	queue, where := "queue", cfg.Queue.String()
	if strings.HasPrefix(where, "embedded:") {
		queue, where = "embedded queue", cfg.Data+" (synced to disk)"
	}
	var b strings.Builder
	row := func(what, is string) { fmt.Fprintf(&b, "  %-27s %s\n", what, is) }
	b.WriteByte('\n')
	row("ferry is ready", url)
	row("API docs", url+"/docs")
	row("simulated third-party API", mock)
	row(queue, where)
	row("configuration", from)
	if try := firstCommands(cfg, url, ferry, given); len(try) > 0 {
		fmt.Fprintf(&b, "\n  Try, in another terminal:\n    %s\n", strings.Join(try, "\n    "))
	}
	return b.String()
}

// firstCommands are three to copy: those of the README for the demonstration, and for somebody's own configuration what
// shows its first pipeline at work.
func firstCommands(cfg *config.Config, url, ferry string, given flags) []string {
	if cfg.Demo {
		return []string{"curl " + url + "/process", ferry + " tail process" + given.data, ferry + " run orders -c examples/orders.yaml" + given.data}
	}
	var reads, pushed []string
	for _, name := range slices.Sorted(maps.Keys(cfg.Pipelines)) {
		if cfg.Pipelines[name].Source.Push {
			pushed = append(pushed, name)
		} else {
			reads = append(reads, name)
		}
	}
	call := func(command, name string) string { return ferry + " " + command + " " + name + given.String() }
	tail := func(name string) string { return call("tail", cfg.Pipelines[name].Topic) }
	switch {
	case slices.Contains(reads, "process"):
		return []string{"curl " + url + "/process", call("run", "process"), tail("process")}
	case len(reads) > 0:
		return []string{call("preview", reads[0]), call("run", reads[0]), tail(reads[0])}
	case len(pushed) > 0:
		return []string{fmt.Sprintf(`curl %s/v1/pipelines/%s/records -H "Content-Type: application/json" -d '{"id": 1}'`, url, pushed[0]), tail(pushed[0])}
	}
	return nil
}

// invocation is how this program was called, for commands to copy.
func invocation(args []string) string {
	if len(args) == 0 {
		return "ferry"
	}
	for part := range strings.SplitSeq(filepath.ToSlash(filepath.Dir(args[0])), "/") {
		// Where `go run` puts what it starts: a folder for this once (go-build123), or its cache.
		if number, ok := strings.CutPrefix(part, "go-build"); ok && strings.Trim(number, "0123456789") == "" {
			return "go run ./cmd/ferry"
		}
	}
	return args[0]
}

// watch tells of changes of the files that the configuration was read from, once for each burst of writes. Without a
// file nothing ever comes.
func (c *command) watch(cfg *config.Config) (changes <-chan struct{}, stop func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		c.say("watching for changes: %v: changes need a restart", err)
		return nil, func() {}
	}
	files := map[string]bool{}
	for _, name := range cfg.Files {
		files[filepath.Clean(name)] = true
		// The folder, not the file: editors replace files.
		if err := w.Add(filepath.Dir(name)); err != nil {
			c.say("watching %s: %v: its changes need a restart", name, err)
		}
	}
	out := make(chan struct{}, 1)
	go func() {
		settle := time.NewTimer(time.Hour)
		settle.Stop()
		for {
			select {
			case ev, ok := <-w.Events:
				if !ok {
					return
				}
				if files[filepath.Clean(ev.Name)] && ev.Op&^fsnotify.Chmod != 0 {
					settle.Reset(150 * time.Millisecond)
				}
			case _, ok := <-w.Errors: // an overflow at worst; the next change is seen again
				if !ok {
					return
				}
			case <-settle.C:
				select {
				case out <- struct{}{}:
				default:
				}
			}
		}
	}()
	return out, func() { _ = w.Close() } // nothing to lose
}
