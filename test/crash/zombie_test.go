//go:build !windows

package crash

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestZombie: a run is stopped in its tracks (SIGSTOP), another process takes the pipeline over and finishes it, and
// the first one wakes up again (SIGCONT): it is told that it is fenced, and commits nothing (invariant 6). Both have
// state stores of their own, so that nothing but the queue's fence is between them.
func TestZombie(t *testing.T) {
	port := freePort(t)
	broker := newFolder(t, fmt.Sprintf("queue: \"embedded:?listen=127.0.0.1:%d\"\n", port))
	serve(t, broker, "")
	queue := fmt.Sprintf("queue: nats://127.0.0.1:%d?create=true\n", port)

	slow := newFolder(t, queue+strings.Replace(ordersConfig, "key: .id", "key: .id\n      rate: 10/s", 1))
	heir := newFolder(t, queue+ordersConfig)
	zombieAndHeir(t, slow, heir)
	verifyOrders(t, heir)
}

// zombieAndHeir stops a run out of the folder slow, lets one out of heir finish, and wakes the first one up.
func zombieAndHeir(t *testing.T, slow, heir string) {
	t.Helper()
	zombie := command(t.Context(), slow, "", "run", "orders", "--json")
	var out, talk bytes.Buffer
	zombie.Stdout, zombie.Stderr = &out, &talk
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = zombie.Process.Kill() })
	committed(t, heir) // some of its 100 pages in 10 s
	if err := zombie.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}

	if pullOnce(t, heir, "", 0) {
		t.Fatal("the heir was killed")
	}
	if err := zombie.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	err := zombie.Wait()
	var exit *exec.ExitError
	var line runLine
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || json.Unmarshal(out.Bytes(), &line) != nil || line.Status != "fenced" {
		t.Errorf("the zombie ended with %v and said %s\n%s\nwant exit code 1 and the status fenced", err, &out, &talk)
	}
	if line.Published == 0 {
		t.Error("the zombie was stopped before it had committed anything: the test shows nothing")
	}
}

// committed waits until the pipeline has a cursor.
func committed(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		out, err := command(t.Context(), dir, "", "cursor", "get", "orders", "--json").Output()
		switch {
		case err == nil && bytes.Contains(out, []byte(`"v":`)):
			return
		case time.Now().After(end):
			t.Fatalf("nothing is committed: cursor get answers %s (%v)", out, err)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
