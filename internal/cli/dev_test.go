package cli

import "testing"

func TestInvocation(t *testing.T) {
	for called, want := range map[string]string{
		"ferry":                                  "ferry",
		"./ferry":                                "./ferry",
		"/usr/local/bin/ferry":                   "/usr/local/bin/ferry",
		"/tmp/go-build85548/b001/exe/ferry":      "go run ./cmd/ferry",
		"/tmp/go-build2985789548/b001/exe/ferry": "go run ./cmd/ferry",
		"/home/me/.cache/go-build/9f/9f02ab3c4d5e6f-d/ferry":      "go run ./cmd/ferry",
		"/home/somebody/with/a/long/way/to/their/tools/bin/ferry": "/home/somebody/with/a/long/way/to/their/tools/bin/ferry",
		"/home/me/go-build-tools/bin/ferry":                       "/home/me/go-build-tools/bin/ferry",
	} {
		if got := invocation([]string{called}); got != want {
			t.Errorf("called as %s: %q, want %q", called, got, want)
		}
	}
	if got := invocation(nil); got != "ferry" {
		t.Errorf("called by no name: %q", got)
	}
}
