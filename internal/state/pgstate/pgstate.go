// Package pgstate is state.Store over PostgreSQL: one table, compare-and-set by a revision that comes from a sequence and
// therefore only grows, also over a deletion. A Put has been made durable by the server when it returns, and by its
// synchronous standbys when it has some, whatever synchronous_commit is set to. A server that syncs nothing is refused.
package pgstate

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ferry/internal/config"
	"ferry/internal/state"
)

// Config of Open. Make one with ParseURL.
type Config struct {
	pool *pgxpool.Config
	// Schema is the PostgreSQL schema that the tables lie in; it is made when it is missing.
	Schema string
	// Timeout of one round trip.
	Timeout time.Duration
}

// ParseURL reads `postgres://user:password@host:5432/database?sslmode=verify-full&schema=ferry&timeout=10s&pool=4`. All
// parameters but schema, timeout and pool are PostgreSQL's own (libpq, 34.1.2). Of several hosts the one that can be
// written to is used. No error shows a login (invariant 8).
func ParseURL(u config.URL) (Config, error) {
	c := Config{Schema: "ferry", Timeout: 10 * time.Second}
	parsed, err := url.Parse(u.Reveal())
	if err != nil || parsed.Scheme != "postgres" && parsed.Scheme != "postgresql" {
		return c, errors.New("state URL: cannot be read; want postgres://user:password@host:5432/database, with % as %25, / as %2F, @ as %40, # as %23 and ? as %3F in the login")
	}
	q, err := url.ParseQuery(parsed.RawQuery)
	if err != nil {
		return c, errors.New("state URL: its parameters cannot be read; write them as name=value&name=value")
	}
	pool := int32(4)
	var errs []error
	for name, take := range map[string]func(string) error{
		"schema": func(v string) error {
			if !isName(v) {
				return fmt.Errorf("%q is not a schema's name of lower-case letters, digits and _", v)
			}
			c.Schema = v
			return nil
		},
		"timeout": func(v string) error {
			var d config.Duration
			if err := d.UnmarshalText([]byte(v)); err != nil || d <= 0 {
				return fmt.Errorf("%q is not a time above zero, such as 10s", v)
			}
			c.Timeout = d.D()
			return nil
		},
		"pool": func(v string) error {
			n, err := strconv.ParseInt(v, 10, 32)
			if err != nil || n < 1 || n > 100 {
				return fmt.Errorf("%q is not a number from 1 to 100", v)
			}
			pool = int32(n)
			return nil
		},
	} {
		if q.Has(name) {
			if err := take(q.Get(name)); err != nil {
				errs = append(errs, fmt.Errorf("state URL: parameter %s: %w", name, err))
			}
			q.Del(name)
		}
	}
	for name := range q {
		if strings.HasPrefix(name, "pool_") {
			errs = append(errs, fmt.Errorf("state URL: parameter %s: there is only pool=NUMBER, of connections", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	// A standby answers too, and takes no write. After a failover that may be the host that is named first.
	if !q.Has("target_session_attrs") {
		q.Set("target_session_attrs", "read-write")
	}
	parsed.RawQuery = q.Encode()
	if c.pool, err = pgxpool.ParseConfig(parsed.String()); err != nil {
		return c, fmt.Errorf("state URL: %s", reason(err, parsed, q))
	}
	c.pool.MaxConns = pool
	c.pool.AfterConnect = checkSync
	conn := c.pool.ConnConfig
	// One call has time to find that all hosts but the last are dead.
	hosts := map[string]bool{fmt.Sprint(conn.Host, conn.Port): true}
	for _, f := range conn.Fallbacks {
		hosts[fmt.Sprint(f.Host, f.Port)] = true
	}
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = c.Timeout / time.Duration(len(hosts))
	}
	c.pool.PingTimeout = c.Timeout / 4
	conn.RuntimeParams["application_name"] = "ferry"
	// Nothing is prepared on a connection, so that a pooler may hand each transaction to another one.
	conn.DefaultQueryExecMode = pgx.QueryExecModeExec
	return c, nil
}

// reason is what the library says about a URL, without the URL.
func reason(err error, u *url.URL, q url.Values) string {
	var parse *pgconn.ParseConfigError
	text := err.Error()
	if errors.As(err, &parse) {
		if cause := parse.Unwrap(); cause != nil {
			text = cause.Error()
		}
	}
	password, _ := u.User.Password()
	for _, secret := range []string{password, q.Get("password"), q.Get("sslpassword")} {
		if secret != "" && strings.Contains(text, secret) {
			return "cannot be read; see PostgreSQL's documentation of connection URIs"
		}
	}
	return text
}

func isName(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// Store is a table. Make one with Open; safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	timeout time.Duration

	get, put, putNew, putOver, del, delOver, list string
}

var _ state.Store = (*Store)(nil)

// Open connects and brings the tables up to date, which any number of instances may do at once.
func Open(ctx context.Context, c Config) (*Store, error) {
	pool, err := pgxpool.NewWithConfig(ctx, c.pool)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	table := pgx.Identifier{c.Schema, "state"}.Sanitize()
	next := "nextval('" + c.Schema + ".revision')" // a name of letters, digits and _
	// A commit waits for the disk and for synchronous standbys, whatever the server, the database, the login or another
	// client of a pooler's connection has set. It holds for this one statement.
	const durable = "set_config('synchronous_commit', 'on', true)"
	// A revision is taken before its row is there. Who makes a key waits for whoever is making it, so that a key that is
	// made, deleted and made again cannot end with the older revision.
	const alone = "pg_advisory_xact_lock(102, hashtext($1))"
	s := &Store{
		pool: pool, timeout: c.Timeout,
		get:     "SELECT value, revision FROM " + table + " WHERE key = $1",
		put:     "INSERT INTO " + table + " AS t (key, value, revision) SELECT $1, $2, " + next + " FROM " + durable + ", " + alone + " ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = " + next + " RETURNING t.revision",
		putNew:  "INSERT INTO " + table + " (key, value, revision) SELECT $1, $2, " + next + " FROM " + durable + ", " + alone + " ON CONFLICT DO NOTHING RETURNING revision",
		putOver: "UPDATE " + table + " SET value = $2, revision = " + next + " FROM " + durable + " WHERE key = $1 AND revision = $3 RETURNING revision",
		del:     "DELETE FROM " + table + " USING " + durable + " WHERE key = $1",
		delOver: "DELETE FROM " + table + " USING " + durable + " WHERE key = $1 AND revision = $2",
		list:    "SELECT key, value, revision FROM " + table + " WHERE key >= $1 AND starts_with(key, $1) ORDER BY key",
	}
	if err := s.migrate(ctx, c.Schema); err != nil {
		pool.Close()
		return nil, err
	}
	return s, nil
}

// Close lets go of the connections, once calls under way have ended.
func (s *Store) Close() { s.pool.Close() }

// migrations bring the tables from one version to the next. What has been released is never changed.
func migrations(schema string) []string {
	schema = pgx.Identifier{schema}.Sanitize()
	return []string{
		// Keys compare by their bytes, whatever the database's language.
		`CREATE SEQUENCE ` + schema + `.revision;
		 CREATE TABLE ` + schema + `.state (key text COLLATE "C" PRIMARY KEY, value bytea NOT NULL, revision bigint NOT NULL)`,
	}
}

// checkSync refuses a server that answers before anything is on its disk.
func checkSync(ctx context.Context, conn *pgx.Conn) error {
	var fsync string
	if err := conn.QueryRow(ctx, "SELECT coalesce(current_setting('fsync', true), '')").Scan(&fsync); err != nil {
		return err
	}
	if fsync == "off" {
		return &unfit{"the server's fsync is off, so a crash of its machine could take back leases and cursors: set it to on"}
	}
	return nil
}

func (s *Store) migrate(ctx context.Context, schema string) error {
	ctx, cancel := context.WithTimeout(ctx, 6*s.timeout) // others may be at it, and this waits for them
	defer cancel()
	// Of its own, to tell what cannot be reached from what cannot be made.
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", unavailable(ctx, err))
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// One at a time; the lock ends with the transaction. The number is ferry's own, the bytes of "ferry".
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(439788663417)"); err != nil {
			return err
		}
		name := pgx.Identifier{schema}.Sanitize()
		var exists bool
		if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name+".migrations").Scan(&exists); err != nil {
			return err
		}
		version := 0
		if exists {
			if err := tx.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM "+name+".migrations").Scan(&version); err != nil {
				return err
			}
		} else {
			var made bool // asked, because IF NOT EXISTS wants the right to make it in any case
			if err := tx.QueryRow(ctx, "SELECT to_regnamespace($1) IS NOT NULL", name).Scan(&made); err != nil {
				return err
			}
			if !made {
				if _, err := tx.Exec(ctx, "CREATE SCHEMA "+name); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, "CREATE TABLE "+name+".migrations (version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"); err != nil {
				return err
			}
		}
		all := migrations(schema)
		if version > len(all) {
			return &unfit{fmt.Sprintf("its schema %s is of version %d, and this ferry knows versions up to %d: use the newer ferry that made it, or another schema=NAME", schema, version, len(all))}
		}
		for i, m := range all[version:] {
			for q := range strings.SplitSeq(m, ";") {
				if _, err := tx.Exec(ctx, q); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, "INSERT INTO "+name+".migrations (version) VALUES ($1)", version+i+1); err != nil {
				return err
			}
		}
		return nil
	})
	var said *pgconn.PgError
	if errors.As(err, &said) && said.Code == "42501" { // insufficient_privilege
		err = fmt.Errorf("%w: give ferry's login a schema of its own (CREATE SCHEMA %s AUTHORIZATION …), or the right to make one (GRANT CREATE ON DATABASE … TO …)", err, schema)
	}
	if err != nil {
		return fmt.Errorf("bring the tables in PostgreSQL up to date: %w", unavailable(ctx, err))
	}
	return nil
}

// Get implements state.Store.
func (s *Store) Get(ctx context.Context, key string) (state.Entry, error) {
	if err := state.CheckKey(key); err != nil {
		return state.Entry{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	e := state.Entry{Key: key}
	err := s.pool.QueryRow(ctx, s.get, key).Scan(&e.Value, &e.Revision)
	if errors.Is(err, pgx.ErrNoRows) {
		return state.Entry{}, fmt.Errorf("%w: %s", state.ErrNotFound, key)
	}
	if err != nil {
		return state.Entry{}, failure(ctx, "read", key, err)
	}
	return e, nil
}

// Put implements state.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if err := state.CheckKey(key); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if value == nil {
		value = []byte{}
	}
	query, args := s.putOver, []any{key, value, int64(rev)} // what the table cannot hold becomes negative, and matches nothing
	switch rev {
	case state.AnyRevision:
		query, args = s.put, args[:2]
	case 0:
		query, args = s.putNew, args[:2]
	}
	var got uint64
	err := s.pool.QueryRow(ctx, query, args...).Scan(&got)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("%w: %s", state.ErrConflict, key)
	}
	if err != nil {
		return 0, failure(ctx, "write", key, err)
	}
	return got, nil
}

// Delete implements state.Store.
func (s *Store) Delete(ctx context.Context, key string, rev uint64) error {
	if err := state.CheckKey(key); err != nil {
		return err
	}
	if rev == 0 {
		switch _, err := s.Get(ctx, key); {
		case errors.Is(err, state.ErrNotFound):
			return nil
		case err != nil:
			return err
		}
		return fmt.Errorf("%w: %s", state.ErrConflict, key)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	query, args := s.delOver, []any{key, int64(rev)}
	if rev == state.AnyRevision {
		query, args = s.del, args[:1]
	}
	done, err := s.pool.Exec(ctx, query, args...)
	if err != nil {
		return failure(ctx, "delete", key, err)
	}
	if done.RowsAffected() == 0 && rev != state.AnyRevision {
		return fmt.Errorf("%w: %s", state.ErrConflict, key)
	}
	return nil
}

// List implements state.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]state.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, s.list, prefix)
	if err != nil {
		return nil, failure(ctx, "list", prefix, err)
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (e state.Entry, err error) {
		err = r.Scan(&e.Key, &e.Value, &e.Revision)
		return e, err
	})
	if err != nil {
		return nil, failure(ctx, "list", prefix, err)
	}
	return list, nil
}

func failure(ctx context.Context, verb, key string, err error) error {
	return fmt.Errorf("%s state %s: %w", verb, key, unavailable(ctx, err))
}

// unavailable adds state.ErrUnavailable to what may pass by itself.
func unavailable(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err) // the library says that the connection was closed, by the context's end
	}
	var said *pgconn.PgError
	var bad *unfit
	if errors.Is(err, context.Canceled) || errors.As(err, &bad) || errors.As(err, &said) && !passing(said.Code) {
		return err
	}
	return fmt.Errorf("%w: %w", state.ErrUnavailable, err)
}

// unfit says why the server cannot be used until somebody mends it.
type unfit struct{ why string }

func (e *unfit) Error() string { return e.why }

// passing tells errors of the server that pass by themselves from those that somebody has to mend: connections, resources,
// an operator's intervention, an internal error (PostgreSQL, appendix A: classes 08, 40, 53, 57, 58, XX), and a server that
// has become a standby (25006).
func passing(code string) bool {
	switch code[:min(2, len(code))] {
	case "08", "40", "53", "57", "58", "XX":
		return true
	}
	return code == "25006"
}
