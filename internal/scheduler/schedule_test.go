package scheduler

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // so that the tests need no zone files
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	tm, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return tm
}

func TestCronTicks(t *testing.T) {
	const berlin, newYork, lordHowe = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
	tests := []struct {
		name, expr, zone, after string
		want                    []string // in order, with the offset of the zone
	}{
		{"daily", "0 6 * * *", "UTC", "2026-11-23T05:59:59Z", []string{"2026-11-23T06:00:00Z", "2026-11-24T06:00:00Z"}},
		{"a tick is later than itself", "0 6 * * *", "UTC", "2026-11-23T06:00:00Z", []string{"2026-11-24T06:00:00Z"}},
		{"a fraction after a tick", "0 6 * * *", "UTC", "2026-11-23T06:00:00.5Z", []string{"2026-11-24T06:00:00Z"}},
		{"a fraction before a tick", "0 6 * * *", "UTC", "2026-11-23T05:59:59.5Z", []string{"2026-11-23T06:00:00Z"}},
		{"name", "@hourly", "UTC", "2026-11-23T05:59:59Z", []string{"2026-11-23T06:00:00Z", "2026-11-23T07:00:00Z"}},
		{"weekdays", "30 8 * * MON-FRI", "UTC", "2026-11-20T12:00:00Z", []string{"2026-11-23T08:30:00Z", "2026-11-24T08:30:00Z"}},
		{"leap day", "0 0 29 2 *", "UTC", "2026-11-23T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{"day of month or day of week", "0 0 13 * FRI", "UTC", "2026-11-10T00:00:00Z", []string{"2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"}},

		// Berlin 2026: lost 29 March 02:00-03:00, repeated 25 October 02:00-03:00.
		{"summer time", "0 6 * * *", berlin, "2026-03-28T12:00:00Z", []string{"2026-03-29T06:00:00+02:00", "2026-03-30T06:00:00+02:00"}},
		{"winter time", "0 6 * * *", berlin, "2026-10-24T12:00:00Z", []string{"2026-10-25T06:00:00+01:00", "2026-10-26T06:00:00+01:00"}},
		{
			"lost hour runs behind the gap", "30 2 * * *", berlin, "2026-03-28T00:00:00Z",
			[]string{"2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"},
		},
		{
			"several lost become one", "0,20,40 2 * * *", berlin, "2026-03-28T01:35:00Z",
			[]string{"2026-03-28T02:40:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"},
		},
		{
			"lost and present at the same moment", "0 2,3 * * *", berlin, "2026-03-28T03:00:00Z",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"},
		},
		{
			"repeated hour runs once", "30 2 * * *", berlin, "2026-10-24T00:00:00Z",
			[]string{"2026-10-24T02:30:00+02:00", "2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"},
		},
		{"repeated hour, asked in the second", "30 2 * * *", berlin, "2026-10-25T01:10:00Z", []string{"2026-10-26T02:30:00+01:00"}},
		{"end of the repeated hour", "0 3 * * *", berlin, "2026-10-25T00:30:00Z", []string{"2026-10-25T03:00:00+01:00"}},
		{
			"every second hour, spring", "0 */2 * * *", berlin, "2026-03-28T23:00:00Z",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"},
		},
		{
			"every second hour, autumn", "0 */2 * * *", berlin, "2026-10-24T22:00:00Z",
			[]string{"2026-10-25T02:00:00+02:00", "2026-10-25T04:00:00+01:00"},
		},
		{
			"every hour passes through spring", "30 * * * *", berlin, "2026-03-29T00:00:00Z",
			[]string{"2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00", "2026-03-29T04:30:00+02:00"},
		},
		{
			"every hour passes through autumn", "30 * * * *", berlin, "2026-10-25T00:00:00Z",
			[]string{"2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:30:00+01:00"},
		},
		{
			"on the transition itself", "0 * * * *", berlin, "2026-10-25T00:00:00Z",
			[]string{"2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"},
		},
		{
			"quarter hours, autumn", "*/15 * * * *", berlin, "2026-10-25T00:30:00Z",
			[]string{"2026-10-25T02:45:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T02:15:00+01:00"},
		},
		{
			"every hour of one day, over a transition", "0 * 30 3 *", berlin, "2026-03-28T00:00:00Z",
			[]string{"2026-03-30T00:00:00+02:00", "2026-03-30T01:00:00+02:00"},
		},

		// New York 2026: lost 8 March 02:00-03:00, repeated 1 November 01:00-02:00.
		{
			"New York lost hour", "15 2 * * *", newYork, "2026-03-07T12:00:00Z",
			[]string{"2026-03-08T03:00:00-04:00", "2026-03-09T02:15:00-04:00"},
		},
		{
			"New York repeated hour", "15 1 * * *", newYork, "2026-10-31T12:00:00Z",
			[]string{"2026-11-01T01:15:00-04:00", "2026-11-02T01:15:00-05:00"},
		},
		{
			"New York every hour", "15 * * * *", newYork, "2026-11-01T05:00:00Z",
			[]string{"2026-11-01T01:15:00-04:00", "2026-11-01T01:15:00-05:00", "2026-11-01T02:15:00-05:00"},
		},
		{"New York weekly at the end of summer time", "0 2 * * 6", newYork, "2026-10-31T06:00:00Z", []string{"2026-11-07T02:00:00-05:00"}},

		// Lord Howe shifts by half an hour: lost 4 October 02:00-02:30, repeated 5 April 01:30-02:00.
		{"half an hour lost", "15 2 * * *", lordHowe, "2026-10-03T00:00:00Z", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		{"half an hour repeated", "45 1 * * *", lordHowe, "2026-04-04T00:00:00Z", []string{"2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"}},
		{
			"half an hour passing", "45 * * * *", lordHowe, "2026-04-04T14:40:00Z",
			[]string{"2026-04-05T01:45:00+11:00", "2026-04-05T01:45:00+10:30", "2026-04-05T02:45:00+10:30"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Cron(tt.expr, zone(t, tt.zone))
			if err != nil {
				t.Fatal(err)
			}
			after := at(t, tt.after)
			for i, want := range tt.want {
				next := c.Next(time.Time{}, after)
				if got := next.Format(time.RFC3339); got != want {
					t.Fatalf("tick %d after %s = %s, want %s", i+1, after, got, want)
				}
				after = next
			}
		})
	}
}

// Ticks against a clock that looks at every minute, through the weeks in which each zone changes its offset.
func TestCronAgreesWithTheClock(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"} {
		loc := zone(t, name)
		perHour, err := Cron("20 * * * *", loc)
		if err != nil {
			t.Fatal(err)
		}
		perDay, err := Cron("10 2 * * *", loc)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2026, 2, 10, 0, 0, 0, 0, loc)
		end := start.AddDate(0, 0, 60)
		_, before := start.Zone()
		var want, changes int
		for m := start; m.Before(end); m = m.Add(time.Minute) {
			if m.Minute() == 20 {
				want++
			}
			if _, offset := m.Zone(); offset != before {
				before = offset
				changes++
			}
		}
		if changes == 0 {
			t.Errorf("%s: no change of offset in these weeks, which shows nothing", name)
		}
		if got := count(perHour, start, end); got != want {
			t.Errorf("%s: %d ticks of an hourly expression, want %d", name, got, want)
		}
		if got := count(perDay, start, end); got != 60 {
			t.Errorf("%s: %d ticks of a daily expression in 60 days", name, got)
		}
	}
}

func count(s Schedule, start, end time.Time) (n int) {
	for at := s.Next(start, start.Add(-1)); at.Before(end); at = s.Next(start, at) {
		n++
	}
	return n
}

func TestCronRefuses(t *testing.T) {
	tests := []struct{ expr, want string }{
		{"", `cron: "" has 0 fields; write five: minute hour day-of-month month day-of-week`},
		{"* * * *", `cron: "* * * *" has 4 fields`},
		{"0 0 6 * * *", `cron: "0 0 6 * * *" has 6 fields`},
		{"60 * * * *", `cron: "60 * * * *" is not valid; write five fields such as`},
		{"*/0 * * * *", `cron: "*/0 * * * *" is not valid`},
		{"a b c d e", `cron: "a b c d e" is not valid`},
		{"0 0 30 2 *", `cron: "0 0 30 2 *" never comes`},
		{"@sometimes", `cron: "@sometimes" is not a known name; use @hourly`},
		{"@everysecond", `cron: "@everysecond" is not a known name`},
	}
	for _, tt := range tests {
		err := CheckCron(tt.expr)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("CheckCron(%q) = %v, want %s…", tt.expr, err, tt.want)
		}
	}
}

func FuzzCron(f *testing.F) {
	for _, s := range []string{"0 6 * * *", "*/15 8-18 * * MON-FRI", "@daily", "0 0 L * *", "0 0 * * 5#2", "5/0 * * * *", "1-/2 * * * *"} {
		f.Add(s, int64(1792800000))
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, expr string, unix int64) {
		c, err := Cron(expr, berlin)
		if err != nil {
			return
		}
		after := time.Unix(unix%4e9, 0)
		if next := c.Next(time.Time{}, after); !next.IsZero() && !next.After(after) {
			t.Fatalf("%q: tick %s is not after %s", expr, next, after)
		}
	})
}

func TestEvery(t *testing.T) {
	e, err := Every(6 * time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	anchor := at(t, "2026-03-28T20:07:00Z")
	tests := []struct{ now, floor, next string }{
		{"2026-03-28T20:07:00Z", "2026-03-28T20:07:00Z", "2026-03-29T02:07:00Z"},
		{"2026-03-29T02:06:59Z", "2026-03-28T20:07:00Z", "2026-03-29T02:07:00Z"}, // the zone's gap means nothing to it
		{"2026-03-29T02:07:00Z", "2026-03-29T02:07:00Z", "2026-03-29T08:07:00Z"},
		{"2027-03-28T20:07:01Z", "2027-03-28T20:07:00Z", "2027-03-29T02:07:00Z"},
		{"2026-03-28T20:06:00Z", "2026-03-28T14:07:00Z", "2026-03-28T20:07:00Z"}, // a clock set back
	}
	for _, tt := range tests {
		if got := e.Floor(anchor, at(t, tt.now)); !got.Equal(at(t, tt.floor)) {
			t.Errorf("Floor(%s) = %s, want %s", tt.now, got, tt.floor)
		}
		if got := e.Next(anchor, at(t, tt.now)); !got.Equal(at(t, tt.next)) {
			t.Errorf("Next(%s) = %s, want %s", tt.now, got, tt.next)
		}
	}
	if _, err := Every(-time.Second); err == nil {
		t.Error("a negative interval was taken")
	}
}

func TestJitter(t *testing.T) {
	tick := at(t, "2026-11-23T06:00:00Z")
	const limit, n, buckets = 10 * time.Minute, 2000, 10
	var seen [buckets]int
	for i := range n {
		j := jitter("orders", tick.Add(time.Duration(i)*time.Hour), limit)
		if j < 0 || j >= limit {
			t.Fatalf("jitter = %s, want within [0, %s)", j, limit)
		}
		seen[j*buckets/limit]++
	}
	for i, got := range seen {
		if got < n/buckets/2 || got > n/buckets*2 {
			t.Errorf("%d of %d jitters in tenth %d: not spread evenly: %v", got, n, i, seen)
		}
	}
	if here, there := jitter("orders", tick, limit), jitter("orders", tick, limit); here != there {
		t.Error("two instances wait for different moments")
	}
	if jitter("orders", tick, limit) == jitter("users", tick, limit) {
		t.Error("two pipelines wait for the same moment")
	}
	if jitter("orders", tick, 0) != 0 {
		t.Error("jitter without a limit")
	}
}
