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
	if err != nil {
		return err
	}
	if c.json {
		err = c.line(lineOf(run))
	} else {
		err = c.printf("%s\n", sentence(run))
	}
	if err != nil {
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
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return run, err
		}
		if err == nil {
			run = next
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
