package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"ferry/internal/api"
)

// ask runs a command that talks to the server, and gives what it printed and its exit code. A signal is one that came.
func ask(ctx context.Context, server string, sig os.Signal, args ...string) (out, talk string, code int) {
	var stdout, stderr bytes.Buffer
	c := &command{Streams: Streams{Out: &stdout, Err: &stderr}}
	root := c.root()
	root.SetArgs(append(args, "--server", server))
	err := root.ExecuteContext(ctx)
	code = c.exit(err, sig)
	return stdout.String(), stderr.String(), code
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// TestRunOfAFerryThatStops: what is known of the run is shown, and what to do.
func TestRunOfAFerryThatStops(t *testing.T) {
	looks := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		run := api.Run{ID: "r1", Pipeline: "slow", Status: "running"}
		switch {
		case r.Method == http.MethodPost:
			looks = 0
			answer(w, api.StartedRun{Run: run, New: true})
		case looks == 0:
			looks++
			run.Read, run.Published = 7, 7
			answer(w, run)
		default:
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	out, talk, code := ask(t.Context(), server.URL, nil, "run", "slow")
	if code != ExitEnvironment || !strings.Contains(out, "slow running in ") || !strings.Contains(out, "read 7 = 7 published") {
		t.Errorf("code %d, %s", code, out)
	}
	for _, want := range []string{"reach ferry at " + server.URL, "has stopped", "has committed stays", "run slow again"} {
		if !strings.Contains(talk, want) {
			t.Errorf("%q is not in %s", want, talk)
		}
	}
	out, _, code = ask(t.Context(), server.URL, nil, "run", "slow", "--json")
	if code != ExitEnvironment || !strings.Contains(out, `"status":"running"`) || !strings.Contains(out, `"published":7`) {
		t.Errorf("code %d, %s", code, out)
	}
}

// TestTailEndsSilently: Ctrl-C is how one ends it, whatever it is about.
func TestTailEndsSilently(t *testing.T) {
	for _, during := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if during {
				cancel()
				<-r.Context().Done()
				return
			}
			answer(w, api.RecordList{})
			time.AfterFunc(50*time.Millisecond, cancel) // while it waits for more
		}))
		if _, talk, code := ask(ctx, server.URL, os.Interrupt, "tail", "orders", "-f"); code != ExitInterrupt || talk != "" {
			t.Errorf("during a request %t: code %d, %q", during, code, talk)
		}
		server.Close()
		cancel()
	}
}
