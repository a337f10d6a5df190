package deploy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSystemdAllows: what ferry.service forbids is nothing that ferry does. A member of a cluster of three is watched from
// its start through a run to its end: its system calls, the kinds of its sockets, and whether it ever writes code.
func TestSystemdAllows(t *testing.T) {
	for _, name := range []string{"strace", "systemd-analyze"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("there is no %s: scripts/debian strace systemd", name)
		}
	}
	unit := settings(t)
	allowed := map[string]bool{}
	for _, filter := range unit["SystemCallFilter"] {
		names, taken := strings.CutPrefix(filter, "~")
		for name := range strings.FieldsSeq(names) {
			for _, call := range callsOf(t, name) {
				allowed[call] = !taken
			}
		}
	}
	for _, call := range callsOf(t, "@default") { // systemd's own addition
		allowed[call] = true
	}

	trace := watched(t)
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\d+ +(\w+)\(`).FindAllStringSubmatch(trace, -1) {
		used[m[1]] = true
	}
	for call := range used {
		if !allowed[call] {
			t.Errorf("SystemCallFilter forbids %s", call)
		}
	}
	if !used["fsync"] && !used["fdatasync"] || len(used) < 30 {
		t.Errorf("only %d system calls were seen: %v", len(used), used)
	}
	families := strings.Fields(strings.Join(unit["RestrictAddressFamilies"], " "))
	seen := regexp.MustCompile(`socket\((AF_\w+)`).FindAllStringSubmatch(trace, -1)
	for _, m := range seen {
		if !slices.Contains(families, m[1]) {
			t.Errorf("RestrictAddressFamilies forbids %s", m[1])
		}
	}
	if len(seen) == 0 {
		t.Error("no socket was seen")
	}
	if w := regexp.MustCompile(`.*PROT_WRITE\|PROT_EXEC.*`).FindString(trace); w != "" {
		t.Errorf("MemoryDenyWriteExecute forbids %s", w)
	}
}

// settings are those of the unit; each can be there several times.
func settings(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^(\w+)=(.*)$`).FindAllStringSubmatch(string(read(t, "deploy/systemd/ferry.service")), -1) {
		all[m[1]] = append(all[m[1]], m[2])
	}
	return all
}

// callsOf are the system calls of a group, with those of the groups in it.
func callsOf(t *testing.T, group string) []string {
	t.Helper()
	if !strings.HasPrefix(group, "@") {
		return []string{group}
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "syscall-filter", group).Output()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v", group, err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		name := strings.TrimSpace(line)
		if name == "" || name == group || strings.HasPrefix(name, "#") {
			continue
		}
		all = append(all, callsOf(t, name)...)
	}
	return all
}

// watched runs three members and a pipeline on the first, and gives what strace has seen of that one.
func watched(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "ferry")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/ferry")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build ferry: %v\n%s", err, out)
	}
	config, err := filepath.Abs(filepath.Join(root, "examples/orders.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// Members called by a name and not by an address, as in the unit's own example.
	ports := freePorts(t, 4)
	members := fmt.Sprintf("localhost:%d,localhost:%d,localhost:%d", ports[0], ports[1], ports[2])
	api, traceFile := fmt.Sprintf("127.0.0.1:%d", ports[3]), filepath.Join(dir, "trace")
	var first *exec.Cmd
	var said bytes.Buffer
	for n := range 3 {
		args := []string{bin, "serve", "-c", config}
		listen := "127.0.0.1:0"
		if n == 0 {
			args, listen = append([]string{"strace", "-f", "-qq", "-o", traceFile}, args...), api
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that the signal reaches ferry, and not strace alone
		cmd.Env = []string{
			"FERRY_DATA=" + filepath.Join(dir, fmt.Sprint("data", n)), "FERRY_LISTEN=" + listen, "FERRY_INSTANCE=" + fmt.Sprint("i", n),
			fmt.Sprintf("FERRY_QUEUE=embedded:?cluster=%s&member=localhost:%d", members, ports[n]), "FERRY_STATE=embedded:",
			"FERRY_CLUSTER_SECRET=only for a look on one machine", "PATH=" + os.Getenv("PATH"),
		}
		if n == 0 {
			first, cmd.Stderr = cmd, &said
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if cmd.ProcessState == nil {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				_ = cmd.Wait()
			}
		})
	}
	for deadline := time.Now().Add(2 * time.Minute); call(t, http.MethodGet, "http://"+api+"/readyz") != http.StatusOK; {
		if time.Now().After(deadline) {
			_ = syscall.Kill(-first.Process.Pid, syscall.SIGKILL)
			_ = first.Wait()
			t.Fatalf("the first member is not ready:\n%s", &said)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if status := call(t, http.MethodPost, "http://"+api+"/v1/pipelines/orders/runs?wait=1m"); status != http.StatusOK {
		t.Errorf("the run was answered %d", status)
	}
	call(t, http.MethodGet, "http://"+api+"/metrics")
	if err := syscall.Kill(-first.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("the first member ended with %v:\n%s", err, &said)
	}
	trace, err := os.ReadFile(traceFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(trace)
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports := make([]int, n)
	held := make([]net.Listener, n) // all at once, so that no port comes twice
	for i := range ports {
		var err error
		if held[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		ports[i] = held[i].Addr().(*net.TCPAddr).Port
	}
	for _, l := range held {
		l.Close()
	}
	return ports
}

// call gives the answer's status, 0 when none came.
func call(t *testing.T, method, address string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	return res.StatusCode
}
