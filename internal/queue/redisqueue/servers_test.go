package redisqueue

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// process is a server of a test's own, which may be killed.
type process struct {
	t    testing.TB
	path string
	addr string
	dir  string
	args []string
	cmd  *exec.Cmd
}

// freePorts gives ports that nobody listens on.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	var ports []string
	var listeners []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	for _, l := range listeners {
		l.Close()
	}
	return ports
}

// durable are the settings of a server that syncs every write.
var durable = []string{"--appendonly", "yes", "--appendfsync", "always", "--save", ""}

// start starts a redis-server that syncs every write, unless the arguments say otherwise. It ends with the test.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("there is no redis-server: scripts/brokers up redis")
	}
	return startProgram(t, path, args...)
}

func startProgram(t testing.TB, path string, args ...string) *process {
	t.Helper()
	port := freePorts(t, 1)[0]
	p := &process{t: t, path: path, addr: "127.0.0.1:" + port, dir: t.TempDir()}
	p.args = slices.Concat([]string{"--port", port, "--bind", "127.0.0.1", "--dir", p.dir}, durable, args)
	t.Cleanup(p.kill)
	p.start()
	return p
}

// start starts the server, again after a kill, and waits until it answers.
func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.path, p.args...)
	if os.Getenv("FERRY_TEST_VERBOSE") != "" {
		p.cmd.Stdout, p.cmd.Stderr = os.Stdout, os.Stderr
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	c := p.client()
	defer c.Close()
	until(p.t, "redis-server answers", func() bool {
		err := c.Ping(context.Background()).Err()
		return err == nil || redis.IsAuthError(err)
	})
}

// kill is SIGKILL.
func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// stop is SIGTERM.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Error(err)
	}
	_ = p.cmd.Wait()
	p.cmd = nil
}

// valkey gives a server of a test's own, of the program that runs as the broker valkey: it has WAITAOF, and takes back
// the beginning of a commit that a crash has cut (server.mends).
func valkey(t testing.TB, args ...string) *process {
	t.Helper()
	c := broker(t, "FERRY_TEST_VALKEY", "valkey")
	info, err := bare(t, c.Hosts[0]).Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	return startProgram(t, parseInfo(info)["executable"], args...)
}

// cut takes bytes off the end of the append-only file, of a server that was killed.
func (p *process) cut(bytes int64) {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) != 1 {
		p.t.Skipf("this redis-server keeps its append-only file elsewhere (%q, %v), so it cannot be cut: scripts/brokers up redis brings one that does not", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.Truncate(files[0], info.Size()-bytes); err != nil {
		p.t.Fatal(err)
	}
}

// mend is what docs/queues.md asks for after a crash, for servers that do not do it themselves (server.mends).
func (p *process) mend() {
	p.t.Helper()
	c := p.client()
	defer c.Close()
	if err := c.BgRewriteAOF(context.Background()).Err(); err != nil {
		p.t.Fatal(err)
	}
	until(p.t, "the append-only file is rewritten", func() bool {
		info, err := c.Info(context.Background(), "persistence").Result()
		in := parseInfo(info)
		return err == nil && in["aof_rewrite_in_progress"] == "0" && in["aof_rewrite_scheduled"] == "0"
	})
}

// client is one of the library alone, to look at what ferry has done.
func (p *process) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: p.addr, Protocol: 2})
}

func (p *process) config() Config {
	return Config{Hosts: []string{p.addr}, Create: true, Redelivery: redelivery, Timeout: 5 * time.Second}
}

// bare is client for the length of a test.
func bare(t testing.TB, addr string) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: addr, Protocol: 2})
	t.Cleanup(func() { c.Close() })
	return c
}

// until polls.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// onBoth runs a test of faults against the server in this process, and against a real one if it is
// installed.
func onBoth(t *testing.T, run func(t *testing.T, c Config)) {
	t.Run("fake", func(t *testing.T) {
		_, c := fake(t)
		run(t, c)
	})
	t.Run("redis-server", func(t *testing.T) { run(t, start(t).config()) })
}

func payload(n, size int) []record.Record {
	all := make([]record.Record, n)
	for i := range all {
		data := make([]byte, size)
		for k := range data {
			data[k] = 'a' + byte((i+k)%26)
		}
		data[0], data[size-1] = '"', '"'
		all[i] = record.Record{
			ID: record.ID("orders", fmt.Sprint(i), nil), Key: fmt.Sprint("key-", i), Data: data,
			Headers: []record.Header{
				{Name: record.HeaderPipeline, Value: "orders"},
				{Name: record.HeaderRun, Value: "0123456789abcdef"},
				{Name: record.HeaderContentType, Value: "application/json"},
			},
		}
	}
	return all
}

// count is how many records a topic holds.
func count(t testing.TB, q *Queue, topic string) int {
	t.Helper()
	st, err := q.Stats(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return int(st.Records)
}

func writerOf(t testing.TB, q *Queue, pipeline, topic string) queue.Writer {
	t.Helper()
	w, err := q.OpenWriter(t.Context(), pipeline, topic)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
