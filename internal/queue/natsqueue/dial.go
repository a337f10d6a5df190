package natsqueue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// Dial connects to the servers of c with its login, for what lies beside the queue on the same servers (the state
// store). The connection reconnects by itself and belongs to the caller.
func (c Config) Dial(ctx context.Context) (*nats.Conn, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	nc, err := nats.Connect(c.Servers, append([]nats.Option{
		nats.Name("ferry"), nats.MaxReconnects(-1), nats.Timeout(c.Timeout),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the default prints to stderr
	}, c.login()...)...)
	if err != nil {
		return nil, refused("connect to NATS", err)
	}
	return nc, nil
}

// dialer is nats.CustomDialer out of Config.DialContext.
type dialer struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	timeout time.Duration
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
	defer cancel()
	return d.dial(ctx, network, address)
}

// login is how the connections to Servers are made, and who makes them.
func (c Config) login() []nats.Option {
	var opts []nats.Option
	if c.DialContext != nil {
		opts = append(opts, nats.SetCustomDialer(dialer{c.DialContext, c.Timeout}))
	}
	switch {
	case c.Creds != "":
		opts = append(opts, nats.UserCredentials(c.Creds))
	case c.NKey != "":
		opts = append(opts, nkey(c.NKey))
	case c.Password != "":
		opts = append(opts, nats.UserInfo(c.User, string(c.Password)))
	case c.User != "":
		opts = append(opts, nats.Token(c.User))
	}
	if c.ServerName != "" {
		opts = append(opts, nats.Secure(&tls.Config{ServerName: c.ServerName, MinVersion: tls.VersionTLS12}))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	if c.HandshakeFirst {
		opts = append(opts, nats.TLSHandshakeFirst())
	}
	return opts
}

// nkey logs in by a seed; the library's own option reads the file too early to say why it cannot.
func nkey(file string) nats.Option {
	return func(o *nats.Options) error {
		opt, err := nats.NkeyOptionFromSeed(file)
		if err != nil {
			return fmt.Errorf("read nkey of %s: %w", file, err)
		}
		return opt(o)
	}
}

// refused sorts what may be said when a connection is made: what is wrong with the login or the certificates stays
// wrong until somebody mends it. Anything else may clear by itself.
func refused(what string, err error) error {
	var unverified *tls.CertificateVerificationError
	var denied *net.OpError
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrNkeysNotSupported):
		return retry.Permanent(fmt.Errorf("%s: %w (is the login in the queue's URL right?)", what, err))
	case errors.As(err, &unverified):
		return retry.Permanent(fmt.Errorf("%s: %w (the parameter ca names the authority's certificate, server_name the name in the server's own)", what, err))
	case errors.As(err, &denied) && denied.Op == "remote error":
		return retry.Permanent(fmt.Errorf("%s: %w (the server asks for a client certificate: the parameters cert and key)", what, err))
	case errors.Is(err, nats.ErrSecureConnRequired):
		return retry.Permanent(fmt.Errorf("%s: %w (write tls:// instead of nats://)", what, err))
	case errors.Is(err, nats.ErrSecureConnWanted):
		return retry.Permanent(fmt.Errorf("%s: %w (write nats:// instead of tls://, and no ca, cert or server_name)", what, err))
	}
	return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
}
