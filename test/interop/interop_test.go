// Package interop has clients of other languages read what ferry has written: those that a consumer would take, at
// pinned versions (requirements.txt), each in a small script as its documentation has it (read_*.py). What they see is
// compared with what ferry says and with what the API has served: every record once, in order, its data byte for byte,
// every header; dead letters with their reason; and CloudEvents through the published SDK, where that has the binding.
//
// The tests need real brokers and the clients, and are skipped without:
//
//	scripts/brokers up; scripts/brokers clients; eval "$(scripts/brokers env)"
package interop

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bin is ferry, built once, when there is a broker to run it against.
var bin string

func TestMain(m *testing.M) {
	if !slices.ContainsFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "FERRY_TEST_") }) {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "ferry-interop")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = filepath.Join(dir, "ferry")
	build := exec.Command("go", "build", "-o", bin, "../../cmd/ferry")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build ferry:", err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func TestKafkaByKcat(t *testing.T) {
	interop(t, "kafka", "FERRY_TEST_KAFKA", kcat(t))
}

func TestKafkaByConfluent(t *testing.T) {
	interop(t, "kafka", "FERRY_TEST_KAFKA", python(t, "read_kafka.py"))
}

func TestRabbitMQByPika(t *testing.T) {
	interop(t, "rabbitmq", "FERRY_TEST_RABBITMQ", python(t, "read_rabbitmq.py"))
}

func TestRabbitMQTLSByPika(t *testing.T) {
	interop(t, "rabbitmq", "FERRY_TEST_RABBITMQ_TLS", python(t, "read_rabbitmq.py"))
}

func TestRabbitMQStreamByPika(t *testing.T) {
	interop(t, "rabbitmq", "FERRY_TEST_RABBITMQ_STREAM", python(t, "read_rabbitmq.py"))
}

func TestRedisByRedisCLI(t *testing.T) {
	interop(t, "redis", "FERRY_TEST_REDIS", redisCLI(t))
}

func TestRedisByRedisPy(t *testing.T) {
	interop(t, "redis", "FERRY_TEST_REDIS", python(t, "read_redis.py"))
}

func TestValkeyByRedisPy(t *testing.T) {
	interop(t, "valkey", "FERRY_TEST_VALKEY", python(t, "read_redis.py"))
}

func TestRedisClusterByRedisPy(t *testing.T) {
	interop(t, "redis-cluster", "FERRY_TEST_REDIS_CLUSTER", python(t, "read_redis.py"))
}

func TestRedisSentinelByRedisPy(t *testing.T) {
	interop(t, "redis-sentinel", "FERRY_TEST_REDIS_SENTINEL", python(t, "read_redis.py"))
}

func TestSQSByBoto3(t *testing.T) {
	interop(t, "sqs", "FERRY_TEST_SQS", python(t, "read_sqs.py"))
}

func TestServiceBusByAzureSDK(t *testing.T) {
	interop(t, "servicebus", "FERRY_TEST_SERVICEBUS", python(t, "read_servicebus.py"))
}

func TestNATSByNATSPy(t *testing.T) {
	interop(t, "nats", "FERRY_TEST_NATS", python(t, "read_nats.py"))
}

// interop carries orders into the broker whose URL is in variable, and compares what read finds there.
func interop(t *testing.T, broker, variable string, read reader) {
	url := os.Getenv(variable)
	if url == "" {
		t.Skipf(`%s is not set: scripts/brokers up %s; eval "$(scripts/brokers env)"`, variable, broker)
	}
	t.Run("records", func(t *testing.T) {
		topic := newTopic()
		pull(t, url, topic, "orders")
		compareRecords(t, read(t, url, topic), recordsOf(t, "orders", topic, topic))
	})
	t.Run("dead letters", func(t *testing.T) {
		topic := newTopic()
		pull(t, url, topic, "damaged")
		want := recordsOf(t, "damaged", topic, topic+".dead")
		if len(want) != 4 || !strings.Contains(want[0].Headers["ferry-dead-reason"], "schön ✗") {
			t.Fatalf("the pipeline should give 4 dead letters with a reason beyond ASCII, and gave %+v", want)
		}
		compareRecords(t, read(t, url, topic+".dead"), want)
	})
	t.Run("events", func(t *testing.T) {
		topic := newTopic()
		pull(t, url, topic, "events")
		compareEvents(t, read(t, url, topic), recordsOf(t, "events", topic, topic))
	})
}

// newTopic is a name that no earlier run has used: brokers keep what they have.
func newTopic() string { return fmt.Sprintf("interop-%08x", rand.Uint32()) }
