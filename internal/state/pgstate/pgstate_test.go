package pgstate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"ferry/internal/config"
	"ferry/internal/scheduler"
	"ferry/internal/state"
	"ferry/internal/state/statetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server gives the URL of a real PostgreSQL.
func server(t testing.TB) string {
	t.Helper()
	u := os.Getenv("FERRY_TEST_POSTGRES")
	if u == "" {
		t.Skip(`FERRY_TEST_POSTGRES is not set: scripts/brokers up postgres; eval "$(scripts/brokers env)"`)
	}
	return u
}

// fresh is a configuration with a schema that does not exist yet, and goes with the test.
func fresh(t testing.TB) Config {
	t.Helper()
	u := server(t)
	c, err := ParseURL(config.URL(fmt.Sprintf("%s&schema=t%08x", u, rand.Uint32())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, u)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+c.Schema+" CASCADE"); err != nil {
			t.Error(err)
		}
	})
	return c
}

func open(t testing.TB, c Config) *Store {
	t.Helper()
	c.pool = c.pool.Copy()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestStore(t *testing.T) {
	c := fresh(t)
	statetest.Run(t, func(t testing.TB) state.Store { return open(t, c) })
}

// TestOpenAtOnce: the tables are made by one of many instances that start at the same moment.
func TestOpenAtOnce(t *testing.T) {
	c := fresh(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		mine := c
		mine.pool = c.pool.Copy()
		wg.Go(func() {
			s, err := Open(t.Context(), mine)
			if err == nil {
				_, err = s.Put(t.Context(), "k", []byte("v"), state.AnyRevision)
				s.Close()
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestOlderThanItsTables(t *testing.T) {
	c := fresh(t)
	s := open(t, c)
	if _, err := s.pool.Exec(t.Context(), "INSERT INTO "+c.Schema+".migrations (version) VALUES (99)"); err != nil {
		t.Fatal(err)
	}
	c.pool = c.pool.Copy()
	_, err := Open(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "is of version 99, and this ferry knows versions up to 1: use the newer ferry") {
		t.Errorf("err = %v", err)
	}
}

func TestServerThatDoesNotSync(t *testing.T) {
	c := fresh(t)
	c.pool = c.pool.Copy()
	c.pool.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "synchronous_commit = on") {
		t.Errorf("err = %v", err)
	}
}

// TestRestart: what was put is there after the server was killed, and the store finds it again.
func TestRestart(t *testing.T) {
	s := open(t, fresh(t))
	rev, err := s.Put(t.Context(), "a/b", []byte("v"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []string{"kill", "start"} {
		if out, err := exec.CommandContext(t.Context(), os.Getenv("FERRY_TEST_BROKERS"), do, "postgres").CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", do, err, out)
		}
		if do == "kill" {
			if _, err := s.Get(t.Context(), "a/b"); err == nil {
				t.Error("a killed server was asked and answered")
			}
		}
	}
	var e state.Entry
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if e, err = s.Get(t.Context(), "a/b"); err == nil {
			break
		}
	}
	if err != nil || string(e.Value) != "v" || e.Revision != rev {
		t.Errorf("after a restart: %+v, %v", e, err)
	}
	if next, err := s.Put(t.Context(), "a/b", []byte("w"), rev); err != nil || next <= rev {
		t.Errorf("revision %d after %d, %v", next, rev, err)
	}
}

// runner counts runs by the second in which they started.
type runner struct {
	mu    sync.Mutex
	ticks map[int64]int
}

func (r *runner) Run(_ context.Context, info scheduler.Info) (scheduler.Outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ticks[info.Started.Unix()]++
	return scheduler.Outcome{}, nil
}

// TestSchedulers: five instances, one run for each tick.
func TestSchedulers(t *testing.T) {
	c := fresh(t)
	r := &runner{ticks: make(map[int64]int)}
	const ticks = 6
	for i := range 5 {
		s, err := scheduler.New(scheduler.Config{
			Store: open(t, c), Instance: fmt.Sprint(i), Runner: r,
			Pipelines: []scheduler.Pipeline{{Name: "orders", Every: time.Second}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(ticks * time.Second)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ticks) < ticks-1 {
		t.Errorf("%d ticks in %d s", len(r.ticks), ticks)
	}
	for at, n := range r.ticks {
		if n != 1 {
			t.Errorf("%d runs in second %d", n, at)
		}
	}
}

func TestParseURL(t *testing.T) {
	c, err := ParseURL("postgresql://u:s3cret@h:5433/db?sslmode=disable&schema=other&timeout=3s&pool=9")
	if err != nil || c.Schema != "other" || c.Timeout != 3*time.Second || c.pool.MaxConns != 9 || c.pool.ConnConfig.Host != "h" || c.pool.ConnConfig.Database != "db" {
		t.Errorf("%+v, %v", c, err)
	}
	for u, want := range map[string]string{
		"mysql://h/db":                             "want postgres://",
		"postgres://u:s3cret%zz@h/db":              "with % as %25",
		"postgres://u:s3cret@h/db?schema=A%20b":    "parameter schema",
		"postgres://u:s3cret@h/db?timeout=-1s":     "parameter timeout",
		"postgres://u:s3cret@h/db?pool=0":          `"0" is not a number from 1 to 100`,
		"postgres://u:s3cret@h/db?pool=%zz":        "parameters cannot be read",
		"postgres://u:s3cret@h/db?sslmode=s3cretX": "state URL: ",
		"postgres://u:s3cret@h:s3cret/db":          "state URL: ",
	} {
		_, err := ParseURL(config.URL(u))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") && !strings.Contains(u, "X") {
			t.Errorf("%s: %v, want %q", u, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret@") {
			t.Errorf("%s: the error shows the login: %v", u, err)
		}
	}
}

// A server that is not there is an error without the login.
func TestUnreachable(t *testing.T) {
	c, err := ParseURL("postgres://u:s3cret@127.0.0.1:1/db?timeout=2s")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), c)
	if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "connect to PostgreSQL") {
		t.Errorf("err = %v", err)
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("postgres://u:p@h:1/db?schema=a&pool=3")
	f.Fuzz(func(t *testing.T, u string) {
		const password = "n0bodyknows"
		_, err := ParseURL(config.URL(strings.Replace(u, "PW", password, 1)))
		if err != nil && strings.Contains(err.Error(), password) && strings.Contains(u, ":PW@") {
			t.Errorf("the error shows the password: %v", err)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	s := open(b, fresh(b))
	for b.Loop() {
		if _, err := s.Put(b.Context(), "lease/x", []byte(`{"holder":"a"}`), state.AnyRevision); err != nil {
			b.Fatal(err)
		}
	}
}
