package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"ferry/internal/config"
	"ferry/internal/embedded"
	"ferry/internal/queue/natsqueue"
	"ferry/internal/retry"
)

// clusterOf is the cluster that the embedded server of this configuration belongs to, nil when it stands alone. Its
// members stand in the URL of whatever is embedded: the queue, or the state alone.
func clusterOf(cfg *config.Config) (*embedded.Cluster, error) {
	var found natsqueue.Config
	for _, u := range []config.URL{cfg.State, cfg.Queue} {
		if scheme(u) != "embedded" {
			continue
		}
		c, err := natsqueue.ParseURL(u)
		if err != nil {
			return nil, err
		}
		if found.Cluster != nil && (c.Cluster == nil || !slices.Equal(c.Cluster, found.Cluster)) {
			return nil, errors.New("queue and state are embedded in one server, but name different clusters; leave out what follows embedded: in state")
		}
		if c.Cluster != nil {
			found = c
		}
	}
	if found.Cluster == nil {
		return nil, nil
	}
	c := &embedded.Cluster{Members: found.Cluster, Self: found.Member, Secret: string(cfg.Cluster.Secret)}
	if c.Self == "" {
		c.Self = memberNamed(instanceName(cfg), c.Members)
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	return c, nil
}

// memberNamed finds the member whose host, or whose host's first label, is the name of the instance. It gives "" for an
// instance that is no member.
func memberNamed(instance string, members []string) string {
	for _, m := range members {
		host, _, err := net.SplitHostPort(m)
		if err != nil {
			continue
		}
		label, _, _ := strings.Cut(host, ".")
		if host == instance || net.ParseIP(host) == nil && label == instance {
			return m
		}
	}
	return ""
}

// shares says whether other instances may have the same state.
func (a *App) shares() bool { return a.cluster != nil || scheme(a.cfg.State) != "embedded" }

// instanceName is what a person calls this instance.
func instanceName(cfg *config.Config) string {
	if cfg.Instance != "" {
		return cfg.Instance
	}
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

// clusterPatience is how long an instance waits at its start for what needs more of its cluster than has come up.
const clusterPatience = 5 * time.Minute

// patiently does something at the start that in a cluster may need members that are only just coming up: there it tries
// again, and says so.
func (a *App) patiently(ctx context.Context, what string, f func(context.Context) error) error {
	if a.cluster == nil {
		return f(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, clusterPatience, fmt.Errorf("waited for the cluster for %s", clusterPatience))
	defer cancel()
	policy := retry.Policy{Retries: -1, Max: 2 * time.Second, OnRetry: func(try int, _ time.Duration, err error) {
		if try%4 == 0 {
			a.log.Info("waiting for the cluster of the embedded queue", "for", what, "error", err)
		}
	}}
	return retry.Do(ctx, policy, f)
}
