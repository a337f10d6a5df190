package queueurl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ferry/internal/config"
	"ferry/internal/queue/queueurl"
)

func TestParse(t *testing.T) {
	var text, word, file string
	var secret config.Secret
	var yes bool
	var n int
	var size int64
	var d time.Duration
	pem := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(pem, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := queueurl.Parse(config.URL("Kafka://me:p%40ss%2F@h1,h2:9093/a%20b?text=x&word=b&secret=s&yes=true&n=3&size=1KiB&d=2m&file="+pem), queueurl.Parameters{
		"text": queueurl.Text(&text), "word": queueurl.Word(&word, "a", "b"),
		"secret": queueurl.Secret(&secret), "yes": queueurl.Bool(&yes),
		"n": queueurl.Int(&n, 1, 5), "size": queueurl.Bytes(&size),
		"d": queueurl.Duration(&d), "file": queueurl.File(&file),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := queueurl.Address{Scheme: "kafka", User: "me", Password: "p@ss/", Hosts: []string{"h1", "h2:9093"}, Path: "a b"}
	if a.Password.Reveal() != want.Password.Reveal() {
		t.Errorf("password %q", a.Password.Reveal())
	}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"h1:9092", "h2:9093"}, a.WithPort("9092")); diff != "" {
		t.Error(diff)
	}
	if text != "x" || word != "b" || secret.Reveal() != "s" || !yes || n != 3 || size != 1024 || d != 2*time.Minute || file != pem {
		t.Errorf("%q %q %q %v %d %d %s %q", text, word, secret.Reveal(), yes, n, size, d, file)
	}
}

// TestLoginAsItIs: a key made by a machine needs no encoding.
func TestLoginAsItIs(t *testing.T) {
	a, err := queueurl.Parse("kafkas://$ConnectionString:Endpoint=sb://n.example.net/;SharedAccessKey=a+/b==@n.example.net:9093", nil)
	if err != nil || a.User != "$ConnectionString" || a.Password.Reveal() != "Endpoint=sb://n.example.net/;SharedAccessKey=a+/b==" || len(a.Hosts) != 1 || a.Hosts[0] != "n.example.net:9093" {
		t.Errorf("%q %q %q, %v", a.User, a.Password.Reveal(), a.Hosts, err)
	}
}

func TestErrors(t *testing.T) {
	var text, word string
	var yes bool
	var n int
	var size int64
	var d time.Duration
	known := queueurl.Parameters{
		"text": queueurl.Text(&text), "word": queueurl.Word(&word, "a", "b", "c"), "yes": queueurl.Bool(&yes),
		"number": queueurl.Int(&n, 1, 5), "size": queueurl.Bytes(&size), "time": queueurl.Duration(&d), "file": queueurl.File(&text),
	}
	for in, want := range map[string]string{
		"kafka":                        `queue URL: no scheme; write embedded: or nats://host, kafka://host, amqp://host, redis://host, sqs://region, azservicebus://namespace`,
		"kafka://h,":                   `queue URL: a host cannot be read, want kafka://host1,host2 with host or host:port`,
		"kafka://h:x":                  `queue URL: a host cannot be read, want kafka://host1,host2 with host or host:port`,
		"kafka://a:hunter2%zz@h":       `queue URL: the login cannot be read: write % as %25, @ as %40, ? as %3F`,
		"kafka://h/%zz":                `queue URL: what follows the host cannot be read: a % must be written as %25`,
		"kafka://h?a;b=%zz":            `queue URL: its parameters cannot be read; write them as name=value&name=value`,
		"kafka://h?numbr=3":            `queue URL: kafka has no parameter "numbr"; did you mean number?`,
		"kafka://h?zzzzzz=3":           `queue URL: kafka has no parameter "zzzzzz"; it knows file, number, size, text, time, word, yes`,
		"kafka://h?text=1&text=2":      `queue URL: parameter text is given twice`,
		"kafka://h?number=6&yes=maybe": "queue URL: parameter number: \"6\" is not a number from 1 to 5\nqueue URL: parameter yes: \"maybe\" is neither true nor false",
		"kafka://h?word=d":             `queue URL: parameter word: "d" is none of a, b and c`,
		"kafka://h?size=0":             `queue URL: parameter size: "0" is not above zero`,
		"kafka://h?time=0s":            `queue URL: parameter time: "0s" is not above zero`,
		"kafka://h?file=/no/such":      `queue URL: parameter file: open /no/such: no such file or directory`,
	} {
		_, err := queueurl.Parse(config.URL(in), known)
		if err == nil || err.Error() != want {
			t.Errorf("%s\n got %v\nwant %s", in, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", in, err)
		}
	}
}

// FuzzParse: no URL makes it panic, and no error shows what stands between : and @.
func FuzzParse(f *testing.F) {
	f.Add("kafka://me:hunter2secret@h1,h2:9093/p?n=1")
	f.Add("x://:hunter2secret%@[::1]:1,?%")
	f.Fuzz(func(t *testing.T, in string) {
		var n int
		_, err := queueurl.Parse(config.URL(in), queueurl.Parameters{"n": queueurl.Int(&n, 0, 9)})
		if err != nil && strings.Contains(err.Error(), "hunter2secret") && !strings.Contains(in, "?") {
			t.Fatalf("%q: %v", in, err)
		}
	})
}
