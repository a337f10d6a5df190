package jsonscan

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// order is one of the simulated API's, 890 bytes.
const order = `{"id":4711,"number":"F-00004711","account":9007199254750413,"status":"shipped","created_at":"2025-03-01T10:11:12Z","updated_at":"2025-03-02T10:11:12Z","currency":"EUR","customer":{"id":2713,"email":"grace2713@example.com","name":"Grace Nakamura","country":"DE"},"lines":[{"sku":"SKU-00312","title":"Rope, 10 m","qty":3,"price":12.50},{"sku":"SKU-00499","title":"Deck brush","qty":1,"price":7.90}],"note":"Bitte bis Freitag – danke! Größe XL","pad":"A ferry carries whatever is put aboard from one side to the other and asks no questions of it. It leaves when it is full or when it is time, whichever comes first; it waits for nobody who is late, and it turns back for nobody who has forgotten something. On foggy days it sounds its horn every two minutes. On clear days the captain reads the water, which is never twice the same, and steers by the church on the far bank. What was counted."}`

var finderPaths = [][]Step{
	{{Key: "id"}},
	{{Key: "customer"}, {Key: "email"}},
	{{Key: "lines"}, {Index: 1, IsIndex: true}, {Key: "qty"}},
	{{Key: "lines"}, {Index: 0, IsIndex: true}},
	{{Key: "a\"b"}},
	{{Key: `a\u0062`}}, // not "ab"
	{{Key: "é"}},
	{{Key: ""}},
	{{Key: "customer"}},
}

func newFinder(t testing.TB, paths ...[]Step) *Finder {
	t.Helper()
	f, ok := NewFinder(paths...)
	if !ok {
		t.Fatalf("no finder for %v", paths)
	}
	return f
}

// checkFinder compares one pass with Skip and with one Get for each path.
func checkFinder(t *testing.T, f *Finder, in []byte, depth int) {
	t.Helper()
	spans := make([]Span, f.Len())
	end, err := f.Find(in, 0, depth, spans)
	wantEnd, wantErr := Skip(in, 0, depth)
	if errors.Is(err, ErrUnfit) {
		for _, path := range finderPaths {
			if _, _, gerr := Get(in, path); gerr != nil {
				return // of another kind, or not valid further on
			}
		}
		if !strings.Contains(fmt.Sprintf("%q", in), `"`) {
			t.Fatalf("%q: does not fit, without any key", in)
		}
		return // a key comes twice
	}
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Fatalf("%q: %v, Skip says %v", in, err, wantErr)
	}
	if err != nil {
		return
	}
	if end != wantEnd {
		t.Fatalf("%q: ends at %d, by Skip at %d", in, end, wantEnd)
	}
	for i, path := range finderPaths {
		want, found, err := Get(in[:end], path)
		if err != nil {
			t.Fatalf("%q: Get %v: %v", in, path, err)
		}
		at := spans[i]
		if got := in[at.Start:at.End]; found != (at.End > 0) || !bytes.Equal(got, want) {
			t.Fatalf("%q: %v is %q, by Get %q", in, path, got, want)
		}
	}
}

var finderTexts = []string{
	order, "", " ", "1", "null", `"x"`, `[]`, `{}`, `{ }`, ` { "id" : 1 , "customer" : { "email" : "x" } } `,
	`{"id":null,"customer":null,"lines":null}`, `{"id":1,"id":2}`, `{"customer":3}`, `{"customer":[]}`, `{"lines":{}}`, `{"lines":[]}`,
	`{"lines":[1,{"qty":2}]}`, `{"lines":[1,2]}`, `{"lines":[[],{"qty":{"a":[1,2]}},3]}`, `{"a\"b":1}`, `{"a\u0022b":1}`, `{"ab":1}`, `{"a\u0062":1}`,
	`{"a\\u0062":1}`, `{"é":1}`, `{"\u00e9":1}`, `{"":1}`, `{"i\u0064":5}`, `{"id":5,"i\u0064":6}`,
	`{"id"`, `{"id":`, `{"id":1`, `{"id":1,`, `{"id":1,}`, `{"id" 1}`, `{"id":1 "x":2}`, `{id:1}`, `{"id":}`, `{"id":01}`, `{"id":"`, `{"id":"\x"}`, `{"i`, `{"id":1]`,
	"{\"id\xff\":1}", "{\"\x01\":1}", `{"lines":[1,]}`, `{"lines":[1 2]}`, `{"lines":[1`, `{"deep":[[[[[[]]]]]]}`, `{"lines":[[[[[]]]]]}`, `{"customer":{"email":[[[]]]}}`,
}

func TestFinder(t *testing.T) {
	f := newFinder(t, finderPaths...)
	for _, text := range finderTexts {
		for _, depth := range []int{MaxDepth, 4, 3, 2, 1, 0} {
			checkFinder(t, f, []byte(text), depth)
		}
		for n := range text { // as a stream comes
			checkFinder(t, f, []byte(text[:n]), MaxDepth)
		}
	}
	for _, text := range []string{`{"id":1,"id":2}`, `{"customer":3}`, `{"lines":{}}`, `{"lines":[1,2]}`} {
		if _, err := f.Find([]byte(text), 0, MaxDepth, make([]Span, f.Len())); !errors.Is(err, ErrUnfit) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestFinderRefuses(t *testing.T) {
	many := make([][]Step, maxKeys+1)
	for i := range many {
		many[i] = []Step{{Key: fmt.Sprint(i)}}
	}
	for name, paths := range map[string][][]Step{
		"each": {{{Key: "a"}, {Each: true}}}, "from the end": {{{Index: -1, IsIndex: true}}}, "twice": {{{Key: "a"}}, {{Key: "a"}}}, "many": many,
	} {
		if _, ok := NewFinder(paths...); ok {
			t.Errorf("%s: accepted", name)
		}
	}
	newFinder(t, many[1:]...)
	whole := newFinder(t, nil)
	var at [1]Span
	if end, err := whole.Find([]byte(" [1] x"), 0, 1, at[:]); err != nil || end != 4 || at[0] != (Span{1, 4}) {
		t.Errorf("the value itself: %v, %d, %v", at, end, err)
	}
}

func FuzzFinder(f *testing.F) {
	for _, text := range finderTexts {
		f.Add([]byte(text), 9)
	}
	finder := newFinder(f, finderPaths...)
	f.Fuzz(func(t *testing.T, in []byte, depth int) { checkFinder(t, finder, in, depth&1023) })
}

func BenchmarkFinder(b *testing.B) {
	in := []byte(order)
	f := newFinder(b, []Step{{Key: "id"}}, []Step{{Key: "status"}}, []Step{{Key: "customer"}, {Key: "email"}}, []Step{{Key: "currency"}})
	spans := make([]Span, f.Len())
	b.Run("four places", func(b *testing.B) {
		b.SetBytes(int64(len(in)))
		for b.Loop() {
			if _, err := f.Find(in, 0, MaxDepth, spans); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("skip", func(b *testing.B) {
		b.SetBytes(int64(len(in)))
		for b.Loop() {
			if _, err := Skip(in, 0, MaxDepth); err != nil {
				b.Fatal(err)
			}
		}
	})
}
