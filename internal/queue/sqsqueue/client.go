package sqsqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"ferry/internal/queue"
)

// connections is how many stay open between requests: those of two busy topics and a few receivers.
const connections = 64

// connect makes the SDK's client by AWS's default chain of logins and regions.
func (q *Queue) connect(ctx context.Context) error {
	cfg := &q.cfg
	built := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 2*connections, connections
		t.TLSHandshakeTimeout = cfg.Timeout
		if cfg.Dial != nil {
			t.DialContext = cfg.Dial
		}
	})
	options := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithHTTPClient(built), // buildable, so that AWS_CA_BUNDLE is honoured
		awsconfig.WithLogger(logging.Nop{}),
		awsconfig.WithRetryer(patience),
	}
	if cfg.Region != "" {
		options = append(options, awsconfig.WithRegion(cfg.Region))
	}
	if cfg.Profile != "" {
		options = append(options, awsconfig.WithSharedConfigProfile(cfg.Profile))
	}
	loaded, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return fmt.Errorf("read AWS's configuration: %w", err)
	}
	if loaded.Region == "" {
		if cfg.Endpoint == "" {
			return errors.New("no AWS region: write it into the queue's URL, sqs://eu-west-1, or set AWS_REGION")
		}
		loaded.Region = "us-east-1" // emulators take any
	}
	cfg.Region = loaded.Region
	if b, ok := loaded.HTTPClient.(*awshttp.BuildableClient); ok {
		// A plain client over the same transport: that one can be told to let its connections go. AWS is not followed
		// to other hosts.
		q.web = &http.Client{Transport: b.GetTransport(), CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
		loaded.HTTPClient = web{q.web}
	}
	chain := loaded.Credentials
	if cfg.RoleARN != "" {
		chain = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(loaded), cfg.RoleARN, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = "ferry"
		}))
	}
	if _, err := (login{chain}).Retrieve(ctx); err != nil {
		return fmt.Errorf("%w: log in to AWS: %w", queue.ErrUnavailable, err)
	}
	q.client = sqs.NewFromConfig(loaded, func(o *sqs.Options) {
		o.Credentials = login{chain}
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
	})
	return nil
}

// patience is the SDK's own second try, within one round trip: for a connection that the other side had just closed,
// or one bad answer among good ones. All further tries are the caller's, who says why.
func patience() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = 2
		o.MaxBackoff = 200 * time.Millisecond
		o.RateLimiter = ratelimit.None
	})
}

// web sends each request with a body of its own. The SDK closes the one that it gave as soon as the head of the answer
// is there; where the server is quick the transport may still hold it, takes that for a failed request and closes the
// connection, and the answer is lost (aws-sdk-go-v2 issue 2737). Of a receive that is ten records until they come again.
type web struct{ client *http.Client }

// Do implements sqs.HTTPClient.
func (w web) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.ContentLength > 0 {
		body := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return nil, fmt.Errorf("read the request's body: %w", err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return w.client.Do(r) //nolint:gosec // G704: the address is the configuration's
}
