package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ferry/internal/app"
	"ferry/internal/config"
)

// queueExamples are the files in examples/queues, each with the variable that holds the URL of a broker to try it with:
// scripts/brokers up, then eval "$(scripts/brokers env)".
var queueExamples = map[string]string{
	"kafka": "FERRY_TEST_KAFKA", "msk": "", "event-hubs": "", "servicebus": "FERRY_TEST_SERVICEBUS", "sqs": "FERRY_TEST_SQS",
	"rabbitmq": "FERRY_TEST_RABBITMQ", "redis": "FERRY_TEST_VALKEY", "nats": "FERRY_TEST_NATS",
}

var variable = regexp.MustCompile(`\$\{([A-Z_]+)`)

// TestQueueExamples: each loads, with whatever its variables hold, and runs once its queue is a broker that is there.
func TestQueueExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/queues/*.yaml")
	if err != nil || len(files) != len(queueExamples) {
		t.Fatalf("%d examples, want %d (%v)", len(files), len(queueExamples), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		broker, listed := queueExamples[name]
		if !listed {
			t.Errorf("%s is not in the list", file)
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		environ := []string{"PATH=" + os.Getenv("PATH")}
		for _, m := range variable.FindAllStringSubmatch(string(text), -1) {
			value := "h.example.com"
			switch {
			case strings.Contains(m[1], "CONNECTION_STRING"):
				value = "Endpoint=sb://h.example.com/;SharedAccessKeyName=ferry;SharedAccessKey=a+/b=="
			case strings.HasSuffix(m[1], "PASSWORD"):
				value = "a+/b:c=="
			case strings.HasSuffix(m[1], "REGION"):
				value = "eu-west-1"
			}
			environ = append(environ, m[1]+"="+value)
		}
		t.Run(name, func(t *testing.T) {
			if _, err := app.LoadConfig(config.Options{File: file, Dir: t.TempDir(), Environ: environ}); err != nil {
				t.Fatal(err)
			}
			url := os.Getenv(broker)
			if broker == "" || url == "" {
				return
			}
			t.Setenv("AWS_ACCESS_KEY_ID", "x") // the AWS SDK reads the process's own environment
			t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
			topic := fmt.Sprintf("example-%d", time.Now().UnixNano())
			environ = append(environ, "FERRY_QUEUE="+url, "FERRY_STATE=embedded:", "FERRY_PIPELINES_ORDERS_TOPIC="+topic)
			data := filepath.Join(t.TempDir(), "data")
			if lines := ferryIn(t, environ, 0, "check", "--connect", "-c", file, "--data", data); !strings.Contains(string(lines), "configuration holds") {
				t.Errorf("check: %s", lines)
			}
			for _, want := range []string{`"published":2000`, `"published":0`} { // incremental: the second run has nothing new
				out := ferryIn(t, environ, 0, "run", "orders", "-c", file, "--data", data, "--json")
				if !strings.Contains(string(out), want) {
					t.Errorf("run: %s, want %s", out, want)
				}
			}
			// Two ways to look: a queue that only hands records out shows them by taking and giving back.
			var record struct{ Data struct{ Customer string } }
			line, _, _ := strings.Cut(string(ferryIn(t, environ, 0, "tail", topic, "-n", "1", "-c", file, "--data", data, "--json")), "\n")
			if err := json.Unmarshal([]byte(line), &record); err != nil || record.Data.Customer == "" {
				t.Errorf("tail: %s, %v", line, err)
			}
		})
	}
}
