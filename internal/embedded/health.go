package embedded

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Healthy returns nil when the server can take writes, otherwise why not: what the last check found, at most
// Options.CheckEvery ago. It does not block.
func (s *Server) Healthy() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.sick != nil:
		return s.sick
	case s.ns == nil:
		return errors.New("embedded queue is restarting")
	}
	return nil
}

// health asks the server itself: are all streams there, has one met a write error.
func health(ns *server.Server) error {
	h := ns.Healthz(&server.HealthzOptions{})
	// It first looks whether it is ready, and gives itself a millisecond for that, which a loaded machine may not have:
	// so it is asked again.
	for try := 0; try < patience && strings.HasPrefix(h.Error, "failed to be ready for connections"); try++ {
		if ns.ReadyForConnections(10 * time.Millisecond) {
			h = ns.Healthz(&server.HealthzOptions{})
		}
	}
	if h.Error == "" {
		return nil
	}
	return errors.New(strings.TrimSuffix(h.Error, "."))
}

// patience is how often health asks a server that is not ready: for ten seconds at least.
const patience = 1000

// wedged tells the failures that only a restart ends: a stream that met a write error refuses everything from then on,
// and so does a server that has switched its storage off. Others are left alone: a stream that is just being made, for
// one, looks as if it could not be recovered.
func wedged(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "write error") || strings.Contains(err.Error(), "not enabled"))
}

// watch checks the health now and then. When the server is wedged, by a full disk for the most part, and the disk
// takes writes again, the server is restarted. A disk without room wedges it only if a stream met that: a commit that could
// not even be put aside leaves nothing behind, and goes through when there is room.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(s.opts.CheckEvery)
	defer tick.Stop()
	wait, waited := s.opts.CheckEvery, time.Duration(0)
	connected := ""
	told := false // that the disk is short of space
	tell := func(short error) {
		switch {
		case short != nil && !told:
			s.opts.Logger.Warn(short.Error())
		case short == nil && told:
			s.opts.Logger.Info("the disk of the embedded queue takes writes again")
		}
		told = short != nil
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := s.connected(); now != connected {
			s.opts.Logger.Info("connected within the cluster of the embedded queue", "servers", now)
			connected = now
		}
		err, short := s.check()
		if err == nil {
			tell(short)
			wait, waited = s.opts.CheckEvery, 0
			continue
		}
		if waited += s.opts.CheckEvery; waited < wait {
			continue
		}
		waited, wait = 0, min(2*wait, time.Minute)
		if perr := s.opts.room(probeSize); perr != nil {
			perr = fmt.Errorf("%w; the queue goes on by itself", perr)
			tell(perr)
			s.setSick(perr)
			wait = s.opts.CheckEvery // looking for space is cheap, so keep looking
			continue
		}
		s.opts.Logger.Warn("restarting the embedded queue", "reason", err)
		if err := s.Restart(ctx); err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("restart of the embedded queue failed", "error", err)
		}
	}
}

// check looks at the server's health, and at the disk where nothing is wrong with that, and remembers it.
func (s *Server) check() (wedge, short error) {
	s.mu.RLock()
	ns := s.ns
	s.mu.RUnlock()
	if ns == nil {
		return s.Healthy(), nil
	}
	if err := health(ns); wedged(err) {
		s.setSick(err)
		return err, nil
	}
	if short = s.opts.short(); short != nil {
		short = fmt.Errorf("%w; the queue goes on by itself", short)
	}
	s.setSick(short)
	return nil, short
}

func (s *Server) setSick(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sick = err
}

// Restart stops the server and starts it anew on the same store. Clients inside the process connect again by
// themselves; what was under way when it stopped has an unknown outcome for them. After an error there is no server,
// and the health check tries again.
func (s *Server) Restart(ctx context.Context) error {
	s.restart.Lock()
	defer s.restart.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	old := s.ns
	s.ns = nil
	s.mu.Unlock()
	if old != nil {
		shutdown(old)
	}
	ns, err := s.launch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ns, s.sick = ns, err
	return err
}
