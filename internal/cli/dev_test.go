package cli

import (
	"strings"
	"testing"

	"ferry/internal/config"
)

// TestGreeting: what dev names is there. Its commands are those of the README only where the README's pipelines are.
func TestGreeting(t *testing.T) {
	pipelines := func(names ...string) map[string]config.Pipeline {
		m := map[string]config.Pipeline{}
		for _, name := range names {
			m[name] = config.Pipeline{Topic: name + "-topic"}
		}
		return m
	}
	for name, c := range map[string]struct {
		cfg  config.Config
		want string
	}{
		"the demonstration": {config.Config{Queue: "embedded:", Data: "./data", Demo: true, Pipelines: pipelines("process", "orders")}, `
  ferry is ready              http://127.0.0.1:8080
  API docs                    http://127.0.0.1:8080/docs
  simulated third-party API   http://127.0.0.1:9090
  embedded queue              ./data (synced to disk)
  configuration               the demonstration that is built in (make a ferry.yaml to leave it)

  Try, in another terminal:
    curl http://127.0.0.1:8080/process
    ferry tail process
    ferry run orders -c examples/orders.yaml
`},
		"one's own": {config.Config{Queue: "kafka://me:secret@broker:9092", File: "ferry.yaml", Pipelines: pipelines("users", "orders")}, `
  ferry is ready              http://127.0.0.1:8080
  API docs                    http://127.0.0.1:8080/docs
  simulated third-party API   http://127.0.0.1:9090
  queue                       kafka://me:[secret]@broker:9092
  configuration               ferry.yaml

  Try, in another terminal:
    ferry preview orders
    ferry run orders
    ferry tail orders-topic
`},
		"the environment": {config.Config{Queue: "embedded:?cache=96MiB", Data: "/var/lib/ferry", Pipelines: pipelines("another", "process")}, `
  ferry is ready              http://127.0.0.1:8080
  API docs                    http://127.0.0.1:8080/docs
  simulated third-party API   http://127.0.0.1:9090
  embedded queue              /var/lib/ferry (synced to disk)
  configuration               the environment

  Try, in another terminal:
    curl http://127.0.0.1:8080/process
    ferry run process
    ferry tail process-topic
`},
		"what is pushed": {config.Config{Queue: "embedded:", Data: "./data", File: "ferry.yaml", Pipelines: map[string]config.Pipeline{
			"hooks": {Topic: "events", Source: config.Source{Push: true}},
		}}, `
  ferry is ready              http://127.0.0.1:8080
  API docs                    http://127.0.0.1:8080/docs
  simulated third-party API   http://127.0.0.1:9090
  embedded queue              ./data (synced to disk)
  configuration               ferry.yaml

  Try, in another terminal:
    curl http://127.0.0.1:8080/v1/pipelines/hooks/records -H "Content-Type: application/json" -d '{"id": 1}'
    ferry tail events
`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := greeting(&c.cfg, "http://127.0.0.1:8080", "http://127.0.0.1:9090", "ferry", flags{}); got != c.want {
				t.Errorf("got %s\nwant %s", got, c.want)
			}
		})
	}
	if got := greeting(&config.Config{Queue: "embedded:"}, "u", "m", "ferry", flags{}); strings.Contains(got, "Try") {
		t.Errorf("without a pipeline it offers commands: %s", got)
	}
}

func TestInvocation(t *testing.T) {
	for called, want := range map[string]string{
		"ferry":                                  "ferry",
		"./ferry":                                "./ferry",
		"/usr/local/bin/ferry":                   "/usr/local/bin/ferry",
		"/tmp/go-build85548/b001/exe/ferry":      "go run ./cmd/ferry",
		"/tmp/go-build2985789548/b001/exe/ferry": "go run ./cmd/ferry",
		"/home/me/.cache/go-build/9f/9f02ab3c4d5e6f-d/ferry":      "go run ./cmd/ferry",
		"/home/somebody/with/a/long/way/to/their/tools/bin/ferry": "/home/somebody/with/a/long/way/to/their/tools/bin/ferry",
		"/home/me/go-build-tools/bin/ferry":                       "/home/me/go-build-tools/bin/ferry",
	} {
		if got := invocation([]string{called}); got != want {
			t.Errorf("called as %s: %q, want %q", called, got, want)
		}
	}
	if got := invocation(nil); got != "ferry" {
		t.Errorf("called by no name: %q", got)
	}
}

// TestCommandsToCopyWork: they carry the flags that dev was given, so that they find it and its configuration.
func TestCommandsToCopyWork(t *testing.T) {
	for name, c := range map[string]struct {
		command command
		cfg     config.Config
		want    string
	}{
		"none":  {command{}, config.Config{Pipelines: map[string]config.Pipeline{"one": {Topic: "t"}}}, "ferry preview one\n    ferry run one\n    ferry tail t\n"},
		"both":  {command{configFile: "x.yaml", data: "dd"}, config.Config{Pipelines: map[string]config.Pipeline{"one": {Topic: "t"}}}, "ferry preview one -c x.yaml --data dd\n    ferry run one -c x.yaml --data dd\n    ferry tail t -c x.yaml --data dd\n"},
		"words": {command{configFile: "it's mine.yaml"}, config.Config{Pipelines: map[string]config.Pipeline{"process": {Topic: "t"}}}, `ferry run process -c 'it'\''s mine.yaml'`},
		"demo":  {command{data: "dd"}, config.Config{Demo: true}, "ferry tail process --data dd\n    ferry run orders -c examples/orders.yaml --data dd\n"},
	} {
		if got := greeting(&c.cfg, "u", "m", "ferry", c.command.given()); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %s\nwant %s", name, got, c.want)
		}
	}
}
