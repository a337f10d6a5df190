package rabbitqueue

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/retry"
)

// with changes a URL.
func with(t testing.TB, address string, change func(u *url.URL, q url.Values)) config.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	change(u, q)
	u.RawQuery = q.Encode()
	return config.URL(u.String())
}

func TestTLS(t *testing.T) {
	good := address(t, "FERRY_TEST_RABBITMQ_TLS")
	q := open(t, parse(t, good))
	topic := name(t, "tls")
	if err := q.Publish(t.Context(), topic, recs(topic, 0, 10)); err != nil {
		t.Fatal(err)
	}
	if ids := taken(t, q, topic); len(ids) != 10 {
		t.Fatalf("%d records", len(ids))
	}
	for what, u := range map[string]config.URL{
		"is ca the authority":         with(t, good, func(_ *url.URL, q url.Values) { q.Del("ca") }),
		"set server_name":             with(t, good, func(_ *url.URL, q url.Values) { q.Set("server_name", "elsewhere") }),
		"is the login":                with(t, good, func(u *url.URL, _ url.Values) { u.User = url.UserPassword("guest", "s3cret") }),
		"is the vhost":                with(t, good, func(u *url.URL, _ url.Values) { u.Path = "/missing" }),
		"holds no certificate":        with(t, good, func(_ *url.URL, q url.Values) { q.Set("ca", "config.go") }),
		"tls: failed to find any PEM": with(t, good, func(_ *url.URL, q url.Values) { q.Set("cert", "config.go"); q.Set("key", "config.go") }),
	} {
		c, err := ParseURL(u)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(t.Context(), c)
		if err == nil || !retry.IsPermanent(err) || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("want %q and permanent: %v", what, err)
		}
	}
}

// TestHosts: hosts are tried in turn, and a broker that nobody can reach is not permanent.
func TestHosts(t *testing.T) {
	c := parse(t, address(t, "FERRY_TEST_RABBITMQ"))
	c.Hosts = append([]string{"127.0.0.1:1"}, c.Hosts...)
	q := open(t, c)
	if err := q.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Hosts = c.Hosts[:1]
	if _, err := Open(t.Context(), c); !errors.Is(err, queue.ErrUnavailable) || retry.IsPermanent(err) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Fatalf("error %v", err)
	}
	c.Hosts, c.VHost = q.cfg.Hosts[1:], "missing"
	if _, err := Open(t.Context(), c); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "vhost") {
		t.Fatalf("error %v", err)
	}
}

// TestExamineReal asks the real broker what TestExamine asks the fake.
func TestExamineReal(t *testing.T) {
	q := open(t, parse(t, address(t, "FERRY_TEST_RABBITMQ")))
	for what, args := range map[string]amqp.Table{
		"":                         {"x-queue-type": "quorum", "x-max-length": int64(5), "x-max-length-bytes": int64(1 << 20), "x-overflow": "reject-publish", "x-delivery-limit": int64(7)},
		"not durable":              nil,
		"x-overflow is not reject": {"x-queue-type": "quorum", "x-max-length": int64(5)},
		"its records expire":       {"x-queue-type": "classic", "x-message-ttl": int64(100_000)},
		"when nobody uses it":      {"x-queue-type": "quorum", "x-expires": int64(100_000)},
		"it is of type stream":     {"x-queue-type": "stream", "x-max-age": "7D"},
	} {
		topic := name(t, "examine")
		declare(t, q, topic, args != nil, args)
		err := q.Prepare(t.Context(), topic)
		remove(t, q, topic)
		if what == "" {
			if err != nil {
				t.Errorf("a good queue: %v", err)
			}
		} else if err == nil || !retry.IsPermanent(err) || !strings.Contains(err.Error(), what) {
			t.Errorf("want %q: %v", what, err)
		}
	}
}

// TestStreamLogin: what is wrong with the stream's own port is told in words.
func TestStreamLogin(t *testing.T) {
	c := parse(t, address(t, "FERRY_TEST_RABBITMQ_STREAM"))
	topic := name(t, "login")
	if err := open(t, c).Prepare(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	c.StreamPort = 1
	q := open(t, c)
	if _, err := q.Browse(t.Context(), topic, 0, 1); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "stream_port") {
		t.Errorf("error %v", err)
	}
	c = parse(t, address(t, "FERRY_TEST_RABBITMQ_STREAM"))
	q = open(t, c)
	if _, err := q.reader.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	q.cfg.Password = "s3cret" // as when it is changed on the way
	if _, err := q.Browse(t.Context(), topic, 0, 1); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "login refused") {
		t.Errorf("error %v", err)
	}
}

// TestInstancesShare: what one instance has received the other does not get, until it is given back.
func TestInstancesShare(t *testing.T) {
	c := parse(t, address(t, "FERRY_TEST_RABBITMQ"))
	q, other := open(t, c), open(t, c)
	topic := name(t, "share")
	if err := q.Publish(t.Context(), topic, recs(topic, 0, 4)); err != nil {
		t.Fatal(err)
	}
	here, err := q.Receive(t.Context(), topic, 2, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	there, err := other.Receive(t.Context(), topic, 10, time.Second)
	if err != nil || len(here) != 2 || len(there) != 2 || there[0].ID != topic+"-2" {
		t.Fatalf("%d and %d records, %v", len(here), len(there), err)
	}
	if st, err := q.Stats(t.Context(), topic); err != nil || st.Waiting != 2 {
		t.Errorf("%+v, %v", st, err) // the other's cannot be seen
	}
	if err := other.Ack(t.Context(), topic, here[0].Receipt); !errors.Is(err, queue.ErrReceipt) || !strings.Contains(err.Error(), "another instance") {
		t.Errorf("error %v", err)
	}
	if err := q.Close(t.Context()); err != nil { // gives back
		t.Fatal(err)
	}
	again, err := other.Receive(t.Context(), topic, 10, 5*time.Second)
	if err != nil || len(again) == 0 || again[0].ID != topic+"-0" || again[0].Attempt != 2 {
		t.Errorf("%+v, %v", again, err)
	}
}
