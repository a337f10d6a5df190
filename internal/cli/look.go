package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ferry/internal/api"
	"ferry/internal/config"
)

// answered makes a command of one question to the service, whose answer is shown: with --json as the API gives it.
func answered[T any](c *command, name string, ask func(context.Context, service, []string) (T, error), show func(T) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		conn, err := c.connect(cmd.Context(), name)
		if err != nil {
			return err
		}
		defer conn.Close()
		answer, err := ask(cmd.Context(), conn, args)
		if err != nil {
			return err
		}
		if c.json {
			return c.line(answer)
		}
		return show(answer)
	}
}

func (c *command) tailCommand() *cobra.Command {
	var (
		lines  uint
		follow bool
		from   int64
	)
	cmd := &cobra.Command{
		Use:   "tail TOPIC",
		Short: "Show the records of a topic, without taking them",
		Long: `Show the last records of a topic, without taking them. With --json each line is
{"id","topic","position","time","headers","data"}.`,
		Example: "  ferry tail orders -n 5\n  ferry tail orders --from 0 -n 0 --json > all.ndjson",
		Args:    needArgs("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := -int64(lines)
			switch {
			case cmd.Flags().Changed("from"):
				start = from
				if !cmd.Flags().Changed("lines") {
					lines = 0
				}
			case lines == 0:
				start = 0
			}
			return c.tail(cmd.Context(), args[0], start, int(lines), follow)
		},
	}
	cmd.Flags().UintVarP(&lines, "lines", "n", 10, "how many records; 0 means all")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes in")
	cmd.Flags().Int64Var(&from, "from", 0, "start at this position; 0 is the oldest kept")
	return cmd
}

// browsePage is how many records are asked for at once.
const browsePage = 500

func (c *command) tail(ctx context.Context, topic string, from int64, limit int, follow bool) error {
	conn, err := c.connect(ctx, "tail")
	if err != nil {
		return err
	}
	defer conn.Close()
	shown := 0
	for {
		want := browsePage
		if limit > 0 && !follow {
			want = min(want, limit-shown)
		}
		if want == 0 {
			return nil
		}
		records, err := conn.Browse(ctx, topic, from, want)
		if err != nil {
			if ctx.Err() != nil { // by a signal: that is how to end it
				err = &silentError{context.Canceled}
			}
			return err
		}
		for _, r := range records {
			if err := c.showRecord(r); err != nil {
				return err
			}
			from = r.Position + 1
		}
		shown += len(records)
		if len(records) > 0 {
			continue
		}
		if !follow {
			return nil
		}
		if from < 0 { // the topic is empty: go on from its beginning
			from = 0
		}
		select {
		case <-ctx.Done():
			return &silentError{ctx.Err()}
		case <-time.After(poll):
		}
	}
}

func (c *command) showRecord(r api.Record) error {
	if c.json {
		return c.line(r)
	}
	return c.printf("%d\t%s\t%s\t%s\n", r.Position, r.Time.UTC().Format(time.RFC3339), r.ID, r.Data)
}

func (c *command) previewCommand() *cobra.Command {
	var limit uint
	cmd := &cobra.Command{
		Use:   "preview PIPELINE",
		Short: "Show what a run would do with the next page; publishes nothing",
		Args:  needArgs("PIPELINE"),
		RunE: answered(c, "preview", func(ctx context.Context, s service, args []string) (api.Preview, error) {
			return s.Preview(ctx, args[0], api.PreviewRequest{Limit: int(limit)})
		}, c.showPreview),
	}
	cmd.Flags().UintVarP(&limit, "lines", "n", 5, "how many records")
	return cmd
}

func (c *command) showPreview(p api.Preview) error {
	next := ", the last one"
	if p.Then != "" {
		next = "; the next: " + p.Then
	}
	if err := c.printf("%s\n%d records in this page%s", p.Request, p.Read, next); err != nil {
		return err
	}
	for _, r := range p.Records {
		if err := c.printf("\n\n%s %s\n  before %s", r.Outcome, r.ID, r.Before); err != nil {
			return err
		}
		for _, after := range r.After {
			if err := c.printf("\n  after  %s", after); err != nil {
				return err
			}
		}
		if r.Reason != "" {
			if err := c.printf("\n  reason %s", r.Reason); err != nil {
				return err
			}
		}
	}
	if err := c.printf("\n"); err != nil {
		return err
	}
	if p.Warning != "" {
		c.say("warning: %s", p.Warning)
	}
	return nil
}

func (c *command) cursorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cursor", Short: "Look at or move a pipeline's saved cursor", Args: needCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	show := func(cur api.Cursor) error { return c.printf("%s\n", cur.Cursor) }
	cmd.AddCommand(
		&cobra.Command{
			Use: "get PIPELINE", Short: "Print the saved cursor; null is the beginning", Args: needArgs("PIPELINE"),
			RunE: answered(c, "cursor get", func(ctx context.Context, s service, args []string) (api.Cursor, error) {
				return s.Cursor(ctx, args[0])
			}, show),
		},
		&cobra.Command{
			Use: "set PIPELINE CURSOR", Short: "Replace the saved cursor by one that get has printed", Args: needArgs("PIPELINE", "CURSOR"),
			RunE: answered(c, "cursor set", func(ctx context.Context, s service, args []string) (api.Cursor, error) {
				if !json.Valid([]byte(args[1])) {
					return api.Cursor{}, usage("cursor set: %q is not JSON; use what `ferry cursor get` has printed", args[1])
				}
				value := json.RawMessage(args[1])
				var shown api.Cursor // as get prints it with --json
				if json.Unmarshal(value, &shown) == nil && shown.Pipeline != "" {
					value = shown.Cursor
				}
				return s.SetCursor(ctx, args[0], value)
			}, show),
		},
		&cobra.Command{
			Use: "reset PIPELINE", Short: "Start over from the beginning at the next run", Args: needArgs("PIPELINE"),
			RunE: answered(c, "cursor reset", func(ctx context.Context, s service, args []string) (api.Cursor, error) {
				return s.SetCursor(ctx, args[0], nil)
			}, show),
		},
	)
	return cmd
}

func (c *command) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: needArgs(),
		RunE: func(*cobra.Command, []string) error {
			if c.json {
				return c.line(map[string]string{"version": Version()})
			}
			return c.printf("ferry %s\n", Version())
		},
	}
}

func (c *command) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of the configuration, for editors", Args: needArgs(),
		Example: "  ferry schema > ferry.schema.json\n  # first line of ferry.yaml: # yaml-language-server: $schema=ferry.schema.json",
		RunE: func(*cobra.Command, []string) error {
			if _, err := c.Out.Write(config.Schema()); err != nil {
				return fmt.Errorf("write output: %w", err)
			}
			return nil
		},
	}
}
