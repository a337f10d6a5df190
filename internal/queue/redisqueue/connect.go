package redisqueue

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"ferry/internal/queue/queueurl"
)

const (
	// connections is how many a queue holds at most to one server.
	connections = 64
	// waiters is how many of them may wait for records (Receive), so that writes always find one.
	waiters = 40
)

// quiet drops what the client library would print to stderr; errors reach ferry by their callers.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// connect makes the client library's client. It does not wait for a server yet.
//
// The library repeats nothing: a write whose answer was lost would come twice (invariant 5). In a cluster it repeats
// reads, and ferry asks it only for the server on which a key lies; see Queue.run.
func (c Config) connect(all scripts) (redis.UniversalClient, error) {
	encrypt, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := c.Dial(ctx, network, address)
		if err != nil || encrypt == nil {
			return conn, err
		}
		secured := tls.Client(conn, c.tlsFor(encrypt, address))
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return secured, nil
	}
	redis.SetLogger(quiet{})
	opt := &redis.UniversalOptions{
		Addrs: c.Hosts, MasterName: c.Master, DB: c.DB, IsClusterMode: c.Mode == cluster,
		Username: c.User, Password: string(c.Password),
		SentinelUsername: c.SentinelUser, SentinelPassword: string(c.SentinelPassword),
		ClientName: "ferry", DisableIdentity: true, Protocol: 2,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		OnConnect:                all.load,
		Dialer:                   dial, DialTimeout: c.Timeout, DialerRetries: 1,
		ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, ContextTimeoutEnabled: true,
		PoolSize: connections, MaxActiveConns: connections, PoolTimeout: c.Timeout, PipelinePoolSize: -1,
		ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10,
	}
	switch c.Mode {
	case cluster:
		o := opt.Cluster()
		o.MaxRetries = -1
		return redis.NewClusterClient(o), nil
	case sentinel:
		o := opt.Failover()
		o.MaxRetries = -1
		return redis.NewFailoverClient(o), nil
	}
	o := opt.Simple()
	o.MaxRetries = -1
	return redis.NewClient(o), nil
}

// tlsConfig is nil for a connection in the clear.
func (c Config) tlsConfig() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	return queueurl.TLS(c.CA, c.Cert, c.Key)
}

// tlsFor names the server whose certificate is expected: the host that is dialled, or, where a cluster or sentinel has
// given an IP address instead of a name, the host that the URL names.
func (c Config) tlsFor(t *tls.Config, address string) *tls.Config {
	t = t.Clone()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	if net.ParseIP(host) != nil && !slices.Contains(c.Hosts, address) {
		if named, _, err := net.SplitHostPort(c.Hosts[0]); err == nil {
			host = named
		}
	}
	t.ServerName = host
	return t
}

// master is the client of the server that holds a key and takes writes.
func (q *Queue) master(ctx context.Context, key string) (*redis.Client, error) {
	switch c := q.client.(type) {
	case *redis.ClusterClient:
		return c.MasterForKey(ctx, key)
	case *redis.Client:
		return c, nil
	}
	return nil, errors.New("redis queue: a client of an unknown kind")
}

// masters calls f with the client of each server that takes writes.
func (q *Queue) masters(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	if c, ok := q.client.(*redis.ClusterClient); ok {
		return c.ForEachMaster(ctx, f) // at once
	}
	c, err := q.master(ctx, "")
	if err != nil {
		return err
	}
	return f(ctx, c)
}

// moved makes the client library look anew where keys lie.
func (q *Queue) moved(ctx context.Context) {
	if c, ok := q.client.(*redis.ClusterClient); ok {
		c.ReloadState(ctx)
	}
}
