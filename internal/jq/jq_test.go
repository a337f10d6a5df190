package jq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/jsonscan"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustCompile(t testing.TB, src string) *Program {
	t.Helper()
	p, err := Compile(src)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCases(t *testing.T) {
	text, err := os.ReadFile("testdata/cases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name, Program, Input string
		Results              []string
		ExpectError          string `yaml:"expect_error"`
	}
	if err := yaml.UnmarshalWithOptions(text, &cases, yaml.DisallowUnknownField()); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			p := mustCompile(t, c.Program)
			dst, ends, err := p.Append(t.Context(), nil, nil, []byte(c.Input))
			if c.ExpectError != "" {
				if err == nil || err.Error() != c.ExpectError {
					t.Fatalf("got %s and error %v, want %s", dst, err, c.ExpectError)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, start := []string{}, 0
			for _, end := range ends {
				got, start = append(got, string(dst[start:end])), end
			}
			if d := cmp.Diff(c.Results, got); d != "" {
				t.Error(d)
			}
			compare(t, newReference(t, c.Program), p, []byte(c.Input))
		})
	}
}

func TestCompileErrors(t *testing.T) {
	for _, c := range []struct {
		src    string
		offset int
		want   string
	}{
		{"", 0, "jq: the program is empty; write . to pass the record on as it is"},
		{"{a", 2, `jq: unexpected end; something is missing, such as a closing bracket or end in "{a"`},
		{".a b", 3, `jq: unexpected token "b" at character 4 in ".a b"`},
		{`.é == 1`, 1, `jq: unexpected token "é" at character 2; write ."é" in ".é == 1"`},
		{" ", 0, "jq: the program is empty"},
		{`.a == 'x'`, 6, `jq: unexpected token "'"; strings are written in double quotes at character 7 in ".a == 'x'"`},
		{".a | lenght", 5, `jq: function not defined: lenght/0; did you mean length? in ".a | lenght"`},
		{"{a: open}", 4, `jq: function not defined: open/0; for the text write "open", for the field .open in "{a: open}"`},
		{"$x", 0, `jq: variable not defined: $x in "$x"`},
		{".a | now", 5, "now is refused: it changes with time"},
		{"input", 0, "input is refused: a program sees one record at a time"},
		{"[inputs]", 1, "inputs is refused"},
		{"env.HOME", 0, "env is refused: a program has no environment"},
		{"$ENV.HOME", 0, "$ENV is refused"},
		{"def f: {a: [.b | debug]}; f", 17, "debug is refused"},
		{`debug("x")`, 0, "debug is refused"},
		{"stderr", 0, "stderr is refused"},
		{`"\(halt)"`, 3, "halt is refused"},
		{"halt_error", 0, "halt_error is refused"},
		{"try .a catch localtime", 13, "localtime is refused: it depends on the machine's time zone"},
		{`strflocaltime("%H")`, 0, "strflocaltime is refused"},
		{"input_filename", 0, "input_filename is refused"},
		{"builtins", 0, "builtins is refused"},
		{`import "a" as a; .`, 0, "import and include are refused"},
		{`include "a"; .`, 0, "import and include are refused"},
		{`{"a": $__prog_args}`, 6, "variable not defined"},
	} {
		err := Check(c.src)
		var e *CompileError
		if !errors.As(err, &e) || e.Offset() != c.offset || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Check(%q) = %v (offset %d), want %s (offset %d)", c.src, err, e.Offset(), c.want, c.offset)
		}
	}
	for _, src := range []string{".", "{now: .now, env: .env}", ".input | {debug}", `"now"`, "gmtime | mktime", "limit(3; repeat(1))", `strptime("%Y")`} {
		if err := Check(src); err != nil {
			t.Errorf("Check(%q) = %v", src, err)
		}
	}
}

func TestPaths(t *testing.T) {
	for src, want := range map[string][]jsonscan.Step{
		".":                nil,
		".a":               {{Key: "a"}},
		".a.b":             {{Key: "a"}, {Key: "b"}},
		`."a b"`:           {{Key: "a b"}},
		`.["a b"].c`:       {{Key: "a b"}, {Key: "c"}},
		`.a["b\n"]`:        {{Key: "a"}, {Key: "b\n"}},
		".[0]":             {{Index: 0, IsIndex: true}},
		".a[-2].b":         {{Key: "a"}, {Index: -2, IsIndex: true}, {Key: "b"}},
		".data[]":          {{Key: "data"}, {Each: true}},
		".[]":              {{Each: true}},
		" .data .items[] ": {{Key: "data"}, {Key: "items"}, {Each: true}},
	} {
		p, err := ParsePath(src)
		if err != nil {
			t.Errorf("ParsePath(%q): %v", src, err)
		}
		if d := cmp.Diff(want, p.Steps()); d != "" {
			t.Errorf("ParsePath(%q): %s", src, d)
		}
	}
	for _, src := range []string{".a?", ".a | .b", ".[1:]", ".[.a]", `."\(1)"`, "..", "1", ".a + 1", "def f: 1; .a", `.a["\(1)"]`, ".[1.5]", ".[1e3]", ".[- -1]", "first"} {
		if _, err := ParsePath(src); !IsNotPath(err) {
			t.Errorf("ParsePath(%q): %v, want that it is not a path", src, err)
		}
	}
	for _, src := range []string{"", ".a.", "data", ".["} {
		if _, err := ParsePath(src); err == nil || IsNotPath(err) && src != "data" {
			t.Errorf("ParsePath(%q): %v, want that it is wrong", src, err)
		}
	}
}

func TestPathAll(t *testing.T) {
	for _, c := range []struct{ path, in, want, fails string }{
		{".", ` {"a": 1} `, `{"a": 1}|`, ""},
		{".a", `{"a":1}`, `1|`, ""},
		{".a", `{}`, ``, ""},
		{".a[]", `{"a":[1, {"b": 2}]}`, `1|{"b": 2}|`, ""},
		{".a[]", `{"a":null}`, ``, ""},
		{".a[]", `{}`, ``, ""},
		{".a[].b", `{"a":[{"b":1},{},{"b":null}]}`, `1|null|`, ""},
		{".[].b[]", `[{"b":[1,2]},{"b":[]},{"b":[3]}]`, `1|2|3|`, ""},
		{".a[]", `{"a":{"b":1}}`, ``, "step 2 of the path needs an array but meets a value of type object"},
		{".a[].b", `{"a":[{"b":1},7]}`, `1|`, "step 3 of the path needs an object but meets a value of type number"},
		{".a[]", `{"a":[1,}`, ``, "invalid JSON at byte 8: expected a value, found '}'"},
	} {
		p, err := ParsePath(c.path)
		if err != nil {
			t.Fatal(err)
		}
		got, fails := "", ""
		for v, err := range p.All([]byte(c.in)) {
			if err != nil {
				fails = err.Error()
				continue
			}
			got += string(v) + "|"
		}
		if got != c.want || fails != c.fails {
			t.Errorf("%s of %s: %q, %q; want %q, %q", c.path, c.in, got, fails, c.want, c.fails)
		}
		for range p.All([]byte(c.in)) {
			break // must be allowed
		}
	}
	p, _ := ParsePath(".a[]")
	if v, found, err := p.Get([]byte(`{"a":[5,6]}`)); err != nil || !found || string(v) != "5" {
		t.Errorf("Get = %s, %v, %v", v, found, err)
	}
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		src  string
		want error
	}{
		{`range(100001)`, ErrTooMany},
		{`"x" * 17e6`, ErrTooLarge},
		{`range(20) | "x" * 1e6`, ErrTooLarge},
		{`{a: ("x" * 17e6)}`, ErrTooLarge},
		{`reduce range(40) as $i ("x"; [., .])`, ErrTooLarge}, // 2^40 strings, of which the engine holds 40
		{`[limit(10; repeat(1))] | last | repeat(.)`, ErrTooMany},
		{`def f: f; f`, ErrTooLong},
		{`[range(1e12)] | length`, ErrTooLong},
		{`reduce range(1025) as $i (0; [.])`, ErrTooDeep},
		{`reduce range(1025) as $i (0; {a: .})`, ErrTooDeep},
	} {
		dst, ends, err := mustCompile(t, c.src).Append(t.Context(), nil, nil, []byte("null"))
		if !errors.Is(err, c.want) || dst != nil || ends != nil {
			t.Errorf("%s: %v, want %v", c.src, err, c.want)
		}
	}
	for _, src := range []string{`range(100000)`, `"x" * 16777214`, `reduce range(1024) as $i (0; [.])`} {
		if _, _, err := mustCompile(t, src).Append(t.Context(), []byte("before"), nil, []byte("null")); err != nil {
			t.Errorf("%s: %v", src, err)
		}
	}
	deep := strings.Repeat("[", 1025) + strings.Repeat("]", 1025)
	for _, src := range []string{".", ".[0]", "[.]", "{a: .}", "length"} {
		if _, _, err := mustCompile(t, src).Append(t.Context(), nil, nil, []byte(deep)); !errors.Is(err, jsonscan.ErrDepth) {
			t.Errorf("%s of a deep value: %v", src, err)
		}
	}
}

func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, src := range []string{".", ".a", "{a: .b}", "[repeat(1)]"} {
		p := mustCompile(t, src)
		if _, _, err := p.Append(ctx, nil, nil, []byte("{}")); !errors.Is(err, context.Canceled) {
			t.Errorf("Append of %s: %v", src, err)
		}
	}
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	in := []byte(`"` + strings.Repeat("x", 10<<20) + `"`) // so large an input may take a thousand million steps
	if _, _, err := mustCompile(t, "def f: f; f").Append(ctx, nil, nil, in); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("endless: %v", err)
	}
}

func TestStopsAtTheFirst(t *testing.T) {
	p := mustCompile(t, `1, error("not reached")`)
	if got, found, err := p.One(t.Context(), []byte("null")); err != nil || !found || string(got) != "1" {
		t.Errorf("One = %s, %v, %v", got, found, err)
	}
	if got, err := p.Test(t.Context(), []byte("null")); err != nil || !got {
		t.Errorf("Test = %v, %v", got, err)
	}
	if got, err := mustCompile(t, "false, null, 0").Test(t.Context(), []byte("null")); err != nil || !got {
		t.Errorf("Test of a later truth = %v, %v", got, err)
	}
}

func TestConcurrentUse(t *testing.T) {
	records := benchOrders(20)
	for _, src := range []string{"{id, n: .customer.name, total: (.lines | map(.price * .qty) | add)}", "{transformed_data: .}", ".lines[] | {sku}", `select(.status | test("o.en"))`} {
		p := mustCompile(t, src)
		want := make([]string, len(records))
		for i, r := range records {
			dst, ends, err := p.Append(t.Context(), nil, nil, r)
			if err != nil {
				t.Fatal(err)
			}
			want[i] = fmt.Sprint(string(dst), ends)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 20 {
					for i, r := range records {
						dst, ends, err := p.Append(t.Context(), nil, nil, r)
						if got := fmt.Sprint(string(dst), ends); err != nil || got != want[i] {
							t.Errorf("%s: %s, %v, want %s", src, got, err, want[i])
							return
						}
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestPlansAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	r := benchOrders(1)[0]
	for _, src := range []string{".", ".customer.email", "{transformed_data: ., status: \"processed\"}", "{id, tags, first: .lines[0].sku}"} {
		p := mustCompile(t, src)
		ctx := t.Context()
		var dst []byte
		var ends []int
		if n := testing.AllocsPerRun(200, func() {
			var err error
			if dst, ends, err = p.Append(ctx, dst[:0], ends[:0], r); err != nil {
				t.Fatal(err)
			}
		}); n >= 1 {
			t.Errorf("%s: %v allocations", src, n)
		}
	}
}

func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGuard(1, time.Second)
		release := make(chan struct{})
		start := time.Now()
		stuck := func(context.Context) (int, error) { <-release; return 1, nil } // heeds no context
		if _, err := Guarded(t.Context(), g, stuck); !errors.Is(err, ErrDeadline) || time.Since(start) != time.Second {
			t.Errorf("stuck: %v after %v", err, time.Since(start))
		}
		if _, err := Guarded(t.Context(), g, stuck); !errors.Is(err, ErrBusy) {
			t.Errorf("while the first still runs: %v", err)
		}
		close(release)
		synctest.Wait()
		if v, err := Guarded(t.Context(), g, func(context.Context) (int, error) { return 7, nil }); v != 7 || err != nil {
			t.Errorf("after that: %v, %v", v, err)
		}
		synctest.Wait()
		own := errors.New("own")
		if _, err := Guarded(t.Context(), g, func(context.Context) (int, error) { return 0, own }); err != own {
			t.Errorf("own error: %v", err)
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Guarded(ctx, g, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		synctest.Wait()
		if _, err := Guarded(t.Context(), g, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }); !errors.Is(err, ErrDeadline) {
			t.Errorf("heeds its context: %v", err)
		}
	})
}

// Regular expressions out of records must not pile up: the program forgets them now and then, and goes on as before.
func TestComputedRegexps(t *testing.T) {
	for src, want := range map[string]bool{
		`test("a")`: false, `split(", ")`: false, `split("a"; null)`: false, `.a | sub("x"; .y)`: false, `gsub("\\s"; "")`: false,
		`test(.re)`: true, `test("a\(.b)")`: true, `[.[] | match($x; "g")]`: true, `split(.a; null)`: true, `test("a" | .)`: true,
	} {
		q, err := parse("1 as $x | " + src)
		if err != nil {
			t.Fatal(err)
		}
		if got := hasComputedRegexp(q); got != want {
			t.Errorf("%s: %v", src, got)
		}
	}
	p := mustCompile(t, `{ok: (.re as $re | .text | test($re))}`)
	c := p.plan.root.parts[0].code
	before := c.current.Load()
	for i := range 2 * runsPerCompile {
		in := fmt.Appendf(nil, `{"re":"^a%d$","text":"a%d"}`, i, i)
		if got, _, err := p.One(t.Context(), in); err != nil || string(got) != `{"ok":true}` {
			t.Fatalf("%s: %s, %v", in, got, err)
		}
	}
	if c.current.Load() == before {
		t.Error("the program still holds all regular expressions")
	}
}

// Work with a number takes time that grows with the square of its digits; copies take none.
func TestLongNumbers(t *testing.T) {
	digits := strings.Repeat("7", MaxNumber)
	for src, fails := range map[string]bool{".": false, ".n": false, "{a: .n}": false, "{a: .n, b: (.x + 1)}": false, "{a: (.n + 1)}": true, ".n + 1": true, "[..] | length": true} {
		p := mustCompile(t, src)
		_, _, err := p.Append(t.Context(), nil, nil, []byte(`{"n":0.`+digits+`,"x":1}`))
		if e := new(RunError); fails != errors.As(err, &e) || fails && e.Msg != "a number of 10002 digits is too long to work with; at most 10,000 are taken" || !fails && err != nil {
			t.Errorf("%s: %v", src, err)
		}
		if _, _, err := p.Append(t.Context(), nil, nil, []byte(`{"n":`+digits+`,"x":1}`)); err != nil {
			t.Errorf("%s of 10,000 digits: %v", src, err)
		}
	}
}
