package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"time"

	"ferry/internal/config"
	"ferry/internal/queue/queueurl"
)

// How servers stand together.
const (
	single   = "single"
	cluster  = "cluster"
	sentinel = "sentinel"
)

// Config of Open. ParseURL makes one.
type Config struct {
	// Mode is single (the default), cluster or sentinel. Hosts are host:port: the server, some servers of the cluster,
	// or the sentinels, which watch the servers called Master.
	Mode   string
	Hosts  []string
	Master string
	// DB is the number of the database. A cluster has only 0.
	DB int

	// User and Password log in (ACL); a password alone is that of the default user. The sentinels have a login of
	// their own, or none.
	User             string
	Password         config.Secret
	SentinelUser     string
	SentinelPassword config.Secret

	// TLS encrypts. CA is the path of a PEM file with the authority that signed the servers' certificates (the
	// system's when empty), Cert and Key of a client certificate.
	TLS           bool
	CA, Cert, Key string

	// Create says whether missing topics are made.
	Create bool
	// MaxLen and MaxBytes are the size at which a stream takes no more records (queue.ErrFull); 0 means no limit.
	// Redis measures the bytes of a stream by samples.
	MaxLen   int
	MaxBytes int64
	// Wait is how many replicas must hold a write before it is confirmed; 0 leaves replication to its own pace.
	Wait int
	// Unsafe takes servers as they are: one that may evict topics is not refused, and where the server syncs its disk
	// only once a second that is not waited for.
	Unsafe bool
	// Redelivery is how long a record that was received and not acknowledged stays away. Default 30 s.
	Redelivery time.Duration
	// Timeout of one round trip. Default 10 s.
	Timeout time.Duration

	// Dial opens connections. Nil: the net package does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (c Config) withDefaults() (Config, error) {
	if c.Mode == "" {
		c.Mode = single
	}
	if c.Redelivery == 0 {
		c.Redelivery = 30 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: c.Timeout, KeepAlive: 15 * time.Second}).DialContext
	}
	switch {
	case len(c.Hosts) == 0:
		return c, errors.New("redis queue: no server given")
	case c.MaxLen < 0 || c.MaxBytes < 0 || c.Wait < 0 || c.Redelivery < 0 || c.Timeout < 0:
		return c, errors.New("redis queue: a limit is negative")
	case c.Redelivery < time.Millisecond || c.Timeout < time.Millisecond:
		return c, errors.New("redis queue: redelivery and timeout are at least 1ms")
	}
	return c, c.checkMode()
}

// checkMode finds settings that do not go together.
func (c Config) checkMode() error {
	switch {
	case c.Mode == single && len(c.Hosts) > 1:
		return errors.New("queue URL: several hosts need mode=cluster, or mode=sentinel&master=NAME")
	case c.Mode == sentinel && c.Master == "":
		return errors.New("queue URL: mode=sentinel needs master=NAME, the name by which the sentinels know the servers")
	case c.Mode != sentinel && (c.Master != "" || c.SentinelUser != "" || c.SentinelPassword != ""):
		return errors.New("queue URL: master, sentinel_user and sentinel_password belong to mode=sentinel")
	case c.Mode == cluster && c.DB != 0:
		return errors.New("queue URL: a cluster has only database 0; leave the number out")
	case !c.TLS && (c.CA != "" || c.Cert != "" || c.Key != ""):
		return errors.New("queue URL: ca, cert and key need an encrypted connection; write rediss://")
	case (c.Cert == "") != (c.Key == ""):
		return errors.New("queue URL: cert and key belong together")
	}
	return nil
}

// ParseURL reads `redis://user:password@host:6379/0?create=true`, `rediss://h1,h2?mode=cluster` and
// `redis://s1,s2,s3?mode=sentinel&master=mymaster`. Parameters that it does not know are errors. No error shows a login
// (invariant 8).
func ParseURL(u config.URL) (Config, error) {
	var c Config
	var err error
	a, parseErr := queueurl.Parse(u, queueurl.Parameters{
		"mode":          queueurl.Word(&c.Mode, single, cluster, sentinel),
		"master":        queueurl.Text(&c.Master),
		"sentinel_user": queueurl.Text(&c.SentinelUser), "sentinel_password": queueurl.Secret(&c.SentinelPassword),
		"ca": queueurl.File(&c.CA), "cert": queueurl.File(&c.Cert), "key": queueurl.File(&c.Key),
		"create":  queueurl.Bool(&c.Create),
		"max_len": queueurl.Int(&c.MaxLen, 1, math.MaxInt), "max_bytes": streamBytes(&c.MaxBytes),
		"wait":       queueurl.Int(&c.Wait, 0, 16),
		"unsafe":     queueurl.Bool(&c.Unsafe),
		"redelivery": atLeastMilli(&c.Redelivery), "timeout": atLeastMilli(&c.Timeout),
	})
	switch a.Scheme {
	case "redis":
	case "rediss":
		c.TLS = true
	case "":
		return c, parseErr
	default:
		return c, fmt.Errorf("queue URL: scheme %q is not of Redis, want redis://host or, encrypted, rediss://host", a.Scheme)
	}
	if parseErr != nil {
		return c, parseErr
	}
	if c.DB, err = database(a.Path); err != nil {
		return c, err
	}
	c.User, c.Password = a.User, a.Password
	port := "6379"
	if c.Mode == sentinel {
		port = "26379"
	}
	c.Hosts = a.WithPort(port)
	if len(c.Hosts) == 0 {
		return c, fmt.Errorf("queue URL: no host, want %s://host:6379", a.Scheme)
	}
	if c.User != "" && c.Password == "" {
		return c, errors.New("queue URL: a user without a password; a password alone is written with a colon before it, as in redis://:password@host")
	}
	if c.Mode == "" && len(c.Hosts) == 1 {
		c.Mode = single
	}
	if c.Mode == "" {
		return c, errors.New("queue URL: several hosts need mode=cluster, or mode=sentinel&master=NAME")
	}
	return c, c.checkMode()
}

func database(path string) (int, error) {
	if path == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(path)
	if err != nil || n < 0 || n > 1<<16 {
		return 0, errors.New("queue URL: what follows the host is the number of a database, as in redis://host/0")
	}
	return n, nil
}

// atLeastMilli is a duration that Redis, which counts in milliseconds, does not take for none.
func atLeastMilli(into *time.Duration) func(string) error {
	return func(value string) error {
		if err := queueurl.Duration(into)(value); err != nil {
			return err
		}
		if *into < time.Millisecond {
			return fmt.Errorf("%q is less than 1ms", value)
		}
		return nil
	}
}

// streamBytes is a size of a stream that a few commits fit into.
func streamBytes(into *int64) func(string) error {
	return func(value string) error {
		if err := queueurl.Bytes(into)(value); err != nil {
			return err
		}
		if *into < 1<<20 {
			return fmt.Errorf("%q is less than 1MiB", value)
		}
		return nil
	}
}
