package natsqueue

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"ferry/internal/config"
)

// Config of Open. ParseURL makes one; the embedded server's own part (Connect, MaxBatch, Health) is filled in by who
// starts it.
type Config struct {
	// Embedded is true for embedded: URLs. Listen is then the address for clients outside the process, or empty.
	Embedded bool
	Listen   string

	// Servers are nats:// or tls:// addresses, separated by commas, used when Connect is nil.
	Servers string
	// Creds is the path of a credentials file, CA of a PEM file with the authority that signed the server's
	// certificate, Cert and Key of a client certificate. All may be empty.
	Creds, CA, Cert, Key string
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
	// Cache is the memory that what was written may take in the embedded server, which keeps every block for ten seconds
	// after its last use: writing is slowed down to stay below it (invariant 7). 0 means no limit. Default of ParseURL
	// for embedded: 512 MiB, which is 45 MiB/s.
	Cache int64
	// MaxBytes is the size at which a topic takes no more records (queue.ErrFull); 0 means no limit.
	MaxBytes int64
	// Create says whether missing topics are made. ParseURL sets it unless the URL says create=false.
	Create bool
	// Redelivery is how long a record that was received and not acknowledged stays away. Default 30 s.
	Redelivery time.Duration
	// Timeout of one round trip. Default 10 s.
	Timeout time.Duration

	// plain makes Open do as with a server that has no atomic batches, for tests of that tier.
	plain bool
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

// parameters of the URL by what they need: a server of its own, the embedded one, or either.
var (
	embeddedParameters = []string{"cache", "listen"}
	serverParameters   = []string{"ca", "cert", "creds", "domain", "key", "replicas", "timeout"}
	commonParameters   = []string{"create", "max_age", "max_bytes", "redelivery", "storage"}
)

// ParseURL reads `embedded:?listen=127.0.0.1:4222&max_age=7d&max_bytes=10GiB` and
// `nats://host1,host2?replicas=3&creds=/run/secrets/nats.creds`. Parameters that it does not know are errors. No
// error shows a login (invariant 8).
func ParseURL(u config.URL) (Config, error) {
	c := Config{Create: true}
	scheme, rest, ok := strings.Cut(u.Reveal(), ":")
	if !ok {
		return c, errors.New("queue URL: no scheme, want embedded: or nats://host")
	}
	address, query, _ := strings.Cut(rest, "?")
	known := commonParameters
	switch scheme {
	case "embedded":
		if strings.Trim(address, "/") != "" {
			return c, fmt.Errorf("queue URL: embedded: has no host; its folder is the key data, its port the parameter listen=127.0.0.1:4222")
		}
		c.Embedded, c.Cache = true, 512<<20
		known = slices.Concat(embeddedParameters, known)
	case "nats", "tls":
		hosts, err := servers(scheme, address)
		if err != nil {
			return c, err
		}
		c.Servers = hosts
		known = slices.Concat(serverParameters, known)
	default:
		return c, fmt.Errorf("queue URL: scheme %q is not of NATS, want embedded: or nats://host", scheme)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return c, errors.New("queue URL: its parameters cannot be read; write them as name=value&name=value")
	}
	var errs []error
	for _, name := range sortedKeys(values) {
		if !slices.Contains(known, name) {
			errs = append(errs, unknownParameter(name, scheme, known))
			continue
		}
		if len(values[name]) > 1 {
			errs = append(errs, fmt.Errorf("queue URL: parameter %s is given twice", name))
			continue
		}
		if err := c.set(name, values.Get(name)); err != nil {
			errs = append(errs, fmt.Errorf("queue URL: parameter %s: %w", name, err))
		}
	}
	return c, errors.Join(errs...)
}

func sortedKeys(v url.Values) []string {
	keys := make([]string, 0, len(v))
	for k := range v {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func unknownParameter(name, scheme string, known []string) error {
	slices.Sort(known)
	hint := "it knows " + strings.Join(known, ", ")
	if near := config.Suggest(name, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	return fmt.Errorf("queue URL: %s has no parameter %q; %s", scheme, name, hint)
}

// servers checks host1:4222,user:password@host2 and gives each its scheme.
func servers(scheme, address string) (string, error) {
	address, ok := strings.CutPrefix(address, "//")
	address = strings.TrimSuffix(address, "/")
	if !ok || address == "" {
		return "", fmt.Errorf("queue URL: no host, want %s://host1,host2", scheme)
	}
	var all []string
	for part := range strings.SplitSeq(address, ",") {
		// A login given once holds for every server.
		parsed, err := url.Parse(scheme + "://" + part)
		if err != nil || parsed.Hostname() == "" || parsed.Path != "" {
			return "", fmt.Errorf("queue URL: a host cannot be read, want %s://host1,host2", scheme)
		}
		all = append(all, parsed.String())
	}
	return strings.Join(all, ","), nil
}

func (c *Config) set(name, value string) error {
	var err error
	switch name {
	case "listen":
		c.Listen = value
	case "ca":
		c.CA, err = value, readable(value)
	case "cert":
		c.Cert, err = value, readable(value)
	case "key":
		c.Key, err = value, readable(value)
	case "creds":
		c.Creds, err = value, readable(value)
	case "domain":
		c.Domain = value
	case "replicas":
		if c.Replicas, err = strconv.Atoi(value); err != nil || c.Replicas < 1 || c.Replicas > 5 {
			return fmt.Errorf("%q is not a number from 1 to 5", value)
		}
	case "storage":
		if value != "file" && value != "memory" {
			return fmt.Errorf("%q is neither file nor memory", value)
		}
		c.Memory = value == "memory"
	case "create":
		if c.Create, err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf("%q is neither true nor false", value)
		}
	case "max_bytes":
		return positiveBytes(&c.MaxBytes, value)
	case "cache":
		if err := positiveBytes(&c.Cache, value); err != nil {
			return err
		}
		if c.Cache < 16<<20 {
			return fmt.Errorf("%q is less than 16MiB, two of the server's blocks", value)
		}
	case "max_age":
		return positive(&c.MaxAge, value)
	case "redelivery":
		return positive(&c.Redelivery, value)
	case "timeout":
		return positive(&c.Timeout, value)
	}
	return err
}

func positiveBytes(into *int64, value string) error {
	var b config.Bytes
	if err := b.UnmarshalText([]byte(value)); err != nil {
		return err
	}
	if b <= 0 {
		return fmt.Errorf("%q is not above zero", value)
	}
	*into = int64(b)
	return nil
}

func positive(into *time.Duration, value string) error {
	var d config.Duration
	if err := d.UnmarshalText([]byte(value)); err != nil {
		return err
	}
	if d <= 0 {
		return fmt.Errorf("%q is not above zero", value)
	}
	*into = d.D()
	return nil
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
