package jq

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"ferry/internal/jsonscan"
)

// generator makes random programs and random values that fit each other often enough.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, 1))} }

func (g generator) pick(s ...string) string { return s[g.IntN(len(s))] }

func (g generator) leaf() string {
	return g.pick(".", ".a", ".b", ".c", ".a.b", ".a.b.c", ".b.a[0]", ".[0]", ".[0].a", ".[1][0]", ".[]", ".[-1]", ".a[]", ".c[]", ".b[]?", ".a?", "..",
		`.["a"]`, `."b"`, `.["é\n"]`, `."a".b`, ".a[1:]", ".[:1]", ".a[-1].b",
		"1", "0", "-1", "2.5", "1.0", "1e17", "9007199254740993", "100000000000000000000", "null", "true", "false", `"x"`, `"aé"`, `""`, `"\u007f<"`,
		"[]", "{}", "empty", "length", "type", "keys", "add", "not", "tostring", "$v", "$w")
}

func (g generator) program(depth int) string {
	if depth <= 0 {
		return g.leaf()
	}
	e := func() string { return g.program(depth - 1 - g.IntN(2)) }
	switch g.IntN(34) {
	case 0, 1, 2, 3:
		return e() + " | " + e()
	case 4:
		return "(" + e() + ", " + e() + ")"
	case 5:
		return "(" + g.leaf() + g.pick(" == ", " != ") + g.pick("null", "true", `"x"`, `"aé"`, "false", "1", `"a\nb"`) + ")"
	case 6, 7:
		return "(" + e() + " " + g.pick("+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "and", "or", "//") + " " + e() + ")"
	case 8, 9:
		return "[" + e() + "]"
	case 10, 11, 12, 13, 14:
		return "{" + g.pick("a", "b", `"x y"`, "z", `"é\n"`, `"\(.a)"`, "(.b)", `"k\(.c)"`) + ": (" + e() + "), " + g.pick("c", "d", "if") + ": (" + e() + ")" +
			g.pick("", ", e", ", $v", ", c: 1", `, "b"`, `, "y\(.a)"`) + "}"
	case 15:
		return "{" + g.pick("a", "b", "a, b", "b, a, c") + "}"
	case 16:
		return "(if " + e() + " then " + e() + " elif " + e() + " then " + e() + " else " + e() + " end)"
	case 17:
		return "(if " + e() + " then " + e() + " end)"
	case 18, 19:
		return "select(" + e() + ")" + g.pick("", " | "+e(), " | select("+e()+") | "+e())
	case 20:
		return "map(" + e() + ")"
	case 21:
		return g.pick("", "@json ", "@base64 ", "@html ") + `"p\(` + e() + `)-\(` + e() + `)\n"`
	case 22:
		return "(" + e() + " as $v | " + e() + ")"
	case 23:
		return "(" + e() + g.pick(" as {a: $v} | ", " as [$v, $w] | ", " as {$a, b: [$w]} | $a, ", " as {(.a): $v} | ", ` as {"c": $v} ?// $v | `) + e() + ")"
	case 24, 25:
		return "(" + e() + ")" + g.pick("?", "[0]", "[]", ".a", ".b?", "[1:2]", "[]?", `["c"]`, "[.a]", "[.b:]", `."x\(.a)"`, "[-1]")
	case 26:
		return g.pick(".[", ".a[", ".b.c[", "$v[") + e() + "]"
	case 27:
		return g.pick("startswith", "endswith", "ltrimstr", "split", "join", "has", "error", "test", "contains") + "(" + e() + ")"
	case 28:
		return "(" + e() + " | " + g.pick("ascii_downcase", "tostring", "tojson", "tonumber", "length", "keys", "add", "floor", "type", "first", "last", "not",
			"sort", "to_entries", "unique", "flatten", "any", "all", "min", "reverse", "fromjson", "@csv", "@base64", "@text", "error") + ")"
	case 29:
		return g.pick("(try "+e()+")", "(try "+e()+" catch .)", "(try error("+e()+") catch ("+e()+"))", "(label $out | "+e()+", break $out, 1)")
	case 30:
		return g.pick("sort_by", "group_by", "any", "all", "with_entries", "map_values", "first", "path", "del", "walk", "recurse", "limit(2;") + "(" + e() + ")"
	case 31:
		return g.pick("(reduce "+e()+" as $v ("+e()+"; "+e()+"))", "[foreach "+e()+" as $v ("+e()+"; "+e()+"; "+e()+")]", "[foreach "+e()+" as [$v] ("+e()+"; "+e()+")]")
	case 32:
		return "(" + g.pick(".a", ".b.c", ".[0]", ".") + " " + g.pick("=", "|=", "+=", "//=", "*=") + " " + e() + ")"
	default:
		return g.pick("-("+e()+")", "(def f: "+e()+"; "+e()+", f)", "(def select(f): 1; select("+e()+"))")
	}
}

func (g generator) value(depth int) string {
	kinds := 12
	if depth <= 0 {
		kinds = 8
	}
	space := func() string { return g.pick("", "", "", " ", "\n\t") }
	switch g.IntN(kinds) {
	case 0:
		return g.pick("null", "true", "false")
	case 1, 2:
		return fmt.Sprint(g.IntN(20) - 5)
	case 3:
		return g.pick("1.0", "2.50", "1.10", "-0", "-0.0", "0.0", "1e3", "1E-9", "1e+2", "0.1", "100000000000000000000", "-100000000000000000000", "9223372036854775807",
			"-9223372036854775808", "9223372036854775808", "1e400", "-1e1000", "9007199254740993", "123456789012345678", "999999999999999999", "1000000000000000000", "1.5e300", "0e5")
	case 4, 5:
		return g.pick(`"x"`, `"aé"`, `""`, `"a\nb"`, `"\u0041"`, `"A\/B"`, `"\ud83d\ude00"`, `"\ud800"`, "\"\x7f\"", `"\u007f"`, `"1.50"`, `"12"`, `"p1"`, `"\u00e9"`, `"😀z"`,
			`"\u2028<&>"`, `"[1,2.0]"`, `"\u0000"`, `"\"\\\b\f\n\r\t"`, `"\\u0041"`, `"aGk="`)
	case 6, 7:
		return g.pick(`"a"`, `"b"`, "1", "2", "null")
	case 8, 9:
		parts := make([]string, g.IntN(4))
		for i := range parts {
			parts[i] = space() + g.value(depth-1) + space()
		}
		return "[" + strings.Join(parts, ",") + space() + "]"
	default:
		parts := make([]string, g.IntN(6))
		for i := range parts {
			key := g.pick(`"a"`, `"b"`, `"c"`, `"a"`, `"b"`, `"c"`, `"d"`, `"e"`, `"z"`, `"if"`, `"\u0061"`, `"é\n"`, `"long key name"`, `"x y"`, "\"\x7f\"", `"\\"`, `"]"`, `""`, `"k1"`)
			parts[i] = space() + key + space() + ":" + space() + g.value(depth-1) + space()
		}
		return "{" + strings.Join(parts, ",") + space() + "}"
	}
}

// checkGenerated holds n values against one random program and returns how it was run.
func checkGenerated(t testing.TB, g generator, n int) (compiled, planned bool) {
	src := g.program(3)
	if g.IntN(2) == 0 {
		src = "1 as $v | [2] as $w | " + src
	}
	p, err := Compile(src)
	if err != nil {
		return false, false
	}
	ref := newReference(t, src)
	for range n {
		compare(t, ref, p, []byte(g.value(3)))
	}
	return true, p.plan != nil
}

func TestGenerated(t *testing.T) {
	compiled, planned, programs := 0, 0, uint64(4000)
	if raceEnabled {
		programs = 1500
	}
	for seed := range programs {
		c, p := checkGenerated(t, newGenerator(seed), 8)
		if c {
			compiled++
		}
		if p {
			planned++
		}
	}
	t.Logf("%d programs, %d of them with a plan", compiled, planned)
	if uint64(compiled) < programs/2 || uint64(planned) < programs/10 {
		t.Error("the generator makes too few programs that compile, or too few with a plan")
	}
}

func FuzzGenerated(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { checkGenerated(t, newGenerator(seed+1<<32), 20) })
}

// FuzzPrograms lets the fuzzer write both the program and the value.
func FuzzPrograms(f *testing.F) {
	f.Add(`{id, customer: .customer.email, total: (.lines | map(.price * .qty) | add)}`, `{"id":1,"customer":{"email":"a@b"},"lines":[{"price":1.10,"qty":2}]}`)
	f.Add(`select(.a.b != "x" and (.c | length) > 1) | {a: .a.b, "b": [.c[0], 1], c: .}`, `{"a":{"b":"y"},"c":[1,2]}`)
	f.Fuzz(func(t *testing.T, src, in string) {
		for _, slow := range []string{"repeat", "until", "while", "recurse", "range", "limit", "def", "combinations", "*", "walk", "..", "fromstream", "inputs", "infinite"} {
			if strings.Contains(src, slow) {
				return // may not end, and the reference has no bounds
			}
		}
		p, err := Compile(src)
		if err != nil || jsonscan.Valid([]byte(in), jsonscan.MaxDepth) != nil {
			return
		}
		compare(t, newReference(t, src), p, []byte(in))
	})
}

// FuzzValues holds decoding, encoding and the canonical copy against gojq's.
func FuzzValues(f *testing.F) {
	g := newGenerator(7)
	for range 100 {
		f.Add(g.value(4))
	}
	ref := newReference(f, ".")
	f.Fuzz(func(t *testing.T, in string) {
		b := []byte(in)
		if jsonscan.Valid(b, jsonscan.MaxDepth) != nil {
			return
		}
		want, failure := ref.run(b)
		if failure != "" {
			t.Fatal(failure)
		}
		v, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		e := encoder{limit: MaxOutput}
		if got, err := e.value(nil, v, 0); err != nil || string(got) != want[0] {
			t.Fatalf("decoded and encoded: %s, %v, want %s", got, err, want[0])
		}
		if got := e.canonical(nil, b); string(got) != want[0] {
			t.Fatalf("canonical: %s, want %s", got, want[0])
		}
	})
}
