package kafkaqueue

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/retry"
)

func anyFile(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f.pem")
	if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestParseURL(t *testing.T) {
	file := anyFile(t)
	for _, tt := range []struct {
		url  string
		want Config
	}{
		{"kafka://h1", Config{Brokers: []string{"h1:9092"}}},
		{"kafka://h1,h2:9093/?create=true&partitions=6&replication=3&min_insync=2", Config{
			Brokers: []string{"h1:9092", "h2:9093"}, Create: true, Partitions: 6, Replication: 3, MinInSync: 2,
		}},
		{"kafkas://user:pa%2Fss@h1?sasl=scram-sha-512&server_name=kafka.example.com", Config{
			Brokers: []string{"h1:9092"}, TLS: true, SASL: "scram-sha-512", User: "user", Password: "pa/ss", ServerName: "kafka.example.com",
		}},
		{"kafka://h1?tls=true&ca=" + file + "&cert=" + file + "&key=" + file, Config{
			Brokers: []string{"h1:9092"}, TLS: true, CA: file, Cert: file, Key: file,
		}},
		{"kafkas://ns.servicebus.windows.net:9093?sasl=oauthbearer&token_file=" + file, Config{
			Brokers: []string{"ns.servicebus.windows.net:9093"}, TLS: true, SASL: "oauthbearer", TokenFile: file,
		}},
		{"kafkas://id:secret@h1?sasl=oauthbearer&token_url=https://login.example.com/token&scope=a%20b", Config{
			Brokers: []string{"h1:9092"}, TLS: true, SASL: "oauthbearer", User: "id", Password: "secret",
			TokenURL: "https://login.example.com/token", Scope: "a b",
		}},
		{"kafkas://$ConnectionString:Endpoint%3Dsb:%2F%2Fns%2F;SharedAccessKey%3Dk%3D@ns:9093?sasl=plain", Config{
			Brokers: []string{"ns:9093"}, TLS: true, SASL: "plain", User: "$ConnectionString", Password: "Endpoint=sb://ns/;SharedAccessKey=k=",
		}},
		{"kafkas://h1:9098?sasl=aws-msk-iam", Config{Brokers: []string{"h1:9098"}, TLS: true, SASL: "aws-msk-iam"}},
		{"kafka://h1?prefix=acme&cursors=acme.state&partition=pipeline&compression=zstd&linger=5ms&transaction_timeout=5m&redelivery=1m&timeout=20s", Config{
			Brokers: []string{"h1:9092"}, Prefix: "acme", Cursors: "acme.state", Partition: "pipeline", Compression: "zstd",
			Linger: 5 * time.Millisecond, Transaction: 5 * time.Minute, Redelivery: time.Minute, Timeout: 20 * time.Second,
		}},
	} {
		got, err := ParseURL(config.URL(tt.url))
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if d := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Config{}, "Dial", "beforeEnd")); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.url, d)
		}
	}
}

func TestParseURLErrors(t *testing.T) {
	file := anyFile(t)
	for url, want := range map[string]string{
		"":                                  "queue URL: no scheme; write embedded: or nats://host, kafka://host, amqp://host, redis://host, sqs://region, azservicebus://namespace",
		"redis://h":                         `queue URL: scheme "redis" is not of Kafka, want kafka://host or kafkas://host`,
		"kafka:h1":                          "queue URL: Kafka's has no path behind the host; topics are named by the pipelines",
		"kafka://":                          "queue URL: no host, want kafka://host1,host2",
		"kafkas://":                         "queue URL: no host, want kafkas://host1,host2",
		"kafka://h1/orders":                 "queue URL: Kafka's has no path behind the host; topics are named by the pipelines",
		"kafka://h1?partitons=3":            `queue URL: kafka has no parameter "partitons"; did you mean partitions?`,
		"kafka://h1?partitions=0":           `queue URL: parameter partitions: "0" is not a number from 1 to 4096`,
		"kafka://h1?replication=33":         `queue URL: parameter replication: "33" is not a number from 1 to 32`,
		"kafka://h1?sasl=gssapi":            `queue URL: parameter sasl: "gssapi" is none of plain, scram-sha-256, scram-sha-512, oauthbearer and aws-msk-iam`,
		"kafka://h1?compression=brotli":     `queue URL: parameter compression: "brotli" is none of none, gzip, snappy, lz4 and zstd`,
		"kafka://h1?partition=id":           `queue URL: parameter partition: "id" is neither key nor pipeline`,
		"kafka://h1?linger=2s":              `queue URL: parameter linger: "2s" is above 1s`,
		"kafka://h1?timeout=0s":             `queue URL: parameter timeout: "0s" is not above zero`,
		"kafka://h1?transaction_timeout=1h": `queue URL: parameter transaction_timeout: "1h" is above 15m0s`,
		"kafka://h1?cursors=a/b":            `queue URL: parameter cursors: topic "a/b": Kafka takes letters, digits, dot, - and _`,
		"kafka://h1?create=true&create=no":  "queue URL: parameter create is given twice",
		"kafka://h1?token_url=login":        "queue URL: parameter token_url: it is no address such as https://login.example.com/oauth2/token (the client's id and secret are the login of the queue URL)",
		"kafka://u:p@h1":                    "kafka queue: the URL has a login but no sasl; add sasl=plain, sasl=scram-sha-256 or sasl=scram-sha-512",
		"kafka://h1?sasl=plain":             "kafka queue: sasl=plain needs a login; write kafka://user:password@host",
		"kafka://h1?ca=" + file:             "kafka queue: ca, cert, key and server_name are for TLS; write kafkas:// or add tls=true",
		"kafkas://h1?cert=" + file:          "kafka queue: cert and key belong together; give both or none",
		"kafka://h1?sasl=oauthbearer":       "kafka queue: sasl=oauthbearer needs either token_file or token_url",
		"kafka://h1?sasl=oauthbearer&token_url=https://l/t":     "kafka queue: token_url needs the client's id and secret as the login; write kafka://id:secret@host",
		"kafka://u:p@h1?sasl=oauthbearer&token_file=" + file:    "kafka queue: token_file holds the whole login; leave the one in the URL out",
		"kafka://u:p@h1?sasl=plain&scope=x":                     "kafka queue: token_file, token_url and scope are for sasl=oauthbearer",
		"kafka://h1?sasl=aws-msk-iam":                           "kafka queue: sasl=aws-msk-iam works with TLS alone; write kafkas:// or add tls=true",
		"kafkas://u:p@h1?sasl=aws-msk-iam":                      "kafka queue: sasl=aws-msk-iam takes its login from the AWS environment; leave the one in the URL out",
		"kafka://h1?replication=2&min_insync=3":                 "kafka queue: min_insync=3 is more than replication=2; nothing could ever be written",
		"kafka://h1?timeout=1m&transaction_timeout=1m":          "kafka queue: transaction_timeout 1m0s is less than twice the timeout of 1m0s; a slow commit would be thrown away",
		"kafka://h1?linger=x&timeout=y&sasl=plain&cursors=a%20": "queue URL: parameter cursors: topic \"a \": Kafka takes letters, digits, dot, - and _\nqueue URL: parameter linger: \"x\" is not a duration such as 250ms, 30s, 5m, 6h or 7d\nqueue URL: parameter timeout: \"y\" is not a duration such as 250ms, 30s, 5m, 6h or 7d",
	} {
		_, err := ParseURL(config.URL(url))
		if err == nil {
			t.Errorf("%s: no error, want %q", url, want)
		} else if err.Error() != want {
			t.Errorf("%s: error\n\t%s, want\n\t%s", url, err, want)
		}
	}
}

// TestNoLoginInErrors upholds invariant 8.
func TestNoLoginInErrors(t *testing.T) {
	for _, url := range []string{
		"kafka://user:s3cret@h1:x", "kafka://user:s3cret@h1/p?a=b", "kafka://user:s3cret@", "xkafka://user:s3cret@h1",
		"kafka://user:s3cret@h1?linger=%zz", "kafka://user:s3cret@h1?typo=1", "kafka://user:s3cret@h1", "kafkas://s3cret:s3cret@h1?sasl=aws-msk-iam",
	} {
		if _, err := ParseURL(config.URL(url)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", url, err)
		}
	}
	_, err := Open(t.Context(), Config{Brokers: []string{"127.0.0.1:1"}, SASL: "plain", User: "s3cret", Password: "s3cret", Timeout: time.Second})
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("open: %v", err)
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("kafka://u:p@h1,h2:9093?sasl=plain&create=true&partitions=3")
	f.Add("kafkas://id:s@h?sasl=oauthbearer&token_url=https://a/b&scope=x")
	f.Fuzz(func(t *testing.T, url string) {
		c, err := ParseURL(config.URL(url))
		if err != nil {
			return
		}
		if len(c.Brokers) == 0 {
			t.Fatalf("%q gives %+v", url, c)
		}
		if c, err = c.withDefaults(); err != nil {
			t.Fatalf("%q parses to what Open refuses: %v", url, err)
		}
		if checkTopic(c.Cursors) != nil {
			t.Fatalf("%q: cursors in %q", url, c.Cursors)
		}
	})
}

func TestTopicNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"orders": true, "orders.eu.dead": true, "A_b-9": true,
		"": false, ".": false, "..": false, "a b": false, "a/b": false, "ü": false, strings.Repeat("a", 250): false,
	} {
		if err := checkTopic(name); (err == nil) != ok || !ok && !(errors.Is(err, queue.ErrNoTopic) && retry.IsPermanent(err)) {
			t.Errorf("topic %q: %v", name, err)
		}
	}
}

func FuzzReceipt(f *testing.F) {
	f.Add("0.12.ABCDEFGHIJ")
	f.Add("-1.+2.x.y")
	f.Fuzz(func(t *testing.T, s string) {
		p, e, ok := readReceipt(s)
		if ok && receipt(p, e) != s {
			t.Fatalf("%q was read as partition %d, %+v", s, p, e)
		}
	})
}
