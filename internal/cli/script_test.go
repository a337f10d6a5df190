package cli_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ferry/internal/cli"
)

// TestMain lets the scripts call ferry as a program: the test binary itself.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ferry": func() { os.Exit(cli.Main(os.Args[1:], cli.System())) },
	})
}

// TestScripts runs what people type, in testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			examples, err := filepath.Abs("../../examples")
			if err != nil {
				return err
			}
			env.Setenv("EXAMPLES", examples)
			l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free just now
			if err != nil {
				return err
			}
			_, port, err := net.SplitHostPort(l.Addr().String())
			if err != nil {
				return err
			}
			env.Setenv("FREE", port)
			if err := l.Close(); err != nil {
				return err
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":  ready,
			"get":    get,
			"post":   post,
			"exits":  exits,
			"count":  count,
			"kill":   killInstance,
			"status": status,
			"await":  await,
			"sleep":  sleep,
		},
	})
}

// ready waits until a ferry over ./data (or the folder named) serves, and sets $URL.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	data := "data"
	if len(args) > 0 {
		data = args[0]
	}
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		in, err := instance(ts, data)
		if err != nil || in.URL == "" {
			continue
		}
		if resp, err := http.Get(in.URL + "/readyz"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				ts.Setenv("URL", in.URL)
				return
			}
		}
	}
	ts.Fatalf("no ferry became ready over %s", data)
}

type who struct {
	PID int
	URL string
}

func instance(ts *testscript.TestScript, data string) (who, error) {
	var in who
	b, err := os.ReadFile(ts.MkAbs(filepath.Join(data, "instance.json")))
	if err != nil {
		return in, err
	}
	err = json.Unmarshal(b, &in)
	return in, err
}

// get URL prints the answer's body into the file named "answer"; status tells its status.
func get(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Get(args[0])
	ts.Check(err)
	answered(ts, neg, resp)
}

// post URL [FILE] sends a file of JSON, or none; the answer goes where get's does.
func post(ts *testscript.TestScript, neg bool, args []string) {
	var body io.Reader
	if len(args) > 1 {
		body = strings.NewReader(ts.ReadFile(args[1]))
	}
	resp, err := http.Post(args[0], "application/json", body)
	ts.Check(err)
	answered(ts, neg, resp)
}

func answered(ts *testscript.TestScript, neg bool, resp *http.Response) {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("answer"), b, 0o600))
	ts.Setenv("STATUS", strconv.Itoa(resp.StatusCode))
	if ok := resp.StatusCode < 400; ok == neg {
		ts.Fatalf("%s %s: %s %s", resp.Request.Method, resp.Request.URL, resp.Status, b)
	}
}

// await URL waits until it answers with success.
func await(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get(args[0]); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
	}
	ts.Fatalf("%s did not answer", args[0])
}

// sleep DURATION is for what should not happen.
func sleep(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	time.Sleep(d)
}

// status N checks the last answer's status.
func status(ts *testscript.TestScript, _ bool, args []string) {
	if got := ts.Getenv("STATUS"); got != args[0] {
		ts.Fatalf("status %s, want %s", got, args[0])
	}
}

// exits CODE COMMAND… checks the exit code of a command.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if err != nil {
		text := err.Error()
		i := strings.LastIndex(text, "exit status ")
		if i < 0 {
			ts.Fatalf("%v", err)
		}
		code, err = strconv.Atoi(text[i+len("exit status "):])
		ts.Check(err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// count FILE N checks how many lines a file (or stdout) has.
func count(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	if got := strings.Count(text, "\n"); strconv.Itoa(got) != args[1] {
		ts.Fatalf("%s has %d lines, want %s", args[0], got, args[1])
	}
}

// killInstance kills the ferry over ./data as kill -9 does.
func killInstance(ts *testscript.TestScript, _ bool, _ []string) {
	in, err := instance(ts, "data")
	ts.Check(err)
	p, err := os.FindProcess(in.PID)
	ts.Check(err)
	ts.Check(p.Kill())
}
