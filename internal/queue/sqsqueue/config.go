package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"ferry/internal/config"
	"ferry/internal/queue/queueurl"
)

// Bounds that SQS itself sets.
const (
	maxRedelivery = 12 * time.Hour
	minRetention  = time.Minute
	maxRetention  = 14 * 24 * time.Hour
)

// The ways to choose the message group of a record in a FIFO queue. SQS keeps order within a group, and hands a group
// to one consumer at a time.
const (
	groupByPipeline = "pipeline"
	groupByTopic    = "topic"
	groupByKey      = "key"
)

// Config of Open. ParseURL makes one.
type Config struct {
	// Region such as eu-west-1; empty: from AWS's default chain (AWS_REGION, the profile).
	Region string
	// Account owns the queues, 12 digits; empty: the login's own.
	Account string
	// Address of the one queue that every topic means, as SQS itself calls it; empty: each topic has a queue of its
	// name. Its dead letters go to NAME-dead beside it.
	Address string
	// Endpoint is where SQS is reached, for emulators and VPC endpoints; empty: AWS's own for the region.
	Endpoint string
	// FIFO queues keep order and drop duplicates; standard ones do neither.
	FIFO bool
	// Group is pipeline, topic or key: what records share their order. Default pipeline. FIFO only.
	Group string
	// Create says whether missing queues are made, with Retention (default 14 days, the longest there is).
	Create    bool
	Retention time.Duration
	// Redelivery is how long a record that was received and not acknowledged stays away. Whole seconds, default 30 s.
	Redelivery time.Duration
	// Timeout of one round trip. Default 10 s.
	Timeout time.Duration
	// Profile of AWS's shared files, and RoleARN of a role to assume. Both may be empty.
	Profile, RoleARN string
	// Dial replaces the net package's, for tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (c Config) withDefaults() (Config, error) {
	if c.Group == "" {
		c.Group = groupByPipeline
	}
	if c.Retention == 0 {
		c.Retention = maxRetention
	}
	if c.Redelivery == 0 {
		c.Redelivery = 30 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	switch {
	case c.Retention < minRetention || c.Retention > maxRetention:
		return c, fmt.Errorf("sqs queue: retention %s is not from 1m to 14d", c.Retention)
	case c.Redelivery < time.Second || c.Redelivery > maxRedelivery:
		return c, fmt.Errorf("sqs queue: redelivery %s is not from 1s to 12h", c.Redelivery)
	case c.Timeout < 0:
		return c, errors.New("sqs queue: the timeout is negative")
	}
	return c, nil
}

// ParseURL reads `sqs://eu-west-1?create=true`, `sqs://eu-west-1/123456789012` and a queue's own address,
// `https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo`. Parameters that it does not know are errors. No
// error shows a login (invariant 8).
func ParseURL(u config.URL) (Config, error) {
	c := Config{FIFO: true}
	known := queueurl.Parameters{
		"create": queueurl.Bool(&c.Create), "group": queueurl.Word(&c.Group, groupByPipeline, groupByTopic, groupByKey),
		"profile": queueurl.Text(&c.Profile), "redelivery": between(&c.Redelivery, time.Second, maxRedelivery, "1s", "12h"),
		"retention": between(&c.Retention, minRetention, maxRetention, "1m", "14d"), "role_arn": role(&c.RoleARN),
		"timeout": queueurl.Duration(&c.Timeout),
	}
	scheme, _, query, err := queueurl.Split(u)
	if err != nil {
		return c, err
	}
	switch scheme {
	case "sqs":
		known["endpoint"], known["fifo"] = endpoint(&c.Endpoint), queueurl.Bool(&c.FIFO)
	case "https", "http":
		known["region"] = regionName(&c.Region)
	default:
		return c, fmt.Errorf("queue URL: scheme %q is not of SQS, want sqs://region or a queue's address https://sqs.region.amazonaws.com/account/name", scheme)
	}
	a, err := queueurl.Parse(u, known)
	if err != nil {
		return c, err
	}
	if a.User != "" || a.Password != "" {
		return c, errors.New("queue URL: sqs takes no login; AWS's default chain gives it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of the machine")
	}
	if scheme == "sqs" {
		err = c.readRegion(a)
	} else {
		err = c.readAddress(a)
	}
	if err == nil && c.Group != "" && !c.FIFO {
		err = errors.New("queue URL: parameter group: only FIFO queues have message groups")
	}
	if err == nil && strings.Contains("&"+query, "&retention=") && !c.Create {
		err = errors.New("queue URL: parameter retention is for queues that ferry makes; add create=true")
	}
	return c, err
}

// readRegion reads what follows sqs: in sqs://region/account.
func (c *Config) readRegion(a queueurl.Address) error {
	switch {
	case len(a.Hosts) > 1:
		return errors.New("queue URL: sqs takes one region")
	case len(a.Hosts) == 0 && a.Path != "":
		return errors.New("queue URL: no region, want sqs://region, or sqs: alone for the region of AWS_REGION")
	case len(a.Hosts) == 1 && !isRegion(a.Hosts[0]):
		return fmt.Errorf("queue URL: %q is not an AWS region; want sqs://eu-west-1, with endpoint=http://host:port for an emulator, or a queue's address as it is: https://sqs.eu-west-1.amazonaws.com/account/name", a.Hosts[0])
	case len(a.Hosts) == 1:
		c.Region = a.Hosts[0]
	}
	c.Account = strings.TrimSuffix(a.Path, "/")
	switch {
	case c.Account == "":
	case !isAccount(c.Account):
		return fmt.Errorf("queue URL: %q is not an AWS account of 12 digits; queues are named by the pipelines' topics", c.Account)
	case c.Create:
		return errors.New("queue URL: create=true makes queues in the login's own account; leave the account out")
	}
	return nil
}

func between(into *time.Duration, least, most time.Duration, leastText, mostText string) func(string) error {
	return func(value string) error {
		var d time.Duration
		if err := queueurl.Duration(&d)(value); err != nil {
			return err
		}
		if d < least || d > most {
			return fmt.Errorf("%q is not from %s to %s", value, leastText, mostText)
		}
		*into = d
		return nil
	}
}

func endpoint(into *string) func(string) error {
	return func(value string) error {
		u, err := url.Parse(value)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" {
			return errors.New("want http://host:port or https://host")
		}
		*into = strings.TrimSuffix(value, "/")
		return nil
	}
}

func regionName(into *string) func(string) error {
	return func(value string) error {
		if !isRegion(value) {
			return fmt.Errorf("%q is not an AWS region such as eu-west-1", value)
		}
		*into = value
		return nil
	}
}

func role(into *string) func(string) error {
	return func(value string) error {
		if !strings.HasPrefix(value, "arn:") || !strings.Contains(value, ":role/") {
			return fmt.Errorf("%q is not a role such as arn:aws:iam::123456789012:role/ferry", value)
		}
		*into = value
		return nil
	}
}
