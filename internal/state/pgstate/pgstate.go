// Package pgstate is state.Store over PostgreSQL: one table, compare-and-set by a revision that comes from a sequence and
// therefore only grows, also over a deletion. A Put has been made durable by the server when it returns: a server that is
// set not to wait for its disk is refused.
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
// parameters but schema, timeout and pool are PostgreSQL's own (libpq, 34.1.2). No error shows a login (invariant 8).
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
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	parsed.RawQuery = q.Encode()
	if c.pool, err = pgxpool.ParseConfig(parsed.String()); err != nil {
		return c, fmt.Errorf("state URL: %s", reason(err, parsed))
	}
	c.pool.MaxConns = pool
	c.pool.ConnConfig.ConnectTimeout = c.Timeout
	c.pool.ConnConfig.RuntimeParams["application_name"] = "ferry"
	// Nothing is prepared on a connection, so that a pooler may hand each transaction to another one.
	c.pool.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	return c, nil
}

// reason is what the library says about a URL, without the URL.
func reason(err error, u *url.URL) string {
	var parse *pgconn.ParseConfigError
	text := err.Error()
	if errors.As(err, &parse) {
		if cause := parse.Unwrap(); cause != nil {
			text = cause.Error()
		}
	}
	if password, ok := u.User.Password(); ok && password != "" && strings.Contains(text, password) {
		return "cannot be read; see PostgreSQL's documentation of connection URIs"
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
	s := &Store{
		pool: pool, timeout: c.Timeout,
		get:     "SELECT value, revision FROM " + table + " WHERE key = $1",
		put:     "INSERT INTO " + table + " AS t (key, value, revision) VALUES ($1, $2, " + next + ") ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = " + next + " RETURNING t.revision",
		putNew:  "INSERT INTO " + table + " (key, value, revision) VALUES ($1, $2, " + next + ") ON CONFLICT DO NOTHING RETURNING revision",
		putOver: "UPDATE " + table + " SET value = $2, revision = " + next + " WHERE key = $1 AND revision = $3 RETURNING revision",
		del:     "DELETE FROM " + table + " WHERE key = $1",
		delOver: "DELETE FROM " + table + " WHERE key = $1 AND revision = $2",
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

func (s *Store) migrate(ctx context.Context, schema string) error {
	ctx, cancel := context.WithTimeout(ctx, 6*s.timeout) // others may be at it, and this waits for them
	defer cancel()
	var sync string
	if err := s.pool.QueryRow(ctx, "SHOW synchronous_commit").Scan(&sync); err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	if sync == "off" {
		return errors.New("the PostgreSQL server answers before it has written to disk (synchronous_commit is off), so cursors and leases could be lost: ALTER ROLE … SET synchronous_commit = on for ferry's login")
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
			for _, q := range []string{
				"CREATE SCHEMA IF NOT EXISTS " + name,
				"CREATE TABLE " + name + ".migrations (version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())",
			} {
				if _, err := tx.Exec(ctx, q); err != nil {
					return err
				}
			}
		}
		all := migrations(schema)
		if version > len(all) {
			return fmt.Errorf("its schema %s is of version %d, and this ferry knows versions up to %d: use the newer ferry that made it, or another schema=NAME", schema, version, len(all))
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
	if err != nil {
		return fmt.Errorf("bring the tables in PostgreSQL up to date: %w", err)
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
	query, args := s.putOver, []any{key, value, rev}
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
	query, args := s.delOver, []any{key, rev}
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
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err) // the library says that the connection was closed, by the context's end
	}
	var said *pgconn.PgError
	if errors.Is(err, context.Canceled) || errors.As(err, &said) && !passing(said.Code) {
		return fmt.Errorf("%s state %s: %w", verb, key, err)
	}
	return fmt.Errorf("%s state %s: %w: %w", verb, key, state.ErrUnavailable, err)
}

// passing tells errors of the server that pass by themselves from those that somebody has to mend: connections, resources,
// an operator's intervention, an internal error (PostgreSQL, appendix A: classes 08, 53, 57, 58, 40, XX).
func passing(code string) bool {
	switch code[:min(2, len(code))] {
	case "08", "40", "53", "57", "58", "XX":
		return true
	}
	return false
}
