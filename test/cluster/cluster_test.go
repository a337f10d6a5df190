//go:build linux

// Package cluster runs several instances behind nginx, as scripts/cluster starts them, and takes them away under load:
// one after the other as an upgrade does, by kill -9, by freezing one, and nginx's own reload. A ledger of what was
// answered is compared with what is in the queue afterwards.
package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	freeze  = flag.Duration("freeze", 30*time.Second, "how long an instance is frozen")
	clients = flag.Int("clients", 12, "clients at once")
	// instances of the cluster: three members and two that join.
	instances = flag.Int("instances", 5, "instances behind nginx")
	ticks     = flag.Int("ticks", 100, "scheduled ticks to wait for at least")
)

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// bench is a cluster that is up.
type bench struct {
	testing.TB
	script string
	env    []string
	url    string
}

// up brings a cluster up that goes with the test.
func up(t testing.TB, n int) *bench {
	t.Helper()
	if os.Getenv("FERRY_TEST_CLUSTER") == "" {
		t.Skip("FERRY_TEST_CLUSTER is not set: it needs nginx and two minutes (.ci/run cluster)")
	}
	script, err := filepath.Abs("../../scripts/cluster")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{TB: t, script: script, env: append(os.Environ(), "FERRY_CLUSTER_DIR="+t.TempDir())}
	t.Cleanup(func() {
		if t.Failed() {
			who := []string{"nginx"}
			for i := range n {
				who = append(who, fmt.Sprint(i+1))
			}
			for _, w := range who {
				out, _ := b.run("logs", w)
				lines := strings.Split(strings.TrimSpace(out), "\n")
				t.Logf("log of %s:\n%s", w, strings.Join(lines[max(0, len(lines)-15):], "\n"))
			}
		}
		b.must("down")
	})
	b.must("up", fmt.Sprint(n))
	b.url = b.must("url")
	return b
}

func (b *bench) run(args ...string) (string, error) {
	cmd := exec.Command(b.script, args...)
	cmd.Env = b.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("scripts/cluster %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(out.String()), nil
}

func (b *bench) must(args ...string) string {
	b.Helper()
	out, err := b.run(args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

func (b *bench) get(url string, into any) {
	b.Helper()
	for end := time.Now().Add(time.Minute); ; {
		resp, err := http.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable && time.Now().Before(end) {
			time.Sleep(200 * time.Millisecond) // a list of runs needs the cluster's leader, who may be the one that was killed
			continue
		}
		if err != nil || resp.StatusCode != 200 {
			b.Fatalf("%s: %d %v %s", url, resp.StatusCode, err, body)
		}
		if err := json.Unmarshal(body, into); err != nil {
			b.Fatal(err)
		}
		return
	}
}

// ledger is what callers were told.
type ledger struct {
	mu        sync.Mutex
	phase     string
	confirmed map[string]map[string]bool // by topic: ids whose request was answered with success
	done      map[string]int             // by phase
	failed    map[string]map[string]int  // by phase and reason
	slowest   map[string]time.Duration   // by phase
}

// enter begins a phase. Requests count for the phase in which they began.
func (l *ledger) enter(phase string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase = phase
}

func (l *ledger) now() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase
}

func (l *ledger) note(phase, topic, id string, err error, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowest[phase] = max(l.slowest[phase], took)
	l.done[phase]++
	if err != nil {
		if l.failed[phase] == nil {
			l.failed[phase] = make(map[string]int)
		}
		l.failed[phase][err.Error()]++
		return
	}
	l.confirmed[topic][id] = true
}

// load is clients that ask without pause until the context ends.
func (b *bench) load(ctx context.Context, l *ledger) (wait func()) {
	transport := &http.Transport{MaxIdleConnsPerHost: *clients}
	client := &http.Client{Transport: transport, Timeout: 2 * time.Minute}
	// nginx before 1.27.4 closes kept connections at a reload, also under a request that is just being sent, which a client
	// may not send again by itself. So each push has a connection of its own.
	pushing := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	var wg sync.WaitGroup
	for c := range *clients {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				phase, begin := l.now(), time.Now()
				topic, id := "events", fmt.Sprintf("e-%d-%d", c, n)
				var err error
				if c%2 == 0 {
					topic = "process"
					id, err = b.process(client)
				} else {
					err = b.push(pushing, id)
				}
				l.note(phase, topic, id, err, time.Since(begin))
			}
		})
	}
	return func() {
		wg.Wait()
		transport.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
	}
}

func answer(resp *http.Response, err error, into any) error {
	if err != nil {
		var cause interface{ Unwrap() error }
		if errors.As(err, &cause) {
			return cause.Unwrap() // without the address, so that reasons can be counted
		}
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != 200 {
		var p struct{ Type string }
		_ = json.Unmarshal(body, &p)
		return fmt.Errorf("%d %s", resp.StatusCode, cmp.Or(p.Type, "from nginx"))
	}
	return json.Unmarshal(body, into)
}

// process asks for /process; the simulated API gives every fetch an id of its own.
func (b *bench) process(client *http.Client) (id string, err error) {
	resp, err := client.Get(b.url + "/process")
	var got struct {
		Data json.RawMessage `json:"data"`
	}
	if err := answer(resp, err, &got); err != nil {
		return "", err
	}
	return idOf(got.Data)
}

func (b *bench) push(client *http.Client, id string) error {
	req, err := http.NewRequest(http.MethodPost, b.url+"/v1/pipelines/events/records", strings.NewReader(`{"id":"`+id+`"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	var got struct{ Published int }
	if err := answer(resp, err, &got); err != nil {
		return err
	}
	if got.Published != 1 {
		return fmt.Errorf("published %d", got.Published)
	}
	return nil
}

// idOf is the id that a record was given before ferry.
func idOf(data json.RawMessage) (string, error) {
	var r struct {
		ID          json.RawMessage `json:"id"`
		Transformed struct {
			ID json.RawMessage `json:"id"`
		} `json:"transformed_data"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return "", err
	}
	id := strings.Trim(string(r.ID)+string(r.Transformed.ID), `"`)
	if id == "" {
		return "", fmt.Errorf("no id in %.100s", data)
	}
	return id, nil
}

// held counts the records of a topic by id.
func (b *bench) held(topic string) map[string]int {
	b.Helper()
	all := make(map[string]int)
	for from := int64(0); ; {
		var page struct {
			Records []struct{ Data json.RawMessage }
			Next    int64
		}
		b.get(fmt.Sprintf("%s/v1/topics/%s/records?from=%d&limit=1000", b.url, topic, from), &page)
		if len(page.Records) == 0 {
			return all
		}
		for _, r := range page.Records {
			id, err := idOf(r.Data)
			if err != nil {
				b.Fatal(err)
			}
			all[id]++
		}
		from = page.Next
	}
}

type run struct {
	Run, Trigger, Status, Reason string
	Started                      time.Time
}

// runs of the pipeline that has a tick each second. The history holds 200, so it is read now and then.
func (b *bench) runs(into map[string]run) {
	b.Helper()
	var list struct{ Runs []run }
	b.get(b.url+"/v1/runs?pipeline=ticks&limit=200", &list)
	for _, r := range list.Runs {
		into[r.Run] = r
	}
}

// The phases in which no request may fail.
const (
	steady  = "steady"
	rolling = "rolling restart of all"
	reload  = "nginx reload"
	killed  = "kill -9 of one"
	frozen  = "one frozen"
)

func TestUnderLoad(t *testing.T) {
	b := up(t, *instances)
	ledger := &ledger{
		phase: steady, confirmed: map[string]map[string]bool{"process": {}, "events": {}},
		done: map[string]int{}, failed: map[string]map[string]int{}, slowest: map[string]time.Duration{},
	}
	ctx, stop := context.WithCancel(t.Context())
	wait := b.load(ctx, ledger)
	defer func() { stop(); wait() }()
	begin := time.Now()
	history := make(map[string]run)
	phase := func(name string, f func()) {
		t.Helper()
		ledger.enter(name)
		time.Sleep(time.Second) // what began in the phase before has ended
		f()
		b.runs(history)
	}
	phase(steady, func() { time.Sleep(5 * time.Second) })
	phase(rolling, func() {
		for i := range *instances {
			b.must("restart", fmt.Sprint(i+1))
		}
		time.Sleep(time.Second)
	})
	phase(reload, func() {
		for range 3 {
			b.must("reload")
			time.Sleep(time.Second)
		}
	})
	phase(killed, func() {
		b.must("kill", "2")
		time.Sleep(5 * time.Second)
		b.must("start", "2")
		time.Sleep(time.Second)
	})
	phase(frozen, func() {
		b.must("freeze", "3")
		time.Sleep(*freeze)
		b.must("thaw", "3")
		time.Sleep(5 * time.Second)
	})
	phase(steady, func() { time.Sleep(max(0, time.Duration(*ticks+30)*time.Second-time.Since(begin))) })
	stop()
	wait()
	b.runs(history)
	b.judge(ledger, history)
}

func (b *bench) judge(l *ledger, history map[string]run) {
	b.Helper()
	for _, name := range []string{steady, rolling, reload, killed, frozen} {
		failed := 0
		for _, n := range l.failed[name] {
			failed += n
		}
		b.Logf("cluster: %-24s %6d requests, %3d failed, slowest %s %v", name, l.done[name], failed, l.slowest[name].Round(time.Millisecond), l.failed[name])
		if failed > 0 && (name == steady || name == rolling || name == reload) {
			b.Errorf("%d requests failed during: %s", failed, name)
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(l.confirmed)) {
		held, lost, doubled := b.held(topic), 0, 0
		for id := range l.confirmed[topic] {
			if held[id] == 0 {
				lost++
			}
		}
		for id, n := range held {
			if n > 1 {
				doubled++
				b.Logf("%s %s is there %d times", topic, id, n)
			}
		}
		b.Logf("cluster: topic %s: %d confirmed, %d in the queue, %d lost, %d doubled", topic, len(l.confirmed[topic]), len(held), lost, doubled)
		if lost > 0 || doubled > 0 || len(l.confirmed[topic]) == 0 {
			b.Errorf("topic %s: %d confirmed, %d lost, %d doubled", topic, len(l.confirmed[topic]), lost, doubled)
		}
	}
	b.judgeTicks(history)
}

// judgeTicks: one run for each tick. A run that was cut off is gone on with by another: that is the same tick's.
func (b *bench) judgeTicks(history map[string]run) {
	b.Helper()
	byTick := make(map[int64][]run)
	status := make(map[string]int)
	whole := 0
	var first time.Time // of all runs, which makes the grid
	for _, r := range history {
		if first.IsZero() || r.Started.Before(first) {
			first = r.Started
		}
	}
	for _, r := range history {
		if r.Trigger != "schedule" {
			continue
		}
		status[r.Status]++
		if r.Status != "succeeded" {
			continue
		}
		whole++
		tick := int64(r.Started.Sub(first) / time.Second)
		byTick[tick] = append(byTick[tick], r)
	}
	doubled := 0
	for _, runs := range byTick {
		if len(runs) > 1 {
			doubled++
			b.Logf("two runs of one tick: %+v", runs)
		}
	}
	b.Logf("cluster: ticks: %d run by %d instances %v, %d of them twice", whole, *instances, status, doubled)
	if doubled > 0 || whole < *ticks {
		b.Errorf("%d ticks were run twice, of %d", doubled, whole)
	}
}

// tool finds a program that CI installs.
func tool(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			if path, err = filepath.Abs(path); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Skipf("no %s: scripts/cluster tools", filepath.Base(names[0]))
	return ""
}

// TestLoadTests: the load tests that are shipped run as their heads say, and end well.
func TestLoadTests(t *testing.T) {
	b := up(t, 3)
	for name, command := range map[string][]string{
		"locust": {
			tool(t, "../../.cluster-tools/locust/bin/locust", "locust"), "-f", "../../loadtest/locustfile.py", "--headless",
			"-u", "8", "-r", "8", "-t", "8s", "--host", b.url, "--think", "0.01", "--only-summary",
		},
		"k6": {
			tool(t, "../../bin/k6", "k6"), "run", "--quiet", "-e", "BASE=" + b.url, "-e", "VUS=8", "-e", "DURATION=8s", "../../loadtest/k6.js",
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	if len(b.held("events")) == 0 || len(b.held("process")) == 0 {
		t.Error("nothing has arrived in the queue")
	}
}
