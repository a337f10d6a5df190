//go:build !windows

// Package crash kills the real binary, with SIGKILL, at the worst moments it knows, starts it again, and compares what
// is in the queue with what the API has served: nothing confirmed is missing, nothing is doubled, the order is kept.
//
// A kill proves what survives the process, not what survives a power cut: the page cache lives on. That the sync comes
// before the answer is shown by TestSyncPrecedesTheAnswer.
package crash

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/internal/mockapi"
)

var rounds = flag.Int("rounds", 3, "kills for each point")

// bin is the binary under test, built once with the crash points in it.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "ferry-crash")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = filepath.Join(dir, "ferry")
	build := exec.Command("go", "build", "-tags", "crash", "-o", bin, "../../cmd/ferry")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build ferry:", err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// ordersConfig reads 10,000 orders in 100 pages and commits often, so that there is much to interrupt.
const ordersConfig = `
pipelines:
  orders:
    source:
      base: "mock:"
      get: /v1/orders
      query: {limit: "100"}
      records: .data[]
      key: .id
      paginate: {cursor: {from: .meta.next, into: query.after}}
      incremental: {field: .updated_at, into: query.since}
    transform:
      - map: '{id}'
    commit: {records: 250}
`

const orders = 10_000

type runLine struct {
	Status, Reason                               string
	Pages, Read, Published, Filtered, Seen, Dead int64
}

// command makes a ferry command over a data folder. Its environment is the test's own and nothing else.
func command(ctx context.Context, dir, crashAt string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, bin, append(args, "--data", filepath.Join(dir, "data"))...)
	cmd.Dir = dir
	cmd.Env = []string{
		"HOME=" + dir, "TMPDIR=" + os.TempDir(), "FERRY_CRASH_AT=" + crashAt,
		"AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", // the SQS of the tests wants some
	}
	return cmd
}

func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

func newFolder(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ferry.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRunKilled(t *testing.T) {
	for _, point := range []string{"fetched", "committing", "committed", "random"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel() // a start, and a read-back, mostly waits
			dir, kills, pulls := newFolder(t, ordersConfig), 0, 0
			within := timeOf(t, point, newFolder(t, ordersConfig))
			for kills < *rounds {
				if pullOnce(t, dir, point, within) {
					kills++
					continue
				}
				verifyOrders(t, dir)
				pulls++
				dir = newFolder(t, ordersConfig)
			}
			for pullOnce(t, dir, "", 0) {
				t.Fatal("killed although nobody did")
			}
			verifyOrders(t, dir)
			t.Logf("%d kills over %d pulls of %d orders: none missing, none doubled, order kept", kills, pulls+1, orders)
		})
	}
}

// timeOf is how long a pull takes that nobody disturbs, for kills at random moments of it; 0 for other points.
func timeOf(t *testing.T, point, dir string) time.Duration {
	t.Helper()
	if point != "random" {
		return 0
	}
	begin := time.Now()
	if pullOnce(t, dir, "", 0) {
		t.Fatal("killed although nobody did")
	}
	return time.Since(begin)
}

// pullOnce runs the pipeline until it ends or is killed, and tells whether it was. It is killed at the point, or at a
// random moment within that time, or, with the point "", not at all.
func pullOnce(t *testing.T, dir, point string, within time.Duration) bool {
	t.Helper()
	crashAt := ""
	if point != "" && point != "random" {
		crashAt = fmt.Sprintf("%s:%d", point, 1+rand.IntN(5))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := command(ctx, dir, crashAt, "run", "orders", "--json")
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if point == "random" {
		timer := time.AfterFunc(rand.N(within), func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err := cmd.Wait()
	if killed(err) {
		if ctx.Err() != nil {
			t.Fatalf("run did not end within a minute\n%s", &talk)
		}
		return true
	}
	if err != nil {
		t.Fatalf("run: %v\n%s%s", err, &out, &talk)
	}
	var line runLine
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("run answered %q: %v", &out, err)
	}
	if line.Status != "succeeded" || line.Read != line.Published+line.Filtered+line.Seen+line.Dead {
		t.Fatalf("run ended with %+v", line)
	}
	return false
}

// verifyOrders compares the topic with what the simulated API has, and pulls once more: nothing may be new.
func verifyOrders(t *testing.T, dir string) {
	t.Helper()
	got := topic(t, dir, "orders")
	seen := make(map[string]bool, orders)
	for _, r := range got {
		if seen[r.ID] {
			t.Fatalf("record %s is there twice", r.ID)
		}
		seen[r.ID] = true
	}
	sameAsAPI(t, got, "orders", orders)
	nothingNew(t, dir)
}

// sameAsAPI compares records with the n of a set of the simulated API, in its order.
func sameAsAPI(t *testing.T, got []stored, set string, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%d records in the queue, want %d", len(got), n)
	}
	api := mockapi.New(mockapi.Options{Seed: 1})
	for i, r := range got {
		var have, want struct{ ID json.RawMessage }
		if err := json.Unmarshal(r.Data, &have); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(api.Record(set, i), &want); err != nil {
			t.Fatal(err)
		}
		if string(have.ID) != string(want.ID) {
			t.Fatalf("record %d of the %s is %s, want %s: the order is not kept", i, set, have.ID, want.ID)
		}
	}
}

// nothingNew pulls once more.
func nothingNew(t *testing.T, dir string) {
	t.Helper()
	out, err := command(t.Context(), dir, "", "run", "orders", "--json").Output()
	var line runLine
	if err != nil || json.Unmarshal(out, &line) != nil || line.Published != 0 {
		t.Fatalf("a further run gave %s (%v), want 0 published", out, err)
	}
}

type stored struct {
	ID   string
	Data json.RawMessage
}

// topic reads a whole topic with `ferry tail`.
func topic(t *testing.T, dir, name string) []stored {
	t.Helper()
	cmd := command(t.Context(), dir, "", "tail", name, "--from", "0", "-n", "0", "--json")
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tail %s: %v\n%s", name, err, &talk)
	}
	var all []stored
	for in := bufio.NewScanner(bytes.NewReader(out)); in.Scan(); {
		var r stored
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			t.Fatalf("tail gave %q: %v", in.Text(), err)
		}
		all = append(all, r)
	}
	return all
}

// service is `ferry serve` under test.
type service struct {
	cmd  *exec.Cmd
	url  string
	pid  int // of ferry itself, also below a tracer
	talk *bytes.Buffer
	done chan error
}

func serve(t *testing.T, dir, crashAt string, wrap ...string) *service {
	t.Helper()
	cmd := command(context.Background(), dir, crashAt, "serve", "--listen", "127.0.0.1:0")
	if len(wrap) > 0 {
		path, err := exec.LookPath(wrap[0])
		if err != nil {
			t.Fatal(err)
		}
		cmd.Args = append(wrap, cmd.Args...)
		cmd.Path = path
	}
	s := &service{cmd: cmd, talk: &bytes.Buffer{}, done: make(chan error, 1)}
	cmd.Stderr = s.talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var in struct {
			PID int
			URL string
		}
		b, err := os.ReadFile(filepath.Join(dir, "data", "instance.json"))
		if err != nil || json.Unmarshal(b, &in) != nil || in.URL == "" || len(wrap) == 0 && in.PID != cmd.Process.Pid {
			continue
		}
		if resp, err := http.Get(in.URL + "/readyz"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				s.url, s.pid = in.URL, in.PID
				return s
			}
		}
	}
	t.Fatalf("ferry serve did not become ready\n%s", s.talk)
	return nil
}

// mock is `ferry mock`, alone, so that its ids go on over restarts of the service.
func mock(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(bin, "mock", "--listen", "127.0.0.1:0", "--json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var line struct{ URL string }
	if err := json.NewDecoder(out).Decode(&line); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return line.URL
}

func processConfig(url string) string {
	return strings.ReplaceAll(`
pipelines:
  process:
    source: {base: URL, get: /v1/data, key: .id, paginate: none, retries: 0}
    transform:
      - map: '{transformed_data: ., status: "processed"}'
`, "URL", url)
}
