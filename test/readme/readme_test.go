package readme

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

const root = "../.."

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestFirstMinute does what the README tells a stranger to do, block by block, in its order.
func TestFirstMinute(t *testing.T) {
	blocks, err := blocksOf(read(t, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStranger(t)
	done := map[string]int{}
	for _, b := range blocks {
		what, argument, _ := strings.Cut(b.what, " ")
		done[what]++
		switch what {
		case "start":
			s.start(t, b)
		case "run":
			s.run(t, b)
		case "prints":
			s.compare(t, b)
		case "file":
			compareFile(t, b, argument)
		case "words":
			compareWords(t, b, strings.TrimPrefix(argument, "of "))
		default:
			t.Errorf("README.md:%d: the block has no <!-- test: … --> that says how it is tested: %q", b.line, b.what)
		}
	}
	for _, what := range []string{"start", "run", "prints", "file", "words"} {
		if done[what] == 0 {
			t.Errorf("README.md has no block to %s", what)
		}
	}
}

// stranger is somebody with a fresh clone and the README.
type stranger struct {
	dir  string // what a command finds in its working directory
	url  string // of the running service
	said string // what the last command wrote to its standard output
}

// ferry is the binary under test, built once.
var ferry string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ferry-readme")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ferry = filepath.Join(dir, "ferry")
	if runtime.GOOS == "windows" {
		ferry += ".exe"
	}
	build := exec.Command("go", "build", "-o", ferry, "./cmd/ferry")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func newStranger(t *testing.T) *stranger {
	t.Helper()
	s := &stranger{dir: t.TempDir()}
	if err := os.CopyFS(filepath.Join(s.dir, "examples"), os.DirFS(filepath.Join(root, "examples"))); err != nil {
		t.Fatal(err)
	}
	return s
}

// command makes the command of a line: `go run ./cmd/ferry` and `ferry` are the binary. Of the environment it gets
// what a process needs, and nothing that configures ferry.
func (s *stranger) command(ctx context.Context, words []string) (*exec.Cmd, error) {
	switch {
	case len(words) > 3 && strings.Join(words[:3], " ") == "go run ./cmd/ferry":
		words = words[3:]
	case len(words) > 1 && words[0] == "ferry":
		words = words[1:]
	default:
		return nil, fmt.Errorf("the test knows curl, ferry and go run ./cmd/ferry, not %q", words)
	}
	cmd := exec.CommandContext(ctx, ferry, words...)
	cmd.Dir = s.dir
	for _, name := range []string{"HOME", "PATH", "TMPDIR", "TEMP", "TMP", "SystemRoot", "USERPROFILE", "LOCALAPPDATA"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	return cmd, nil
}

// start runs the block's one command in the background, on a port of its own, until the test ends.
func (s *stranger) start(t *testing.T, b block) {
	t.Helper()
	words, err := wordsOf(strings.TrimSpace(b.text))
	if err != nil {
		t.Fatalf("README.md:%d: %v", b.line, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := s.command(ctx, append(words, "--listen", "127.0.0.1:0", "--json"))
	if err != nil {
		cancel()
		t.Fatalf("README.md:%d: %v", b.line, err)
	}
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	cmd.Cancel = func() error {
		if runtime.GOOS == "windows" {
			return cmd.Process.Kill()
		}
		return cmd.Process.Signal(os.Interrupt)
	}
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		// A cancelled command reports its context's end even when it stopped well.
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) && runtime.GOOS != "windows" {
			t.Errorf("%s ended with %v\n%s", words, err, &talk)
		}
	})
	var ready struct{ URL, Docs, Mock string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil || ready.URL == "" {
		t.Fatalf("%s is not ready: %v\n%s\n%s", words, err, line, &talk)
	}
	s.url = ready.URL
}

// run runs each line of the block and keeps what the last one printed.
func (s *stranger) run(t *testing.T, b block) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for line := range strings.Lines(b.text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "  #")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words, err := wordsOf(line)
		if err != nil {
			t.Fatalf("README.md:%d: %v", b.line, err)
		}
		if words[0] == "curl" {
			s.said, err = s.curl(ctx, words[1:])
		} else {
			s.said, err = s.call(ctx, words)
		}
		if err != nil {
			t.Fatalf("README.md:%d: %s: %v", b.line, line, err)
		}
	}
}

func (s *stranger) call(ctx context.Context, words []string) (string, error) {
	cmd, err := s.command(ctx, words)
	if err != nil {
		return "", err
	}
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w\n%s%s", err, &out, &talk)
	}
	return out.String(), nil
}

// curl is as much of curl as the README uses, so that the tests need only Go.
func (s *stranger) curl(ctx context.Context, words []string) (string, error) {
	method, address, header, body := http.MethodGet, "", http.Header{}, ""
	for i := 0; i < len(words); i++ {
		switch words[i] {
		case "-s":
		case "-X", "-H", "-d":
			if i+1 == len(words) {
				return "", fmt.Errorf("%s has no value", words[i])
			}
			switch value := words[i+1]; words[i] {
			case "-X":
				method = value
			case "-H":
				name, v, _ := strings.Cut(value, ":")
				header.Set(name, strings.TrimSpace(v))
			case "-d":
				method, body = http.MethodPost, value
			}
			i++
		default:
			address = words[i]
		}
	}
	path, ok := strings.CutPrefix(strings.TrimPrefix(address, "http://"), "localhost:8080")
	if !ok {
		return "", fmt.Errorf("the README asks %q; the service is at localhost:8080", address)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = errors.New(resp.Status)
	}
	return string(b), err
}

var (
	seconds = regexp.MustCompile(`\b\d+\.\d+s\b`)
	moment  = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`)
)

// steady replaces what differs from run to run.
func steady(text string) string {
	return moment.ReplaceAllString(seconds.ReplaceAllString(strings.TrimSpace(text), "N s"), "TIME")
}

// compare holds the block against what the last command printed.
func (s *stranger) compare(t *testing.T, b block) {
	t.Helper()
	if diff := cmp.Diff(steady(b.text), steady(s.said)); diff != "" {
		t.Errorf("README.md:%d: the README shows something else than what is printed (-README +printed):\n%s", b.line, diff)
	}
}

// compareFile holds a configuration in the README against the file that it says it is. Comments may differ.
func compareFile(t *testing.T, b block, name string) {
	t.Helper()
	var shown, real any
	if err := yaml.Unmarshal([]byte(b.text), &shown); err != nil {
		t.Fatalf("README.md:%d: %v", b.line, err)
	}
	if err := yaml.Unmarshal([]byte(read(t, name)), &real); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if diff := cmp.Diff(shown, real); diff != "" {
		t.Errorf("README.md:%d: the README shows another %s (-README +file):\n%s", b.line, name, diff)
	}
}

// compareWords is for commands that a test cannot run, such as the tests themselves: another file runs these words.
func compareWords(t *testing.T, b block, name string) {
	t.Helper()
	words := strings.TrimSpace(b.text)
	if !strings.Contains(read(t, name), words) {
		t.Errorf("README.md:%d: %s does not run %q", b.line, name, words)
	}
}
