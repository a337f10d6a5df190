package transform

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ferry/internal/config"
	"ferry/internal/jq"
	"ferry/internal/record"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func where(s string) config.Step   { return config.Step{Where: s} }
func mapping(s string) config.Step { return config.Step{Map: s} }

func TestApply(t *testing.T) {
	for name, c := range map[string]struct {
		steps []config.Step
		in    string
		want  []string // id=data
		fails string
	}{
		"no steps":              {nil, `{"b": 1, "a": 2}`, []string{`r={"b": 1, "a": 2}`}, ""},
		"where passes bytes on": {[]config.Step{where(`.b == 1`)}, `{"b": 1, "a": 1.10}`, []string{`r={"b": 1, "a": 1.10}`}, ""},
		"where filters":         {[]config.Step{where(`.b == 2`)}, `{"b":1}`, nil, ""},
		"where without result":  {[]config.Step{where(`empty`)}, `{"b":1}`, nil, ""},
		"map":                   {[]config.Step{mapping(`{id, n: .x.n}`)}, `{"x":{"n":12345678901234567890},"id":"a"}`, []string{`r={"id":"a","n":12345678901234567890}`}, ""},
		"map to nothing":        {[]config.Step{mapping(`empty`)}, `1`, nil, ""},
		"map to several":        {[]config.Step{mapping(`.[]`)}, `[1,[2],"3"]`, []string{`r#0=1`, `r#1=[2]`, `r#2="3"`}, ""},
		"one of a map that may give several keeps the id": {[]config.Step{mapping(`.[]`)}, `[1]`, []string{`r=1`}, ""},
		"ids nest":                  {[]config.Step{mapping(`.[]`), mapping(`.[]`)}, `[[1,2],[3],[],[4,5]]`, []string{`r#0#0=1`, `r#0#1=2`, `r#1=3`, `r#3#0=4`, `r#3#1=5`}, ""},
		"a filter leaves ids alone": {[]config.Step{mapping(`.[]`), where(`. > 1`)}, `[1,2,3]`, []string{`r#1=2`, `r#2=3`}, ""},
		"where fails":               {[]config.Step{where(`.a.b == 1`)}, `{"a":1}`, nil, `step 1 (where): expected an object but got: number (1)`},
		"map fails after some":      {[]config.Step{mapping(`.[]`), mapping(`{x: (1 / .)}`)}, `[1,0]`, nil, `step 2 (map): cannot divide number (1) by: number (0)`},
		"map raises":                {[]config.Step{mapping(`error("no " + .name)`)}, `{"name":"price"}`, nil, `step 1 (map): error: no price`},
		"not JSON":                  {[]config.Step{mapping(`.a`)}, `{"a":`, nil, `step 1 (map): JSON ends in the middle of a value`},
	} {
		t.Run(name, func(t *testing.T) {
			tr, err := New(c.steps, Options{})
			if err != nil {
				t.Fatal(err)
			}
			earlier := record.Record{ID: "earlier"}
			in := record.Record{ID: "r", Key: "k", Headers: []record.Header{{Name: "a", Value: "b"}}, Data: []byte(c.in)}
			out, err := tr.Apply(t.Context(), in, []record.Record{earlier})
			if c.fails != "" {
				var e *Error
				if !errors.As(err, &e) || err.Error() != c.fails || len(out) != 1 {
					t.Fatalf("got %v and %d records, want %s", err, len(out), c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range out[1:] {
				if r.Key != "k" || r.Header("a") != "b" {
					t.Errorf("key and headers are lost: %+v", r)
				}
				got = append(got, r.ID+"="+string(r.Data))
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestResultsDoNotAlias(t *testing.T) {
	tr, err := New([]config.Step{mapping(`.[] | {a: .}`)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	data := []byte(`["x","y"]`)
	first, err := tr.Apply(t.Context(), record.Record{ID: "1", Data: data}, nil)
	if err != nil {
		t.Fatal(err)
	}
	copy(data, `["p","q"]`)
	if _, err := tr.Apply(t.Context(), record.Record{ID: "2", Data: data}, nil); err != nil {
		t.Fatal(err)
	}
	_ = append(first[0].Data, "overrun"...)
	if string(first[0].Data) != `{"a":"x"}` || string(first[1].Data) != `{"a":"y"}` {
		t.Errorf("results were written over: %s %s", first[0].Data, first[1].Data)
	}
}

// Results lie beside each other in shared memory, and none runs into another.
func TestResultsStay(t *testing.T) {
	tr, err := New([]config.Step{mapping("{n, s}"), mapping("., .n")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var all []record.Record
	var want []string
	for i := range 3000 {
		text := strings.Repeat("x", i*i%5000)
		if i%500 == 7 {
			text = strings.Repeat("y", 3*pieceBytes)
		}
		in := record.Record{ID: "r", Data: fmt.Appendf(nil, `{"n":%d,"s":"%s"}`, i, text)}
		want = append(want, string(in.Data), fmt.Sprint(i))
		if all, err = tr.Apply(t.Context(), in, all); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range all {
		if string(r.Data) != want[i] {
			t.Fatalf("result %d is %.80q, want %.80q", i, r.Data, want[i])
		}
		if _ = append(r.Data, '!'); i+1 < len(all) && string(all[i+1].Data) != want[i+1] {
			t.Fatalf("result %d can be written into by way of the one before", i+1)
		}
	}
}

func TestContextIsNoDeadLetter(t *testing.T) {
	tr, err := New([]config.Step{mapping(`repeat(.)`)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = tr.Apply(ctx, record.Record{Data: []byte(`1`)}, nil)
	if e := new(Error); errors.As(err, &e) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestBounds(t *testing.T) {
	for name, c := range map[string]struct {
		steps []config.Step
		want  error
	}{
		"results of one map":        {[]config.Step{mapping(`range(100001)`)}, jq.ErrTooMany},
		"results of maps together":  {[]config.Step{mapping(`range(1000)`), mapping(`range(101)`)}, jq.ErrTooMany},
		"bytes of one map":          {[]config.Step{mapping(`"x" * 17e6`)}, jq.ErrTooLarge},
		"bytes of maps together":    {[]config.Step{mapping(`range(10)`), mapping(`"x" * 2e6`)}, jq.ErrTooLarge},
		"a loop that does not end":  {[]config.Step{where(`[repeat(1)]`)}, jq.ErrTooLong},
		"a value that nests itself": {[]config.Step{mapping(`reduce range(2000) as $i (0; [.])`)}, jq.ErrTooDeep},
	} {
		t.Run(name, func(t *testing.T) {
			tr, err := New(c.steps, Options{})
			if err != nil {
				t.Fatal(err)
			}
			out, err := tr.Apply(t.Context(), record.Record{ID: "r", Data: []byte(`1`)}, nil)
			if e := new(Error); !errors.Is(err, c.want) || !errors.As(err, &e) || out != nil {
				t.Errorf("got %v and %d records, want %v", err, len(out), c.want)
			}
		})
	}
}

func TestGuard(t *testing.T) {
	g := jq.NewGuard(1, 50*time.Millisecond)
	tr, err := New([]config.Step{mapping(`if . == 1 then [repeat(1)] else . + 1 end`)}, Options{Guard: g})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tr.Apply(t.Context(), record.Record{Data: []byte(`1`)}, nil)
	if !errors.Is(err, jq.ErrDeadline) && !errors.Is(err, jq.ErrTooLong) {
		t.Errorf("got %v", err)
	}
	for { // the slot is free once the run has noticed
		out, err := tr.Apply(t.Context(), record.Record{ID: "r", Data: []byte(`2`)}, nil)
		if errors.Is(err, jq.ErrBusy) {
			runtime.Gosched()
			continue
		}
		if err != nil || len(out) != 1 || string(out[0].Data) != `3` {
			t.Errorf("got %v, %v", out, err)
		}
		return
	}
}

func TestNewSaysEverythingAtOnce(t *testing.T) {
	_, err := New([]config.Step{{}, where("now > 1"), mapping("{a"), {Where: "1", Map: "2"}, {Schema: "missing.json"}}, Options{Dir: t.TempDir()})
	for _, want := range []string{
		"transform step 1: set exactly one of where, map and schema",
		"transform step 2: jq: now is refused",
		"transform step 3: jq: unexpected end",
		"transform step 4: set exactly one",
		"transform step 5: read schema missing.json: ",
		"relative to the configuration file",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// files writes files into a new folder and returns it.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const orderSchema = `{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"type": "object", "required": ["id"],
	"properties": {
		"id": {"type": "integer", "maximum": 12345678901234567890},
		"mail": {"format": "email"},
		"lines": {"type": "array", "items": {"$ref": "parts/line.json"}},
		"either": {"anyOf": [{"type": "string"}, {"type": "number", "multipleOf": 0.01}]},
		"a/b~c": {"const": 1}
	}
}`

func TestSchema(t *testing.T) {
	dir := files(t, map[string]string{
		"schemas/order.json":      orderSchema,
		"schemas/parts/line.json": `{"type": "object", "required": ["sku", "qty"], "properties": {"qty": {"type": "integer", "minimum": 1}}}`,
	})
	tr, err := New([]config.Step{{Schema: "schemas/order.json"}}, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ in, path, want string }{
		{`{ "id": 1, "other": [] }`, "", ""},
		{`{"id":12345678901234567890}`, "", ""},
		{`{"id":12345678901234567891}`, "/id", "step 1 (schema): at /id: maximum: got"},
		{`{"id":1.0}`, "", ""},
		{`{"id":1,"either":0.1}`, "", ""},
		{`{"id":1,"either":0.001}`, "/either", "step 1 (schema): at /either: 'anyOf' failed"},
		{`{}`, "", "step 1 (schema): at the record itself: missing property 'id'"},
		{`{"id":1,"lines":[{"sku":"a","qty":1},{"sku":"b","qty":0}]}`, "/lines/1/qty", "at /lines/1/qty: minimum: got 0, want 1"},
		{`{"id":1,"lines":[{}],"a/b~c":2}`, "/a~1b~0c", "at /a~1b~0c: value must be 1 (and 1 more)"},
		{`{"id":1,"mail":"nobody"}`, "/mail", "at /mail: 'nobody' is not valid email"},
		{`[]`, "", "at the record itself: got array, want object"},
		{`{"id":1e1000000}`, "/id", "the number 1e1000000 has an exponent beyond 1000"},
		{`{"id":1e99999999999999999999}`, "/id", "has an exponent beyond 1000"},
		{`{"id":1e400}`, "/id", "maximum"},
		{`{"id":0.` + strings.Repeat("7", 1<<20) + `}`, "/id", "a number of 1048578 digits, too large to be checked"},
		{`{"id":1,"other":[` + strings.Repeat("7", 4<<20) + `]}`, "/other/0", "a number of 4194304 digits, too large to be checked"},
		{`{"id":`, "", "JSON ends in the middle of a value"},
	} {
		out, err := tr.Apply(t.Context(), record.Record{ID: "r", Data: []byte(c.in)}, nil)
		if c.want == "" {
			if err != nil || len(out) != 1 || string(out[0].Data) != c.in {
				t.Errorf("%s: %v", c.in, err)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.DeadStage() != "schema" || e.Path != c.path || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want at %q %s", c.in, err, c.path, c.want)
		}
	}
}

func TestSchemaStaysInItsFolder(t *testing.T) {
	outside := files(t, map[string]string{"secret.json": `{}`})
	dir := files(t, map[string]string{
		"s/network.json": `{"$ref": "https://example.com/schema.json"}`,
		"s/above.json":   `{"$ref": "../above.json"}`,
		"s/host.json":    `{"$ref": "file://example.com/a.json"}`,
		"s/link.json":    `{"$ref": "linked.json"}`,
		"s/missing.json": `{"$ref": "nowhere.json"}`,
		"s/broken.json":  `{"type": `,
		"s/wrong.json":   `{"type": "strin"}`,
		"s/good.json":    `{"$ref": "sub/a.json#/$defs/x"}`,
		"s/sub/a.json":   `{"$defs": {"x": {"type": "string"}}}`,
		"above.json":     `{}`,
	})
	if err := os.Symlink(filepath.Join(outside, "secret.json"), filepath.Join(dir, "s", "linked.json")); err != nil {
		t.Logf("no links here: %v", err)
	}
	for name, want := range map[string]string{
		"network": "never to the network",
		"host":    "never to the network",
		"above":   "lies outside of the folder",
		"link":    "escapes",
		"missing": "no such file",
		"broken":  "it is not JSON",
		"wrong":   "/type",
	} {
		if err := CheckSchema(filepath.Join(dir, "s", name+".json")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if err := CheckSchema(filepath.Join(dir, "s", "good.json")); err != nil {
		t.Error(err)
	}
}

func BenchmarkSchema(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s.json"), []byte(strings.Replace(orderSchema, `{"$ref": "parts/line.json"}`, "true", 1)), 0o600); err != nil {
		b.Fatal(err)
	}
	tr, err := New([]config.Step{{Schema: "s.json"}}, Options{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	in := record.Record{ID: "r", Data: []byte(`{"id":17,"mail":"a@example.com","lines":[{"sku":"a","qty":2}],"either":1.25}`)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tr.Apply(b.Context(), in, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMap(b *testing.B) {
	tr, err := New([]config.Step{where(`.status != "draft"`), mapping(`{id, customer: .customer.email, total: (.lines | map(.price * .qty) | add)}`)}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	in := record.Record{ID: "r", Data: []byte(`{"id":17,"status":"open","customer":{"email":"a@example.com","name":"` + strings.Repeat("name ", 130) +
		`"},"lines":[{"sku":"a","qty":2,"price":1.25},{"sku":"b","qty":1,"price":0.5}]}`)}
	b.SetBytes(int64(len(in.Data)))
	b.ReportAllocs()
	var out []record.Record
	for b.Loop() {
		if out, err = tr.Apply(b.Context(), in, out[:0]); err != nil {
			b.Fatal(err)
		}
	}
}
