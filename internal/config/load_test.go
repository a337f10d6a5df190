package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ferry/internal/config"
)

// write lays files down in a folder of the test's own.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func parse(t *testing.T, src string, environ ...string) *config.Config {
	t.Helper()
	c, err := config.Parse([]byte(src), "ferry.yaml", config.Options{Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// parseErr returns the one error that the text is expected to have.
func parseErr(t *testing.T, src string, environ ...string) *config.Error {
	t.Helper()
	_, err := config.Parse([]byte(src), "ferry.yaml", config.Options{Environ: environ})
	var errs config.Errors
	if !errors.As(err, &errs) || len(errs) != 1 {
		t.Fatalf("err = %v, want one", err)
	}
	return errs[0]
}

func TestEverythingThatCanBeTyped(t *testing.T) {
	c := parse(t, `
env: prod
listen: "[::]:9090"
queue: "embedded:"
auth: {keys: [{name: ops, key: "${OPS}"}, {name: eyes, key: fedcba9876543210, role: read}]}
defaults:
  source:
    timeout: 20s
    auth: {bearer: "${TOKEN}"}
    headers: {Accept: application/json}
    timeouts: {connect: 1s}
pipelines:
  orders:
    source:
      base: https://api.example.com
      post: /v1/orders
      body:
        b: 1
        a: [x, true, null, 1.50, 007, "5", 12345678901234567890, 0x1F, +1, "${N}", ~]
        n: ${N}
      query: {page: 1, open: true, at: 2024-01-01, none: null}
      headers: {X-Tenant: "t-${N}"}
      on: {404: end, 410: skip}
      rate: 600/m
      paginate: {page: {size: 100, size_into: query.per_page}}
      incremental: {field: .at, into: query.since, start: 2024-01-01T00:00:00Z}
      timeouts: {tls: 2s}
    transform: [{where: .a}, {map: "{a}"}, {schema: schemas/a.json}]
    cron: "0 6 * * *"
  users:
    source:
      get: https://api.example.com/v1/users
      auth: none
      paginate: link_header
    topic: people
    every: 1d12h
  raw:
    source: {base: "mock:", post: /x, body: "a=${N}", auth: {basic: {user: u, password: p}}}
`, "OPS=0123456789abcdef", "TOKEN=sesame", "N=5")
	if c.Env != "prod" || c.Listen != "[::]:9090" || c.Queue != "embedded:" || c.Data != "./data" {
		t.Errorf("top = %v %v %v %v", c.Env, c.Listen, c.Queue, c.Data)
	}
	wantKeys := []config.APIKey{
		{Name: "ops", Key: "0123456789abcdef", Role: "run"},
		{Name: "eyes", Key: "fedcba9876543210", Role: "read"},
	}
	if !reflect.DeepEqual(c.Auth.Keys, wantKeys) {
		t.Errorf("auth.keys differ")
	}
	o := c.Pipelines["orders"]
	if got, want := string(o.Source.Body.JSON), `{"b":1,"a":["x",true,null,1.50,"007","5",12345678901234567890,31,1,"5",null],"n":5}`; got != want {
		t.Errorf("body = %s\nwant   %s", got, want)
	}
	if !reflect.DeepEqual(o.Source.Query, config.Params{"page": "1", "open": "true", "at": "2024-01-01"}) {
		t.Errorf("query = %v", o.Source.Query)
	}
	if !reflect.DeepEqual(o.Source.Headers, map[string]config.Secret{"Accept": "application/json", "X-Tenant": "t-5"}) {
		t.Errorf("headers differ: %d", len(o.Source.Headers))
	}
	if !reflect.DeepEqual(o.Source.On, map[int]string{404: "end", 410: "skip"}) {
		t.Errorf("on = %v", o.Source.On)
	}
	if o.Source.Auth.Bearer != "sesame" || o.Source.Rate != (config.Rate{Count: 600, Per: time.Minute}) {
		t.Errorf("auth or rate = %v", o.Source.Rate)
	}
	if *o.Source.Paginate.Page != (config.PagePaging{Into: "query.page", Start: 1, Size: 100, SizeInto: "query.per_page"}) {
		t.Errorf("page = %+v", *o.Source.Paginate.Page)
	}
	if o.Source.Incremental.Start != "2024-01-01T00:00:00Z" || o.Source.Incremental.Type != "auto" {
		t.Errorf("incremental = %+v", *o.Source.Incremental)
	}
	second := config.Duration(time.Second)
	if o.Source.Timeouts != (config.Timeouts{Connect: second, TLS: 2 * second, Headers: 20 * second, Idle: 20 * second, Page: 600 * second}) {
		t.Errorf("timeouts = %+v", o.Source.Timeouts)
	}
	if o.Topic != "orders" || o.Transform[2].Schema != filepath.FromSlash("schemas/a.json") || o.Timezone != "UTC" {
		t.Errorf("pipeline = %+v", o)
	}
	u := c.Pipelines["users"]
	if !reflect.DeepEqual(u.Source.Auth, config.SourceAuth{None: true}) || u.Source.Paginate.Word != "link_header" || u.Topic != "people" || u.Every.D() != 36*time.Hour {
		t.Errorf("users = %+v", u)
	}
	r := c.Pipelines["raw"]
	if r.Source.Body.Text != "a=5" || r.Source.Auth.Bearer != "" || r.Source.Auth.Basic.Password != "p" {
		t.Errorf("raw = %+v", r)
	}
	if len(c.Warnings) != 0 {
		t.Errorf("warnings = %q", c.Warnings)
	}
}

func TestLayers(t *testing.T) {
	const file = "ferry.yaml"
	get := func(c *config.Config) string { return c.Log.Level + " " + c.Listen }
	tests := []struct {
		name    string
		files   map[string]string
		environ []string
		set     map[string]string
		want    string
	}{
		{"defaults", nil, nil, nil, "info 127.0.0.1:8080"},
		{"file", map[string]string{file: "log: {level: warn}"}, nil, nil, "warn 127.0.0.1:8080"},
		{"config/dev.env over file", map[string]string{file: "log: {level: warn}", "config/dev.env": "FERRY_LOG_LEVEL=error", "config/prod.env": "FERRY_LOG_LEVEL=debug"}, nil, nil, "error 127.0.0.1:8080"},
		{"config/prod.env by variable", map[string]string{"config/dev.env": "FERRY_LOG_LEVEL=error", "config/prod.env": "FERRY_LOG_LEVEL=debug"}, []string{"FERRY_ENV=prod"}, nil, "debug 127.0.0.1:8080"},
		{"config/prod.env by .env", map[string]string{".env": "FERRY_ENV=prod", "config/prod.env": "FERRY_LOG_LEVEL=debug"}, nil, nil, "debug 127.0.0.1:8080"},
		{"config/prod.env by file", map[string]string{file: "env: prod", "config/prod.env": "FERRY_LOG_LEVEL=debug"}, nil, nil, "debug 127.0.0.1:8080"},
		{"config/prod.env by reference", map[string]string{file: "env: ${STAGE:-dev}", "config/prod.env": "FERRY_LOG_LEVEL=debug"}, []string{"STAGE=prod"}, nil, "debug 127.0.0.1:8080"},
		{"config/prod.env by flag", map[string]string{file: "env: dev", "config/prod.env": "FERRY_LOG_LEVEL=debug"}, nil, map[string]string{"env": "prod"}, "debug 127.0.0.1:8080"},
		{".env over config/dev.env", map[string]string{".env": "FERRY_LOG_LEVEL=debug", "config/dev.env": "FERRY_LOG_LEVEL=error"}, nil, nil, "debug 127.0.0.1:8080"},
		{"environment over .env", map[string]string{".env": "FERRY_LOG_LEVEL=debug"}, []string{"FERRY_LOG_LEVEL=warn"}, nil, "warn 127.0.0.1:8080"},
		{"an empty variable is none", map[string]string{file: "log: {level: warn}"}, []string{"FERRY_LOG_LEVEL="}, nil, "warn 127.0.0.1:8080"},
		{"flags over all", map[string]string{file: "log: {level: warn}", ".env": "FERRY_LOG_LEVEL=debug"}, []string{"FERRY_LOG_LEVEL=info"}, map[string]string{"log.level": "error", "listen": "127.0.0.1:0"}, "error 127.0.0.1:0"},
		{"a whole and a part of it", nil, []string{"FERRY_LOG_LEVEL=error", "FERRY_LOG={level: debug, format: json}"}, nil, "error 127.0.0.1:8080"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := config.Load(config.Options{Dir: write(t, tt.files), Environ: tt.environ, Set: tt.set})
			if err != nil {
				t.Fatal(err)
			}
			if got := get(c); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestNullTakesAway: null in a variable or a flag takes away what the file has set, whatever form the key has.
func TestNullTakesAway(t *testing.T) {
	const file = `
log: {level: warn}
defaults: {source: {rate: 5/s}}
pipelines:
  a:
    every: 1h
    source: {post: "https://a.example.com", auth: {bearer: t}, query: {x: "1"}, retries: 7, body: hello, paginate: {next_url: .n}}
    transform: [{where: .a}]
`
	source := func(c *config.Config) config.Source { return c.Pipelines["a"].Source }
	for key, get := range map[string]func(c *config.Config) bool{ // whether it is still as the file has it
		"log.level":                   func(c *config.Config) bool { return c.Log.Level == "warn" },
		"log":                         func(c *config.Config) bool { return c.Log.Level == "warn" },
		"pipelines.a.every":           func(c *config.Config) bool { return c.Pipelines["a"].Every != 0 },
		"pipelines.a.transform":       func(c *config.Config) bool { return len(c.Pipelines["a"].Transform) > 0 },
		"pipelines.a.source.retries":  func(c *config.Config) bool { return source(c).Retries == 7 },
		"pipelines.a.source.query":    func(c *config.Config) bool { return len(source(c).Query) > 0 },
		"pipelines.a.source.body":     func(c *config.Config) bool { return !reflect.ValueOf(source(c).Body).IsZero() },
		"pipelines.a.source.auth":     func(c *config.Config) bool { return !reflect.ValueOf(source(c).Auth).IsZero() },
		"pipelines.a.source.paginate": func(c *config.Config) bool { return !reflect.ValueOf(source(c).Paginate).IsZero() },
		"pipelines.a.source.rate":     func(c *config.Config) bool { return !reflect.ValueOf(source(c).Rate).IsZero() },
		"defaults.source.rate":        func(c *config.Config) bool { return !reflect.ValueOf(source(c).Rate).IsZero() },
	} {
		if !get(parse(t, file)) {
			t.Errorf("%s: the file sets nothing", key)
		}
		c, err := config.Parse([]byte(file), "ferry.yaml", config.Options{Set: map[string]string{key: "null"}})
		if err != nil || get(c) {
			t.Errorf("--set %s=null changes nothing: %v", key, err)
		}
		name := "FERRY_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		c, err = config.Parse([]byte(file), "ferry.yaml", config.Options{Environ: []string{name + "=null"}})
		if err != nil || get(c) {
			t.Errorf("%s=null changes nothing: %v", name, err)
		}
	}
}

func TestVariablesOfKeys(t *testing.T) {
	const file = `
pipelines:
  Big-Orders: {source: {get: "https://a.example.com", query: {Page-Size: 1}, paginate: {next_url: .n}}}
  a: {source: {get: "https://a.example.com"}}
`
	tests := []struct {
		variable string
		get      func(c *config.Config) any
		want     any
	}{
		{"FERRY_PIPELINES_BIG_ORDERS_EVERY=7d", func(c *config.Config) any { return c.Pipelines["Big-Orders"].Every.String() }, "7d"},
		{"FERRY_PIPELINES_BIG_ORDERS_SOURCE_RETRY_MAX=3s", func(c *config.Config) any { return c.Pipelines["Big-Orders"].Source.RetryMax.String() }, "3s"},
		{"FERRY_PIPELINES_BIG_ORDERS_SOURCE_QUERY_PAGE_SIZE=9", func(c *config.Config) any { return c.Pipelines["Big-Orders"].Source.Query["Page-Size"] }, "9"},
		{"FERRY_PIPELINES_A_SOURCE_QUERY_PER_PAGE=9", func(c *config.Config) any { return c.Pipelines["a"].Source.Query["per_page"] }, "9"},
		{"FERRY_PIPELINES_A_SOURCE_QUERY={x: 1, y: [}", nil, "FERRY_PIPELINES_A_SOURCE_QUERY"},
		{"FERRY_PIPELINES_A_SOURCE_QUERY={\"x\": 1}", func(c *config.Config) any { return c.Pipelines["a"].Source.Query["x"] }, "1"},
		{"FERRY_PIPELINES_A_SOURCE_HEADERS_X_API_KEY=k", func(c *config.Config) any { return c.Pipelines["a"].Source.Headers["x-api-key"].Reveal() }, "k"},
		{"FERRY_PIPELINES_A_SOURCE_ON_404=end", func(c *config.Config) any { return c.Pipelines["a"].Source.On[404] }, "end"},
		{"FERRY_PIPELINES_A_SOURCE_AUTH_API_KEY={value: a, header: X}", func(c *config.Config) any { return c.Pipelines["a"].Source.Auth.APIKey.Header }, "X"},
		{"FERRY_PIPELINES_A_SOURCE_AUTH_BEARER=a${B}", func(c *config.Config) any { return c.Pipelines["a"].Source.Auth.Bearer.Reveal() }, "a${B}"},
		{"FERRY_PIPELINES_BIG_ORDERS_SOURCE_PAGINATE=none", func(c *config.Config) any { return c.Pipelines["Big-Orders"].Source.Paginate.Word }, "none"},
		{"FERRY_PIPELINES_BIG_ORDERS_SOURCE_PAGINATE_CURSOR={from: .a, into: query.b}", func(c *config.Config) any { return c.Pipelines["Big-Orders"].Source.Paginate.NextURL }, ""},
		{"FERRY_PIPELINES_A_TRANSFORM=[{where: .a}]", func(c *config.Config) any { return c.Pipelines["a"].Transform[0].Where }, ".a"},
		{"FERRY_PIPELINES_A_SOURCE_STOP=.a == \"#\" and [1]", func(c *config.Config) any { return c.Pipelines["a"].Source.Stop }, `.a == "#" and [1]`},
		{"FERRY_PIPELINES_NEW_ONE_SOURCE_GET=https://n.example.com", func(c *config.Config) any { return c.Pipelines["new_one"].Source.Get }, "https://n.example.com"},
		{"FERRY_PIPELINES_NEW={source: {get: \"https://n.example.com\"}}", func(c *config.Config) any { return c.Pipelines["new"].Source.Get }, "https://n.example.com"},
		{"FERRY_AUTH=none", func(c *config.Config) any { return c.Auth.None }, true},
		{"FERRY_AUTH_KEYS=[{name: a, key: 0123456789abcdef}]", func(c *config.Config) any { return c.Auth.Keys[0].Name }, "a"},
		{"FERRY_API_KEY=0123456789abcdef", func(c *config.Config) any { return c.Auth.Keys[0] }, config.APIKey{Name: "env", Key: "0123456789abcdef", Role: "admin"}},
		{"FERRY_API_KEY=hunter2", nil, "FERRY_API_KEY"},
		{"FERRY_SERVER_GRACE=hunter", nil, "FERRY_SERVER_GRACE"},
		{"FERRY_DEFAULTS_SOURCE_RETRIES=9", func(c *config.Config) any { return c.Pipelines["a"].Source.Retries }, 9},
	}
	for _, tt := range tests {
		t.Run(tt.variable, func(t *testing.T) {
			if tt.get == nil {
				err := parseErr(t, file, tt.variable)
				if err.File != tt.want || err.Line != 0 || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error at %s:%d, want at %s: %v", err.File, err.Line, tt.want, err)
				}
				return
			}
			c := parse(t, file, tt.variable)
			if got := tt.get(c); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if len(c.Warnings) > 0 {
				t.Errorf("warnings = %q", c.Warnings)
			}
		})
	}
}

func TestVariablesThatMeanNothingAreWarnedOf(t *testing.T) {
	c := parse(t, `
pipelines: {orders: {source: {get: "https://a.example.com", auth: {bearer: "${FERRY_MY_TOKEN}"}}}}
`, "FERRY_MY_TOKEN=x", "FERRY_LISEN=y", "FERRY_PIPELINES_ORDERS_EVRY=5m", "FERRY_XYZZYX=1", "FERRY_SERVER=http://x", "FERRY_CONFIG=a", "FERRY_MOCK_SEED=1", "HOME=/")
	want := []string{
		"FERRY_LISEN is not a setting of ferry; did you mean FERRY_LISTEN?",
		"FERRY_PIPELINES_ORDERS_EVRY is not a setting of ferry; did you mean FERRY_PIPELINES_ORDERS_EVERY?",
		"FERRY_XYZZYX is not a setting of ferry",
	}
	if diff := cmp.Diff(want, c.Warnings); diff != "" {
		t.Errorf("warnings differ (-want +got):\n%s", diff)
	}
}

// The key that a caller uses may be one of the configuration's, which keeps its role.
func TestKnownKeyInTheEnvironment(t *testing.T) {
	c := parse(t, "auth: {keys: [{name: viewer, key: 0123456789abcdef, role: read}]}", "FERRY_API_KEY=0123456789abcdef")
	if want := []config.APIKey{{Name: "viewer", Key: "0123456789abcdef", Role: "read"}}; !reflect.DeepEqual(c.Auth.Keys, want) {
		t.Errorf("keys %+v, want %+v", c.Auth.Keys, want)
	}
}

func TestEnvironmentAlone(t *testing.T) {
	load := func(t *testing.T, environ ...string) *config.Config {
		t.Helper()
		c, err := config.Load(config.Options{Dir: t.TempDir(), Environ: environ})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Run("one pipeline", func(t *testing.T) {
		c := load(t, "API_URL=https://u:hunter2@api.example.com/v1/item?format=full&x=", "MESSAGE_QUEUE_URL=https://queue.amazonaws.com/1/q", "FERRY_ENV=prod")
		s := c.Pipelines["process"].Source
		want := config.Source{Base: "https://api.example.com", Get: "/v1/item", Query: config.Params{"format": "full", "x": ""}}
		if s.Base != want.Base || s.Get != want.Get || !reflect.DeepEqual(s.Query, want.Query) || s.Auth.Basic.User != "u" || s.Auth.Basic.Password != "hunter2" {
			t.Errorf("source = %+v", s)
		}
		if c.Queue != "https://queue.amazonaws.com/1/q" || c.Env != "prod" || c.Pipelines["process"].Topic != "process" {
			t.Errorf("queue %v, env %v", c.Queue, c.Env)
		}
	})
	t.Run("a parameter twice", func(t *testing.T) {
		s := load(t, "API_URL=http://127.0.0.1:1?a=1&a=2").Pipelines["process"].Source
		if s.Base != "http://127.0.0.1:1" || s.Get != "/?a=1&a=2" || len(s.Query) > 0 {
			t.Errorf("source = %+v", s)
		}
	})
	t.Run("mock", func(t *testing.T) {
		if s := load(t, "API_URL=mock:").Pipelines["process"].Source; s.Base != "mock:" || s.Get != "/" {
			t.Errorf("source = %+v", s)
		}
	})
	t.Run("FERRY_QUEUE goes first", func(t *testing.T) {
		if c := load(t, "FERRY_QUEUE=nats://a", "MESSAGE_QUEUE_URL=nats://b"); c.Queue != "nats://a" {
			t.Errorf("queue = %v", c.Queue)
		}
	})
	t.Run("no address", func(t *testing.T) {
		_, err := config.Load(config.Options{Dir: t.TempDir(), Environ: []string{"API_URL=api.example.com"}})
		var one *config.Error
		if !errors.As(err, &one) || one.File != "API_URL" {
			t.Errorf("err = %v, want one at API_URL", err)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		if c := load(t); len(c.Warnings) != 1 || len(c.Pipelines) != 0 {
			t.Errorf("warnings = %q", c.Warnings)
		}
	})
}

func TestAddressVariableBesideAFile(t *testing.T) {
	const variable = "API_URL=https://env.example.com/v2"
	tests := []struct{ name, file, want string }{
		{"over the file's process", `pipelines: {process: {source: {base: "https://file.example.com", post: /v1, body: x}}}`, "https://env.example.com/v2"},
		{"named in the file", `pipelines: {process: {source: {base: "${API_URL}", get: /v1}}}`, "https://env.example.com/v2/v1"},
		{"other pipelines only", `pipelines: {orders: {source: {base: "https://file.example.com", get: /v1}}}`, ""},
		{"no pipelines", `listen: 127.0.0.1:1`, "https://env.example.com/v2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := parse(t, tt.file, variable).Pipelines["process"].Source
			if got := s.Base + s.Get; got != tt.want || s.Post != "" {
				t.Errorf("address = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestReferences(t *testing.T) {
	dir := write(t, map[string]string{"token": "from a file\r\n\n", "big": strings.Repeat("x", 1<<20+1)})
	tests := []struct{ typed, want, err string }{
		{"${A}", "a", ""},
		{"x${A}y${A}z", "xayaz", ""},
		{"${NONE:-d: [e]}", "d: [e]", ""},
		{"${EMPTY:-d}", "d", ""},
		{"${NONE:-}", "", ""},
		{"${EMPTY}x", "x", ""},
		{"$${A}", "${A}", ""},
		{"$A $ ${A}$", "$A $ a$", ""},
		{"${NESTED}", "${A}: [", ""},
		{"${file:token}", "from a file", ""},
		{"${file:" + filepath.Join(dir, "token") + "}", "from a file", ""},
		{"${file:big}", "", "larger than 1 MiB"},
		{"${file:.}", "", "not a regular file"},
		{"${file:}", "", "names no file"},
		{"${file:gone}", "", "no such file"},
		{"${NONE}", "", "the variable NONE is not set"},
		{"${A", "", "no closing }"},
		{"${}", "", "names no variable"},
		{"${BINARY}", "", "not UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.typed, func(t *testing.T) {
			c, err := config.Parse([]byte("pipelines: {a: {source: {get: 'https://a.example.com', query: {q: '"+tt.typed+"'}}}}"), "ferry.yaml", config.Options{
				Dir: dir, Environ: []string{"A=a", "EMPTY=", "NESTED=${A}: [", "BINARY=\xff"},
			})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("err = %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Pipelines["a"].Source.Query["q"]; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestReferenceTakesTheTypeOfItsKey(t *testing.T) {
	c := parse(t, "server: {in_flight: \"${N}\", grace: \"${D}\"}\npipelines:\n  a:\n    paused: ${B}\n    source: {get: \"https://a.example.com\"}\n", "N=7", "D=3s", "B=true")
	if c.Server.InFlight != 7 || c.Server.Grace.String() != "3s" || !c.Pipelines["a"].Paused {
		t.Errorf("got %+v", c.Server)
	}
}

func TestDefaultsOfSources(t *testing.T) {
	c := parse(t, `
defaults:
  source:
    get: /ping
    query: {a: 1, b: 2}
    headers: {X: x}
    rate: 5/s
    auth: {basic: {user: u, password: p}}
    paginate: {page: {size: 10, size_into: query.n}}
    limits: {depth: 9}
pipelines:
  same: {source: {base: "https://a.example.com"}}
  other:
    source:
      base: https://b.example.com
      post: /x
      query: {b: 3, c: 4}
      rate: null
      auth: {bearer: t}
      paginate: {page: {size: 20}}
      limits: {record: 1MiB}
  pushed: {source: {push: true, key: .id}}
`)
	same, other := c.Pipelines["same"].Source, c.Pipelines["other"].Source
	// What is about reading does not reach a pipeline that reads nothing.
	if s := c.Pipelines["pushed"].Source; !s.Push || s.Get != "" || s.Query != nil || s.Auth.Basic != nil || s.Key != ".id" || s.Limits.Depth != 9 {
		t.Errorf("pushed = %+v", s)
	}
	if same.Get != "/ping" || same.Rate.String() != "5/s" || same.Auth.Basic.User != "u" || same.Limits.Depth != 9 || same.Retries != 5 {
		t.Errorf("same = %+v", same)
	}
	if other.Get != "" || other.Post != "/x" || other.Rate.Count != 0 || other.Auth.Basic != nil || other.Auth.Bearer != "t" {
		t.Errorf("other = %+v", other)
	}
	if !reflect.DeepEqual(other.Query, config.Params{"a": "1", "b": "3", "c": "4"}) {
		t.Errorf("query = %v", other.Query)
	}
	if p := other.Paginate.Page; p.Size != 20 || p.SizeInto != "query.n" || other.Limits.Depth != 9 || other.Limits.Record != 1<<20 {
		t.Errorf("paginate = %+v, limits = %+v", p, other.Limits)
	}
}

func TestAnErrorInDefaultsComesOnce(t *testing.T) {
	err := parseErr(t, `
defaults: {source: {timeout: soon}}
pipelines:
  a: {source: {get: "https://a.example.com"}}
  b: {source: {get: "https://a.example.com"}}
`)
	if err.Path != "defaults.source.timeout" || err.Line != 2 || err.Col != 30 {
		t.Errorf("error at %s %d:%d", err.Path, err.Line, err.Col)
	}
}

func TestPlaces(t *testing.T) {
	tests := []struct {
		name, src string
		file      string
		line, col int
	}{
		{"byte order mark and CRLF", "\ufefflisten: 127.0.0.1:8080\r\nlog:\r\n  level: x\r\n", "ferry.yaml", 3, 10},
		{"not UTF-8", "listen: a\ndata: \"é\xff\"\n", "ferry.yaml", 2, 9},
		{"key with wide letters", "pipelines: {é: {source: {get: \"https://a\"}}}", "ferry.yaml", 1, 13},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := parseErr(t, tt.src); err.File != tt.file || err.Line != tt.line || err.Col != tt.col {
				t.Errorf("error at %s:%d:%d, want %s:%d:%d: %v", err.File, err.Line, err.Col, tt.file, tt.line, tt.col, err)
			}
		})
	}
}

func TestErrorsAreBounded(t *testing.T) {
	var src strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&src, "key%d: 1\n", i)
	}
	_, err := config.Parse([]byte(src.String()), "ferry.yaml", config.Options{})
	var errs config.Errors
	if !errors.As(err, &errs) || len(errs) != 101 || !strings.HasPrefix(errs[100].Msg, "more than 100 errors") {
		t.Errorf("%d errors, want 100 and a note", len(errs))
	}
	if err := parseErr(t, "data: "+strings.Repeat("x", 1<<20)); !strings.Contains(err.Msg, "larger than 1 MiB") {
		t.Errorf("err = %v", err)
	}
}

func TestDotenv(t *testing.T) {
	dir := write(t, map[string]string{".env": "\ufeff# comment\n\nexport A=bare value # comment\r\nB='single # $X \\n'\nC=\"double \\\"q\\\" \\n\\\\n\" # c\nD=\nE=#nothing\nF=a#b\n"})
	c, err := config.Parse([]byte("data: '${A}|${B}|${C}|${D}|${E}|${F}'"), "ferry.yaml", config.Options{Dir: dir})
	if err != nil || c.Data != "bare value|single # $X \\n|double \"q\" \n\\n|||a#b" {
		t.Errorf("got %q, %v", c.Data, err)
	}
	for text, want := range map[string]string{
		"A=1\nnonsense":          ".env:2:1: this line sets no variable",
		"A='open":                ".env:1:1: A: the quote is not closed",
		"A=\"x\" y":              ".env:1:1: A: there is text after the closing quote",
		"\nFERRY_LOG_LEVEL=wran": ".env:2:1: log.level: \"wran\" is not one of",
		"FERRY_AUTH_KEYS=[{name: a, keyy: hunter2}]": ".env:1:1: auth.keys[0]: ",
	} {
		dir := write(t, map[string]string{".env": text})
		_, err := config.Load(config.Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: err = %v, want %q", text, err, want)
		}
	}
}

func TestFlags(t *testing.T) {
	_, err := config.Parse(nil, "ferry.yaml", config.Options{Set: map[string]string{"lisen": "x", "log.level": "wran", "pipelines.a.source.gt": "x"}})
	want := `command line: unknown key "lisen"
  hint: did you mean listen?
command line: pipelines.a.source: unknown key "gt"
  hint: did you mean get?
command line: log.level: "wran" is not one of debug, info, warn, error
  hint: did you mean warn?`
	if err == nil || err.Error() != want {
		t.Errorf("err = %v", err)
	}
}

func TestProd(t *testing.T) {
	tests := []struct {
		name, src string
		environ   []string
		ok        bool
	}{
		{"open", "listen: :8080", nil, false},
		{"loopback", "listen: localhost:8080", nil, true},
		{"loopback 6", `listen: "[::1]:8080"`, nil, true},
		{"none", "{listen: ':8080', auth: none}", nil, true},
		{"key", "listen: :8080", []string{"FERRY_API_KEY=0123456789abcdef"}, true},
		{"empty", `listen: ""`, nil, false}, // every address, at any port
		{"empty variable", "listen: ${BIND}", []string{"BIND="}, false},
		{"empty queue", "queue: ${MQ}", []string{"MQ="}, false},
		{"empty state", "state: ${STATE:-}", nil, false},
		{"empty folder", "data: ''", nil, false},
		{"keys", "{listen: ':8080', auth: {keys: [{name: a, key: 0123456789abcdef}]}}", nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse([]byte(tt.src), "ferry.yaml", config.Options{Profile: "prod", Environ: tt.environ})
			if (err == nil) != tt.ok {
				t.Errorf("err = %v, want ok = %v", err, tt.ok)
			}
		})
	}
	if c := parse(t, "listen: :8080"); len(c.Callers) != 1 || !strings.Contains(c.Callers[0], "anybody may call") {
		t.Errorf("warnings in dev = %q", c.Callers)
	}
}

func TestFilesThatWereRead(t *testing.T) {
	dir := write(t, map[string]string{
		"conf/my.yaml": "data: ${file:secret}\npipelines: {a: {source: {get: 'https://a'}, transform: [{schema: s.json}]}}\n",
		"conf/secret":  "x", ".env": "", "config/dev.env": "",
	})
	var checked string
	c, err := config.Load(config.Options{
		File: filepath.Join(dir, "conf", "my.yaml"), Dir: dir,
		Checks: map[string]func(string) error{"schema": func(path string) error { checked = path; return nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, name := range []string{".env", "conf/my.yaml", "conf/s.json", "conf/secret", "config/dev.env"} {
		want = append(want, filepath.Join(dir, filepath.FromSlash(name)))
	}
	if diff := cmp.Diff(want, c.Files); diff != "" {
		t.Errorf("files differ (-want +got):\n%s", diff)
	}
	if checked != want[2] || c.Pipelines["a"].Transform[0].Schema != want[2] {
		t.Errorf("schema checked at %s, kept as %s", checked, c.Pipelines["a"].Transform[0].Schema)
	}
	if _, err := config.Load(config.Options{File: filepath.Join(dir, "none.yaml")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("err = %v, want one that wraps os.ErrNotExist", err)
	}
}

func TestTokenAddressUnderBase(t *testing.T) {
	const login = `auth: {oauth2: {client_id: a, client_secret: b, token_url: `
	tests := []struct{ source, want string }{
		{`base: "https://a.example.com/api", get: /v1, ` + login + `/token}}`, "https://a.example.com/token"},
		{`get: "https://b.example.com/v1", ` + login + `/token}}`, "https://b.example.com/token"},
		{`base: "https://a.example.com", get: /v1, ` + login + `"https://idp.example.com/t"}}`, "https://idp.example.com/t"},
		{`base: "mock:", get: /v1, ` + login + `/token}}`, "/token"},
	}
	for _, tt := range tests {
		c := parse(t, "pipelines: {a: {source: {"+tt.source+"}}}")
		if got := c.Pipelines["a"].Source.Auth.OAuth2.TokenURL; got != tt.want {
			t.Errorf("%s: token_url = %s, want %s", tt.source, got, tt.want)
		}
	}
}
