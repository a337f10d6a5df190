//go:build linux

// Package brokers tests scripts/brokers on the broker that starts quickest, in a folder of its own.
package brokers

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// brokers runs the script over a state folder; it returns what it wrote to stdout and how it ended.
func brokers(t *testing.T, state string, args ...string) (out string, exit int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../../scripts/brokers", args...)
	cmd.Env = append(os.Environ(), "FERRY_TEST_BROKERS_DIR="+state)
	var talk strings.Builder
	cmd.Stderr = &talk
	raw, err := cmd.Output()
	if talk.Len() > 0 {
		t.Logf("brokers %v: %s", args, talk.String())
	}
	if cmd.ProcessState == nil {
		t.Fatalf("brokers %v: %v", args, err)
	}
	return string(raw), cmd.ProcessState.ExitCode()
}

// must is brokers with exit 0.
func must(t *testing.T, state string, args ...string) string {
	t.Helper()
	out, exit := brokers(t, state, args...)
	if exit != 0 {
		t.Fatalf("brokers %v ended with %d: %s", args, exit, out)
	}
	return out
}

func TestEveryBrokerHasTheSameFunctions(t *testing.T) {
	files, err := filepath.Glob("../../scripts/brokers.d/*.sh")
	if err != nil || len(files) == 0 {
		t.Fatalf("no brokers: %v", err)
	}
	for _, file := range files {
		text := read(t, file)
		for _, m := range regexp.MustCompile(`(?m)^source "\$here/(.*)"`).FindAllStringSubmatch(text, -1) {
			text += read(t, "../../scripts/brokers.d/"+m[1])
		}
		for _, function := range []string{"install", "start", "ready", "version", "address", "url", "variables"} {
			if !regexp.MustCompile(`(?m)^` + function + `\(\) \{`).MatchString(text) {
				t.Errorf("%s has no function %s", file, function)
			}
		}
	}
	if got := strings.Count(must(t, t.TempDir(), "list"), "\n"); got != len(files) {
		t.Errorf("list gave %d brokers, there are files for %d", got, len(files))
	}
}

// TestLife goes with one broker from nothing to nothing.
func TestLife(t *testing.T) {
	for _, command := range []string{"redis-server", "redis-cli"} {
		if _, err := exec.LookPath(command); err != nil {
			t.Skipf("%s is not installed: scripts/debian redis-server redis-cli", command)
		}
	}
	state := t.TempDir()
	t.Cleanup(func() {
		cmd := exec.Command("../../scripts/brokers", "down")
		cmd.Env = append(os.Environ(), "FERRY_TEST_BROKERS_DIR="+state)
		_ = cmd.Run()
	})

	if _, exit := brokers(t, state, "status", "redis"); exit != 1 {
		t.Errorf("status of a broker that was not brought up ended with %d", exit)
	}
	if _, exit := brokers(t, state, "status"); exit != 0 {
		t.Errorf("status without brokers ended with %d", exit)
	}
	if _, exit := brokers(t, state, "start", "redis"); exit == 0 {
		t.Error("a broker was started that was not brought up")
	}
	if _, exit := brokers(t, state, "up", "reddis"); exit == 0 {
		t.Error("a broker was brought up that does not exist")
	}

	must(t, state, "up", "redis")
	url := strings.TrimSpace(must(t, state, "url", "redis"))
	if want := fmt.Sprintf("export FERRY_TEST_REDIS=%s\n", strings.ReplaceAll(url, "?", `\?`)); !strings.Contains(must(t, state, "env"), want) {
		t.Errorf("env does not say %s", want)
	}
	first := pid(t, state)
	must(t, state, "up", "redis")
	if pid(t, state) != first {
		t.Error("up started what was running")
	}
	if got := ask(t, url, "SET", "colour", "green"); got != "+OK" {
		t.Fatalf("SET gave %s", got)
	}

	for _, end := range []string{"kill", "stop"} {
		must(t, state, end, "redis")
		if out, exit := brokers(t, state, "status"); exit != 1 || !strings.Contains(out, "down") {
			t.Errorf("after %s status ended with %d: %s", end, exit, out)
		}
		must(t, state, "start", "redis")
		must(t, state, "status")
		if got := strings.TrimSpace(must(t, state, "url", "redis")); got != url {
			t.Errorf("after %s and start the URL is %s, was %s", end, got, url)
		}
		if got := ask(t, url, "GET", "colour"); got != "$5" { // the length of green
			t.Errorf("after %s and start GET gave %s", end, got)
		}
	}

	must(t, state, "down", "redis")
	if _, err := os.Stat(filepath.Join(state, "redis")); !os.IsNotExist(err) {
		t.Errorf("down left the broker's folder (%v)", err)
	}
}

// TestStrangersAreLeftAlone: an id in a file may belong to another process by now.
func TestStrangersAreLeftAlone(t *testing.T) {
	stranger := exec.CommandContext(t.Context(), "cat") // says back what it is told, as long as it lives
	in, err := stranger.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := stranger.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Wait() }()
	defer in.Close()

	state := t.TempDir()
	folder := filepath.Join(state, "redis", "redis")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "pid"), fmt.Appendf(nil, "%d 1\n", stranger.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, exit := brokers(t, state, "status", "redis"); exit != 1 || !strings.Contains(status, "down") {
		t.Errorf("status took a stranger for the broker: %d %s", exit, status)
	}
	must(t, state, "kill", "redis")
	must(t, state, "down", "redis")
	if _, err := io.WriteString(in, "still there\n"); err != nil {
		t.Fatalf("the stranger was signalled: %v", err)
	}
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "still there\n" {
		t.Fatalf("the stranger was signalled: it says %q (%v)", said, err)
	}
}

func pid(t *testing.T, state string) int {
	t.Helper()
	id, _, _ := strings.Cut(read(t, filepath.Join(state, "redis", "redis", "pid")), " ")
	n, err := strconv.Atoi(id)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ask sends an inline command (the Redis protocol has them for people) and returns the first line of the answer.
func ask(t *testing.T, url string, words ...string) string {
	t.Helper()
	address, _, _ := strings.Cut(strings.TrimPrefix(url, "redis://"), "?")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s\r\n", strings.Join(words, " "))
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(answer, "\r\n")
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
