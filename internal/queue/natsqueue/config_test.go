package natsqueue

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
	creds := filepath.Join(t.TempDir(), "x.creds")
	if err := os.WriteFile(creds, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		url  string
		want Config
	}{
		{"embedded:", Config{Embedded: true, Create: true}},
		{"embedded:?listen=127.0.0.1:4222&max_age=7d&max_bytes=10GiB&cache=64MiB", Config{Embedded: true, Cache: 64 << 20, Create: true, Listen: "127.0.0.1:4222", MaxAge: 7 * 24 * time.Hour, MaxBytes: 10 << 30}},
		{"embedded:?create=false&redelivery=1m", Config{Embedded: true, Redelivery: time.Minute}},
		{"embedded:?cluster=a:6222,b:6222,c:6222&member=b:6222", Config{Embedded: true, Create: true, Replicas: 3, Cluster: []string{"a:6222", "b:6222", "c:6222"}, Member: "b:6222"}},
		{"nats://h1", Config{Servers: "nats://h1"}},
		{"nats://h1,h2:4333/?replicas=3&timeout=3s&domain=hub&creds=" + creds, Config{Servers: "nats://h1,nats://h2:4333", Replicas: 3, Timeout: 3 * time.Second, Domain: "hub", Creds: creds}},
		{"tls://user:pa/s:s@h1,h2?create=true", Config{Servers: "tls://h1,tls://h2", User: "user", Password: "pa/s:s", Create: true}},
		{"nats://t0ken@h1?server_name=n&handshake_first=true", Config{Servers: "nats://h1", User: "t0ken", ServerName: "n", HandshakeFirst: true}},
		{"tls://h1?nkey=" + creds + "&ca=" + creds + "&cert=" + creds + "&key=" + creds, Config{Servers: "tls://h1", NKey: creds, CA: creds, Cert: creds, Key: creds}},
	} {
		got, err := ParseURL(config.URL(tt.url))
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if d := cmp.Diff(tt.want, got, cmpopts.IgnoreUnexported(Config{})); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.url, d)
		}
	}
}

func TestParseURLErrors(t *testing.T) {
	for url, want := range map[string]string{
		"":                                  "no scheme",
		"embedded":                          "no scheme",
		"redis://h":                         `scheme "redis" is not of NATS`,
		"embedded://host":                   "embedded: has no host",
		"embedded:?max_agee=7d":             "did you mean max_age?",
		"embedded:?Max_Bytes=7":             "did you mean max_bytes?",
		"embedded:?replicas=3":              `embedded has no parameter "replicas"`,
		"embedded:?zzzzzzzz=3":              "it knows cache, cluster, create, listen, max_age, max_bytes, member, redelivery, storage",
		"embedded:?max_age=soon":            "parameter max_age",
		"embedded:?member=a:6222":           "the parameter member goes with cluster=",
		"embedded:?max_age=0s":              `"0s" is not above zero`,
		"embedded:?max_bytes=0":             `"0" is not above zero`,
		"embedded:?max_bytes=-1":            "parameter max_bytes",
		"embedded:?max_age=1d&max_age=2d":   "given twice",
		"embedded:?create=perhaps":          "neither true nor false",
		"embedded:?max_age=%zz":             "cannot be read",
		"nats://":                           "no host",
		"nats:h1":                           "no host",
		"nats://h1,,h2":                     "a host cannot be read",
		"nats://h1/path":                    "nothing may follow the hosts",
		"nats://u:p@h1,v:q@h2":              "all servers share one login",
		"nats://h1?cert=config_test.go":     "cert and key belong together",
		"nats://u:p@h1?nkey=config_test.go": "give one login",
		"nats://h1?nkey=config_test.go&creds=config_test.go": "give one login",
		"nats://h1?replicas=9":                               `"9" is not a number from 1 to 5`,
		"nats://h1?listen=:1":                                `nats has no parameter "listen"`,
		"nats://h1?creds=/does/not/exist":                    "parameter creds",
		"nats://h1?replicas=x&timeout=-1s":                   "parameter timeout",
	} {
		_, err := ParseURL(config.URL(url))
		if err == nil {
			t.Errorf("%s: no error, want %q", url, want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %q, want %q", url, err, want)
		}
	}
}

// TestNoLoginInErrors upholds invariant 8.
func TestNoLoginInErrors(t *testing.T) {
	for _, url := range []string{
		"nats://user:s3cret@h1:x", "nats://user:s3cret@h1/p?a=b", "nats://s3cret@?x", "xnats://user:s3cret@h1",
		"nats://user:s3cret@h1?max_age=%zz", "nats://user:s3cret@h1?typo=1",
	} {
		if _, err := ParseURL(config.URL(url)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", url, err)
		}
	}
	_, err := Open(t.Context(), Config{Servers: "nats://user:s3cret@127.0.0.1:1", Timeout: time.Second})
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("open: %v", err)
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("embedded:?listen=127.0.0.1:4222&max_age=7d")
	f.Add("nats://u:p@h1,h2?replicas=3")
	f.Fuzz(func(t *testing.T, url string) {
		c, err := ParseURL(config.URL(url))
		if err != nil {
			return
		}
		if c.Embedded == (c.Servers != "") {
			t.Fatalf("%q gives %+v", url, c)
		}
		if c.Embedded {
			c.Servers = "nats://h"
		}
		if _, err := c.withDefaults(); err != nil {
			t.Fatalf("%q parses to what Open refuses: %v", url, err)
		}
	})
}

func FuzzQuoted(f *testing.F) {
	for _, s := range []string{"", "plain", " space ", "line\nbreak", `"quoted"`, "ü", "tab\t", "\x7f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ToValidUTF8(s, "") != s {
			return // JSON strings, and so keys, are UTF-8
		}
		q := quoted(s)
		if unquoted(q) != s {
			t.Fatalf("%q became %q and then %q", s, q, unquoted(q))
		}
		if strings.ContainsAny(q, "\r\n") || strings.TrimSpace(q) != q && strings.Trim(q, " \t") != q {
			t.Fatalf("%q is no header value: %q", s, q)
		}
	})
}

func FuzzReceipt(f *testing.F) {
	f.Add("1767225600000.$JS.ACK.ferry-orders.ferry.1.2.3.4.5")
	f.Add("1767225600000.$JS.ACK._.hash.ferry-orders.ferry.1.2.3.4.5")
	f.Add("$JS.ACK._.hash.ferry-orders.ferry.1.2.3.4.5") // as older versions gave them out
	f.Fuzz(func(t *testing.T, text string) {
		tp, _ := parseTopic("orders")
		_, subject, ok := parseReceipt(text, tp)
		if ok && (strings.ContainsAny(subject, " \r\n*>") || !strings.HasPrefix(subject, "$JS.ACK.") || !strings.HasSuffix(text, "."+subject)) {
			t.Fatalf("took %q", text)
		}
	})
}
