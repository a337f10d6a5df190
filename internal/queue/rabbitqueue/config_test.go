package rabbitqueue

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ferry/internal/config"
)

func TestParseURL(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for u, want := range map[string]Config{
		"amqp://h":                {Hosts: []string{"h:5672"}},
		"amqps://h":               {Hosts: []string{"h:5671"}, TLS: true},
		"amqp://h1:1,h2,[::1]":    {Hosts: []string{"h1:1", "h2:5672", "[::1]:5672"}},
		"amqp://u:p%40ss@h/a%2Fb": {Hosts: []string{"h:5672"}, User: "u", Password: "p@ss", VHost: "a/b"},
		"amqps://h/v?ca=" + file + "&cert=" + file + "&key=" + file + "&server_name=n": {
			Hosts: []string{"h:5671"}, TLS: true, VHost: "v", CA: file, Cert: file, Key: file, ServerName: "n",
		},
		"amqp://h?create=true&type=classic&max_length=10&max_bytes=1GiB": {
			Hosts: []string{"h:5672"}, Create: true, Type: "classic", MaxLength: 10, MaxBytes: 1 << 30,
		},
		"amqp://h?create=true&type=stream&max_age=7d&stream_port=5":           {Hosts: []string{"h:5672"}, Create: true, Type: "stream", MaxAge: 7 * 24 * time.Hour, StreamPort: 5},
		"amqp://h?exchange=x&routing_key=key":                                 {Hosts: []string{"h:5672"}, Exchange: "x", KeyRoutes: true},
		"amqp://h?max_record=1MiB&redelivery=1m&timeout=5s&routing_key=topic": {Hosts: []string{"h:5672"}, MaxRecord: 1 << 20, Redelivery: time.Minute, Timeout: 5 * time.Second},
	} {
		got, err := ParseURL(config.URL(u))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", u, got, err, want)
		}
	}
}

func TestParseURLErrors(t *testing.T) {
	for u, want := range map[string]string{
		"":                                           "queue URL: no scheme; write embedded: or nats://host, kafka://host, amqp://host, redis://host, sqs://region, azservicebus://namespace",
		"amqp:":                                      "queue URL: no host, want amqp://host1,host2/vhost",
		"amqps:///v":                                 "queue URL: no host, want amqps://host1,host2/vhost",
		"rabbit://h":                                 `queue URL: scheme "rabbit" is not of RabbitMQ, want amqp://host or amqps://host`,
		"amqp://u:s3cret@h:x":                        "queue URL: a host cannot be read, want amqp://host1,host2 with host or host:port",
		"amqp://h?typ=quorum":                        `queue URL: amqp has no parameter "typ"; did you mean type?`,
		"amqp://h?type=lazy":                         `queue URL: parameter type: "lazy" is none of quorum, classic and stream`,
		"amqp://h?create=yes":                        `queue URL: parameter create: "yes" is neither true nor false`,
		"amqp://h?max_record=1":                      `queue URL: parameter max_record: "1" is not between 1KiB and 512MiB`,
		"amqp://h?max_length=0":                      `queue URL: parameter max_length: "0" is not a number from 1 to 1099511627776`,
		"amqp://h?max_length=5":                      "queue URL: max_length, max_bytes and max_age are of topics that ferry makes: add create=true, or set them where the queue is declared",
		"amqp://h?server_name=n":                     "queue URL: ca, cert, key and server_name go with amqps://, and this is amqp://",
		"amqp://h?routing_key=key":                   "queue URL: routing_key=key goes with exchange=NAME: the default exchange knows queues by their names only",
		"amqp://h?create=1&max_age=1h":               "queue URL: max_age goes with type=stream: other queues would drop records that nobody has taken",
		"amqp://h?stream_port=5":                     "queue URL: stream_port goes with type=stream",
		"amqp://h?type=stream&timeout=0":             `queue URL: parameter timeout: "0" is not above zero`,
		"amqp://h?type=stream&exchange=x":            "queue URL: exchange does not go with type=stream: commits are written to the stream itself",
		"amqp://h?type=stream&create=1&max_length=5": "queue URL: max_length does not go with type=stream: limit it by max_bytes or max_age",
	} {
		_, err := ParseURL(config.URL(u))
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", u, err, want)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, u := range []string{"amqp://u:s3cretpassword@h1,h2/v?create=true", "amqps://h?type=stream&max_age=1h", "amqp://h?exchange=x&routing_key=key"} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, u string) {
		c, err := ParseURL(config.URL(u))
		if err != nil {
			if strings.HasPrefix(u, "amqp://u:s3cretpassword@") && strings.Count(u, "s3cretpassword") == 1 && strings.Contains(err.Error(), "s3cretpassword") {
				t.Fatalf("the error shows the password: %v", err)
			}
			return
		}
		if len(c.Hosts) == 0 {
			t.Fatal("no host")
		}
		if _, err := c.withDefaults(); err != nil {
			t.Fatal(err)
		}
	})
}
