package config_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"ferry/internal/config"
)

const root = "../.."

// TestGeneratedFilesAreCurrent keeps what editors and readers use in step with the structs. Run it with -update
// after a change to them.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	for name, got := range map[string][]byte{
		"ferry.schema.json":     config.Schema(),
		"docs/configuration.md": config.Reference(),
	} {
		file := filepath.Join(root, name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// A checkout on Windows may have CRLF.
		if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), string(got)); diff != "" {
			t.Errorf("%s is stale; run: go test ./internal/config -update\n%s", name, diff)
		}
	}
}

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(config.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("ferry.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("ferry.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// validate asks the schema about a YAML text, as an editor would.
func validate(t *testing.T, schema *jsonschema.Schema, src []byte) error {
	t.Helper()
	text, err := yaml.YAMLToJSON(src)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(doc)
}

// TestSchemaAcceptsWhatLoadAccepts holds the two against each other on the project's own examples and on a file that
// uses every form.
func TestSchemaAcceptsWhatLoadAccepts(t *testing.T) {
	schema := compile(t)
	files, err := filepath.Glob(filepath.Join(root, "examples", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range append(files, "testdata/every_form.yml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate(t, schema, src); err != nil {
				t.Errorf("schema: %v", err)
			}
			if _, err := config.Load(config.Options{File: file, Dir: t.TempDir(), Environ: everyVariable}); err != nil {
				t.Errorf("load: %v", err)
			}
		})
	}
}

var everyVariable = []string{"TOKEN=0123456789abcdef", "N=5", "D=5s", "B=true", "E=dev", "S=2MiB", "R=1/s", "W=none"}

// TestTheReferencesExampleWorks loads the YAML of the reference's first block.
func TestTheReferencesExampleWorks(t *testing.T) {
	_, example, _ := strings.Cut(string(config.Reference()), "```yaml\n")
	example, _, ok := strings.Cut(example, "```")
	if !ok {
		t.Fatal("the reference has no example")
	}
	if err := validate(t, compile(t), []byte(example)); err != nil {
		t.Errorf("schema: %v", err)
	}
	if c := parse(t, example, "API_TOKEN=x"); len(c.Warnings) > 0 || len(c.Pipelines) != 1 {
		t.Errorf("warnings = %q", c.Warnings)
	}
}

// TestTheReferenceNamesNoReservedVariable: FERRY_SERVER does not set the key server.
func TestTheReferenceNamesNoReservedVariable(t *testing.T) {
	_, tables, _ := strings.Cut(string(config.Reference()), "## The top")
	if !strings.Contains(tables, "| `server` |") || strings.Contains(tables, "`FERRY_SERVER`") {
		t.Error("the table offers FERRY_SERVER as the variable of the key server")
	}
}

func TestSchemaRefuses(t *testing.T) {
	schema := compile(t)
	for _, src := range []string{
		"listn: x",
		"log: {level: wran}",
		"server: {in_flight: 0}",
		"server: {grace: 5 minutes}",
		"server: {body_bytes: 5mb}",
		"auth: {keys: [{name: a}]}",
		"pipelines: {a b: {}}",
		"pipelines: {a: {source: {auth: {bearer: x, basic: {user: a}}}}}",
		"pipelines: {a: {source: {paginate: link_headers}}}",
		"pipelines: {a: {source: {on: {4xx: end}}}}",
		"pipelines: {a: {transform: [{where: a, map: b}]}}",
	} {
		if err := validate(t, schema, []byte(src)); err == nil {
			t.Errorf("the schema accepts %s", src)
		}
	}
}

// TestEveryKeyIsDocumented keeps the structs complete, and the schema's defaults within the schema.
func TestEveryKeyIsDocumented(t *testing.T) {
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if properties, ok := v["properties"].(map[string]any); ok {
				for key, one := range properties {
					doc, _ := one.(map[string]any)["description"].(string)
					if doc == "" || !strings.HasSuffix(doc, ".") && !strings.HasSuffix(doc, "…") {
						t.Errorf("%s.%s: documentation %q is no sentence", path, key, doc)
					}
				}
			}
			for key, one := range v {
				walk(path+"."+key, one)
			}
		case []any:
			for _, one := range v {
				walk(path, one)
			}
		}
	}
	var doc any
	if err := json.Unmarshal(config.Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	walk("", doc)
}
