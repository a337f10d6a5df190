package jq

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// None of these may end the process, which a stack that grows too large does: an error is expected, whichever.
func TestNesting(t *testing.T) {
	path := fmt.Appendf(nil, `{"path":[%s"a"],"n":0}`, strings.Repeat(`"a",`, 100_000))
	large := fmt.Appendf(nil, `%q`, strings.Repeat("x", 1<<20)) // may take many steps
	slices := fmt.Appendf(nil, `[[%s{"start":0,"end":1}]]`, strings.Repeat(`{"start":0,"end":1},`, 20_000))
	null := []byte("null")
	literal := strings.Repeat(".a", 20_000)
	for _, c := range []struct {
		src, want string // want: what the error says; a result is a failure
		in        []byte
	}{
		{`null | setpath((reduce range(22) as $_ ([0]; . + .)); 1) | 1`, "a path of 4194304 steps is too long", null},
		{`getpath((reduce range(22) as $_ (["a"]; . + .))) |= 1 | 1`, "a path of 4194304 steps is too long", null},
		{`setpath(.path; 1) | {ok: 1}`, "a path of 100001 steps is too long", path},
		{`{ok: (. as $r | null | setpath($r.path; 1) | 1)}`, "a path of 100001 steps is too long", path},
		{`getpath(.path) = 1 | 1`, "too long", path},
		{`[getpath(.path)] | 1`, "too long", path},
		{`pick(getpath(.path)) | 1`, "too long", path},
		{`del(getpath(.path)) | 1`, "too long", path},
		{`delpaths([.path]) | 1`, "too long", path},
		{`. as $p | [1] | delpaths($p) | 1`, "too long", slices},
		{`fromstream([.path, 1], [[.path[0]]]) | 1`, "too long", path},
		{`def f(x): setpath(x; 1); f(.path) | 1`, "too long", path},
		{`setpath([range(10000) | "a"]; 1) | [..] | length | error`, "error: 10001", null},
		{`[null | path(limit(3000000; recurse(.a)))] | 1`, "10,000 deep", large},
		{`. as $x | null | [path(last(limit(3000000; recurse(.a))))] as $p | setpath($p[0]; 1) | 1`, "10,000 deep", large},
		{`null | last(limit(3000000; recurse(.a))) |= 1 | 1`, "10,000 deep", large},
		{`null | del(last(limit(3000000; recurse(.a)))) | 1`, "10,000 deep", large},
		{`reduce range(3000000) as $i (null; [.]) | tojson | length`, "10,000 deep", large},
		{`reduce range(3000000) as $i (null; {a: .}) | tojson | length`, "10,000 deep", large},
		{`reduce range(3000000) as $i (null; {a: .}) | (. == .)`, "10,000 deep", large},
		{`reduce range(3000000) as $i (null; {a: .}) | . * .`, "10,000 deep", large},
		{`reduce range(3000000) as $i (null; [., 1]) | flatten`, "10,000 deep", large},
		{`reduce range(3000000) as $i (null; [1, .]) | tostring`, "10,000 deep", large},
		{`reduce range(3000000) as $i (null; [.]) | error`, "10,000 deep", large},
		{`reduce range(3000000) as $i (null; [.]) | .. | 1`, "10,000 deep", large},
		{`reduce range(3000000) as $i ([1]; _group_by([1])) | [., .] | sort`, "10,000 deep", large},
		{`reduce range(3000000) as $i ({}; {a: {b: {c: {d: {e: .}}}}}) | contains(.)`, "10,000 deep", large},
		{`last(foreach range(3000000) as $i (null; [.])) | tojson`, "10,000 deep", large},
		{`def f: if .n > 3000000 then . else {n: (.n + 1), v: .v} | .v |= [.] | f end; {n: 0} | f | tojson`, "10,000 deep", large},
		{`def f($v; $n): if $n == 0 then $v else f([$v]; $n - 1) end; f(null; 1000000) | tojson`, "10,000 deep", large},
		{`def f(g; $n): if $n == 0 then g else f([g]; $n - 1) end; f(null; 200000) | tojson`, "", large},
		{`[0] | until(false; [.])`, "10,000 deep", large},
		{`null | last(repeat([.]))`, "", null},
		{`null | [recurse([.])] | length`, "10,000 deep", large},
		{`last(limit(1000000; null | recurse({a: .}))) | tojson`, "10,000 deep", large},
		{`null | (range(1000000) as $i | .) |= [.] | tojson`, "10,000 deep", large},
		{`[range(9000) | "a"] as $p | reduce range(1000) as $i (0; . as $x | null | setpath($p; $x)) | tojson`, "10,000 deep", large},
		{`[range(9000) | "a"] as $p | reduce range(1000) as $i (0; . as $x | null | getpath($p) |= $x) | tojson`, "10,000 deep", large},
		{`[range(9000) | "a"] as $p | reduce range(1000) as $i (0; . as $x | fromstream([$p, $x], [["a"]])) | tojson`, "10,000 deep", large},
		{`reduce range(500) as $i (0; . as $x | null | ` + literal + ` = $x) | tojson`, "10,000 deep", large},
		{`reduce range(500) as $i (0; . as $x | null | (` + literal + `).b = $x) | tojson`, "10,000 deep", large},
		{`reduce range(500) as $i (0; . as $x | null | ` + literal + ` |= $x) | tojson`, "10,000 deep", large},
		{`[range(9000) | "a"] as $p | path(def f: getpath($p) | f; f)`, "", large},
		{`reduce range(30) as $i ([1]; walk([.])) | tojson`, "10,000 deep", large},
	} {
		p, err := Compile(c.src)
		if err != nil {
			t.Errorf("%.100s: %v", c.src, err)
			continue
		}
		_, _, err = p.Append(t.Context(), nil, nil, c.in)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.100s: %v, want %s", c.src, err, c.want)
		}
	}
}

// Sources that nest without end are no way in either.
func TestNestingOfTheSource(t *testing.T) {
	const n = maxProgram / 4
	for _, src := range []string{
		strings.Repeat("[", n-1) + strings.Repeat("]", n-1), strings.Repeat("(", n-2) + "1" + strings.Repeat(")", n-2),
		strings.Repeat("{a:", n/2-1) + "1" + strings.Repeat("}", n/2-1), strings.Repeat("-", 2*n-2) + "1", strings.Repeat("1,", n-1) + "1",
		strings.Repeat(".|", n-1) + "1", strings.Repeat(".a", n-1) + "=1", strings.Repeat(".a", n-1), "." + strings.Repeat("?", 2*n-2),
		strings.Repeat("try ", n/2-1) + "1", strings.Repeat("1+", n-1) + "1", strings.Repeat("1 as $x|", n/4-1) + "1",
		strings.Repeat(`"\(`, n/3) + "1" + strings.Repeat(`)"`, n/3),
	} {
		p, err := Compile(src)
		if err == nil {
			_, _, err = p.Append(t.Context(), nil, nil, []byte("null"))
		}
		t.Logf("%.20s: %.80v", src, err)
	}
	var e *CompileError
	for _, check := range []func(string) error{Check, CheckPath} {
		if err := check("." + strings.Repeat(" ", maxProgram)); !errors.As(err, &e) || !strings.Contains(err.Error(), "the program has 65537 bytes; at most 65,536 are taken") {
			t.Errorf("a long program: %v", err)
		}
	}
}

// What takes the place of gojq's functions does the same where nothing is too long.
func TestPrelude(t *testing.T) {
	long := fmt.Sprintf("[[%s1],2]", strings.Repeat("[", 40)+strings.Repeat("],", 40))
	for _, src := range []string{
		`setpath(["a", 0]; 1, 2)`, `setpath(["a"], ["b", "c"]; .a, 3)`, `setpath(.a; 1)`, `setpath([{}]; 1)`, `try setpath(["a", "b"]; 1) catch .`, `path(setpath(["a"]; 1))`,
		`[paths]`, `getpath(["a", "b"])`, `getpath(["a"], ["b"])`, `[path(getpath(["a", 0], ["b"]))]`, `path(.a | getpath(["c", 0]))`, `path(getpath(["a"])[0])`, `getpath("a")`, `getpath(["a"]) |= 3`,
		`getpath(["b"]) += 1`, `del(getpath(["a"]))`, `delpaths([["a"], ["b"]])`, `delpaths(1)`, `delpaths([1])`, `delpaths([["a", "x"]])`, `to_entries`, `pick(getpath(["a"]))`,
		`[tostream]`, `fromstream(tostream)`, `[fromstream(1 | truncate_stream([[0], 1], [[1, 0], 2], [[1, 0]], [[1]]))]`, `fromstream(1)`, `fromstream([1, 2])`, `fromstream({a: 1})`, `fromstream([[], 1])`,
		`def getpath(f): "own"; getpath(["a"])`, `def setpath(a; b): [a, b]; setpath(1; 2)`, `[range(30) | "a"] as $p | setpath($p; 1) | getpath($p)`,
		`try (.x.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a = (1, 2)) catch 0`, `[getpath([range(40) | 0])]`,
		`"2024-02-29" | strptime("%Y-%m-%d")`, `"x" | strptime("%Y")`, `strptime("%Y")`, `"1" | strptime(1)`, `"1%Z" | strptime("%d%%Z")`, `getpath(["a"]) as [$x] | $x`,
	} {
		p := mustCompile(t, src)
		for _, in := range []string{`null`, `{}`, `{"a":[1,{"b":2}],"b":{"c":[null]}}`, `{"a":{"b":1}}`, `[1,[2]]`, `7`, `"s"`, long} {
			compare(t, newReference(t, src), p, []byte(in))
		}
	}
}

func TestTimeZones(t *testing.T) {
	for _, src := range []string{`strptime("%H %Z")`, `.a | strptime("%+")`, `"%Z" as $f | def f: strptime("%d %Z"); f`} {
		if err := Check(src); err == nil || !strings.Contains(err.Error(), "depends on the machine's time zone") {
			t.Errorf("Check(%s) = %v", src, err)
		}
	}
	for _, src := range []string{`.f as $f | .t | strptime($f)`, `{x: (.f as $f | .t | strptime($f) | mktime)}`, `.t | strptime("%H " + "%Z")`} {
		_, _, err := mustCompile(t, src).Append(t.Context(), nil, nil, []byte(`{"t":"2024 EST","f":"%Y %Z"}`))
		if e := new(RunError); !errors.As(err, &e) || e.Msg != zoneRefused {
			t.Errorf("%s: %v", src, err)
		}
	}
	for format, want := range map[string]bool{"": false, "%": false, "Z": false, "%Y-%m-%dT%H:%M:%SZ": false, "%z": false, "%%Z": false, "%%%Z": true, "%+": true, "é%Z": true} {
		if namesZone(format) != want {
			t.Errorf("namesZone(%q) = %v", format, !want)
		}
	}
}

func TestHiddenNames(t *testing.T) {
	for _, src := range []string{`_ferry_setpath([]; 1)`, `setpath([]; 1) | _ferry_cost`} {
		if err := Check(src); err == nil || !strings.Contains(err.Error(), "are ferry's own") {
			t.Errorf("Check(%s) = %v", src, err)
		}
	}
}

// BenchmarkLooks is a program that is looked at, on a large record, beside one that is not.
func BenchmarkLooks(b *testing.B) {
	in := append(append([]byte("["), bytes.Join(benchOrders(4000), []byte(","))...), ']')
	for name, src := range map[string]string{"looked at": `[foreach .[] as $x ({n: 0}; {n: (.n + 1), x: $x}; {n, p: .x.price, s: ([.x.lines[] | .price * .qty] | add)})] | length`, "not": `[.[] | {n: 1, p: .price, s: ([.lines[] | .price * .qty] | add)}] | length`} {
		p := mustCompile(b, src)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				if _, _, err := p.Append(b.Context(), nil, nil, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
