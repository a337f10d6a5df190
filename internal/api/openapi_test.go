package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "write testdata/openapi.json anew")

// document is the served OpenAPI document as plain values.
func document(t testing.TB) map[string]any {
	t.Helper()
	w := do(newHandler(t, &fake{}, Options{Version: "0.0.0-test"}), "GET", "/openapi.json", "")
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(w.Body.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return doc.(map[string]any)
}

// TestDocumentGolden shows every change of what callers can rely on in review.
func TestDocumentGolden(t *testing.T) {
	const golden = "testdata/openapi.json"
	got := do(newHandler(t, &fake{}, Options{Version: "0.0.0-test"}), "GET", "/openapi.json", "").Body.Bytes()
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); d != "" {
		t.Errorf("the OpenAPI document has changed; go test ./internal/api -run Golden -update accepts it (-want +got):\n%s", d)
	}
}

func TestDocumentAsYAMLSaysTheSame(t *testing.T) {
	h := newHandler(t, &fake{}, Options{Version: "0.0.0-test"})
	var fromJSON, fromYAML any
	if err := json.Unmarshal(do(h, "GET", "/openapi.json", "").Body.Bytes(), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(do(h, "GET", "/openapi.yaml", "").Body.Bytes(), &fromYAML); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	fromYAML = nil
	if err := json.Unmarshal(b, &fromYAML); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(fromJSON, fromYAML); d != "" {
		t.Errorf("JSON and YAML differ (-json +yaml):\n%s", d)
	}
}

// TestDocumentIsSound checks what a linter would: every reference resolves, every operation is described, has answers
// of success and failure, tags and a way to log in, and every example fits its schema.
func TestDocumentIsSound(t *testing.T) {
	doc := document(t)
	if doc["openapi"] != "3.1.0" {
		t.Errorf("openapi = %v", doc["openapi"])
	}
	tags := map[any]bool{}
	for _, tag := range doc["tags"].([]any) {
		tags[tag.(map[string]any)["name"]] = true
	}
	walk(doc, "#", func(at string, v map[string]any) {
		if ref, ok := v["$ref"].(string); ok {
			if _, ok := resolve(doc, ref); !ok {
				t.Errorf("%s: $ref %s leads nowhere", at, ref)
			}
		}
	})
	ids := map[any]bool{}
	kebab := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	for _, op := range documented(t) {
		name := op.method + " " + op.path
		id, _ := op.value["operationId"].(string)
		if !kebab.MatchString(id) || ids[id] {
			t.Errorf("%s: operationId %q is not kebab-case, or is not the only one", name, id)
		}
		ids[id] = true
		for _, key := range []string{"summary", "description"} {
			if s, _ := op.value[key].(string); s == "" {
				t.Errorf("%s has no %s", name, key)
			}
		}
		if got, _ := op.value["tags"].([]any); len(got) != 1 || !tags[got[0]] {
			t.Errorf("%s has the tags %v, want one of the document's", name, got)
		}
		security, ok := op.value["security"].([]any)
		if !ok || (len(security) == 0) != (op.role == "open") {
			t.Errorf("%s: security %v does not fit the role %s", name, security, op.role)
		}
		checkAnswers(t, doc, name, op)
		for _, p := range asList(op.value["parameters"]) {
			if p := p.(map[string]any); p["description"] == nil {
				t.Errorf("%s: parameter %v has no description", name, p["name"])
			}
		}
		for segment := range strings.SplitSeq(op.path, "/") {
			if param, ok := strings.CutPrefix(segment, "{"); ok && !hasParam(op.value, strings.TrimSuffix(param, "}")) {
				t.Errorf("%s: %s is not among the parameters", name, segment)
			}
		}
	}
}

func checkAnswers(t *testing.T, doc map[string]any, name string, op documentedOperation) {
	t.Helper()
	var success, failure, examples int
	answers := op.value["responses"].(map[string]any)
	for status, answer := range answers {
		answer := answer.(map[string]any)
		if s, _ := answer["description"].(string); s == "" {
			t.Errorf("%s: the answer %s has no description", name, status)
		}
		content, _ := answer["content"].(map[string]any)
		switch status[0] {
		case '2':
			success++
			for _, media := range content {
				if media.(map[string]any)["example"] != nil {
					examples++
				}
			}
		case '4', '5':
			failure++
			media, ok := content[contentTypeProblem].(map[string]any)
			if !ok {
				t.Errorf("%s: the answer %s is not a problem", name, status)
				continue
			}
			for code, ref := range media["examples"].(map[string]any) {
				value, _ := resolve(doc, ref.(map[string]any)["$ref"].(string))
				p := value.(map[string]any)["value"].(map[string]any)
				if p["type"] != problemPath+code || fmt.Sprint(p["status"]) != status {
					t.Errorf("%s: the answer %s has the example %v %v", name, status, p["type"], p["status"])
				}
			}
		default:
			t.Errorf("%s has an answer %q", name, status)
		}
	}
	if success == 0 || failure == 0 || examples == 0 {
		t.Errorf("%s: %d answers of success with %d examples, %d problems", name, success, examples, failure)
	}
	if op.role != "open" && (answers["401"] == nil || answers["403"] == nil) {
		t.Errorf("%s needs a role and does not say 401 and 403", name)
	}
}

func TestExamplesFitTheirSchemas(t *testing.T) {
	doc := document(t)
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	if err := compiler.AddResource("urn:openapi", doc); err != nil {
		t.Fatal(err)
	}
	checked := 0
	check := func(at string, value any) {
		schema, err := compiler.Compile("urn:openapi" + at)
		if err != nil {
			t.Errorf("compile %s: %v", at, err)
			return
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("the example of %s does not fit: %v", at, err)
		}
		checked++
	}
	walk(doc, "#", func(at string, v map[string]any) {
		schema, ok := v["schema"].(map[string]any)
		if !ok {
			return
		}
		where := at + "/schema"
		if ref, ok := schema["$ref"].(string); ok {
			where = ref
		}
		if example, ok := v["example"]; ok {
			check(where, example)
		}
		for _, e := range asMap(v["examples"]) {
			if ref, ok := e.(map[string]any)["$ref"].(string); ok {
				e, _ = resolve(doc, ref)
			}
			check(where, e.(map[string]any)["value"])
		}
	})
	if checked < 100 {
		t.Errorf("only %d examples were found to check", checked)
	}
}

// TestAnswersFitTheirSchemas compares what the handlers really send with what the document promises.
func TestAnswersFitTheirSchemas(t *testing.T) {
	doc := document(t)
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	if err := compiler.AddResource("urn:openapi", doc); err != nil {
		t.Fatal(err)
	}
	h := newHandler(t, &fake{}, Options{Version: "1"})
	for _, op := range documented(t) {
		if op.path == "/v1/stream" || op.path == "/metrics" {
			continue
		}
		w := do(h, op.method, exampleTarget(op), exampleBody(op))
		at := fmt.Sprintf("urn:openapi#/paths/%s/%s/responses/%d/content/application~1json/schema",
			strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(op.path), strings.ToLower(op.method), w.Code)
		schema, err := compiler.Compile(at)
		if err != nil {
			t.Errorf("%s %s answered %d, which is not documented: %v", op.method, op.path, w.Code, err)
			continue
		}
		value, err := jsonschema.UnmarshalJSON(w.Body)
		if err != nil {
			t.Errorf("%s %s: %v", op.method, op.path, err)
			continue
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s %s does not answer as documented: %v", op.method, op.path, err)
		}
	}
}

// TestRefusalsAreDocumented: what an operation answers to an unknown parameter and to a body that it does not want.
func TestRefusalsAreDocumented(t *testing.T) {
	h := newHandler(t, &fake{}, Options{Version: "1"})
	for _, op := range documented(t) {
		if op.path == "/v1/stream" {
			continue
		}
		answers := asMap(op.value["responses"])
		says := func(status int, code Code) {
			t.Helper()
			media := asMap(asMap(asMap(answers[strconv.Itoa(status)])["content"])[contentTypeProblem])
			if asMap(media["examples"])[string(code)] == nil {
				t.Errorf("%s %s can answer %d %s, which is not documented", op.method, op.path, status, code)
			}
		}
		if w := do(h, op.method, exampleTarget(op)+"?no_such=1", exampleBody(op)); w.Code >= 400 {
			says(w.Code, problemIn(t, w).Code())
		}
		if op.method != "POST" {
			continue
		}
		w := do(h, op.method, exampleTarget(op), strings.Repeat(" ", 9<<20))
		says(w.Code, problemIn(t, w).Code())
		says(408, CodeSlowClient)
		says(409, CodeConflict) // the answer to an Idempotency-Key was too large to keep
		if d, _ := op.value["description"].(string); (op.value["requestBody"] == nil) != strings.Contains(d, "A body is ignored.") {
			t.Errorf("%s %s says of its body: %s", op.method, op.path, d)
		}
	}
}

// TestProblemsOfProcessAndReadiness: a pipeline that takes only what is pushed is an invalid request, and readiness does
// not ask whether a topic is full.
func TestProblemsOfProcessAndReadiness(t *testing.T) {
	for _, op := range documented(t) {
		status, code, want := "422", CodeInvalid, true
		switch {
		case op.path == "/readyz":
			status, code, want = "503", CodeQueueFull, false
		case !strings.HasSuffix(op.path, "/process"):
			continue
		}
		media := asMap(asMap(asMap(asMap(op.value["responses"])[status])["content"])[contentTypeProblem])
		if got := asMap(media["examples"])[string(code)] != nil; got != want {
			t.Errorf("%s %s documents %s: %t, want %t", op.method, op.path, code, got, want)
		}
	}
}

// exampleTarget fills the path's parameters with the document's examples.
func exampleTarget(op documentedOperation) string {
	target := op.path
	for _, p := range asList(op.value["parameters"]) {
		p := p.(map[string]any)
		example := p["example"]
		if example == nil {
			example = asList(asMap(p["schema"])["examples"])
			if l := example.([]any); len(l) > 0 {
				example = l[0]
			}
		}
		target = strings.ReplaceAll(target, "{"+p["name"].(string)+"}", fmt.Sprint(example))
	}
	return target
}

// exampleBody is the document's example of the request's body, "" when there is none.
func exampleBody(op documentedOperation) string {
	media := asMap(asMap(asMap(op.value["requestBody"])["content"])["application/json"])
	if media["example"] == nil {
		return ""
	}
	b, err := json.Marshal(media["example"])
	if err != nil {
		panic(err)
	}
	return string(b)
}

func hasParam(op map[string]any, name string) bool {
	return slices.ContainsFunc(asList(op["parameters"]), func(p any) bool {
		p2 := p.(map[string]any)
		return p2["name"] == name && p2["in"] == "path" && p2["required"] == true
	})
}

func asMap(v any) map[string]any { m, _ := v.(map[string]any); return m }
func asList(v any) []any         { l, _ := v.([]any); return l }

// walk visits every object below v. Examples are not walked into: they are data.
func walk(v any, at string, visit func(at string, v map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(at, v)
		for key, child := range v {
			if key != "example" && key != "value" {
				walk(child, at+"/"+strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", " ", "%20").Replace(key), visit)
			}
		}
	case []any:
		for i, child := range v {
			walk(child, fmt.Sprintf("%s/%d", at, i), visit)
		}
	}
}

// resolve follows a reference within the document.
func resolve(doc any, ref string) (any, bool) {
	path, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return nil, false
	}
	for key := range strings.SplitSeq(path, "/") {
		m, ok := doc.(map[string]any)
		if !ok {
			return nil, false
		}
		if doc, ok = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(key)]; !ok {
			return nil, false
		}
	}
	return doc, true
}
