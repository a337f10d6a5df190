package sqsqueue

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ferry/internal/config"
)

func TestParseURL(t *testing.T) {
	for _, tt := range []struct {
		url  string
		want Config
	}{
		{"sqs://eu-west-1", Config{Region: "eu-west-1", FIFO: true}},
		{"sqs:", Config{FIFO: true}},
		{"sqs://?create=true", Config{FIFO: true, Create: true}},
		{"sqs://us-gov-west-1/?fifo=false", Config{Region: "us-gov-west-1"}},
		{"sqs://eu-west-1/123456789012?group=key&timeout=3s", Config{Region: "eu-west-1", Account: "123456789012", FIFO: true, Group: "key", Timeout: 3 * time.Second}},
		{"sqs://us-east-1?endpoint=http://127.0.0.1:9324/&create=true&retention=4d&redelivery=2m", Config{
			Region: "us-east-1", Endpoint: "http://127.0.0.1:9324", FIFO: true, Create: true, Retention: 4 * 24 * time.Hour, Redelivery: 2 * time.Minute,
		}},
		{"sqs://eu-west-1?profile=work&role_arn=arn:aws:iam::123456789012:role/team/ferry", Config{
			Region: "eu-west-1", FIFO: true, Profile: "work", RoleARN: "arn:aws:iam::123456789012:role/team/ferry",
		}},
		{"https://sqs.eu-west-1.amazonaws.com/123456789012/orders", Config{
			Region: "eu-west-1", Address: "https://sqs.eu-west-1.amazonaws.com/123456789012/orders", Endpoint: "https://sqs.eu-west-1.amazonaws.com",
		}},
		{"https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo?create=true&group=topic", Config{
			Region: "eu-west-1", Address: "https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo", Endpoint: "https://sqs.eu-west-1.amazonaws.com",
			FIFO: true, Create: true, Group: "topic",
		}},
		{"https://queue.amazonaws.com/123456789012/orders", Config{Region: "us-east-1", Address: "https://queue.amazonaws.com/123456789012/orders"}},
		{"https://ap-south-1.queue.amazonaws.com/123456789012/orders", Config{
			Region: "ap-south-1", Address: "https://ap-south-1.queue.amazonaws.com/123456789012/orders",
		}},
		{"https://sqs.cn-north-1.amazonaws.com.cn/123456789012/orders", Config{
			Region: "cn-north-1", Address: "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/orders", Endpoint: "https://sqs.cn-north-1.amazonaws.com.cn",
		}},
		{"https://sqs-fips.us-gov-east-1.amazonaws.com/123456789012/orders", Config{
			Region: "us-gov-east-1", Address: "https://sqs-fips.us-gov-east-1.amazonaws.com/123456789012/orders", Endpoint: "https://sqs-fips.us-gov-east-1.amazonaws.com",
		}},
		{"https://vpce-0a1b-2c.sqs.us-east-2.vpce.amazonaws.com/123456789012/orders", Config{
			Region: "us-east-2", Address: "https://vpce-0a1b-2c.sqs.us-east-2.vpce.amazonaws.com/123456789012/orders",
			Endpoint: "https://vpce-0a1b-2c.sqs.us-east-2.vpce.amazonaws.com",
		}},
		{"https://sqs.eu-west-1.api.aws/123456789012/orders", Config{
			Region: "eu-west-1", Address: "https://sqs.eu-west-1.api.aws/123456789012/orders", Endpoint: "https://sqs.eu-west-1.api.aws",
		}},
		{"http://localhost:9324/000000000000/orders.fifo", Config{
			Address: "http://localhost:9324/000000000000/orders.fifo", Endpoint: "http://localhost:9324", FIFO: true,
		}},
		{"http://elasticmq:9324/queue/orders?region=eu-west-1", Config{
			Region: "eu-west-1", Address: "http://elasticmq:9324/queue/orders", Endpoint: "http://elasticmq:9324",
		}},
	} {
		got, err := ParseURL(config.URL(tt.url))
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if d := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Config{}, "Dial")); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.url, d)
		}
		if scheme, _, _ := strings.Cut(tt.url, ":"); IsAddress(config.URL(tt.url)) != (scheme != "sqs") {
			t.Errorf("%s: IsAddress is wrong", tt.url)
		}
	}
}

func TestParseURLErrors(t *testing.T) {
	for url, want := range map[string]string{
		"kafka://h":            `queue URL: scheme "kafka" is not of SQS, want sqs://region or a queue's address https://sqs.region.amazonaws.com/account/name`,
		"sqs://localhost:9324": `queue URL: "localhost:9324" is not an AWS region; want sqs://eu-west-1, with endpoint=http://host:port for an emulator, or a queue's address as it is: https://sqs.eu-west-1.amazonaws.com/account/name`,
		"sqs://sqs.eu-west-1.amazonaws.com/1/orders":                                `queue URL: "sqs.eu-west-1.amazonaws.com" is not an AWS region; want sqs://eu-west-1, with endpoint=http://host:port for an emulator, or a queue's address as it is: https://sqs.eu-west-1.amazonaws.com/account/name`,
		"sqs://eu-west-1,eu-west-2":                                                 "queue URL: sqs takes one region",
		"sqs:eu-west-1":                                                             "queue URL: no region, want sqs://region, or sqs: alone for the region of AWS_REGION",
		"sqs://eu-west-1/orders":                                                    `queue URL: "orders" is not an AWS account of 12 digits; queues are named by the pipelines' topics`,
		"sqs://eu-west-1/123456789012?create=true":                                  "queue URL: create=true makes queues in the login's own account; leave the account out",
		"sqs://AKIA:s3cret@eu-west-1":                                               "queue URL: sqs takes no login; AWS's default chain gives it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of the machine",
		"sqs://eu-west-1?fifo=perhaps":                                              `queue URL: parameter fifo: "perhaps" is neither true nor false`,
		"sqs://eu-west-1?group=keys":                                                `queue URL: parameter group: "keys" is none of pipeline, topic and key`,
		"sqs://eu-west-1?fifo=false&group=key":                                      "queue URL: parameter group: only FIFO queues have message groups",
		"sqs://eu-west-1?redelivery=13h":                                            `queue URL: parameter redelivery: "13h" is not from 1s to 12h`,
		"sqs://eu-west-1?redelivery=10ms":                                           `queue URL: parameter redelivery: "10ms" is not from 1s to 12h`,
		"sqs://eu-west-1?create=true&retention=15d":                                 `queue URL: parameter retention: "15d" is not from 1m to 14d`,
		"sqs://eu-west-1?retention=4d":                                              "queue URL: parameter retention is for queues that ferry makes; add create=true",
		"sqs://eu-west-1?timeout=0s":                                                `queue URL: parameter timeout: "0s" is not above zero`,
		"sqs://eu-west-1?endpoint=localhost:9324":                                   "queue URL: parameter endpoint: want http://host:port or https://host",
		"sqs://eu-west-1?endpoint=http://u:p@h":                                     "queue URL: parameter endpoint: want http://host:port or https://host",
		"sqs://eu-west-1?role_arn=ferry":                                            `queue URL: parameter role_arn: "ferry" is not a role such as arn:aws:iam::123456789012:role/ferry`,
		"sqs://eu-west-1?regoin=x":                                                  `queue URL: sqs has no parameter "regoin"; it knows create, endpoint, fifo, group, profile, redelivery, retention, role_arn, timeout`,
		"sqs://eu-west-1?fiffo=true":                                                `queue URL: sqs has no parameter "fiffo"; did you mean fifo?`,
		"sqs://eu-west-1?fifo=true&fifo=true":                                       "queue URL: parameter fifo is given twice",
		"http://localhost:9324/0000/orders":                                         "queue URL: no SQS queue: want http://localhost:9324/account/name, with an account of 12 digits and a name of letters, digits, - and _, which ends in .fifo for a FIFO queue",
		"https://h1,h2/123456789012/orders":                                         "queue URL: want one host in a queue's address: https://sqs.region.amazonaws.com/account/name",
		"https://sqs.amazonaws.com/123456789012/q":                                  `queue URL: "sqs.amazonaws.com" names no AWS region, want https://sqs.region.amazonaws.com/account/name`,
		"http://sqs.eu-west-1.amazonaws.com/123456789012/orders":                    "queue URL: AWS is reached by https only",
		"https://sqs.eu-west-1.amazonaws.com/123456789012/orders?region=eu-west-2":  "queue URL: parameter region says eu-west-2, the address eu-west-1",
		"https://sqs.eu-west-1.amazonaws.com/123456789012/orders?fifo=true":         `queue URL: https has no parameter "fifo"; it knows create, group, profile, redelivery, region, retention, role_arn, timeout`,
		"https://sqs.eu-west-1.amazonaws.com/queue/orders":                          "queue URL: no SQS queue: want https://sqs.eu-west-1.amazonaws.com/account/name, with an account of 12 digits and a name of letters, digits, - and _, which ends in .fifo for a FIFO queue",
		"https://sqs.eu-west-1.amazonaws.com/123456789012/orders.dead":              "queue URL: no SQS queue: want https://sqs.eu-west-1.amazonaws.com/account/name, with an account of 12 digits and a name of letters, digits, - and _, which ends in .fifo for a FIFO queue",
		"https://sqs.eu-west-1.amazonaws.com/123456789012/orders?region=eu-west-1x": `queue URL: parameter region: "eu-west-1x" is not an AWS region such as eu-west-1`,
	} {
		_, err := ParseURL(config.URL(url))
		if err == nil {
			t.Errorf("%s: no error, want %q", url, want)
		} else if err.Error() != want {
			t.Errorf("%s:\n got %q\nwant %q", url, err, want)
		}
	}
}

func TestIsAddress(t *testing.T) {
	for url, want := range map[string]bool{
		"https://sqs.eu-west-1.amazonaws.com/123456789012/orders":          true,
		"https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo?x=y": true,
		"http://localhost:4566/000000000000/orders":                        true,
		"http://[::1]:9324/queue/orders":                                   true,
		"sqs://eu-west-1":                                                  false,
		"https://api.example.com/v1/orders":                                false,
		"https://example.com":                                              false,
		"https://sqs.eu-west-1.amazonaws.com/queue/orders":                 false,
		"https:///123456789012/orders":                                     false,
		"":                                                                 false,
	} {
		if got := IsAddress(config.URL(url)); got != want {
			t.Errorf("%s: %v", url, got)
		}
	}
}

func TestConfigChecks(t *testing.T) {
	for _, c := range []Config{{Retention: time.Second}, {Redelivery: 13 * time.Hour}, {Redelivery: time.Millisecond}, {Timeout: -1}} {
		if _, err := Open(t.Context(), c); err == nil || !strings.HasPrefix(err.Error(), "sqs queue: ") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, url := range []string{
		"sqs://eu-west-1?create=true&group=key", "sqs://eu-west-1/123456789012", "https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo",
		"http://localhost:9324/000000000000/orders?region=us-east-1", "sqs://u:s3cret@eu-west-1", "https://%2F/queue/x", "sqs:?retention=1d",
	} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		c, err := ParseURL(config.URL(url))
		if err != nil {
			return
		}
		if _, err := c.withDefaults(); err != nil {
			t.Errorf("%q was read, and then refused: %v", url, err)
		}
		if c.Address != "" {
			if !IsAddress(config.URL(url)) {
				t.Errorf("%q was read, and is no address", url)
			}
			if name, err := c.queueName("any topic"); err != nil || c.address(name) != c.Address {
				t.Errorf("%q: a topic is %s, %v", url, c.address(name), err)
			}
		}
	})
}
