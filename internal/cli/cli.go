// Package cli holds ferry's commands. Standard output is data, standard error is talk: progress, logs, addresses and
// errors. Every command has --json.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ferry/internal/api"
	"ferry/internal/app"
	"ferry/internal/config"
)

// Exit codes. Scripts rely on them.
const (
	ExitOK          = 0
	ExitFailed      = 1 // a run failed, or the command could not do what it was asked
	ExitConfig      = 2 // configuration or usage
	ExitEnvironment = 3 // queue, upstream, port or data folder not to be had
	ExitInterrupt   = 130
	ExitTerminated  = 143
)

// Streams are what a command talks to.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Environ  []string
	Dir      string // working directory
	// OutTerminal and ErrTerminal tell whether a person is watching.
	OutTerminal, ErrTerminal bool
}

// System is the process's own streams.
func System() Streams {
	dir, err := os.Getwd()
	if err != nil {
		dir = "."
	}
	return Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Environ: os.Environ(), Dir: dir,
		OutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		ErrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
}

// Main runs one command and returns its exit code. SIGINT and SIGTERM end its context; a second one ends the process.
func Main(args []string, s Streams) int {
	app.LimitMemory()
	ctx, caught := signalContext()
	c := &command{Streams: s}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	return c.exit(err, caught())
}

// signalContext ends with the first SIGINT or SIGTERM; caught returns that signal. The second signal kills, because
// the first handler lets go.
func signalContext() (ctx context.Context, caught func() os.Signal) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 1)
	got := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		got <- <-ch
		signal.Stop(ch)
		cancel()
	}()
	return ctx, func() os.Signal {
		select {
		case sig := <-got:
			return sig
		default:
			return nil
		}
	}
}

// exit reports an error and chooses the code.
func (c *command) exit(err error, sig os.Signal) int {
	if err == nil {
		return ExitOK
	}
	var silent *silentError
	if !errors.As(err, &silent) {
		c.report(err)
	}
	if sig != nil && errors.Is(err, context.Canceled) {
		if sig == syscall.SIGTERM {
			return ExitTerminated
		}
		return ExitInterrupt
	}
	return code(err)
}

func (c *command) report(err error) {
	var cfg config.Errors
	if errors.As(err, &cfg) {
		fmt.Fprintln(c.Err, cfg.Error())
		return
	}
	fmt.Fprintf(c.Err, "ferry: %v\n", err)
	var call *api.Error
	if errors.As(err, &call) && call.Code == api.CodeUnauthorized {
		fmt.Fprintln(c.Err, "  hint: set FERRY_API_KEY to a key of the ferry that is asked")
	}
}

// code is the exit code of an error.
func code(err error) int {
	var (
		coded *codedError
		cfg   config.Errors
		pipe  *app.PipelineError
		held  *app.HeldError
		env   *app.EnvironmentError
		call  *api.Error
		dial  *net.OpError // of a client's call to a running ferry
	)
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &cfg), errors.As(err, &pipe):
		return ExitConfig
	case errors.As(err, &held), errors.As(err, &env), errors.As(err, &dial):
		return ExitEnvironment
	case errors.As(err, &call):
		switch call.Code {
		case api.CodeUpstream, api.CodeTimeout, api.CodeRateLimited, api.CodeUnauthorized, api.CodeForbidden, api.CodeQueue, api.CodeQueueFull, api.CodeOverloaded, api.CodeStopping:
			return ExitEnvironment
		case api.CodeInvalid, api.CodeNotFound:
			return ExitConfig
		}
	}
	return ExitFailed
}

// codedError carries an exit code of its own.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &codedError{ExitConfig, fmt.Errorf(format, args...)}
}

// silentError is an error that has been shown already.
type silentError struct{ error }

func (e *silentError) Unwrap() error { return e.error }

// command is one invocation: its streams and the flags that all commands share.
type command struct {
	Streams
	configFile string
	env        string
	data       string
	server     string
	json       bool
	logLevel   string
	set        []string
}

func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ferry",
		Short: "Carry records from HTTP APIs to a message queue",
		Long: `ferry fetches records from HTTP APIs, runs your logic on each (jq), and lands the results durably on a message
queue, each record exactly once where the queue makes that possible.

  ferry dev                          everything on this machine: simulated API, embedded queue, HTTP API
  ferry run orders -c orders.yaml    one run in the foreground
  ferry serve -c ferry.yaml          the service

Exit codes: 0 ok, 1 run failed, 2 configuration, 3 environment (queue, upstream, port, data folder), 130/143 signals.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          needCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := root.PersistentFlags()
	f.StringVarP(&c.configFile, "config", "c", "", "configuration file (FERRY_CONFIG; default: ferry.yaml here, if there is one)")
	f.StringVar(&c.env, "env", "", "dev or prod (FERRY_ENV)")
	f.StringVar(&c.data, "data", "", "data folder of the embedded queue (default ./data)")
	f.StringVar(&c.server, "server", "", "address of a running ferry to talk to (FERRY_SERVER); its key comes from FERRY_API_KEY")
	f.BoolVar(&c.json, "json", false, "answer in JSON, one value a line")
	f.StringVar(&c.logLevel, "log-level", "", "debug, info, warn or error")
	f.StringArrayVar(&c.set, "set", nil, "set a configuration key, as in --set pipelines.orders.every=5m (several times)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &codedError{ExitConfig, err} })
	root.AddCommand(
		c.devCommand(), c.serveCommand(), c.runCommand(), c.checkCommand(), c.previewCommand(), c.tailCommand(),
		c.deadCommand(), c.cursorCommand(), c.mockCommand(), c.schemaCommand(), c.healthCommand(), c.versionCommand(),
	)
	return root
}

// needArgs wants one argument for each name.
func needArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage("%s: %s is missing\n\n%s", nameOf(cmd), names[len(args)], cmd.UsageString())
		case len(args) > len(names):
			return usage("%s: %q is one argument too many\n\n%s", nameOf(cmd), args[len(names)], cmd.UsageString())
		}
		return nil
	}
}

// needCommand is for commands that only hold others.
func needCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	meant := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		meant = fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return usage("there is no command %q%s (%s --help lists them)", nameOf(cmd, args[0]), meant, cmd.CommandPath())
}

// nameOf is a command's name as it is typed behind ferry.
func nameOf(cmd *cobra.Command, more ...string) string {
	return strings.Join(append(strings.Fields(cmd.CommandPath())[1:], more...), " ")
}

// version is written by the linker (-X) where there is no version control to ask, as while an image is built.
var version string

// Version is what this binary is: what the linker was told, the module's version or the commit it was built from.
func Version() string {
	if version != "" && version != "dev" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	if revision == "" {
		return "dev"
	}
	return "dev-" + revision + dirty
}
