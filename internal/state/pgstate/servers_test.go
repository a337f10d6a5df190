//go:build linux

package pgstate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ferry/internal/config"
	"ferry/internal/state"
	"ferry/internal/state/statetest"
)

// machine runs servers of the test's own, as the user postgres when the test is root, for they refuse to be.
type machine struct {
	t   *testing.T
	bin string
	dir string
	as  *syscall.Credential
}

// newMachine skips where PostgreSQL is not installed.
func newMachine(t *testing.T) *machine {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		t.Skip("PostgreSQL is not installed: scripts/debian postgres")
	}
	m := &machine{t: t, bin: filepath.Dir(found[len(found)-1])}
	if m.dir, err = os.MkdirTemp("", "ferry-pgstate-"); err != nil { //nolint:usetesting // the user postgres cannot enter t.TempDir
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(m.dir); err != nil {
			t.Error(err)
		}
	})
	if os.Geteuid() == 0 {
		who, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		m.as = &syscall.Credential{Uid: number(t, who.Uid), Gid: number(t, who.Gid)}
		if err := os.Chown(m.dir, int(m.as.Uid), int(m.as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func number(t *testing.T, s string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func (m *machine) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = m.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: m.as}
	return cmd
}

func (m *machine) run(program string, args ...string) {
	m.t.Helper()
	if out, err := m.command(m.t.Context(), filepath.Join(m.bin, program), args...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// start starts a server and returns what sends it a signal and waits for its end. It ends with the test.
func (m *machine) start(program string, args ...string) (end func(syscall.Signal)) {
	m.t.Helper()
	log, err := os.Create(filepath.Join(m.dir, fmt.Sprintf("log%d", time.Now().UnixNano())))
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := m.command(context.WithoutCancel(m.t.Context()), program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	done := false
	end = func(s syscall.Signal) {
		m.t.Helper()
		if done {
			return
		}
		done = true
		if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			m.t.Error(err)
		}
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			m.t.Errorf("%s does not end", program)
			if err := cmd.Process.Kill(); err != nil {
				m.t.Error(err)
			}
			<-ended
		}
		if err := log.Close(); err != nil {
			m.t.Error(err)
		}
		if m.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			m.t.Logf("%s said:\n%s", program, text)
		}
	}
	m.t.Cleanup(func() { end(syscall.SIGQUIT) })
	return end
}

// postgres starts one on the data in that folder and waits until it takes connections.
func (m *machine) postgres(data string, port int, args ...string) (end func(syscall.Signal)) {
	m.t.Helper()
	end = m.start(filepath.Join(m.bin, "postgres"), append([]string{
		"-D", filepath.Join(m.dir, data), "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
	}, args...)...)
	m.await(port)
	return end
}

func (m *machine) await(port int) {
	m.t.Helper()
	m.eventually("a server on port "+strconv.Itoa(port), func() error {
		conn, err := pgx.Connect(m.t.Context(), address(port))
		if err != nil {
			return err
		}
		return conn.Close(m.t.Context())
	})
}

func (m *machine) eventually(what string, try func() error) {
	m.t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("waited a minute for %s: %v", what, err)
		}
	}
}

// ask runs a statement on the server at that port, and returns the one value that it gives, if any.
func (m *machine) ask(port int, query string) string {
	m.t.Helper()
	conn, err := pgx.Connect(m.t.Context(), address(port))
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(m.t.Context()))
	var got string
	if err := conn.QueryRow(m.t.Context(), query).Scan(&got); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		m.t.Fatalf("%s: %v", query, err)
	}
	return got
}

func address(port int) string {
	return fmt.Sprintf("postgres://ferry@127.0.0.1:%d/postgres?sslmode=disable", port)
}

func freePort(t *testing.T) int {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func parse(t *testing.T, u string) Config {
	t.Helper()
	c, err := ParseURL(config.URL(u))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestServerThatSyncsNothing is refused, and not waited for.
func TestServerThatSyncsNothing(t *testing.T) {
	m := newMachine(t)
	m.run("initdb", "-D", filepath.Join(m.dir, "db"), "-U", "ferry", "-A", "trust", "--no-sync")
	port := freePort(t)
	m.postgres("db", port, "-c", "fsync=off")
	_, err := Open(t.Context(), parse(t, address(port)))
	if err == nil || errors.Is(err, state.ErrUnavailable) || !strings.Contains(err.Error(), "fsync is off") {
		t.Errorf("err = %v", err)
	}
}

// TestFailover: a primary with a synchronous standby ends abruptly while it is written to, and the standby is promoted.
// What was confirmed is there, what was not says so, and the store goes on by itself.
func TestFailover(t *testing.T) {
	m := newMachine(t)
	m.run("initdb", "-D", filepath.Join(m.dir, "first"), "-U", "ferry", "-A", "trust", "--no-sync")
	first, second := freePort(t), freePort(t)
	end := m.postgres("first", first)
	m.run("pg_basebackup", "-h", "127.0.0.1", "-p", strconv.Itoa(first), "-U", "ferry", "-D", filepath.Join(m.dir, "second"), "-R", "-c", "fast", "--no-sync")
	m.postgres("second", second)
	m.ask(first, "ALTER SYSTEM SET synchronous_standby_names = '*'")
	m.ask(first, "SELECT pg_reload_conf()::text")
	m.eventually("the synchronous standby", func() error {
		if state := m.ask(first, "SELECT sync_state FROM pg_stat_replication"); state != "sync" {
			return fmt.Errorf("it is %q", state)
		}
		return nil
	})

	// The standby is named first, so that it is asked first, and passed over.
	s := open(t, parse(t, fmt.Sprintf("postgres://ferry@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&timeout=8s", second, first)))
	var rev, written uint64
	put := func() error {
		next, err := s.Put(t.Context(), "count", fmt.Append(nil, written+1), rev)
		switch {
		case err == nil:
			if next <= rev {
				t.Errorf("revision %d after %d", next, rev)
			}
			written, rev = written+1, next
		case errors.Is(err, state.ErrConflict): // an answer was lost
			e, gerr := s.Get(t.Context(), "count")
			if gerr != nil {
				return gerr
			}
			if string(e.Value) != fmt.Sprint(written+1) {
				t.Fatalf("%d was confirmed, and %s is there", written, e.Value)
			}
			written, rev = written+1, e.Revision
		case !errors.Is(err, state.ErrUnavailable):
			t.Fatalf("a failover gave %v", err)
		}
		return err
	}
	for range 50 {
		if err := put(); err != nil {
			t.Fatal(err)
		}
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		time.Sleep(50 * time.Millisecond) // somewhere in the writes
		end(syscall.SIGQUIT)
	}()
	for put() == nil {
	}
	<-stopped
	if err := put(); err == nil {
		t.Fatal("a standby took a write")
	}
	before := written
	m.ask(second, "SELECT pg_promote(true, 60)::text")
	m.eventually("the promoted server", put)
	for range 50 {
		if err := put(); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := s.Get(t.Context(), "count"); err != nil || string(e.Value) != fmt.Sprint(written) || written < before+51 {
		t.Errorf("%s is there, %v; %d was confirmed", e.Value, err, written)
	}
}

// TestPooler: the suite through PgBouncer, which gives each transaction any of two connections, used by somebody who
// leaves a setting behind.
func TestPooler(t *testing.T) {
	server := fresh(t).pool.ConnConfig
	bouncer, err := exec.LookPath("pgbouncer")
	if err != nil {
		t.Skip("PgBouncer is not installed: scripts/debian pgbouncer")
	}
	m := newMachine(t)
	port := freePort(t)
	file := filepath.Join(m.dir, "pgbouncer.ini")
	settings := fmt.Sprintf(`[databases]
postgres = host=%s port=%d user=%s dbname=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 200
`, server.Host, server.Port, server.User, server.Database, port)
	if err := os.WriteFile(file, []byte(settings), 0o644); err != nil { // read by another user
		t.Fatal(err)
	}
	m.start(bouncer, file)
	m.await(port)

	c := fresh(t)
	mine := parse(t, address(port)+"&schema="+c.Schema)
	s := open(t, mine)
	watchCommits(t, s, c.Schema)
	other, err := pgx.Connect(t.Context(), address(port))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.WithoutCancel(t.Context()))
	for range 10 {
		if _, err := other.Exec(t.Context(), "SET synchronous_commit = off"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), "k", nil, state.AnyRevision); err != nil {
			t.Fatal(err)
		}
	}
	wantSynced(t, s, c.Schema, 10)

	c = fresh(t)
	mine = parse(t, address(port)+"&schema="+c.Schema)
	statetest.Run(t, func(t testing.TB) state.Store { return open(t, mine) })
}
