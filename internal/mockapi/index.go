package mockapi

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// serveIndex describes every route and parameter, as plain text.
func (s *Server) serveIndex(a *answer) {
	var b strings.Builder
	base := "http://" + a.r.Host
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("A simulated third-party API. Everything here is made up; the same seed gives the same data.\n")
	line("One record")
	line("  GET %s/v1/data          id grows with each call; ?fixed=1 keeps it", base)
	line("\nData sets")
	for _, set := range s.sets {
		line("  %-8s %d records", set.name, set.count)
	}
	line("\nListings: GET %s/STYLE/SET, and one record at /STYLE/SET/NUMBER", base)
	for _, name := range slices.Sorted(maps.Keys(styles)) {
		line("  %-8s %s", name, styles[name].doc)
	}
	b.WriteString(parameterText)
	line("\nLogins in front of any route, such as %s/auth/bearer/v1/orders", base)
	line("  bearer   Authorization: Bearer %s", BearerToken)
	line("  basic    %s and %s", BasicUser, BasicPass)
	line("  apikey   %s as header X-API-Key, query api_key or cookie api_key", APIKey)
	line("  oauth2   POST %s/oauth/token?expires_in=3600 with client %s and %s", base, ClientID, ClientSecret)
	line("\nFaults: ?fault=KIND,key=value,… (several times if need be)")
	for _, k := range kinds {
		line("  %-13s %s", k.kind, k.doc)
	}
	b.WriteString(controlText)
	a.write(http.StatusOK, "text/plain; charset=utf-8", []byte(b.String()))
}

const parameterText = `
Parameters of listings
  limit=100            records in a page (per_page for page), at most 10000
  count=N              as if the set had N records; nothing is held, so a million is fine
  pad=870              fill records up to this size on average
  since=               updated_at from there on, itself included; since_exclusive=1 leaves it out
  time=rfc3339         how times are written and since= is read: rfc3339, rfc3339_zone, rfc3339_ms, unix, unix_ms, date
  order=asc            or desc, by updated_at; shuffle=1 for no order
  empty_every=3        each third page has no records (and a next one)
  ragged=1             pages have any number of records up to limit
  end=null             how the last page says so in its next: null, empty, absent
  meta_first=1         the envelope stands before the records
  no_total=1           no totals
  relative=1           next links without scheme and host
  gzip=0               no compression; otherwise as Accept-Encoding says
  newline=0            NDJSON without the last line end
`

const controlText = `
  When: path=/v1/ nth=3 (the third request) every=2 (each second one) count=5 (at most five times)

Control
  GET, PUT, DELETE /_control/faults   for clients that cannot change their requests: a list such as
                                      ["503,path=/v1/,nth=2",{"kind":"latency","wait":"250ms"}]
  GET, DELETE      /_control/ledger   what was served
  POST             /_control/data     {"set":"orders","grow":10,"touch":[0,1]}: new and updated records
  DELETE           /_control/tokens   all tokens of oauth2 become invalid
  POST             /_control/reset    everything as at the start
`
