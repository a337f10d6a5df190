package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"ferry/internal/mockapi"
)

// config has three pipelines over the same simulated API: records as they came, some that a map refuses, and events.
const config = `
queue: "${QUEUE}"
defaults:
  source:
    base: "mock:"
    get: /v1/orders
    records: .data[]
    key: .id
pipelines:
  orders:
    source:
      query: {limit: "100", count: "500"}
      paginate: {cursor: {from: .meta.next, into: query.after}}
    topic: "${TOPIC}"
  damaged:
    source:
      query: {limit: "100", count: "20"}
    transform:
      - map: 'if .id % 5 == 0 then error("schön ✗") else {id} end'
    topic: "${TOPIC}"
  events:
    source:
      query: {limit: "100", count: "500"}
      paginate: {cursor: {from: .meta.next, into: query.after}}
    format: cloudevents
    event: {type: com.example.order, source: /shop}
    topic: "${TOPIC}"
`

// A line is a record as a reader gave it out.
type line struct {
	ID, Key, Topic string
	Headers        map[string]string
	Data           string
	// Event is what the CloudEvents SDK of the reader's language made of the same, where it knows the binding.
	Event *event
}

// An event has the attributes of CloudEvents 1.0 that ferry sets.
type event struct {
	ID, Source, Type, Subject, SpecVersion, DataContentType string
	Data                                                    json.RawMessage
}

// ferry runs a command in dir and returns what it wrote to stdout.
func ferry(t *testing.T, dir, url, topic string, args ...string) []byte {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "ferry.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a run waits for a queue that is away, for ever
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"HOME=" + dir, "TMPDIR=" + dir, "QUEUE=" + url, "TOPIC=" + topic,
		"AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x",
	}
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ferry %v: %v\n%s%s", args, err, out, &talk)
	}
	return out
}

// pull runs the pipeline into the queue.
func pull(t *testing.T, url, topic, pipeline string) {
	t.Helper()
	var end struct {
		Status     string
		Read, Dead int
	}
	out := ferry(t, t.TempDir(), url, topic, "run", pipeline, "--json")
	if err := json.Unmarshal(out, &end); err != nil || end.Status != "succeeded" || end.Read == 0 {
		t.Fatalf("run %s ended with %s (%v)", pipeline, out, err)
	}
}

// recordsOf is what ferry itself says of the pipeline's topic: pulled into the embedded queue, ids and headers as
// `ferry tail` gives them. The data are taken from the API, byte for byte.
func recordsOf(t *testing.T, pipeline, topic, of string) []line {
	t.Helper()
	dir := t.TempDir()
	ferry(t, dir, "embedded:", topic, "run", pipeline, "--json")
	api := mockapi.New(mockapi.Options{Seed: 1})
	var all []line
	for in := bufio.NewScanner(bytes.NewReader(ferry(t, dir, "embedded:", topic, "tail", of, "--from", "0", "-n", "0", "--json"))); in.Scan(); {
		var r struct {
			ID      string
			Headers map[string]string
			Data    struct{ ID int }
		}
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			t.Fatalf("tail gave %q: %v", in.Text(), err)
		}
		all = append(all, line{
			ID: r.ID, Key: strconv.Itoa(r.Data.ID), Topic: of, Headers: r.Headers, Data: string(api.Record("orders", r.Data.ID-1)),
		})
	}
	return all
}
