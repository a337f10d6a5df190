// Package config holds every key that a person can set, with its default, its documentation and its check. One set of
// structs gives the loader, the JSON Schema, the environment variables and docs/configuration.md.
//
// Struct tags: `yaml` names the key, `doc` is its one-line documentation, `default` its default as it would be typed,
// `example` a value for the reference, `enum` the words allowed (a|b|c), `min` and `max` bounds as typed, `required`
// that it cannot be left out, `check` the check its value goes through (see Options.Checks and check.go).
package config

// Config is the whole of ferry's configuration. Load gives one that is complete and checked.
type Config struct {
	Env       string              `yaml:"env" default:"dev" enum:"dev|prod" doc:"How strict to be. In prod, listening beyond loopback needs API keys, and the demonstration pipeline is off."`
	Listen    string              `yaml:"listen" default:"127.0.0.1:8080" check:"listen" doc:"Address of the HTTP API."`
	Queue     URL                 `yaml:"queue" default:"embedded:" check:"queue" example:"kafka://127.0.0.1:9092" doc:"The message queue: embedded:, kafka://, amqp://, sqs://, azservicebus://, redis:// or nats://; see queues.md."`
	State     URL                 `yaml:"state" default:"embedded:" check:"state" example:"postgres://ferry:${DB_PASSWORD}@db/ferry" doc:"Where leases, pauses and run history are kept, and cursors where the queue cannot hold them: embedded:, nats:// or postgres://; see state.md."`
	Data      string              `yaml:"data" default:"./data" doc:"Folder of the embedded queue and state. One process holds it at a time."`
	Instance  string              `yaml:"instance" example:"ferry-1" doc:"Name of this instance among several. Absent: the host's name."`
	Lease     Duration            `yaml:"lease" default:"15s" min:"3s" max:"10m" doc:"How long the pipelines of an instance that has died wait to be taken over by another one."`
	Cluster   Cluster             `yaml:"cluster" doc:"What the instances have in common whose embedded queues form a cluster (queue: embedded:?cluster=…)."`
	Auth      Auth                `yaml:"auth" doc:"Who may call the API: none, or keys. Absent: anybody on loopback."`
	Server    Server              `yaml:"server" doc:"Limits of the HTTP server."`
	Log       Log                 `yaml:"log" doc:"Logging."`
	Trace     Trace               `yaml:"trace" doc:"OpenTelemetry traces."`
	Debug     Debug               `yaml:"debug" doc:"For people who look inside."`
	Defaults  Defaults            `yaml:"defaults" doc:"Values for every pipeline that does not set its own."`
	Pipelines map[string]Pipeline `yaml:"pipelines" doc:"The pipelines by name (letters, digits, - and _)."`

	// Warnings are what a person should know without it being an error, such as a FERRY_ variable that means nothing.
	Warnings []string `yaml:"-"`
	// Callers are warnings of who may call the API, for commands that serve it.
	Callers []string `yaml:"-"`
	// File is the configuration file as it was named or found; empty when there is none.
	File string `yaml:"-"`
	// Files are the files that were read, for those who watch them: the configuration, .env, ${file:…}, schemas.
	Files []string `yaml:"-"`
	// Demo says that nobody has configured anything, and that this is the built-in demonstration.
	Demo bool `yaml:"-"`
}

// Cluster is what the members of a cluster of the embedded queue have in common.
type Cluster struct {
	Secret Secret `yaml:"secret" example:"${file:/run/secrets/ferry-cluster}" doc:"The same text for all, at least 16 characters: who does not know it can neither join the cluster nor listen to it."`
}

// Auth guards the API. The word none is the same as {none: true}.
type Auth struct {
	None bool     `yaml:"none" doc:"Let anybody call everything. Say auth: none."`
	Keys []APIKey `yaml:"keys" doc:"Keys that callers send as X-API-Key or as Authorization: Bearer. FERRY_API_KEY adds one with the role admin."`
}

// APIKey is one caller of the API.
type APIKey struct {
	Name string `yaml:"name" doc:"Who holds the key; appears in logs." required:"true"`
	Key  Secret `yaml:"key" doc:"The key itself, at least 16 characters." required:"true" example:"${FERRY_KEY_OPS}"`
	Role string `yaml:"role" default:"run" enum:"read|run|admin" doc:"read looks, run also starts runs and publishes, admin also steers (pause, cursor, dead letters)."`
}

// Server bounds what callers of the API can cost.
type Server struct {
	HeaderBytes    Bytes    `yaml:"header_bytes" default:"32KiB" doc:"Largest request header, about: up to 4KiB more are taken."`
	BodyBytes      Bytes    `yaml:"body_bytes" default:"8MiB" doc:"Largest request body."`
	HeaderTimeout  Duration `yaml:"header_timeout" default:"5s" doc:"How long a client may take to send its header."`
	BodyTimeout    Duration `yaml:"body_timeout" default:"30s" doc:"How long a client may take to send its body, and to take an answer."`
	IdleTimeout    Duration `yaml:"idle_timeout" default:"2m" doc:"How long an idle connection is kept."`
	RequestTimeout Duration `yaml:"request_timeout" default:"1m" doc:"Longest time for /process and other requests that call upstream."`
	InFlight       int      `yaml:"in_flight" default:"1024" min:"1" doc:"Requests worked on at once; more are answered 503 with Retry-After."`
	Grace          Duration `yaml:"grace" default:"25s" doc:"After SIGTERM: time for requests and runs to end."`
	DrainDelay     Duration `yaml:"drain_delay" default:"0s" doc:"After SIGTERM: time between readyz turning red and the listener closing, for load balancers to notice."`
	PublicURL      string   `yaml:"public_url" check:"http" example:"https://ferry.example.com" doc:"Address under which callers reach this service, when it is not the one they typed (behind a proxy)."`
}

// Log says what is logged and how.
type Log struct {
	Level  string `yaml:"level" default:"info" enum:"debug|info|warn|error" doc:"Least severity that is logged."`
	Format string `yaml:"format" default:"auto" enum:"auto|text|json" doc:"auto: text on a terminal, JSON otherwise."`

	// LevelSet: the level was said, in whatever layer, and is not only the default.
	LevelSet bool `yaml:"-"`
}

// Trace sends OpenTelemetry traces over OTLP/HTTP.
type Trace struct {
	Endpoint URL     `yaml:"endpoint" check:"http" example:"http://127.0.0.1:4318" doc:"OTLP/HTTP address of a collector. Empty: no traces leave. OTEL_EXPORTER_OTLP_ENDPOINT works too."`
	Sample   float64 `yaml:"sample" default:"1" min:"0" max:"1" doc:"Share of requests and runs that are traced when the caller has not decided."`
}

// Debug opens doors for people who look inside.
type Debug struct {
	Listen string `yaml:"listen" check:"loopback" example:"127.0.0.1:6060" doc:"Loopback address for pprof. Empty: off."`
}

// Defaults are values for every pipeline that does not set its own.
type Defaults struct {
	Source Source `yaml:"source" doc:"For every source."`
}

// Pipeline is a named source → transform → topic.
type Pipeline struct {
	Source    Source   `yaml:"source" doc:"The HTTP API to read." required:"true"`
	Transform []Step   `yaml:"transform" doc:"Steps that each record walks through, in order."`
	Topic     string   `yaml:"topic" check:"topic" doc:"Where records go in the queue. Absent: the pipeline's name."`
	Format    string   `yaml:"format" default:"json" enum:"json|cloudevents" doc:"How records are written: as they are, or as CloudEvents 1.0 (attributes in the headers where the queue has a binding for them, otherwise around the data)."`
	Event     Event    `yaml:"event" doc:"Attributes of the events, with format: cloudevents."`
	Every     Duration `yaml:"every" example:"5m" min:"1s" doc:"Run this often, counted from start to start."`
	Cron      string   `yaml:"cron" check:"cron" example:"0 6 * * *" doc:"Run at these times: five fields, or @hourly, @daily, …"`
	Timezone  string   `yaml:"timezone" check:"timezone" default:"UTC" example:"Europe/Berlin" doc:"Time zone of cron."`
	Jitter    Duration `yaml:"jitter" default:"0s" doc:"Start each scheduled run up to this much later, at random."`
	Missed    string   `yaml:"missed" default:"once" enum:"once|skip" doc:"Ticks missed while ferry was down: run once at the start, or skip them."`
	Timeout   Duration `yaml:"timeout" default:"6h" doc:"Longest time for one run."`
	Stall     Duration `yaml:"stall" default:"10m" doc:"A run that commits nothing and reads no page for this long is ended as stalled. Waits for a Retry-After or a rate do not count."`
	Paused    bool     `yaml:"paused" doc:"Start out paused: no scheduled runs until resumed."`
	Commit    Commit   `yaml:"commit" doc:"How much is written to the queue at once."`
}

// Event holds the attributes of a CloudEvent that are the same for every record of a pipeline.
type Event struct {
	Source string `yaml:"source" example:"https://shop.example.com/orders" doc:"Where the events come from, a URI reference. Absent: /pipelines/ and the pipeline's name."`
	Type   string `yaml:"type" example:"com.example.shop.order" doc:"What kind of events they are. Absent: ferry.record."`
}

// Commit bounds one commit and the memory of a run.
type Commit struct {
	Records int      `yaml:"records" default:"5000" min:"1" doc:"Most records in one commit; the queue's own limit holds too."`
	Bytes   Bytes    `yaml:"bytes" default:"8MiB" min:"64KiB" doc:"Most bytes in one commit; the queue's own limit holds too."`
	Buffer  Bytes    `yaml:"buffer" default:"16MiB" min:"1MiB" doc:"Memory for records read but not committed yet. Reading waits when it is full."`
	Linger  Duration `yaml:"linger" default:"0s" max:"1m" doc:"Wait this long to fill a commit before it is written. 0s: write what is there."`
}

// Step is one step of a transform: exactly one of its keys is set.
type Step struct {
	Where  string `yaml:"where" check:"jq" example:".status != \"draft\"" doc:"jq: records for which this is false or null are filtered out."`
	Map    string `yaml:"map" check:"jq" example:"{id, total: .amount}" doc:"jq: each result takes the record's place. No result filters it out."`
	Schema string `yaml:"schema" check:"schema" example:"schemas/order.json" doc:"JSON Schema file, beside the configuration file; a record that breaks it is a dead letter."`
}
