package kafkaqueue

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"ferry/internal/queue"
	"ferry/internal/queue/queueurl"
	"ferry/internal/retry"
)

// mechanism gives the login that the configuration asks for, nil for none.
func (c Config) mechanism() sasl.Mechanism {
	switch c.SASL {
	case saslPlain:
		return plain.Auth{User: c.User, Pass: string(c.Password)}.AsMechanism()
	case saslSCRAM256:
		return scram.Auth{User: c.User, Pass: string(c.Password)}.AsSha256Mechanism()
	case saslSCRAM512:
		return scram.Auth{User: c.User, Pass: string(c.Password)}.AsSha512Mechanism()
	case saslOAuth:
		if c.TokenFile != "" {
			return oauth.Oauth(c.tokenFromFile)
		}
		return oauth.Oauth((&tokens{cfg: c}).get)
	case saslMSK:
		return aws.ManagedStreamingIAM((&awsLogin{}).get)
	}
	return nil
}

// tokenFromFile reads the file at each login, for whoever renews it (a Kubernetes service account, a sidecar).
func (c Config) tokenFromFile(context.Context) (oauth.Auth, error) {
	b, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return oauth.Auth{}, fmt.Errorf("read token of Kafka: %w", err)
	}
	token := string(bytes.TrimSpace(b))
	if token == "" {
		return oauth.Auth{}, retry.Permanent(fmt.Errorf("read token of Kafka: %s is empty", c.TokenFile))
	}
	return oauth.Auth{Token: token}, nil
}

// tokens fetches tokens by client credentials and keeps one until shortly before it ends.
type tokens struct {
	cfg Config

	mu   sync.Mutex
	last *oauth2.Token
}

func (t *tokens) get(ctx context.Context) (oauth.Auth, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last.Valid() {
		return oauth.Auth{Token: t.last.AccessToken}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{
		// The secret is for this address, not for one that it points to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	token, err := (&clientcredentials.Config{
		ClientID: t.cfg.User, ClientSecret: string(t.cfg.Password), TokenURL: t.cfg.TokenURL, Scopes: strings.Fields(t.cfg.Scope),
	}).Token(ctx)
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused):
		// Its own text holds the whole answer, which is the other side's to fill (invariant 8).
		err = fmt.Errorf("fetch token of Kafka: %s answered %d %.60q", t.cfg.TokenURL, refused.Response.StatusCode, refused.ErrorCode)
		if code := refused.Response.StatusCode; code >= 400 && code < 500 && code != http.StatusTooManyRequests {
			return oauth.Auth{}, retry.Permanent(fmt.Errorf("%w (are the client's id and secret in the queue's URL right?)", err))
		}
		return oauth.Auth{}, fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
	case err != nil:
		return oauth.Auth{}, fmt.Errorf("%w: fetch token of Kafka: %w", queue.ErrUnavailable, err)
	}
	t.last = token
	return oauth.Auth{Token: token.AccessToken}, nil
}

// awsLogin takes the login from the AWS environment: variables, files, a role of the pod, task or machine. The SDK
// caches it and renews it.
type awsLogin struct {
	mu    sync.Mutex
	chain func(context.Context) (aws.Auth, error)
}

func (l *awsLogin) get(ctx context.Context) (aws.Auth, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.chain == nil {
		c, err := awsconfig.LoadDefaultConfig(ctx)
		if err != nil {
			return aws.Auth{}, fmt.Errorf("%w: load the AWS login: %w", queue.ErrUnavailable, err)
		}
		l.chain = func(ctx context.Context) (aws.Auth, error) {
			got, err := c.Credentials.Retrieve(ctx)
			if err != nil {
				return aws.Auth{}, fmt.Errorf("%w: load the AWS login: %w", queue.ErrUnavailable, err)
			}
			return aws.Auth{AccessKey: got.AccessKeyID, SecretKey: got.SecretAccessKey, SessionToken: got.SessionToken}, nil
		}
	}
	return l.chain(ctx)
}

// tlsConfig gives nil without TLS.
func (c Config) tlsConfig() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	t, err := queueurl.TLS(c.CA, c.Cert, c.Key)
	if err != nil {
		return nil, retry.Permanent(err)
	}
	t.ServerName = c.ServerName
	return t, nil
}

// dialer connects to a broker, over TLS when asked for.
func (c Config) dialer() (func(ctx context.Context, network, address string) (net.Conn, error), error) {
	secure, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: c.Timeout}).DialContext
	}
	if secure == nil {
		return dial, nil
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		t := secure.Clone()
		if t.ServerName == "" {
			if t.ServerName, _, err = net.SplitHostPort(address); err != nil {
				t.ServerName = address
			}
		}
		encrypted := tls.Client(conn, t)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return encrypted, nil
	}, nil
}
