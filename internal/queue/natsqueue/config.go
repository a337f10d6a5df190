package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/queue/queueurl"
)

// Config of Open. ParseURL makes one; the embedded server's own part (Connect, MaxBatch, Health) is filled in by who
// starts it.
type Config struct {
	// Embedded is true for embedded: URLs. Listen is then the address for clients outside the process, or empty.
	Embedded bool
	Listen   string
	// Cluster are the members of the embedded server's cluster, each host:port, empty when it stands alone. Member is
	// the one that this process is, where its name does not say so.
	Cluster []string
	Member  string

	// Servers are nats:// or tls:// addresses, separated by commas, used when Connect is nil.
	Servers string
	// User and Password log in to every server; without a password User is a token. Creds is the path of a credentials
	// file (JWT and seed), NKey of a file with a seed, CA of a PEM file with the authority that signed the server's
	// certificate, Cert and Key of a client certificate. ServerName is the name in the server's certificate where it is
	// not the host's. All may be empty.
	User                                   string
	Password                               config.Secret
	Creds, NKey, CA, Cert, Key, ServerName string
	// HandshakeFirst begins with TLS instead of with NATS's own greeting, for servers with handshake_first.
	HandshakeFirst bool
	// DialContext makes the connections to Servers. Nil: the net package.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Domain is the JetStream domain, or empty.
	Domain string

	// Connect connects, with the options that Open adds. Nil: Servers are dialled.
	Connect func(...nats.Option) (*nats.Conn, error)
	// Health, when not nil, is asked by Ping first: the embedded server knows best.
	Health func() error
	// MaxBatch is how many messages the server takes in an atomic batch. Default 1000, which is a NATS server's own.
	MaxBatch int

	// Replicas of a topic, 1 to 5. Default 1.
	Replicas int
	// Memory keeps topics in memory: nothing survives a restart. For trials, and to measure what durability costs.
	Memory bool
	// MaxAge is how long records are kept; 0 keeps them for good. Cursors are kept for good in any case.
	MaxAge time.Duration
	// Cache is the memory that what was written may take in the embedded server, which keeps a block for ten seconds when
	// it was read while it was written: writing is slowed down to stay below it (invariant 7). 0 means no limit.
	Cache int64
	// MaxBytes is the size at which a topic takes no more records (queue.ErrFull); 0 means no limit.
	MaxBytes int64
	// Create says whether missing topics are made. ParseURL sets it for embedded:, and for nats:// when the URL says
	// create=true.
	Create bool
	// Redelivery is how long a record that was received and not acknowledged stays away. Default 30 s.
	Redelivery time.Duration
	// Timeout of one round trip. Default 10 s.
	Timeout time.Duration

	// plain makes Open do as with a server that has no atomic batches, for tests of that tier.
	plain bool
	// reconnect is the wait between two attempts to reach one server again. Default 500 ms; tests have less time.
	reconnect time.Duration
}

func (c Config) withDefaults() (Config, error) {
	if c.MaxBatch == 0 {
		c.MaxBatch = 1000
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Redelivery == 0 {
		c.Redelivery = 30 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.reconnect == 0 {
		c.reconnect = 500 * time.Millisecond
	}
	switch {
	case c.Connect == nil && c.Servers == "":
		return c, errors.New("nats queue: no server given")
	case c.Replicas < 1 || c.Replicas > 5:
		return c, fmt.Errorf("nats queue: %d replicas, want 1 to 5", c.Replicas)
	case c.MaxBatch < 2:
		return c, fmt.Errorf("nats queue: batches of %d messages are too small", c.MaxBatch)
	case c.MaxAge < 0 || c.MaxBytes < 0 || c.Redelivery < 0 || c.Timeout < 0:
		return c, errors.New("nats queue: a limit is negative")
	}
	return c, nil
}

// ParseURL reads `embedded:?listen=127.0.0.1:4222&max_age=7d&max_bytes=10GiB`, `embedded:?cluster=a:6222,b:6222,c:6222` and
// `nats://host1,host2?replicas=3&creds=/run/secrets/nats.creds`. Parameters that it does not know are errors. No
// error shows a login (invariant 8). The first host that answers is used, and the servers that it tells of.
func ParseURL(u config.URL) (Config, error) {
	scheme, address, query, err := queueurl.Split(u)
	if err != nil {
		return Config{}, err
	}
	var c Config
	var members string
	storage := "file"
	known := queueurl.Parameters{
		"create": queueurl.Bool(&c.Create), "max_age": queueurl.Duration(&c.MaxAge), "max_bytes": queueurl.Bytes(&c.MaxBytes),
		"redelivery": queueurl.Duration(&c.Redelivery), "storage": queueurl.Word(&storage, "file", "memory"),
	}
	switch scheme {
	case "embedded":
		if strings.Trim(address, "/") != "" {
			return c, fmt.Errorf("queue URL: embedded: has no host; its folder is the key data, its port the parameter listen=127.0.0.1:4222")
		}
		c.Embedded, c.Create = true, true
		known["listen"], known["cache"] = queueurl.Text(&c.Listen), cacheSize(&c.Cache)
		known["cluster"], known["member"] = queueurl.Text(&members), queueurl.Text(&c.Member)
	case "nats", "tls":
		maps.Copy(known, queueurl.Parameters{
			"ca": queueurl.File(&c.CA), "cert": queueurl.File(&c.Cert), "key": queueurl.File(&c.Key),
			"creds": queueurl.File(&c.Creds), "domain": queueurl.Text(&c.Domain),
			"handshake_first": queueurl.Bool(&c.HandshakeFirst), "nkey": queueurl.File(&c.NKey),
			"replicas": queueurl.Int(&c.Replicas, 1, 5), "server_name": queueurl.Text(&c.ServerName),
			"timeout": queueurl.Duration(&c.Timeout),
		})
		a, err := queueurl.Parse(u, known)
		return c.at(a, err, storage == "memory")
	default:
		return c, fmt.Errorf("queue URL: scheme %q is not of NATS, want embedded: or nats://host", scheme)
	}
	err = known.Set(scheme, query)
	c.Memory = storage == "memory"
	if members != "" {
		// A topic has three copies however many members there are: what more of them bring is room for more topics.
		c.Cluster, c.Replicas = strings.Split(members, ","), 3
	}
	if c.Member != "" && members == "" {
		err = errors.Join(err, errors.New("queue URL: the parameter member goes with cluster=host:port,host:port,host:port"))
	}
	return c, err
}

func cacheSize(into *int64) func(string) error {
	return func(value string) error {
		if err := queueurl.Bytes(into)(value); err != nil {
			return err
		}
		if *into < 16<<20 {
			return fmt.Errorf("%q is less than 16MiB, two of the server's blocks", value)
		}
		return nil
	}
}

// at completes a configuration by the address of its servers.
func (c Config) at(a queueurl.Address, err error, memory bool) (Config, error) {
	errs := []error{err}
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("queue URL: "+format, args...)) }
	switch {
	case err != nil:
	case len(a.Hosts) == 0:
		bad("no host, want %s://host1,host2", a.Scheme)
	case a.Path != "":
		bad("nothing may follow the hosts, want %s://host1,host2; a JetStream domain is the parameter domain", a.Scheme)
	case strings.Contains(string(a.Password), ",") && strings.Contains(string(a.Password), "@"):
		bad("all servers share one login, want %s://user:password@host1,host2; an @ that belongs to it is written as %%40", a.Scheme)
	}
	switch {
	case (c.Cert == "") != (c.Key == ""):
		bad("the parameters cert and key belong together: the client's certificate and its private key")
	case c.Creds != "" && c.NKey != "", a.User != "" && (c.Creds != "" || c.NKey != ""):
		bad("give one login: user and password, a token, creds or nkey")
	}
	c.User, c.Password, c.Memory = a.User, a.Password, memory
	for i, host := range a.Hosts {
		a.Hosts[i] = a.Scheme + "://" + host
	}
	c.Servers = strings.Join(a.Hosts, ",")
	return c, errors.Join(errs...)
}

// within lowers limits to what an empty topic of max_bytes has room for: what it never could take would be tried for ever.
// Records have half of it, and what each adds to its size a quarter at most. The rest is for cursors.
func (c Config) within(l queue.Limits) queue.Limits {
	if c.MaxBytes > 0 {
		l.CommitRecords = int(min(int64(l.CommitRecords), max(c.MaxBytes/1024, 1)))
		l.CommitBytes = int(min(int64(l.CommitBytes), max(c.MaxBytes/2, 1)))
		l.RecordBytes = min(l.RecordBytes, l.CommitBytes)
	}
	return l
}
