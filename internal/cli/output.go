package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ferry/internal/api"
	"ferry/internal/config"
)

// line writes one JSON value as one line.
func (c *command) line(v any) error {
	enc := json.NewEncoder(c.Out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func (c *command) printf(format string, args ...any) error {
	if _, err := fmt.Fprintf(c.Out, format, args...); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// say talks to the person; scripts read standard output.
func (c *command) say(format string, args ...any) { fmt.Fprintf(c.Err, format+"\n", args...) }

func (c *command) warn(warnings []string) {
	for _, w := range warnings {
		c.say("warning: %s", w)
	}
}

// ofServing are the warnings for a command that serves the API, or checks for those that will.
func ofServing(cfg *config.Config) []string { return slices.Concat(cfg.Callers, cfg.Warnings) }

// number writes 12345678 as 12,345,678.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		s = "-" + s
	}
	return s
}

// plural writes 1 page and 2 pages.
func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return number(n) + " " + what + "s"
}

// runLine is how `run` ends with --json: the shape is part of the contract.
type runLine struct {
	Pipeline   string  `json:"pipeline"`
	Run        string  `json:"run"`
	Status     string  `json:"status"`
	Reason     string  `json:"reason"`
	Pages      int64   `json:"pages"`
	Read       int64   `json:"read"`
	Published  int64   `json:"published"`
	Filtered   int64   `json:"filtered"`
	Seen       int64   `json:"seen"`
	Dead       int64   `json:"dead"`
	RecordsOut int64   `json:"records_out"`
	Seconds    float64 `json:"seconds"`
	RetryAt    string  `json:"retry_at,omitempty"`
}

func lineOf(r api.Run) runLine {
	l := runLine{
		Pipeline: r.Pipeline, Run: r.ID, Status: r.Status, Reason: r.Reason, Pages: r.Pages, Read: r.Read,
		Published: r.Published, Filtered: r.Filtered, Seen: r.Seen, Dead: r.Dead, RecordsOut: r.RecordsOut, Seconds: r.Seconds,
	}
	if r.RetryAt != nil {
		l.RetryAt = r.RetryAt.UTC().Format(time.RFC3339)
	}
	return l
}

// sentence says how a run ended, with the sum of invariant 5.
func sentence(r api.Run) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s in %.1fs: %s new", r.Pipeline, strings.ReplaceAll(r.Status, "_", " "), r.Seconds, number(r.Published))
	fmt.Fprintf(&b, " (read %s = %s published + %s filtered + %s seen before + %s dead letters; %s)",
		number(r.Read), number(r.Published), number(r.Filtered), number(r.Seen), number(r.Dead), plural(r.Pages, "page"))
	if r.RecordsOut != r.Published {
		fmt.Fprintf(&b, ", %s records out", number(r.RecordsOut))
	}
	if r.Reason != "" {
		fmt.Fprintf(&b, "\n  reason: %s", r.Reason)
	}
	if r.Dead > 0 {
		fmt.Fprintf(&b, "\n  the dead letters and why: ferry dead list %s", r.Pipeline)
	}
	if r.RetryAt != nil {
		fmt.Fprintf(&b, "\n  come back at %s", r.RetryAt.UTC().Format(time.RFC3339))
	}
	return b.String()
}
