package readme

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBlocksOf(t *testing.T) {
	got, err := blocksOf("# x\n\n<!-- test: run -->\n```sh\nls -l\n\npwd\n```\n\n```yaml\na: 1\n```\n<!-- test: start -->\ntext between\n```sh\nx\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []block{
		{line: 4, language: "sh", what: "run", text: "ls -l\n\npwd\n"},
		{line: 10, language: "yaml", text: "a: 1\n"},
		{line: 15, language: "sh", text: "x\n"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{})); diff != "" {
		t.Error(diff)
	}
	if _, err := blocksOf("```sh\nx\n"); err == nil {
		t.Error("an open block was taken")
	}
}

func TestWordsOf(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
		bad  bool
	}{
		{line: "curl localhost:8080/process", want: []string{"curl", "localhost:8080/process"}},
		{line: `curl -d '{"id": 1}'  -H "A: b" x`, want: []string{"curl", "-d", `{"id": 1}`, "-H", "A: b", "x"}},
		{line: "a | b", bad: true},
		{line: "a 'b", bad: true},
		{line: "a ''", want: []string{"a", ""}},
	} {
		got, err := wordsOf(c.line)
		if (err != nil) != c.bad {
			t.Errorf("%q: %v", c.line, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: %s", c.line, diff)
		}
	}
}
