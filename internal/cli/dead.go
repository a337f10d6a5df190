package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"ferry/internal/api"
)

func (c *command) deadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dead", Short: "List, replay and discard dead letters", Args: needCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var lines uint
	list := &cobra.Command{
		Use: "list PIPELINE", Short: "Show the dead letters of a pipeline, oldest first", Args: needArgs("PIPELINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.listDead(cmd.Context(), args[0], int(lines))
		},
	}
	list.Flags().UintVarP(&lines, "lines", "n", 100, "how many; 0 means all")
	var positions []int64
	replay := &cobra.Command{
		Use: "replay PIPELINE", Short: "Send dead letters through the pipeline again", Args: needArgs("PIPELINE"),
		Long: "Send dead letters through the pipeline again: those at --position, or all. What fails again is a dead letter again, with its new reason. What was cut to its beginning stays where it is.",
		RunE: answered(c, "dead replay", func(ctx context.Context, s service, args []string) (api.Replayed, error) {
			return s.Replay(ctx, args[0], positions)
		}, c.showReplayed),
	}
	replay.Flags().Int64SliceVar(&positions, "position", nil, "position of a dead letter (several times)")
	var all bool
	discard := &cobra.Command{
		Use: "discard PIPELINE", Short: "Take dead letters out for good",
		Long: "Take dead letters out for good: those at --position, or --all.",
		Args: func(cmd *cobra.Command, args []string) error {
			err := needArgs("PIPELINE")(cmd, args)
			if err == nil && all == (len(positions) > 0) {
				err = usage("say which dead letters: --position N (several times; dead list shows them), or --all")
			}
			return err
		},
		RunE: answered(c, "dead discard", func(ctx context.Context, s service, args []string) (api.Discarded, error) {
			return s.Discard(ctx, args[0], positions)
		}, func(d api.Discarded) error { return c.printf("%s: discarded %d\n", d.Pipeline, d.Discarded) }),
	}
	discard.Flags().Int64SliceVar(&positions, "position", nil, "position of a dead letter (several times)")
	discard.Flags().BoolVar(&all, "all", false, "all of them")
	cmd.AddCommand(list, replay, discard)
	return cmd
}

func (c *command) showReplayed(r api.Replayed) error {
	if r.Cut == 0 {
		return c.printf("%s: replayed %d = %d published + %d filtered + %d dead again\n", r.Pipeline, r.Read, r.Published, r.Filtered, r.Dead)
	}
	c.say("%d stay dead letters, for only the beginning of each was kept: mend the cause and pull them again, for example with the cursor set back", r.Cut)
	return c.printf("%s: replayed %d = %d published + %d filtered + %d dead again + %d cut\n", r.Pipeline, r.Read, r.Published, r.Filtered, r.Dead, r.Cut)
}

func (c *command) listDead(ctx context.Context, pipeline string, limit int) error {
	conn, err := c.connect(ctx, "dead list")
	if err != nil {
		return err
	}
	defer conn.Close()
	shown, from := 0, int64(0)
	for {
		want := browsePage
		if limit > 0 {
			want = min(want, limit-shown)
		}
		letters, err := conn.Dead(ctx, pipeline, from, want)
		if err != nil {
			return err
		}
		for _, l := range letters {
			if err := c.showDead(l); err != nil {
				return err
			}
			from = l.Position + 1
		}
		if shown += len(letters); len(letters) < want || shown == limit {
			break
		}
	}
	if shown == 0 && !c.json {
		c.say("%s has no dead letters", pipeline)
	}
	return nil
}

func (c *command) showDead(l api.DeadLetter) error {
	if c.json {
		return c.line(l)
	}
	return c.printf("%d\t%s\t%s\t%s: %s\n\t%s\n", l.Position, l.Time.UTC().Format(time.RFC3339), l.ID, l.Stage, l.Reason, l.Data)
}
