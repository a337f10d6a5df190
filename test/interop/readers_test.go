package interop

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A reader gives out all records of a topic, in the order in which its client saw them.
type reader func(t *testing.T, url, topic string) []line

// python reads with a script beside this file.
func python(t *testing.T, script string) reader {
	t.Helper()
	interpreter := os.Getenv("FERRY_TEST_PYTHON")
	if interpreter == "" {
		t.Skip(`FERRY_TEST_PYTHON is not set: scripts/brokers clients; eval "$(scripts/brokers env)"`)
	}
	return func(t *testing.T, url, topic string) []line {
		t.Helper()
		return decode[line](t, run(t, interpreter, "-B", script, url, topic))
	}
}

// kcat reads what is committed.
func kcat(t *testing.T) reader {
	t.Helper()
	command := installed(t, "kcat")
	return func(t *testing.T, url, topic string) []line {
		t.Helper()
		out := run(t, command, "-C", "-b", hosts(url), "-t", topic, "-o", "beginning", "-e", "-q", "-J",
			"-X", "isolation.level=read_committed")
		type message struct {
			Topic, Key, Payload string
			Headers             []string
		}
		var all []line
		for _, m := range decode[message](t, out) {
			headers := pairs(m.Headers)
			all = append(all, line{ID: headers["ferry-id"], Key: m.Key, Topic: m.Topic, Headers: headers, Data: m.Payload})
		}
		return all
	}
}

// redisCLI reads the stream whole.
func redisCLI(t *testing.T) reader {
	t.Helper()
	command := installed(t, "redis-cli")
	return func(t *testing.T, url, topic string) []line {
		t.Helper()
		key := topic
		if base, dead := strings.CutSuffix(topic, ".dead"); dead { // they lie on the slot of their topic
			key = "{" + base + "}.dead"
		}
		host, port, _ := strings.Cut(hosts(url), ":")
		var entries [][2]json.RawMessage // id and fields
		out := run(t, command, "-h", host, "-p", port, "--json", "XRANGE", key, "-", "+")
		if err := json.Unmarshal(out, &entries); err != nil {
			t.Fatalf("redis-cli: %v\n%.500s", err, out)
		}
		all := make([]line, len(entries))
		for i, entry := range entries {
			var fields []string
			if err := json.Unmarshal(entry[1], &fields); err != nil {
				t.Fatalf("redis-cli: entry %s: %v", entry[0], err)
			}
			headers := pairs(fields)
			data := headers["data"]
			delete(headers, "data")
			all[i] = line{ID: headers["ferry-id"], Key: headers["ferry-key"], Topic: topic, Headers: headers, Data: data}
		}
		return all
	}
}

// decode reads JSON values, one after the other.
func decode[T any](t *testing.T, out []byte) []T {
	t.Helper()
	var all []T
	for in := json.NewDecoder(bytes.NewReader(out)); ; {
		var v T
		if err := in.Decode(&v); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("line %d: %v", len(all)+1, err)
		}
		all = append(all, v)
	}
}

// run returns what the command wrote to stdout.
func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, args, err, &talk)
	}
	return out
}

// installed finds a command, or skips the test.
func installed(t *testing.T, command string) string {
	t.Helper()
	path, err := exec.LookPath(command)
	if err != nil {
		t.Skipf("%s is not installed: scripts/brokers clients", command)
	}
	return path
}

// hosts of a queue URL without a login.
func hosts(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	rest, _, _ = strings.Cut(rest, "?")
	return rest
}

// pairs makes a map of name, value, name, value.
func pairs(list []string) map[string]string {
	m := make(map[string]string, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}
