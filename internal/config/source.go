package config

// Source is an HTTP API read page by page.
type Source struct {
	Base        string            `yaml:"base" address:"true" check:"base" example:"https://api.example.com" doc:"Start of every address. get and post may also be whole addresses."`
	Get         string            `yaml:"get" address:"true" example:"/v1/orders" doc:"Path to GET."`
	Post        string            `yaml:"post" address:"true" doc:"Path to POST, with body."`
	Push        bool              `yaml:"push" doc:"Instead of get and post: read nothing. Records come only by POST /v1/pipelines/NAME/records. Of source's other keys only format, key and limits apply."`
	Body        Body              `yaml:"body" doc:"Body of the POST: a mapping is sent as JSON, a text as it is."`
	Query       Params            `yaml:"query" doc:"Query parameters."`
	Headers     map[string]Secret `yaml:"headers" doc:"Request headers. Their values are kept out of logs."`
	Auth        SourceAuth        `yaml:"auth" doc:"How to log in: none, bearer, basic, api_key or oauth2."`
	Format      string            `yaml:"format" default:"auto" enum:"auto|json|ndjson" doc:"What the body holds. auto goes by its content type."`
	Records     string            `yaml:"records" check:"jqpath" example:".data[]" doc:"jq path to the records in a page. Absent: found by itself (the array at the top, or the only array of objects in the top object, or the value itself; a page with an error and no records is a failure)."`
	Key         string            `yaml:"key" check:"jqpath" example:".id" doc:"jq path to a record's key. Absent: the content is the key."`
	Paginate    Paginate          `yaml:"paginate" doc:"How pages follow each other: none, auto, link_header, next_url, cursor, page or offset."`
	Stop        string            `yaml:"stop" check:"jq" example:".has_more == false" doc:"jq on the page: true ends the reading after this page, beside any pagination."`
	MaxPages    int               `yaml:"max_pages" min:"0" doc:"End the run after this many pages; the next run goes on from there. 0: no limit."`
	Incremental *Incremental      `yaml:"incremental" doc:"Ask only for what is new since the last run."`
	Rate        Rate              `yaml:"rate" example:"10/s" doc:"Most requests to this host: 10/s, 600/m, 1000/h. Shared by all pipelines that name the host; the lowest holds."`
	Retries     int               `yaml:"retries" default:"5" min:"0" max:"100" doc:"Further tries of a request that failed in a way that may pass (network, 408, 425, 429, 5xx)."`
	RetryMax    Duration          `yaml:"retry_max" default:"30s" doc:"Longest wait between tries that ferry chooses itself."`
	RetryAfter  Duration          `yaml:"retry_after" default:"5m" doc:"Longest Retry-After that is waited for; a longer one ends the run as rate limited."`
	On          map[int]string    `yaml:"on" enum:"skip|fail|retry|end" example:"{404: end}" doc:"What an HTTP status means, where the default does not fit: skip the page (it has no records), fail, retry, or end of the data."`
	Timeout     Duration          `yaml:"timeout" default:"30s" doc:"Longest silence: until the answer's header, and between two reads of its body."`
	Timeouts    Timeouts          `yaml:"timeouts" doc:"One limit for each phase of a request."`
	Limits      SourceLimits      `yaml:"limits" doc:"What an answer may cost."`
	Allow       Allow             `yaml:"allow" doc:"What is refused unless said here."`
}

// SourceAuth says how to log in. Exactly one key, or the word none.
type SourceAuth struct {
	None   bool    `yaml:"none" doc:"No login."`
	Bearer Secret  `yaml:"bearer" example:"${API_TOKEN}" doc:"Token sent as Authorization: Bearer."`
	Basic  *Basic  `yaml:"basic" doc:"User and password."`
	APIKey *Key    `yaml:"api_key" doc:"A key in a header, a query parameter or a cookie."`
	OAuth2 *OAuth2 `yaml:"oauth2" doc:"OAuth 2.0 client credentials (RFC 6749, 4.4)."`
}

// Basic is HTTP basic authentication (RFC 7617).
type Basic struct {
	User     string `yaml:"user" required:"true" doc:"User name."`
	Password Secret `yaml:"password" doc:"Password."`
}

// Key is an API key in one of three places.
type Key struct {
	Value  Secret `yaml:"value" required:"true" doc:"The key."`
	Header string `yaml:"header" check:"name" example:"X-API-Key" doc:"Header to send it in."`
	Query  string `yaml:"query" doc:"Query parameter to send it in."`
	Cookie string `yaml:"cookie" check:"name" doc:"Cookie to send it in."`
}

// OAuth2 gets a token by client credentials, keeps it, and renews it before it expires and once after a 401.
type OAuth2 struct {
	TokenURL     string   `yaml:"token_url" address:"true" check:"token_url" required:"true" doc:"Where tokens are given out: a whole address, or a path under base."`
	ClientID     string   `yaml:"client_id" required:"true" doc:"Client id."`
	ClientSecret Secret   `yaml:"client_secret" required:"true" doc:"Client secret."`
	Scopes       []string `yaml:"scopes" doc:"Scopes to ask for."`
	Params       Params   `yaml:"params" doc:"Further form parameters, such as audience."`
	Style        string   `yaml:"style" default:"auto" enum:"auto|header|params" doc:"Where client id and secret go: basic header or form parameters."`
}

// Paginate says how pages follow each other: one of the words none, auto, link_header, or one key.
type Paginate struct {
	// Word is none, auto or link_header when such a word was given; empty when nothing was, which means auto for
	// reading by runs.
	Word    string        `yaml:"-"`
	NextURL string        `yaml:"next_url" check:"jqpath" example:".links.next" doc:"jq path to the next page's address."`
	Cursor  *CursorPaging `yaml:"cursor" doc:"A token from one answer goes into the next request."`
	Page    *PagePaging   `yaml:"page" doc:"Pages are numbered."`
	Offset  *OffsetPaging `yaml:"offset" doc:"Records are numbered."`
}

// CursorPaging carries a token from one answer into the next request.
type CursorPaging struct {
	From string `yaml:"from" check:"from" required:"true" example:".meta.next" doc:"jq path in the body, or header.NAME."`
	Into string `yaml:"into" check:"into" required:"true" example:"query.after" doc:"query.NAME, header.NAME or body.PATH. A token is a text or a number, in a body any JSON."`
}

// PagePaging numbers pages.
type PagePaging struct {
	Into     string `yaml:"into" check:"into" default:"query.page" doc:"Where the page's number goes: query.NAME, header.NAME or body.PATH."`
	Start    int    `yaml:"start" default:"1" doc:"Number of the first page."`
	Total    string `yaml:"total" check:"from" example:".total_pages" doc:"Number of pages: jq path in the body, or header.NAME. Absent: the first page without records is the end."`
	Size     int    `yaml:"size" min:"1" doc:"Records to ask for in a page."`
	SizeInto string `yaml:"size_into" check:"into" example:"query.per_page" doc:"Where the size goes."`
}

// OffsetPaging numbers records.
type OffsetPaging struct {
	Into      string `yaml:"into" check:"into" default:"query.offset" doc:"Where the offset goes."`
	Start     int    `yaml:"start" default:"0" doc:"Offset of the first record."`
	Total     string `yaml:"total" check:"from" example:".total" doc:"Number of records: jq path in the body, or header.NAME. Absent: the first page without records is the end."`
	Limit     int    `yaml:"limit" min:"1" doc:"Records to ask for in a page."`
	LimitInto string `yaml:"limit_into" check:"into" example:"query.limit" doc:"Where the limit goes."`
}

// Incremental asks only for what is new since the last run.
type Incremental struct {
	Field   string   `yaml:"field" check:"jqpath" required:"true" example:".updated_at" doc:"jq path to the value that grows: a time or a number."`
	Into    string   `yaml:"into" check:"into" required:"true" example:"query.since" doc:"Where the greatest value seen goes: query.NAME, header.NAME or body.PATH."`
	Start   string   `yaml:"start" example:"2024-01-01T00:00:00Z" doc:"Value for the first run. Absent: the first run asks for everything."`
	Overlap Duration `yaml:"overlap" default:"0s" doc:"Ask for this much again, for APIs whose records show up late. What was committed before is recognised."`
	Type    string   `yaml:"type" default:"auto" enum:"auto|rfc3339|unix|unix_ms|date|number|string" doc:"How the value is written."`
}

// Timeouts has one limit for each phase of a request. Zero means the default given.
type Timeouts struct {
	Connect Duration `yaml:"connect" default:"10s" doc:"TCP connection."`
	TLS     Duration `yaml:"tls" default:"10s" doc:"TLS handshake."`
	Headers Duration `yaml:"headers" doc:"Until the answer's header has come. Absent: timeout."`
	Idle    Duration `yaml:"idle" doc:"Between two reads of the body. Absent: timeout."`
	Page    Duration `yaml:"page" default:"10m" doc:"One page as a whole, without the time that ferry itself takes to commit it."`
}

// SourceLimits bound what an answer may cost.
type SourceLimits struct {
	Headers  Bytes `yaml:"headers" default:"256KiB" doc:"Largest header of an answer."`
	Wire     Bytes `yaml:"wire" default:"4GiB" doc:"Most bytes of a body as sent."`
	Inflated Bytes `yaml:"inflated" default:"4GiB" doc:"Most bytes of a body after decompression."`
	Record   Bytes `yaml:"record" default:"8MiB" doc:"Largest record; a larger one is a dead letter with its first bytes."`
	Envelope Bytes `yaml:"envelope" default:"8MiB" doc:"Most bytes of a page beside its records, and of a page that has to be read as a whole."`
	Depth    int   `yaml:"depth" default:"256" min:"1" max:"512" doc:"Deepest nesting."`
}

// Allow names what is refused otherwise.
type Allow struct {
	Hosts    []string `yaml:"hosts" example:"[cdn.example.com]" doc:"Further hosts to which redirects and next links may lead. The login does not go with them."`
	Metadata bool     `yaml:"metadata" doc:"Cloud metadata addresses (169.254.169.254 and its like)."`
}
