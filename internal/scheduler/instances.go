package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"ferry/internal/state"
)

// prefixInstance + instance: who is there.
const prefixInstance = "scheduler/instance/"

// forgetAfter is when somebody who has not been heard of is taken off the list by others.
const forgetAfter = time.Hour

// Self is what an instance tells the others about itself.
type Self struct {
	Name    string    `json:"name"`          // what a person calls it
	URL     string    `json:"url,omitempty"` // of its API, as seen from itself
	Version string    `json:"version"`
	Queue   string    `json:"queue"` // which queue it writes to, without logins; equal for those who share one
	Started time.Time `json:"started"`
}

// Instance is one of those that share the store.
type Instance struct {
	ID string
	Self
	// Seen is when it last said so, by its own clock.
	Seen time.Time
	// Alive tells whether that was lately, as clocks go.
	Alive bool
	// Holds are the pipelines whose lease it has.
	Holds []Holding
}

// Holding is a lease and what is done under it.
type Holding struct {
	Pipeline string
	Fence    uint64
	Run      string // the run under way, when it is on record already
}

// presence is what lies in the store.
type presence struct {
	Self
	Seen time.Time `json:"seen"`
}

// Announce lets others know of this instance until the scheduler stops. It is for the eyes of people, and of instances
// that start: no lease depends on it.
func (s *Scheduler) Announce(ctx context.Context, self Self) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return ErrStopping
	}
	s.wg.Add(1)
	s.mu.Unlock()
	if err := s.announce(ctx, self); err != nil {
		s.wg.Done()
		return err
	}
	go func() {
		defer s.wg.Done()
		s.beat(context.WithoutCancel(ctx), self)
	}()
	return nil
}

func (s *Scheduler) announce(ctx context.Context, self Self) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	_, err := s.records.put(ctx, prefixInstance+s.cfg.Instance, presence{self, utc(time.Now())}, state.AnyRevision)
	return err
}

// beat says again and again that this instance is there, and at the end that it is not.
func (s *Scheduler) beat(ctx context.Context, self Self) {
	tick := time.NewTicker(s.cfg.LeaseTTL / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = s.announce(ctx, self) // when it lasts, others see it by Seen; runs have leases of their own
		case <-s.quit:
			s.signOff(ctx)
			return
		}
	}
}

func (s *Scheduler) signOff(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := s.cfg.Store.Delete(ctx, prefixInstance+s.cfg.Instance, state.AnyRevision); err != nil {
		s.cfg.Logger.WarnContext(ctx, "cannot sign off; others will see this instance as gone in a while", "error", err)
	}
}

// Instances lists who shares the store, by name, and who holds what. Whoever has not been heard of for an hour is
// forgotten.
func (s *Scheduler) Instances(ctx context.Context) ([]Instance, error) {
	entries, err := s.cfg.Store.List(ctx, prefixInstance)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	holds, err := s.holdings(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	list := make([]Instance, 0, len(entries))
	for _, e := range entries {
		var p presence
		if err := json.Unmarshal(e.Value, &p); err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Key, err)
		}
		if now.Sub(p.Seen) > forgetAfter {
			if err := s.cfg.Store.Delete(ctx, e.Key, e.Revision); err != nil && !errors.Is(err, state.ErrConflict) {
				return nil, fmt.Errorf("delete %s: %w", e.Key, err)
			}
			continue
		}
		id := strings.TrimPrefix(e.Key, prefixInstance)
		list = append(list, Instance{ID: id, Self: p.Self, Seen: p.Seen, Alive: now.Sub(p.Seen) <= s.cfg.LeaseTTL, Holds: holds[id]})
	}
	return list, nil
}

// holdings are the leases that are held, by instance.
func (s *Scheduler) holdings(ctx context.Context) (map[string][]Holding, error) {
	entries, err := s.cfg.Store.List(ctx, prefixLease)
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	holds := make(map[string][]Holding)
	for _, e := range entries {
		var v leaseValue
		if err := json.Unmarshal(e.Value, &v); err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Key, err)
		}
		if v.Released {
			continue
		}
		h := Holding{Pipeline: strings.TrimPrefix(e.Key, prefixLease), Fence: v.Fence}
		m, _, err := s.records.mark(ctx, h.Pipeline)
		if err != nil {
			return nil, err
		}
		if m.Open {
			h.Run = m.Run
		}
		holds[v.Owner] = append(holds[v.Owner], h)
	}
	return holds, nil
}
