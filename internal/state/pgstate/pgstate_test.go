package pgstate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"ferry/internal/config"
	"ferry/internal/queue/queuetest"
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

// TestDurable: every write waits for the disk, although the login is set not to. What holds at the commit is written down
// by a trigger that comes just before it.
func TestDurable(t *testing.T) {
	c := fresh(t)
	c.pool.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	s := open(t, c)
	watchCommits(t, s, c.Schema)
	rev, err := s.Put(t.Context(), "k", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if rev, err = s.Put(t.Context(), "k", []byte("2"), rev); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "k", rev); err != nil {
		t.Fatal(err)
	}
	for range 2 { // makes the key, and writes over it
		if _, err := s.Put(t.Context(), "k", []byte("3"), state.AnyRevision); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "k", state.AnyRevision); err != nil {
		t.Fatal(err)
	}
	wantSynced(t, s, c.Schema, 6)

	if _, err := s.pool.Exec(t.Context(), "DELETE FROM "+c.Schema+".commits"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(t.Context(), "INSERT INTO "+c.Schema+".state VALUES ('k', '', 1)"); err != nil {
		t.Fatal(err)
	}
	var setting string
	if err := s.pool.QueryRow(t.Context(), "SELECT setting FROM "+c.Schema+".commits").Scan(&setting); err != nil || setting != "off" {
		t.Errorf("a write of another kind was committed with synchronous_commit = %q, %v: this test sees nothing", setting, err)
	}
}

func watchCommits(t *testing.T, s *Store, schema string) {
	t.Helper()
	for _, q := range []string{
		"CREATE TABLE " + schema + ".commits (setting text)",
		"CREATE FUNCTION " + schema + ".note() RETURNS trigger LANGUAGE plpgsql AS " +
			"$$ BEGIN INSERT INTO " + schema + ".commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$",
		"CREATE CONSTRAINT TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON " + schema + ".state " +
			"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION " + schema + ".note()",
	} {
		if _, err := s.pool.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
}

func wantSynced(t *testing.T, s *Store, schema string, commits int) {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), "SELECT setting FROM "+schema+".commits")
	if err != nil {
		t.Fatal(err)
	}
	settings, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(settings) != commits || slices.ContainsFunc(settings, func(s string) bool { return s != "on" }) {
		t.Errorf("the commits had synchronous_commit = %q, want %d times on", settings, commits)
	}
}

// TestRights: a login that may not make a schema is told what to do, and needs no more than a schema of its own.
func TestRights(t *testing.T) {
	c := fresh(t)
	admin, err := pgx.Connect(t.Context(), server(t))
	if err != nil {
		t.Fatal(err)
	}
	login := c.Schema + "_login"
	t.Cleanup(func() {
		ctx := context.Background()
		for _, q := range []string{"DROP OWNED BY " + login, "DROP ROLE " + login} {
			if _, err := admin.Exec(ctx, q); err != nil {
				t.Error(err)
			}
		}
		if err := admin.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if _, err := admin.Exec(t.Context(), "CREATE ROLE "+login+" LOGIN"); err != nil {
		t.Fatal(err)
	}
	c.pool.ConnConfig.User = login
	other := c
	other.pool = c.pool.Copy()
	if _, err := Open(t.Context(), other); err == nil || errors.Is(err, state.ErrUnavailable) ||
		!strings.Contains(err.Error(), "CREATE SCHEMA "+c.Schema+" AUTHORIZATION") {
		t.Errorf("err = %v", err)
	}
	if _, err := admin.Exec(t.Context(), "CREATE SCHEMA "+c.Schema+" AUTHORIZATION "+login); err != nil {
		t.Fatal(err)
	}
	for range 2 { // makes the tables, and finds them
		if _, err := open(t, c).Put(t.Context(), "k", nil, state.AnyRevision); err != nil {
			t.Error(err)
		}
	}
}

// TestReadOnly: a server that has become a standby refuses writes until another connection finds the new primary.
func TestReadOnly(t *testing.T) {
	c := fresh(t)
	open(t, c) // makes the tables
	c.pool.ConnConfig.ValidateConnect = nil
	c.pool.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	s := open(t, c)
	if _, err := s.Put(t.Context(), "k", nil, state.AnyRevision); !errors.Is(err, state.ErrUnavailable) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("put: %v", err)
	}
	if _, err := s.Get(t.Context(), "k"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
}

// TestLostAnswer: a write that arrived although its answer did not is no success and no refusal, and a look tells.
func TestLostAnswer(t *testing.T) {
	c := fresh(t)
	net := queuetest.NewNetwork(t)
	c.pool.ConnConfig.DialFunc = net.Dial
	s := open(t, c)
	rev, err := s.Put(t.Context(), "lease", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	s.timeout = 3 * time.Second
	net.LoseAnswers()
	if _, err := s.Put(t.Context(), "lease", []byte("2"), rev); !errors.Is(err, state.ErrUnavailable) || errors.Is(err, state.ErrConflict) {
		t.Fatalf("err = %v", err)
	}
	net.Heal()
	s.timeout = 20 * time.Second
	e, err := s.Get(t.Context(), "lease")
	if err != nil || string(e.Value) != "2" || e.Revision <= rev {
		t.Fatalf("after the lost answer: %+v, %v", e, err)
	}
	if _, err := s.Put(t.Context(), "lease", []byte("2"), rev); !errors.Is(err, state.ErrConflict) {
		t.Errorf("the same write again: %v", err)
	}
	net.Down()
	for name, call := range map[string]func() error{
		"get":    func() error { _, err := s.Get(t.Context(), "lease"); return err },
		"put":    func() error { _, err := s.Put(t.Context(), "lease", nil, e.Revision); return err },
		"delete": func() error { return s.Delete(t.Context(), "lease", e.Revision) },
		"list":   func() error { _, err := s.List(t.Context(), ""); return err },
	} {
		if err := call(); !errors.Is(err, state.ErrUnavailable) {
			t.Errorf("%s without a server: %v", name, err)
		}
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

func TestParseURL(t *testing.T) {
	c, err := ParseURL("postgresql://u:s3cret@h:5433/db?sslmode=disable&schema=other&timeout=3s&pool=9")
	if err != nil || c.Schema != "other" || c.Timeout != 3*time.Second || c.pool.MaxConns != 9 || c.pool.ConnConfig.Host != "h" || c.pool.ConnConfig.Database != "db" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = ParseURL("postgres://u@h1:1,h2:2/db?sslmode=disable&timeout=6s"); err != nil || c.pool.ConnConfig.ConnectTimeout != 3*time.Second || c.pool.ConnConfig.ValidateConnect == nil {
		t.Errorf("two hosts: %+v, %v", c, err)
	}
	if c, err = ParseURL("postgres://u@h/db?connect_timeout=7"); err != nil || c.pool.ConnConfig.ConnectTimeout != 7*time.Second {
		t.Errorf("connect_timeout: %+v, %v", c, err)
	}
	for u, want := range map[string]string{
		"mysql://h/db":                                            "want postgres://",
		"postgres://u:s3cret%zz@h/db":                             "with % as %25",
		"postgres://u:s3cret@h/db?schema=A%20b":                   "parameter schema",
		"postgres://u:s3cret@h/db?timeout=-1s":                    "parameter timeout",
		"postgres://u:s3cret@h/db?pool=0":                         `"0" is not a number from 1 to 100`,
		"postgres://u:s3cret@h/db?pool_max_conns=9":               "parameter pool_max_conns: there is only pool=NUMBER",
		"postgres://u:s3cret@h/db?pool=%zz":                       "parameters cannot be read",
		"postgres://u:s3cret@h/db?sslmode=loose":                  "state URL: sslmode is invalid",
		"postgres://u:s3cret@h:s3cret/db":                         "state URL: ",
		"postgres://u:s3cret@h/db?sslmode=s3cret":                 "state URL: ",
		"postgres://u@h/db?password=s3cret&sslmode=s3cret":        "state URL: ",
		"postgres://u:s3cret@h/db?sslrootcert=/no/such/s3cretary": "state URL: ",
		"postgres://u:s3cret@h/db?connect_timeout=s3cret":         "state URL: ",
	} {
		_, err := ParseURL(config.URL(u))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q", u, err, want)
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
	if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "connect to PostgreSQL") || !errors.Is(err, state.ErrUnavailable) {
		t.Errorf("err = %v", err)
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("postgres://u:", "@h:1/db?schema=a&pool=3")
	f.Add("postgres://u:", "@h:x/db?sslmode=loose")
	f.Add("postgres://u@h/db?password=", "&sslmode=%zz")
	f.Fuzz(func(t *testing.T, before, after string) {
		const password = "n0bodyknows"
		u := before + password + after
		_, err := ParseURL(config.URL(u))
		if err == nil || !strings.Contains(err.Error(), password) {
			return
		}
		// It may be shown as what is no secret, say a schema's name.
		parsed, unread := url.Parse(u)
		if unread != nil {
			t.Fatalf("the error shows what could not be read: %v", err)
		}
		inLogin, _ := parsed.User.Password()
		if strings.Contains(inLogin+parsed.Query().Get("password"), password) {
			t.Errorf("the error shows the password: %v", err)
		}
	})
}

func BenchmarkStore(b *testing.B) { statetest.Bench(b, open(b, fresh(b))) }
