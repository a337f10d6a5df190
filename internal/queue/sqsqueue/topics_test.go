package sqsqueue

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/retry"
)

func TestQueueNames(t *testing.T) {
	fifo, standard := Config{FIFO: true}, Config{}
	one := Config{Address: "https://sqs.eu-west-1.amazonaws.com/123456789012/all.fifo", FIFO: true}
	other := Config{Address: "https://sqs.eu-west-1.amazonaws.com/123456789012/all"}
	for _, tt := range []struct {
		c           Config
		topic, want string
	}{
		{fifo, "orders", "orders.fifo"},
		{fifo, "orders.dead", "orders-dead.fifo"},
		{fifo, "orders.fifo", "orders.fifo"},
		{fifo, "orders.fifo.dead", "orders-dead.fifo"},
		{fifo, "shop.orders_eu.dead", "shop-orders_eu-dead.fifo"},
		{fifo, strings.Repeat("x", 70), strings.Repeat("x", 70) + ".fifo"},
		{standard, "orders", "orders"},
		{standard, "orders.eu.dead", "orders-eu-dead"},
		{one, "orders", "all.fifo"},
		{one, "anything at all", "all.fifo"},
		{one, "orders.dead", "all-dead.fifo"},
		{other, "orders", "all"},
		{other, "orders.dead", "all-dead"},
	} {
		if got, err := tt.c.queueName(tt.topic); err != nil || got != tt.want {
			t.Errorf("topic %s is queue %s (%v), want %s", tt.topic, got, err, tt.want)
		}
	}
	for topic, c := range map[string]Config{
		"": fifo, ".dead": fifo, ".fifo": fifo, "a b": fifo, "ü": standard, strings.Repeat("x", 76): fifo, "orders.fifo.dead": standard,
	} {
		if got, err := c.queueName(topic); !retry.IsPermanent(err) || !errors.Is(err, queue.ErrNoTopic) {
			t.Errorf("topic %q is queue %q, %v", topic, got, err)
		}
	}
}

// TestPrepare: what is missing is named, all of it, with what to do; nothing is made unless the URL says so.
func TestPrepare(t *testing.T) {
	f := newFake(t)
	plain := strings.ReplaceAll(f.url(""), "&create=true", "")
	q := open(t, parse(t, plain))
	err := q.Prepare(t.Context(), "orders", "shop.eu")
	want := []string{"orders", "orders-dead", "shop-eu", "shop-eu-dead"}
	for _, name := range want {
		if err == nil || !strings.Contains(err.Error(), "SQS has no queue "+name+".fifo in us-east-1; make it, or let ferry make it: create=true in the queue's URL") {
			t.Errorf("error %v, want %s in it", err, name)
		}
	}
	if !retry.IsPermanent(err) || !errors.Is(err, queue.ErrNoTopic) || len(f.queues) != 0 {
		t.Errorf("error %v; %d queues", err, len(f.queues))
	}
	if err := q.Publish(t.Context(), "orders", numbered(0, 1)); !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) || !strings.Contains(err.Error(), "create=true") {
		t.Errorf("publish: %v", err)
	}

	makes := open(t, parse(t, f.url("&retention=2d&redelivery=90s&group=key")))
	if err := makes.Prepare(t.Context(), "orders", "shop.eu"); err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		made := f.queues[name+".fifo"]
		if made == nil {
			t.Errorf("%s was not made", name)
			continue
		}
		for attribute, value := range map[string]string{
			"MessageRetentionPeriod": "172800", "VisibilityTimeout": "90", "FifoQueue": "true",
			"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId",
		} {
			if made.attributes[attribute] != value {
				t.Errorf("%s: %s is %q, want %q", name, attribute, made.attributes[attribute], value)
			}
		}
	}
	if made := f.queues["shop-eu-dead.fifo"]; made != nil && made.tags[tagTopic] != "shop.eu.dead" {
		t.Errorf("tags %v", made.tags)
	}
	if err := q.Prepare(t.Context(), "orders", "shop.eu"); err != nil {
		t.Errorf("now that they are there: %v", err)
	}
	if topics, err := q.Topics(t.Context()); err != nil || !slices.Equal(topics, []string{"orders", "orders.dead", "shop.eu", "shop.eu.dead"}) {
		t.Errorf("topics %q, %v", topics, err)
	}
}

// TestSameQueue: two topics must not fall into one queue unseen.
func TestSameQueue(t *testing.T) {
	q := open(t, parse(t, newFake(t).url("")))
	err := q.Prepare(t.Context(), "shop.eu", "shop-eu")
	if !retry.IsPermanent(err) || !strings.Contains(err.Error(), `topics "shop.eu" and "shop-eu" would be the same SQS queue, shop-eu.fifo; give one of them another name`) {
		t.Errorf("error %v", err)
	}
	if err := q.Publish(t.Context(), "shop-eu.dead", numbered(0, 1)); !retry.IsPermanent(err) {
		t.Errorf("publish: %v", err)
	}
}

// TestAddress: with a queue's own address every topic is that queue.
func TestAddress(t *testing.T) {
	f := newFake(t)
	address := f.address("all.fifo") + "?region=eu-west-1"
	q := open(t, parse(t, address))
	err := q.Prepare(t.Context(), "orders")
	if !errors.Is(err, queue.ErrNoTopic) || !strings.Contains(err.Error(), "all.fifo in eu-west-1") || !strings.Contains(err.Error(), "all-dead.fifo") {
		t.Errorf("error %v", err)
	}
	q = open(t, parse(t, address+"&create=true"))
	if err := q.Prepare(t.Context(), "orders", "customers"); err != nil {
		t.Fatal(err)
	}
	if len(f.queues) != 2 || f.queues["all.fifo"] == nil || f.queues["all-dead.fifo"] == nil {
		t.Errorf("%d queues", len(f.queues))
	}
	for i, topic := range []string{"orders", "customers", "orders.dead"} {
		if err := q.Publish(t.Context(), topic, numbered(i, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if a, d := f.bodies("all.fifo"), f.bodies("all-dead.fifo"); !slices.Equal(a, []string{"0", "1"}) || !slices.Equal(d, []string{"2"}) {
		t.Errorf("queue %v, dead %v", a, d)
	}
	if n := f.count("GetQueueUrl"); n != 0 {
		t.Errorf("%d requests for an address that is known", n)
	}
	if topics, err := q.Topics(t.Context()); err != nil || !slices.Equal(topics, []string{"customers", "customers.dead", "orders", "orders.dead"}) {
		t.Errorf("topics %q, %v", topics, err)
	}
}

// TestAnothersAccount: a queue is not made where the address does not point.
func TestAnothersAccount(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, strings.Replace(f.address("all"), "123456789012", "999999999999", 1)+"?create=true"))
	if err := q.Prepare(t.Context(), "orders"); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "another account") {
		t.Errorf("error %v", err)
	}
}

// TestQueueDeleted: a queue that is deleted while it is in use is missed, or made again.
func TestQueueDeleted(t *testing.T) {
	f := newFake(t)
	remove := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		clear(f.queues)
	}
	q := open(t, parse(t, f.url("")))
	plain := open(t, parse(t, strings.ReplaceAll(f.url(""), "&create=true", "")))
	if err := q.Publish(t.Context(), "orders", numbered(0, 1)); err != nil {
		t.Fatal(err)
	}
	if err := plain.Publish(t.Context(), "orders", numbered(1, 2)); err != nil {
		t.Fatal(err)
	}
	remove()
	// Just made: SQS may not know it everywhere yet.
	if err := q.Publish(t.Context(), "orders", numbered(2, 3)); !errors.Is(err, queue.ErrUnavailable) || retry.IsPermanent(err) {
		t.Errorf("publish to a queue made a moment ago: %v", err)
	}
	q.topics["orders"].made = time.Now().Add(-settling)
	for name, err := range map[string]error{
		"publish": plain.Publish(t.Context(), "orders", numbered(2, 3)),
		"again":   plain.Publish(t.Context(), "orders", numbered(2, 3)),
	} {
		if !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) || !strings.Contains(err.Error(), ": orders: SQS has no queue orders.fifo") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := q.Publish(t.Context(), "orders", numbered(2, 3)); !errors.Is(err, queue.ErrNoTopic) {
		t.Errorf("publish where it was: %v", err)
	}
	if err := q.Publish(t.Context(), "orders", numbered(2, 3)); err != nil {
		t.Errorf("made again: %v", err)
	}
	if _, err := plain.Receive(t.Context(), "orders", 1, 0); err != nil {
		t.Errorf("receive: %v", err)
	}
}

// TestTopicsWithoutPermission: listing is a courtesy.
func TestTopicsWithoutPermission(t *testing.T) {
	f := newFake(t)
	q, other := open(t, parse(t, f.url(""))), open(t, parse(t, f.url("")))
	if err := errors.Join(q.Prepare(t.Context(), "a"), other.Prepare(t.Context(), "b")); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"ListQueues", "ListQueueTags"} {
		f.on = func(o string, _ []byte) answerTo {
			if o == op {
				return answerTo{status: 403, code: "AccessDenied"}
			}
			return answerTo{}
		}
		if topics, err := q.Topics(t.Context()); err != nil || !slices.Equal(topics, []string{"a", "a.dead"}) {
			t.Errorf("%s forbidden: topics %q, %v", op, topics, err)
		}
	}
}

// TestLogin: what is wrong with the login is said when the queue is opened.
func TestLogin(t *testing.T) {
	f := newFake(t)
	t.Run("none", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		_, err := Open(t.Context(), parse(t, f.url("")))
		if !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "no login for AWS: set AWS_ACCESS_KEY_ID") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("profile", func(t *testing.T) {
		_, err := Open(t.Context(), parse(t, f.url("&profile=nobody")))
		if err == nil || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("region", func(t *testing.T) {
		_, err := Open(t.Context(), parse(t, "sqs:"))
		if err == nil || !strings.Contains(err.Error(), "no AWS region: write it into the queue's URL, sqs://eu-west-1, or set AWS_REGION") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("wrong", func(t *testing.T) {
		f.on = func(string, []byte) answerTo {
			return answerTo{status: 403, code: "InvalidClientTokenId", message: "The security token included in the request is invalid."}
		}
		for _, url := range []string{f.url(""), f.address("orders")} {
			_, err := Open(t.Context(), parse(t, url))
			if !retry.IsPermanent(err) || !strings.Contains(err.Error(), "is the AWS login right") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %v", err)
			}
		}
	})
}

// TestRole: with role_arn requests are signed by the role's login.
func TestRole(t *testing.T) {
	var asked atomic.Int64
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if err := r.ParseForm(); err != nil || r.Form.Get("RoleArn") != "arn:aws:iam::123456789012:role/ferry" || r.Form.Get("RoleSessionName") != "ferry" {
			http.Error(w, "wrong", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/xml")
		w.Write([]byte(`<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>` +
			`<AccessKeyId>ROLE</AccessKeyId><SecretAccessKey>y</SecretAccessKey><SessionToken>z</SessionToken>` +
			`<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`))
	}))
	defer sts.Close()
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	f := newFake(t)
	var signed atomic.Value
	inner := f.Config.Handler
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signed.Store(r.Header.Get("Authorization"))
		inner.ServeHTTP(w, r)
	})
	q := open(t, parse(t, f.url("&role_arn=arn:aws:iam::123456789012:role/ferry")))
	if err := q.Publish(t.Context(), "orders", numbered(0, 1)); err != nil {
		t.Fatal(err)
	}
	if by, _ := signed.Load().(string); !strings.Contains(by, "Credential=ROLE/") || asked.Load() != 1 {
		t.Errorf("signed by %q; asked for the role %d times", by, asked.Load())
	}
}

// TestPing: unreachable is said in words, and least permission is enough.
func TestPing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = Open(t.Context(), parse(t, "sqs://us-east-1?timeout=2s&endpoint=http://"+l.Addr().String()))
	if !errors.Is(err, queue.ErrUnavailable) || retry.IsPermanent(err) {
		t.Errorf("nobody listens: %v", err)
	}
	f := newFake(t)
	f.on = func(op string, _ []byte) answerTo {
		if op == "GetQueueUrl" || op == "ListQueues" {
			return answerTo{status: 403, code: "AccessDenied"}
		}
		return answerTo{}
	}
	q := open(t, parse(t, f.url("")))
	if err := q.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	f.on = nil
	if err := q.Prepare(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if err := q.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	f.on = func(string, []byte) answerTo { return answerTo{unheard: true} }
	if err := q.Ping(t.Context()); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("ping: %v", err)
	}
}

// TestNothingOfTheMachine: the tests must not use a login of whoever runs them.
func TestNothingOfTheMachine(t *testing.T) {
	if os.Getenv("AWS_ACCESS_KEY_ID") != "x" || !IsAddress(config.URL("http://h/123456789012/x")) {
		t.Fatal("the environment is not the tests' own")
	}
}
