package redisqueue

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ferry/internal/config"
)

func TestParseURL(t *testing.T) {
	pem := filepath.Join(t.TempDir(), "x.pem")
	if err := os.WriteFile(pem, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		url  string
		want Config
	}{
		{"redis://h1", Config{Mode: "single", Hosts: []string{"h1:6379"}}},
		{"redis://h1:7000/3?mode=single", Config{Mode: "single", Hosts: []string{"h1:7000"}, DB: 3}},
		{"redis://user:p%40ss@h1/0", Config{Mode: "single", Hosts: []string{"h1:6379"}, User: "user", Password: "p@ss"}},
		{"redis://:pass@[::1]", Config{Mode: "single", Hosts: []string{"[::1]:6379"}, Password: "pass"}},
		{"rediss://h1?ca=" + pem + "&cert=" + pem + "&key=" + pem, Config{Mode: "single", Hosts: []string{"h1:6379"}, TLS: true, CA: pem, Cert: pem, Key: pem}},
		{"redis://h1,h2:7001?mode=cluster&create=true", Config{Mode: "cluster", Hosts: []string{"h1:6379", "h2:7001"}, Create: true}},
		{
			"redis://s1,s2:1?mode=sentinel&master=mymaster&sentinel_user=u&sentinel_password=p&wait=1",
			Config{Mode: "sentinel", Hosts: []string{"s1:26379", "s2:1"}, Master: "mymaster", SentinelUser: "u", SentinelPassword: "p", Wait: 1},
		},
		{
			"redis://h1?max_len=1000&max_bytes=1GiB&timeout=3s&redelivery=1m&unsafe=true",
			Config{Mode: "single", Hosts: []string{"h1:6379"}, MaxLen: 1000, MaxBytes: 1 << 30, Timeout: 3 * time.Second, Redelivery: time.Minute, Unsafe: true},
		},
	} {
		got, err := ParseURL(config.URL(tt.url))
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if d := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Config{}, "Dial")); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.url, d)
		}
	}
}

func TestParseURLErrors(t *testing.T) {
	for url, want := range map[string]string{
		"":                            "queue URL: no scheme; write embedded: or nats://host, kafka://host, amqp://host, redis://host, sqs://region, azservicebus://namespace",
		"nats://h":                    `queue URL: scheme "nats" is not of Redis, want redis://host or, encrypted, rediss://host`,
		"redis://":                    "queue URL: no host, want redis://host:6379",
		"redis:h1":                    "queue URL: what follows the host is the number of a database, as in redis://host/0",
		"redis://h1/orders":           "queue URL: what follows the host is the number of a database, as in redis://host/0",
		"redis://h1/-1":               "queue URL: what follows the host is the number of a database, as in redis://host/0",
		"redis://h1,h2":               "queue URL: several hosts need mode=cluster, or mode=sentinel&master=NAME",
		"redis://h1,h2?mode=single":   "queue URL: several hosts need mode=cluster, or mode=sentinel&master=NAME",
		"redis://h1,,h2":              "queue URL: a host cannot be read, want redis://host1,host2 with host or host:port",
		"redis://s1?mode=sentinel":    "queue URL: mode=sentinel needs master=NAME, the name by which the sentinels know the servers",
		"redis://h1?master=m":         "queue URL: master, sentinel_user and sentinel_password belong to mode=sentinel",
		"redis://h1/1?mode=cluster":   "queue URL: a cluster has only database 0; leave the number out",
		"redis://h1?mode=clusters":    `queue URL: parameter mode: "clusters" is none of single, cluster and sentinel`,
		"redis://user@h1":             "queue URL: a user without a password; a password alone is written with a colon before it, as in redis://:password@host",
		"redis://h1?max_lenn=7":       `queue URL: redis has no parameter "max_lenn"; did you mean max_len?`,
		"redis://h1?zzzzzzzzzz=7":     `queue URL: redis has no parameter "zzzzzzzzzz"; it knows ca, cert, create, key, master, max_bytes, max_len, mode, redelivery, sentinel_password, sentinel_user, timeout, unsafe, wait`,
		"redis://h1?max_len=0":        `queue URL: parameter max_len: "0" is not a number from 1 to 9223372036854775807`,
		"redis://h1?max_bytes=0":      `queue URL: parameter max_bytes: "0" is not above zero`,
		"redis://h1?max_bytes=1KiB":   `queue URL: parameter max_bytes: "1KiB" is less than 1MiB`,
		"redis://h1?wait=17":          `queue URL: parameter wait: "17" is not a number from 0 to 16`,
		"redis://h1?timeout=0s":       `queue URL: parameter timeout: "0s" is not above zero`,
		"redis://h1?redelivery=10us":  `queue URL: parameter redelivery: "10us" is less than 1ms`,
		"redis://h1?create=perhaps":   `queue URL: parameter create: "perhaps" is neither true nor false`,
		"redis://h1?wait=1&wait=2":    "queue URL: parameter wait is given twice",
		"rediss://h1?ca=/no/such":     "queue URL: parameter ca: open /no/such: no such file or directory",
		"redis://h1?ca=/dev/null":     "queue URL: ca, cert and key need an encrypted connection; write rediss://",
		"rediss://h1?cert=/dev/null":  "queue URL: cert and key belong together",
		"redis://h1?max_lem=1&mode=x": "queue URL: redis has no parameter \"max_lem\"; did you mean max_len?\nqueue URL: parameter mode: \"x\" is none of single, cluster and sentinel",
	} {
		_, err := ParseURL(config.URL(url))
		if err == nil {
			t.Errorf("%s: no error, want %q", url, want)
		} else if err.Error() != want {
			t.Errorf("%s: error\n%q, want\n%q", url, err, want)
		}
	}
}

// TestNoLoginInErrors upholds invariant 8.
func TestNoLoginInErrors(t *testing.T) {
	for _, url := range []string{
		"redis://user:s3cret@h1:x", "redis://user:s3cret@h1/p", "redis://s3cret@h1", "xredis://user:s3cret@h1", "redis://:s3cret%zz@h1",
		"redis://user:s3cret@h1?max_len=%zz", "redis://user:s3cret@h1?typo=1", "redis://user:s3cret@h1,h2", "redis://h1?sentinel_password=s3cret",
	} {
		if _, err := ParseURL(config.URL(url)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, mode := range []string{"single", "cluster", "sentinel&master=m"} {
		c, err := ParseURL(config.URL("redis://user:s3cret@127.0.0.1:1?timeout=500ms&mode=" + mode))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), c); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("open: %v", err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("redis://user:pass@h1:6379/0?create=true&max_len=7")
	f.Add("rediss://h1,h2?mode=cluster")
	f.Add("redis://h1,h2?mode=sentinel&master=m&wait=1")
	f.Fuzz(func(t *testing.T, url string) {
		c, err := ParseURL(config.URL(url))
		if err != nil {
			return
		}
		if _, err := c.withDefaults(); err != nil {
			t.Fatalf("%q parses to what Open refuses: %v", url, err)
		}
	})
}
