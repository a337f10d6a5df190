package sqsqueue

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
)

func TestMain(m *testing.M) {
	// Emulators ask for a login, and take any. Nothing here may come from the machine.
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_CA_BUNDLE": "", "AWS_ENDPOINT_URL": "",
		"AWS_REGION":                "",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		os.Setenv(name, value)
	}
	goleak.VerifyTestMain(m)
}

func parse(t testing.TB, url string) Config {
	t.Helper()
	c, err := ParseURL(config.URL(url))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t testing.TB, c Config) *Queue {
	t.Helper()
	q, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return q
}

// suite is the whole suite against a server, by its URL.
func (k sort) suite(t *testing.T, url string, redelivery time.Duration) {
	cursors := queuetest.NewCursors()
	queuetest.Run(t, queuetest.Harness{
		Open: func(t testing.TB) queue.Queue {
			c := parse(t, fmt.Sprintf("%s&redelivery=%s%s", url, redelivery, k.parameters))
			return queue.WithCursors(open(t, c), cursors)
		},
		Redelivery: redelivery,
		Lacks:      k.lacks,
	})
}

// server gives the URL of a real server.
func server(t testing.TB) string {
	url := os.Getenv("FERRY_TEST_SQS")
	if url == "" {
		t.Skip(`no SQS here: scripts/brokers up sqs; eval "$(scripts/brokers env)"`)
	}
	return url
}

// slow is a redelivery time in which a busy server hands out all records of a case.
const slow = 4 * time.Second

// sort is one of the sorts of queues, and what it lacks by the nature of SQS.
type sort struct {
	parameters string
	tier       queue.Tier
	lacks      queuetest.Lacks
}

var sorts = map[string]sort{
	// Order holds in a message group, and a receiver waits for what is not acknowledged.
	"FIFO, a group for the pipeline": {"", queue.Deduplicated, queuetest.Lacks{Browse: true, OldReceipts: true, Stats: true, Ahead: true}},
	"FIFO, a group for each key":     {"&group=key", queue.Deduplicated, queuetest.Lacks{Browse: true, OldReceipts: true, Stats: true, Order: true}},
	// "Best-effort ordering".
	"standard": {"&fifo=false", queue.AtLeastOnce, queuetest.Lacks{Browse: true, OldReceipts: true, Stats: true, Order: true}},
}

func TestServer(t *testing.T) {
	url := server(t)
	for name, k := range sorts {
		t.Run(name, func(t *testing.T) { k.suite(t, url, slow) })
	}
}

func TestFake(t *testing.T) {
	for name, k := range sorts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k.suite(t, newFake(t).url(""), time.Second)
		})
	}
}
