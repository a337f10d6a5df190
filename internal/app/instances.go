package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ferry/internal/api"
	"ferry/internal/scheduler"
)

// Instances lists the instances that share the state store.
func (a *App) Instances(ctx context.Context) ([]api.Instance, error) {
	list, err := a.scheduler.Instances(ctx)
	if err != nil {
		return nil, problem(err)
	}
	self := a.scheduler.Instance()
	out := make([]api.Instance, len(list))
	for i, in := range list {
		out[i] = api.Instance{
			ID: in.ID, Name: in.Name, Self: in.ID == self, URL: in.URL, Version: in.Version, Queue: in.Queue,
			Started: in.Started, Seen: in.Seen, Alive: in.Alive, Holds: make([]api.Holding, len(in.Holds)),
		}
		for k, h := range in.Holds {
			out[i].Holds[k] = api.Holding{Pipeline: h.Pipeline, Run: h.Run, Fence: h.Fence}
		}
	}
	return out, nil
}

// ownFolder begins the queue's name of an instance whose embedded queue is its own.
const ownFolder = "embedded: in folder "

// queueIdentity names the queue, equal for all who share it.
func (a *App) queueIdentity() (string, error) {
	switch {
	case scheme(a.cfg.Queue) != "embedded":
		return a.cfg.Queue.String(), nil
	case a.cluster != nil:
		return "embedded: cluster " + strings.Join(a.cluster.Members, ","), nil
	}
	id, err := a.folder.id()
	return ownFolder + id, err
}

// announce lets the other instances know of this one. It refuses to join them where each would have a queue of its own:
// a pipeline's records and cursors would be spread over folders, by which of them happened to hold the lease.
func (a *App) announce(ctx context.Context) error {
	queue, err := a.queueIdentity()
	if err != nil {
		return err
	}
	others, err := a.scheduler.Instances(ctx)
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.Alive && o.ID != a.scheduler.Instance() && o.Queue != queue && (strings.HasPrefix(queue, ownFolder) || strings.HasPrefix(o.Queue, ownFolder)) {
			return &EnvironmentError{fmt.Errorf("instance %s shares the state store %s with this one, but not the queue (%s there, %s here): "+
				"a pipeline's records would be spread over both; give all instances one queue, such as queue: \"embedded:?cluster=HOST1:6222,HOST2:6222,HOST3:6222\", or each a state of its own",
				o.Name, a.cfg.State, o.Queue, queue)}
		}
	}
	return a.scheduler.Announce(ctx, scheduler.Self{
		Name: instanceName(a.cfg), URL: a.URL(), Version: a.opt.Version, Queue: queue, Started: time.Now().UTC().Round(0),
	})
}
