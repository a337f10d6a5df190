package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"ferry/internal/retry"
	"ferry/internal/state"
)

// sharedTurns keeps the rates of third-party APIs over all instances: one key for each host says from when on its turns
// are free (the generic cell rate algorithm, ITU-T I.371, with the moment kept in the store). Clocks of instances that lie
// apart make all wait for as long, and never make the rate higher, up to turnsApart.
type sharedTurns struct{ store state.Store }

const turnsPrefix = "rates/"

// Turns that are taken so far ahead that neither this many callers before nor clocks this far apart explain it were taken
// by an instance whose clock was wrong: nobody waits for those.
const (
	turnsWaiting = 4096 // what four instances work on at once (server.in_flight)
	turnsApart   = 5 * time.Minute
)

type freeFrom struct {
	From time.Time `json:"from"`
}

// Reserve implements source.Turns.
func (t sharedTurns) Reserve(ctx context.Context, host string, n int, interval time.Duration) (time.Time, error) {
	key := turnsPrefix + strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, strings.ToLower(host)), "./")
	for try := 1; ; try++ {
		var free freeFrom
		e, err := t.store.Get(ctx, key)
		switch {
		case errors.Is(err, state.ErrNotFound):
		case err != nil:
			return time.Time{}, fmt.Errorf("read rate of %s: %w", host, err)
		default:
			if err := json.Unmarshal(e.Value, &free); err != nil {
				return time.Time{}, fmt.Errorf("read rate of %s: %w", host, err)
			}
		}
		first := time.Now().UTC().Round(0)
		if ahead := free.From.Sub(first); ahead > 0 && ahead <= turnsApart+turnsWaiting*interval {
			first = free.From
		}
		value, err := json.Marshal(freeFrom{first.Add(time.Duration(n) * interval)})
		if err != nil {
			return time.Time{}, fmt.Errorf("write rate of %s: %w", host, err)
		}
		_, err = t.store.Put(ctx, key, value, e.Revision)
		if err == nil {
			return first, nil
		}
		if !errors.Is(err, state.ErrConflict) {
			return time.Time{}, fmt.Errorf("write rate of %s: %w", host, err)
		}
		// Somebody else was quicker, and comes again only after its turns.
		if err := retry.Sleep(ctx, (retry.Policy{Base: 2 * time.Millisecond, Max: 50 * time.Millisecond}).Wait(try)); err != nil {
			return time.Time{}, err
		}
	}
}
