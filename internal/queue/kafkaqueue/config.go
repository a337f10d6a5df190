package kafkaqueue

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"ferry/internal/config"
	"ferry/internal/queue/queueurl"
)

// Config of Open. ParseURL makes one.
type Config struct {
	// Brokers are host:port addresses; any one that answers tells of the others.
	Brokers []string
	// TLS encrypts the connections. CA is a PEM file with the authority that signed the brokers' certificates (default:
	// the system's), Cert and Key a client certificate, ServerName what the brokers' certificates are made out to
	// (default: each broker's host).
	TLS                       bool
	CA, Cert, Key, ServerName string

	// SASL is the mechanism of the login: "", plain, scram-sha-256, scram-sha-512, oauthbearer or aws-msk-iam.
	SASL string
	// User and Password are the login; with oauthbearer the id and secret of a client at TokenURL.
	User     string
	Password config.Secret
	// TokenFile holds the token of oauthbearer; it is read anew at each login. TokenURL gives tokens by client
	// credentials (RFC 6749, section 4.4), for Scope, whose words are separated by spaces.
	TokenFile, TokenURL, Scope string

	// Create says whether missing topics are made, with Partitions (default 1, which keeps all records in one order),
	// Replication and MinInSync (0: the cluster's default).
	Create                             bool
	Partitions, Replication, MinInSync int
	// Partition says what a record's partition is chosen by: its "key" (default) or its "pipeline".
	Partition string
	// Prefix begins the names that are ferry's own in the cluster: transactional ids and the cursor topic. Default "ferry".
	Prefix string
	// Cursors is the compacted topic that holds the cursors. Default: Prefix and ".cursors".
	Cursors string
	// Compression of batches: none, gzip, snappy (default), lz4 or zstd.
	Compression string
	// Linger is how long Publish waits for company before a batch is sent. 0 sends at once; what comes while a batch is
	// on its way goes together all the same.
	Linger time.Duration
	// Transaction is how long the cluster keeps a commit open whose writer has gone. Until then those who read committed
	// records wait for it, unless a new writer comes first. Default 60 s, and never below twice Timeout.
	Transaction time.Duration
	// Redelivery is how long a record that was received and not acknowledged stays away. Default 30 s.
	Redelivery time.Duration
	// Timeout of one round trip, replication included. Default 10 s.
	Timeout time.Duration

	// Dial connects to a broker. Nil: the net package.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// beforeEnd, when not nil, is called when all records of a commit are sent and its end is not, for tests of writers
	// that stand still there.
	beforeEnd func()
}

const (
	saslPlain    = "plain"
	saslSCRAM256 = "scram-sha-256"
	saslSCRAM512 = "scram-sha-512"
	saslOAuth    = "oauthbearer"
	saslMSK      = "aws-msk-iam"

	byKey      = "key"
	byPipeline = "pipeline"
)

func (c Config) withDefaults() (Config, error) {
	for _, d := range []struct {
		into *string
		def  string
	}{{&c.Partition, byKey}, {&c.Prefix, "ferry"}, {&c.Compression, "snappy"}} {
		if *d.into == "" {
			*d.into = d.def
		}
	}
	if c.Cursors == "" {
		c.Cursors = c.Prefix + ".cursors"
	}
	if c.Partitions == 0 {
		c.Partitions = 1
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Redelivery == 0 {
		c.Redelivery = 30 * time.Second
	}
	if c.Transaction == 0 {
		c.Transaction = max(time.Minute, 2*c.Timeout)
	}
	return c, c.check()
}

// check refuses what cannot work together. It is asked with and without defaults.
func (c Config) check() error {
	var errs []error
	refuse := func(when bool, text string, args ...any) {
		if when {
			errs = append(errs, fmt.Errorf("kafka queue: "+text, args...))
		}
	}
	refuse(len(c.Brokers) == 0, "no broker given, want kafka://host1,host2")
	refuse(!c.TLS && (c.CA != "" || c.Cert != "" || c.Key != "" || c.ServerName != ""),
		"ca, cert, key and server_name are for TLS; write kafkas:// or add tls=true")
	refuse((c.Cert == "") != (c.Key == ""), "cert and key belong together; give both or none")
	refuse(c.SASL == "" && (c.User != "" || c.Password != ""),
		"the URL has a login but no sasl; add sasl=plain, sasl=scram-sha-256 or sasl=scram-sha-512")
	switch c.SASL {
	case saslPlain, saslSCRAM256, saslSCRAM512:
		refuse(c.User == "" || c.Password == "", "sasl=%s needs a login; write kafka://user:password@host", c.SASL)
	case saslOAuth:
		refuse((c.TokenFile == "") == (c.TokenURL == ""), "sasl=oauthbearer needs either token_file or token_url")
		refuse(c.TokenURL != "" && (c.User == "" || c.Password == ""),
			"token_url needs the client's id and secret as the login; write kafka://id:secret@host")
		refuse(c.TokenFile != "" && c.User != "", "token_file holds the whole login; leave the one in the URL out")
	case saslMSK:
		refuse(c.User != "", "sasl=aws-msk-iam takes its login from the AWS environment; leave the one in the URL out")
		refuse(!c.TLS, "sasl=aws-msk-iam works with TLS alone; write kafkas:// or add tls=true")
	}
	refuse(c.SASL != saslOAuth && (c.TokenFile != "" || c.TokenURL != "" || c.Scope != ""),
		"token_file, token_url and scope are for sasl=oauthbearer")
	refuse(c.MinInSync > 0 && c.Replication > 0 && c.MinInSync > c.Replication,
		"min_insync=%d is more than replication=%d; nothing could ever be written", c.MinInSync, c.Replication)
	refuse(c.Timeout > 0 && c.Transaction > 0 && c.Transaction < 2*c.Timeout,
		"transaction_timeout %s is less than twice the timeout of %s; a slow commit would be thrown away", c.Transaction, c.Timeout)
	refuse(c.Partitions < 0 || c.Replication < 0 || c.MinInSync < 0 || c.Linger < 0 || c.Timeout < 0 || c.Transaction < 0 || c.Redelivery < 0,
		"a limit is negative")
	return errors.Join(errs...)
}

// ParseURL reads `kafka://host1,host2?create=true&replication=3` and `kafkas://user:password@host:9093?sasl=plain`.
// Parameters that it does not know are errors, all of them at once. No error shows a login (invariant 8).
func ParseURL(u config.URL) (Config, error) {
	var c Config
	a, err := queueurl.Parse(u, queueurl.Parameters{
		"tls": queueurl.Bool(&c.TLS), "ca": queueurl.File(&c.CA), "cert": queueurl.File(&c.Cert), "key": queueurl.File(&c.Key),
		"server_name": queueurl.Text(&c.ServerName),
		"sasl":        queueurl.Word(&c.SASL, saslPlain, saslSCRAM256, saslSCRAM512, saslOAuth, saslMSK),
		"token_file":  queueurl.File(&c.TokenFile), "token_url": webAddress(&c.TokenURL), "scope": queueurl.Text(&c.Scope),
		"create": queueurl.Bool(&c.Create), "partitions": queueurl.Int(&c.Partitions, 1, maxPartitions),
		"replication": queueurl.Int(&c.Replication, 1, 32), "min_insync": queueurl.Int(&c.MinInSync, 1, 32),
		"partition": queueurl.Word(&c.Partition, byKey, byPipeline),
		"prefix":    name(&c.Prefix), "cursors": name(&c.Cursors),
		"compression": queueurl.Word(&c.Compression, "none", "gzip", "snappy", "lz4", "zstd"),
		"linger":      atMost(&c.Linger, time.Second), "transaction_timeout": atMost(&c.Transaction, 15*time.Minute),
		"redelivery": queueurl.Duration(&c.Redelivery), "timeout": atMost(&c.Timeout, 5*time.Minute),
	})
	switch {
	case a.Scheme == "" && err != nil:
		return c, err
	case a.Scheme == "kafkas":
		c.TLS = true
	case a.Scheme != "kafka":
		return c, fmt.Errorf("queue URL: scheme %q is not of Kafka, want kafka://host or kafkas://host", a.Scheme)
	}
	c.Brokers, c.User, c.Password = a.WithPort("9092"), a.User, a.Password
	switch {
	case err != nil:
		return c, err
	case a.Path != "":
		return c, errors.New("queue URL: Kafka's has no path behind the host; topics are named by the pipelines")
	case len(c.Brokers) == 0:
		return c, fmt.Errorf("queue URL: no host, want %s://host1,host2", a.Scheme)
	}
	return c, c.check()
}

// atMost takes a time above zero, up to a limit.
func atMost(into *time.Duration, limit time.Duration) func(string) error {
	return func(value string) error {
		if err := queueurl.Duration(into)(value); err != nil {
			return err
		}
		if *into > limit {
			return fmt.Errorf("%q is above %s", value, limit)
		}
		return nil
	}
}

// name takes what can be a topic's name.
func name(into *string) func(string) error {
	return func(value string) error {
		*into = value
		return checkTopic(value)
	}
}

// webAddress takes an http(s) address without a login in it.
func webAddress(into *string) func(string) error {
	return func(value string) error {
		if !strings.HasPrefix(value, "https://") && !strings.HasPrefix(value, "http://") || strings.Contains(value, "@") {
			return errors.New("it is no address such as https://login.example.com/oauth2/token (the client's id and secret are the login of the queue URL)")
		}
		*into = value
		return nil
	}
}
