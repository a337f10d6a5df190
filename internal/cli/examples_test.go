package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ferry/internal/api"
	"ferry/internal/app"
	"ferry/internal/cli"
	"ferry/internal/config"
)

// TestExamples checks and runs every file in examples, against the simulated API that each of them names.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			file, err := filepath.Abs(file)
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := app.LoadConfig(config.Options{File: file, Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			data := filepath.Join(t.TempDir(), "data")
			for name := range cfg.Pipelines {
				if cfg.Pipelines[name].Source.Push {
					continue // push.txtar sends it something
				}
				out := ferry(t, 0, "run", name, "-c", file, "--data", data, "--json")
				var line struct {
					Status                                string
					Read, Published, Filtered, Seen, Dead int64
				}
				if err := json.Unmarshal(out, &line); err != nil {
					t.Fatal(err)
				}
				if line.Status != "succeeded" || line.Published == 0 || line.Read != line.Published+line.Filtered+line.Seen+line.Dead {
					t.Errorf("%s: %s", name, out)
				}
				want := ferry(t, 0, "tail", cfg.Pipelines[name].Topic, "-c", file, "--data", data, "--from", "0", "-n", "0", "--json")
				if n := int64(bytes.Count(want, []byte("\n"))); n != line.Published {
					t.Errorf("%s: published %d, and %d are in the topic", name, line.Published, n)
				}
			}
		})
	}
}

// ferry runs one command in this process and returns its standard output.
func ferry(t *testing.T, code int, args ...string) []byte {
	t.Helper()
	return ferryIn(t, []string{"PATH=" + os.Getenv("PATH")}, code, args...)
}

// ferryIn is ferry with its environment.
func ferryIn(t *testing.T, environ []string, code int, args ...string) []byte {
	t.Helper()
	var out, talk bytes.Buffer
	got := cli.Main(args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &talk, Environ: environ, Dir: t.TempDir()})
	if got != code {
		t.Fatalf("ferry %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, &talk)
	}
	return out.Bytes()
}

// TestDeadLettersAreReplayed: what broke a schema waits, is shown with its reason, and goes through once the schema is
// mended.
func TestDeadLettersAreReplayed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("ferry.yaml", `
pipelines:
  orders:
    source: {base: "mock:", get: /v1/orders, query: {count: "20", limit: "7"}, records: ".data[]", key: .id,
      paginate: {cursor: {from: .meta.next, into: query.after}}}
    transform:
      - schema: order.json
`)
	write("order.json", `{"properties": {"id": {"maximum": 15}}}`)
	flags := []string{"-c", file, "--data", filepath.Join(dir, "data"), "--json"}
	call := func(args ...string) string { return string(ferry(t, 0, append(args, flags...)...)) }

	if out := call("run", "orders"); !strings.Contains(out, `"published":15`) || !strings.Contains(out, `"dead":5`) {
		t.Fatal(out)
	}
	list := call("dead", "list", "orders")
	if strings.Count(list, "\n") != 5 || !strings.Contains(list, `"stage":"schema"`) || !strings.Contains(list, "/id") {
		t.Fatal(list)
	}
	if out := call("dead", "replay", "orders"); !strings.Contains(out, `"read":5,"published":0,"filtered":0,"dead":5`) {
		t.Fatal(out)
	}
	write("order.json", `{"properties": {"id": {"maximum": 18}}}`)
	if out := call("dead", "replay", "orders"); !strings.Contains(out, `"read":5,"published":3,"filtered":0,"dead":2`) {
		t.Fatal(out)
	}
	if list := call("dead", "list", "orders"); strings.Count(list, "\n") != 2 {
		t.Fatal(list)
	}
	if all := call("tail", "orders", "--from", "0", "-n", "0"); strings.Count(all, "\n") != 18 {
		t.Fatalf("%d records, want 18", strings.Count(all, "\n"))
	}
}

// TestCursorGoesBackAsItWasShown: set takes what get has printed, with --json too.
func TestCursorGoesBackAsItWasShown(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ferry.yaml")
	if err := os.WriteFile(file, []byte(`
pipelines:
  orders:
    source: {base: "mock:", get: /v1/orders, query: {count: "5"}, records: ".data[]", key: .id, paginate: auto}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) string {
		return strings.TrimSpace(string(ferry(t, 0, append(args, "-c", file, "--data", filepath.Join(dir, "data"))...)))
	}
	call("run", "orders")
	was := call("cursor", "get", "orders")
	for _, shown := range []string{was, call("cursor", "get", "orders", "--json")} {
		call("cursor", "reset", "orders")
		if now := call("cursor", "set", "orders", shown); now != was || was == "null" {
			t.Errorf("set to %s, it is %s; want %s", shown, now, was)
		}
	}
}

// TestCutDeadLettersStay: of what is too large only the beginning is there, so a replay leaves it and says so. To discard
// it is another thing.
func TestCutDeadLettersStay(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ferry.yaml")
	if err := os.WriteFile(file, []byte(`
pipelines:
  orders:
    source: {base: "mock:", get: /v1/orders, query: {count: "5"}, records: ".data[]", key: .id, limits: {record: 100}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) string {
		return string(ferry(t, 0, append(args, "-c", file, "--data", filepath.Join(dir, "data"))...))
	}
	call("run", "orders")
	if out := call("dead", "replay", "orders"); !strings.Contains(out, "replayed 5 = 0 published + 0 filtered + 0 dead again + 5 cut") {
		t.Error(out)
	}
	out := call("--json", "dead", "list", "orders")
	if strings.Count(out, "only its beginning was kept") != 5 {
		t.Error(out)
	}
	var first api.DeadLetter
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&first); err != nil {
		t.Fatal(err)
	}
	ferry(t, cli.ExitConfig, "dead", "discard", "orders", "-c", file)
	if out := call("dead", "discard", "orders", "--position", fmt.Sprint(first.Position)); out != "orders: discarded 1\n" {
		t.Error(out)
	}
	if out := call("--json", "dead", "discard", "orders", "--all"); out != `{"pipeline":"orders","discarded":4}`+"\n" {
		t.Error(out)
	}
	if out := call("--json", "dead", "list", "orders"); out != "" {
		t.Error(out)
	}
}
