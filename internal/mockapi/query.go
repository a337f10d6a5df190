package mockapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// query is what a request asks of a listing, read and checked. Wrong values are refused, never guessed at, so that a
// client's mistake shows.
type query struct {
	count int // records in the set; -1 means as many as it has
	order order
	since func(sec int64) bool // nil means all
	form  form

	size   int // records in a page
	token  token
	number int // page style: which page, from 1
	start  int // offset style: the first record

	emptyEvery int  // each n-th page has no records
	ragged     bool // pages have any number of records up to size
	relative   bool // next links without scheme and host
	metaFirst  bool // the envelope stands before the records
	noTotal    bool // no totals
	end        string
	gzip       bool
	newline    bool // NDJSON ends with a line end
}

const (
	defaultSize = 100
	maxSize     = 10_000
	maxCount    = 1_000_000_000
	maxSetSize  = maxCount
)

// parseQuery reads the parameters that the style knows; others are ignored, as most APIs do.
func parseQuery(a *answer, st style) (query, error) {
	values := a.query()
	p := params{values: values}
	q := query{
		count:      p.number("count", -1, 0, maxCount),
		form:       form{pad: p.number("pad", 0, 0, 1<<24), time: timeForm(p.word("time", "rfc3339", "rfc3339_zone", "rfc3339_ms", "unix", "unix_ms", "date"))},
		emptyEvery: p.number("empty_every", 0, 2, 1<<20),
		ragged:     p.flag("ragged", false),
		relative:   p.flag("relative", false),
		metaFirst:  p.flag("meta_first", false),
		noTotal:    p.flag("no_total", false),
		end:        p.word("end", "null", "empty", "absent"),
		gzip:       p.flag("gzip", true),
		newline:    p.flag("newline", true),
		number:     1,
	}
	if p.word("order", "asc", "desc") == "desc" {
		q.order = descending
	}
	if p.flag("shuffle", false) {
		q.order = shuffled
	}
	exclusive := p.flag("since_exclusive", false)
	if since := values.Get("since"); since != "" {
		var err error
		if q.since, err = parseSince(since, q.form.time, exclusive); err != nil {
			return q, err
		}
	}

	var text string // the token
	switch st.name {
	case "page":
		q.number = p.number("page", 1, 1, maxCount)
		q.size = p.number("per_page", defaultSize, 1, maxCount)
	case "offset":
		q.start = p.number("offset", 0, 0, maxCount)
		q.size = p.number("limit", defaultSize, 1, maxCount)
	case "none":
		q.size = maxSetSize
	case "ndjson":
		q.size = p.number("limit", maxSetSize, 1, maxCount)
		text = values.Get("after")
	case "header":
		q.size = p.number("limit", defaultSize, 1, maxCount)
		text = a.r.Header.Get("X-Page-Token")
	case "body":
		var body struct {
			Page struct {
				Token *string `json:"token"`
				Size  *int    `json:"size"`
			} `json:"page"`
		}
		q.size = defaultSize
		if len(a.body) > 0 {
			if err := json.Unmarshal(a.body, &body); err != nil {
				return q, fmt.Errorf(`read the body: %w; it looks like {"page":{"token":"…","size":100}}`, err)
			}
		}
		if body.Page.Size != nil {
			if q.size = *body.Page.Size; q.size < 1 {
				return q, fmt.Errorf("page.size is %d: say 1 or more", q.size)
			}
		}
		if body.Page.Token != nil {
			text = *body.Page.Token
		}
	default:
		q.size = p.number("limit", defaultSize, 1, maxCount)
		text = values.Get("after")
	}
	if q.size < maxSetSize {
		q.size = min(q.size, maxSize)
	}
	if p.err != nil {
		return q, p.err
	}
	if !st.tokens && (q.ragged && st.name != "offset" || q.emptyEvery > 0 && st.name != "page") {
		return q, fmt.Errorf("ragged and empty_every do not go with %s: its place does not say where a page begins", st.name)
	}
	if text != "" {
		var err error
		if q.token, err = parseToken(text, a.set.name); err != nil {
			return q, err
		}
		q.number = q.token.number
	}
	return q, nil
}

// params reads numbers, words and flags and keeps the first error.
type params struct {
	values url.Values
	err    error
}

func (p *params) number(name string, byDefault, least, most int) int {
	text := p.values.Get(name)
	if text == "" {
		return byDefault
	}
	n, err := strconv.Atoi(text)
	if (err != nil || n < least || n > most) && p.err == nil {
		p.err = fmt.Errorf("%s is %q: say a number from %d to %d", name, text, least, most)
	}
	return n
}

// word gives the parameter, which must be one of words; the first one is the default.
func (p *params) word(name string, words ...string) string {
	text := p.values.Get(name)
	if text == "" {
		return words[0]
	}
	if !slices.Contains(words, text) && p.err == nil {
		p.err = fmt.Errorf("%s is %q: say %s", name, text, strings.Join(words, ", "))
	}
	return text
}

func (p *params) flag(name string, byDefault bool) bool {
	text := p.values.Get(name)
	if text == "" {
		return byDefault
	}
	on, err := strconv.ParseBool(text)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%s is %q: say 1 or 0", name, text)
	}
	return on
}

// parseSince reads the boundary in the notation that times are asked for, and compares as that notation does: a date
// stands for the whole day.
func parseSince(text string, f timeForm, exclusive bool) (func(sec int64) bool, error) {
	step := time.Second
	var at time.Time
	var err error
	switch f {
	case timeUnix, timeUnixMS:
		var n int64
		n, err = strconv.ParseInt(text, 10, 64)
		if at = time.Unix(n, 0); f == timeUnixMS {
			at, step = time.UnixMilli(n), time.Millisecond
		}
	case timeDate:
		at, err = time.Parse(time.DateOnly, text)
		step = 24 * time.Hour
	default:
		at, err = time.Parse(time.RFC3339, text)
		step = time.Nanosecond
	}
	if err != nil {
		return nil, fmt.Errorf("since is %q, which is not in the form time=%s", text, f)
	}
	if exclusive {
		at = at.Add(step)
	}
	return func(sec int64) bool { return !time.Unix(sec, 0).Before(at) }, nil
}

// token is where a next page begins. Its text is base64 with = at the end, so that clients have to escape it.
type token struct {
	number int // of the page, from 1
	mark   int // see view.mark
	given  bool
}

func (t token) text(set string) string {
	b := append([]byte(set), ':')
	b = strconv.AppendInt(b, int64(t.number), 10)
	b = append(b, ':')
	b = strconv.AppendInt(b, int64(t.mark), 10)
	for len(b)%3 != 1 {
		b = append(b, ' ')
	}
	return base64.StdEncoding.EncodeToString(b)
}

func parseToken(text, set string) (token, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	parts := strings.Split(strings.TrimRight(string(raw), " "), ":")
	if err != nil || len(parts) != 3 || parts[0] != set {
		return token{}, fmt.Errorf("%q is no token of %s", text, set)
	}
	t := token{given: true}
	var err2 error
	t.number, err = strconv.Atoi(parts[1])
	t.mark, err2 = strconv.Atoi(parts[2])
	if err != nil || err2 != nil || t.number < 1 {
		return token{}, fmt.Errorf("%q is no token of %s", text, set)
	}
	return t, nil
}
