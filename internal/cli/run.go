package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"ferry/internal/api"
)

func (c *command) runCommand() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "run PIPELINE",
		Short: "Run a pipeline once, in the foreground",
		Long: `Run a pipeline once, from its saved cursor to the end of the source's data. Interrupted at any point (also by
kill -9), the next run goes on from the last commit.

Beside a running ferry that holds the data folder, the run happens there.`,
		Example: "  ferry run orders -c examples/orders.yaml",
		Args:    needArgs("PIPELINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(cmd.Context(), args[0], quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return cmd
}

// poll is how often progress is shown.
const poll = 200 * time.Millisecond

func (c *command) run(ctx context.Context, pipeline string, quiet bool) error {
	conn, err := c.connect(ctx, "run")
	if err != nil {
		return err
	}
	defer conn.Close()
	if conn.Where != "" {
		c.say("running in %s, with its configuration", conn.Where)
	}
	run, started, err := conn.StartRun(ctx, pipeline)
	if err != nil {
		return err
	}
	if !started {
		c.say("a run of %s is under way already: following it", pipeline)
	}
	run, err = c.follow(ctx, conn, run, quiet)
	switch {
	case err != nil && conn.Where != "" && isGone(err):
		return errors.Join(c.showRun(run), &codedError{ExitEnvironment, fmt.Errorf(
			"%w\n  hint: that ferry has stopped, or cannot be reached any more; this is how far the run was last seen, and what it has committed stays: run %s again to go on", err, pipeline)})
	case err != nil:
		return err
	}
	if err := c.showRun(run); err != nil {
		return err
	}
	if run.Status != "succeeded" {
		failed := fmt.Errorf("run of %s %s: %s", pipeline, run.Status, run.Reason)
		if ctx.Err() != nil {
			failed = errors.Join(failed, context.Canceled)
		}
		return &silentError{failed}
	}
	return nil
}

// showRun prints where a run stands.
func (c *command) showRun(run api.Run) error {
	if c.json {
		return c.line(lineOf(run))
	}
	return c.printf("%s\n", sentence(run))
}

// isGone tells whether a running ferry has stopped or is stopping, by the error of a call of it that worked before: it gave
// no answer, or that.
func isGone(err error) bool {
	var answer *api.Error
	return !errors.As(err, &answer) || answer.Code == api.CodeStopping
}

// follow shows progress until the run has ended. When ctx ends first, the run is asked to stop at its next commit.
func (c *command) follow(ctx context.Context, conn *connection, run api.Run, quiet bool) (api.Run, error) {
	var bar *progressbar.ProgressBar
	if c.ErrTerminal && !quiet && !c.json {
		bar = progressbar.NewOptions64(-1,
			progressbar.OptionSetWriter(c.Err),
			progressbar.OptionSetDescription(run.Pipeline),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("records"),
			progressbar.OptionThrottle(poll), progressbar.OptionClearOnFinish(), progressbar.OptionSpinnerType(14))
		defer func() { _ = bar.Finish() }() // only paints
	}
	cancelled := false
	for run.Status == "running" {
		// Each look outlives ctx, so that the end of an interrupted run is seen.
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), poll)
		next, err := conn.WaitRun(look, run.ID)
		cancel()
		if next.ID != "" {
			run = next
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return run, err
		}
		if bar != nil {
			if run.TotalHint > 0 {
				bar.ChangeMax64(max(run.TotalHint, run.Read))
			}
			_ = bar.Set64(run.Read) // only paints
		}
		if ctx.Err() != nil && !cancelled {
			cancelled = true
			c.say("stopping after the commit under way; once more to end at once")
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			_, err := conn.CancelRun(stop, run.ID)
			cancel()
			if err != nil {
				return run, err
			}
		}
	}
	return run, nil
}
