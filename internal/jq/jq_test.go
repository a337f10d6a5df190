package jq

import "testing"

func TestSmoke(t *testing.T) {
	for _, src := range []string{".", ".a", ".[]", "{a, b: .c.d}", ".a.b", `.["x y"]`, ".a[0]", "map(.+1)"} {
		p, err := Compile(src)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range []string{`{"a":{"b":1.10},"c":{"d":[1e400,12345678901234567890]}}`, `[1,2,-0]`, `null`, `"x"`} {
			compare(t, newReference(t, src), p, []byte(in))
		}
	}
	for _, src := range []string{"", "now", "{a", "foo", "lenght", ".a | map(.b", "select(.a == 'x')", "$ENV.x", "{a: .b", ".a b", `"abc`} {
		t.Log(Check(src), CheckPath(src))
	}
}
