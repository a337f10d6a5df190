package rabbitqueue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"ferry/internal/config"
	"ferry/internal/queue/queueurl"
)

// The kinds of queue that a topic can be.
const (
	typeQuorum  = "quorum"
	typeClassic = "classic"
	typeStream  = "stream"
)

// Config of Open. ParseURL makes one.
type Config struct {
	// Hosts are tried in turn, each host:port.
	Hosts []string
	// User and Password of SASL PLAIN. Without a user a client certificate logs in (EXTERNAL), or else guest does,
	// whom RabbitMQ lets in from its own machine only.
	User     string
	Password config.Secret
	// VHost is "/" when empty.
	VHost string

	// TLS is true for amqps. CA is the path of a PEM file with the authority that signed the broker's certificate,
	// Cert and Key those of a client certificate; all may be empty. ServerName is the name in the broker's
	// certificate when it is not the host's.
	TLS                       bool
	CA, Cert, Key, ServerName string

	// Type of the topics: quorum (default), classic or stream.
	Type string
	// Create says whether missing topics are declared. MaxLength and MaxBytes are their limits then: a queue at its
	// limit refuses (queue.ErrFull), a stream lets go of its oldest records. Zero: none.
	Create    bool
	MaxLength int
	MaxBytes  int64
	// MaxAge is how long a stream that is made keeps its records. Zero: for good.
	MaxAge time.Duration

	// StreamPort is where the hosts speak the stream protocol, for commits to streams. Default 5552, 5551 with TLS.
	StreamPort int

	// Exchange is where records are published instead of the default exchange. Dead letters go to their queue in any
	// case. KeyRoutes makes the record's key the routing key, otherwise it is the topic.
	Exchange  string
	KeyRoutes bool

	// MaxRecord is the largest record in bytes. Default 16 MiB, which is what RabbitMQ 4 takes by itself
	// (max_message_size); older ones take 128 MiB.
	MaxRecord int
	// Redelivery is how long a record that was received and not acknowledged stays away. Default 30 s.
	Redelivery time.Duration
	// Timeout bounds one round trip, and how long a publish waits when no confirm at all comes. Default 10 s.
	Timeout time.Duration

	// Dial opens the connection below TLS. Nil: the net package.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// connect replaces dialling and the handshake, in tests without a broker.
	connect func(ctx context.Context, role string) (connection, error)
}

func (c Config) withDefaults() (Config, error) {
	if c.VHost == "" {
		c.VHost = "/"
	}
	if c.Type == "" {
		c.Type = typeQuorum
	}
	if c.MaxRecord == 0 {
		c.MaxRecord = 16 << 20
	}
	if c.Type == typeStream {
		c.MaxRecord = min(c.MaxRecord, streamRecordMax)
	}
	if c.StreamPort == 0 {
		c.StreamPort = 5552
		if c.TLS {
			c.StreamPort = 5551
		}
	}
	if c.Redelivery == 0 {
		c.Redelivery = 30 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	switch {
	case len(c.Hosts) == 0 && c.connect == nil:
		return c, errors.New("rabbitmq queue: no host given")
	case c.MaxLength < 0 || c.MaxBytes < 0 || c.MaxAge < 0 || c.MaxRecord < 0 || c.Redelivery < 0 || c.Timeout < 0:
		return c, errors.New("rabbitmq queue: a limit is negative")
	}
	return c, nil
}

// ParseURL reads `amqp://user:password@host1,host2/vhost?type=quorum&create=true` and the same with amqps. Parameters
// that it does not know are errors. No error shows a login (invariant 8).
func ParseURL(u config.URL) (Config, error) {
	var c Config
	routing := "topic"
	address, err := queueurl.Parse(u, queueurl.Parameters{
		"ca": queueurl.File(&c.CA), "cert": queueurl.File(&c.Cert), "key": queueurl.File(&c.Key),
		"server_name": queueurl.Text(&c.ServerName),
		"type":        queueurl.Word(&c.Type, typeQuorum, typeClassic, typeStream),
		"create":      queueurl.Bool(&c.Create),
		"max_length":  queueurl.Int(&c.MaxLength, 1, 1<<40), "max_bytes": queueurl.Bytes(&c.MaxBytes),
		"stream_port": queueurl.Int(&c.StreamPort, 1, 65535),
		"max_age":     queueurl.Duration(&c.MaxAge), "max_record": recordBytes(&c.MaxRecord),
		"exchange": queueurl.Text(&c.Exchange), "routing_key": queueurl.Word(&routing, "topic", "key"),
		"redelivery": queueurl.Duration(&c.Redelivery), "timeout": queueurl.Duration(&c.Timeout),
	})
	if err != nil {
		return Config{}, err
	}
	port := "5672"
	switch address.Scheme {
	case "amqp":
	case "amqps":
		c.TLS, port = true, "5671"
	default:
		return Config{}, fmt.Errorf("queue URL: scheme %q is not of RabbitMQ, want amqp://host or amqps://host", address.Scheme)
	}
	if len(address.Hosts) == 0 {
		return Config{}, fmt.Errorf("queue URL: no host, want %s://host1,host2/vhost", address.Scheme)
	}
	c.Hosts, c.User, c.Password, c.VHost = address.WithPort(port), address.User, address.Password, address.Path
	c.KeyRoutes = routing == "key"
	return c, c.check()
}

// check finds parameters that do not go together.
func (c Config) check() error {
	var errs []error
	refuse := func(why string) { errs = append(errs, errors.New("queue URL: "+why)) }
	if !c.TLS && (c.CA != "" || c.Cert != "" || c.Key != "" || c.ServerName != "") {
		refuse("ca, cert, key and server_name go with amqps://, and this is amqp://")
	}
	if (c.Cert == "") != (c.Key == "") {
		refuse("cert and key go together, and one is missing")
	}
	if c.MaxAge > 0 && c.Type != typeStream {
		refuse("max_age goes with type=stream: other queues would drop records that nobody has taken")
	}
	if c.MaxLength > 0 && c.Type == typeStream {
		refuse("max_length does not go with type=stream: limit it by max_bytes or max_age")
	}
	if c.StreamPort > 0 && c.Type != typeStream {
		refuse("stream_port goes with type=stream")
	}
	if !c.Create && (c.MaxLength > 0 || c.MaxBytes > 0 || c.MaxAge > 0) {
		refuse("max_length, max_bytes and max_age are of topics that ferry makes: add create=true, or set them where the queue is declared")
	}
	if c.KeyRoutes && c.Exchange == "" {
		refuse("routing_key=key goes with exchange=NAME: the default exchange knows queues by their names only")
	}
	if c.Exchange != "" && c.Type == typeStream {
		refuse("exchange does not go with type=stream: commits are written to the stream itself")
	}
	return errors.Join(errs...)
}

// recordBytes takes a size from 1KiB to 512MiB, which is as far as RabbitMQ can be set.
func recordBytes(into *int) func(string) error {
	return func(value string) error {
		var n int64
		if err := queueurl.Bytes(&n)(value); err != nil {
			return err
		}
		if n < 1<<10 || n > 512<<20 {
			return fmt.Errorf("%q is not between 1KiB and 512MiB", value)
		}
		*into = int(n)
		return nil
	}
}

// tlsConfig is for one host.
func (c Config) tlsConfig(host string) (*tls.Config, error) {
	t, err := queueurl.TLS(c.CA, c.Cert, c.Key)
	if err != nil {
		return nil, err
	}
	t.ServerName = c.ServerName
	if t.ServerName == "" {
		if parsed, err := url.Parse("x://" + host); err == nil {
			t.ServerName = parsed.Hostname()
		}
	}
	return t, nil
}

// dead tells topics of dead letters (queue.DeadTopic) from others.
func dead(topic string) bool { return strings.HasSuffix(topic, ".dead") }
