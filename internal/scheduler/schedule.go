package scheduler

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/adhocore/gronx"
)

// A Schedule says when a pipeline is due. Its methods are pure: they ask no clock, so that every instance and every
// restart comes to the same answer.
type Schedule interface {
	// Next returns the first tick later than after. anchor is a tick of the past that fixes the grid of an interval;
	// cron has no use for it. The zero time means: never.
	Next(anchor, after time.Time) time.Time
	// Floor returns the last moment up to now through which all ticks are dealt with when a run starts now: the last
	// tick for an interval, now itself for cron.
	Floor(anchor, now time.Time) time.Time
	// String describes the schedule for a person, such as "every 5m0s".
	String() string
}

// Every is a fixed grid: ticks are whole multiples of the interval away from the anchor, the pipeline's first run. A
// late or long run does not move the grid, so it never drifts.
func Every(interval time.Duration) (Schedule, error) {
	if interval <= 0 {
		return nil, fmt.Errorf("every: %s is not a time span; write for example every: 5m", interval)
	}
	return every(interval), nil
}

type every time.Duration

func (e every) String() string { return "every " + time.Duration(e).String() }

func (e every) Next(anchor, after time.Time) time.Time {
	return e.Floor(anchor, after).Add(time.Duration(e))
}

func (e every) Floor(anchor, now time.Time) time.Time {
	since := now.Sub(anchor) % time.Duration(e)
	if since < 0 {
		since += time.Duration(e)
	}
	return now.Add(-since)
}

// Cron ticks at the times of a five-field cron expression (minute, hour, day of month, month, day of week) or one of
// @yearly, @monthly, @weekly, @daily, @hourly and the other names of gronx, in the time zone loc (nil means UTC). It
// refuses an expression that never comes, such as February 30th.
//
// Daylight saving time:
//   - An expression that names hours ("30 2 * * *", "0 */2 * * *") is about the clock on the wall, and each time on it
//     counts once a day. In autumn's repeated hour it ticks the first time that the clock shows the time, and not the
//     second. In spring's lost hour it ticks at the first moment after the gap, where several lost ticks become one.
//   - An expression for every hour ("*/15 * * * *", "30 * * * *") is about time passing. It ticks in both of
//     autumn's repeated hours and has nothing to catch up in spring, so the distance between ticks stays the same.
func Cron(expr string, loc *time.Location) (Schedule, error) {
	if loc == nil {
		loc = time.UTC
	}
	expr = strings.TrimSpace(expr)
	fields := strings.Fields(expr)
	switch {
	case strings.HasPrefix(expr, "@"):
		segments, err := gronx.Segments(expr)
		if err != nil || len(segments) != 6 || segments[0] != "0" {
			return nil, fmt.Errorf("cron: %q is not a known name; use @hourly, @daily, @weekly, @monthly or five fields", expr)
		}
		fields = segments[1:]
	case len(fields) != 5:
		return nil, fmt.Errorf("cron: %q has %d fields; write five: minute hour day-of-month month day-of-week", expr, len(fields))
	}
	c := &cron{text: expr, expr: strings.Join(fields, " "), loc: loc, everyHour: fields[1] == "*"}
	if !gronx.IsValid(c.expr) {
		return nil, fmt.Errorf("cron: %q is not valid; write five fields such as \"0 6 * * *\" or \"*/15 8-18 * * MON-FRI\"", expr)
	}
	// 2000 is a leap year, so whatever comes at all comes within the following 8 years, 2100 aside.
	if _, err := c.tick(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		return nil, fmt.Errorf("cron: %q never comes: %w", expr, err)
	}
	return c, nil
}

// CheckCron tells whether Cron would take the expression.
func CheckCron(expr string) error {
	_, err := Cron(expr, time.UTC)
	return err
}

type cron struct {
	text, expr string
	loc        *time.Location
	everyHour  bool
}

func (c *cron) String() string { return "cron " + c.text + " " + c.loc.String() }

func (c *cron) Floor(_, now time.Time) time.Time { return now }

func (c *cron) Next(_, after time.Time) time.Time {
	if c.everyHour {
		return c.nextElapsed(after)
	}
	return c.nextOnWall(after)
}

// tick finds the next match on a clock without daylight saving: wall must be in UTC and stands for the clock on the
// wall. gronx itself is never asked about a zone with transitions.
func (c *cron) tick(wall time.Time) (time.Time, error) {
	next, err := gronx.NextTickAfter(c.expr, wall, false)
	if err == nil && !next.After(wall) {
		err = errors.New("no later tick")
	}
	return next, err
}

// nextOnWall walks the times on the wall and takes the first whose moment is later than after. Moments of times on the
// wall never go backwards (see moment), so the first one found is the right one.
func (c *cron) nextOnWall(after time.Time) time.Time {
	for wall := wallOf(after.In(c.loc)); ; {
		next, err := c.tick(wall)
		if err != nil {
			return time.Time{}
		}
		if m := moment(next, c.loc); m.After(after) {
			return m
		}
		wall = next
	}
}

// nextElapsed looks for the first moment later than after at which the wall shows a match, offset by offset.
func (c *cron) nextElapsed(after time.Time) time.Time {
	for at := after.In(c.loc); ; {
		_, offset := at.Zone()
		next, err := c.tick(wallOf(at))
		if err != nil {
			return time.Time{}
		}
		m := next.Add(-time.Duration(offset) * time.Second).In(c.loc)
		_, end := at.ZoneBounds()
		if end.IsZero() || m.Before(end) {
			return m
		}
		// A transition comes first: go on behind it, with the transition itself as a candidate.
		if after := wallOf(end.In(c.loc)); c.matches(after) {
			return end.In(c.loc)
		}
		at = end.In(c.loc)
	}
}

func (c *cron) matches(wall time.Time) bool {
	due, err := gronx.New().IsDue(c.expr, wall)
	return err == nil && due
}

// wallOf writes what the clock on the wall shows at t as if it were UTC.
func wallOf(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// moment returns when the clock in loc shows wall: the first time if it does so twice, and the first moment after the
// gap if it never does. time.Date leaves both cases open, so both candidates are tried here.
func moment(wall time.Time, loc *time.Location) time.Time {
	// Transitions are rarer than once a day, so the offsets a day before and after are the only two in question.
	_, before := wall.Add(-24 * time.Hour).In(loc).Zone()
	_, after := wall.Add(24 * time.Hour).In(loc).Zone()
	first := wall.Add(-time.Duration(max(before, after)) * time.Second).In(loc)
	if wallOf(first).Equal(wall) {
		return first
	}
	second := wall.Add(-time.Duration(min(before, after)) * time.Second).In(loc)
	if wallOf(second).Equal(wall) {
		return second
	}
	// In the gap: first lies before it, second behind it.
	_, end := first.ZoneBounds()
	return end.In(loc)
}

// jitter is how much later than its tick a run starts: spread evenly over [0, limit) by name and tick, not by dice, so
// that all instances wait for the same moment and a restart does not move it.
func jitter(pipeline string, tick time.Time, limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", pipeline, tick.UnixNano())
	// FNV's low bits alone are a weak spread over close inputs; fold the high ones in.
	sum := h.Sum64()
	sum ^= sum >> 29
	sum *= 0xbf58476d1ce4e5b9
	sum ^= sum >> 32
	return time.Duration(sum % uint64(limit))
}
