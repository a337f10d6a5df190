package mockapi

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Kind names a fault.
type Kind string

// The faults. Those of one group exclude each other on one answer: the first one wins.
const (
	// Before the answer.
	Latency  Kind = "latency"
	Hangup   Kind = "hangup"
	Status   Kind = "status"
	HTML     Kind = "html"
	Empty    Kind = "empty"
	Redirect Kind = "redirect"
	Revoke   Kind = "revoke"

	// Of the header.
	HugeHeader  Kind = "huge_header"
	ContentType Kind = "content_type"

	// Of the body on the wire.
	Reset       Kind = "reset"
	Cut         Kind = "cut"
	CutLength   Kind = "cut_length"
	CutChunked  Kind = "cut_chunked"
	WrongLength Kind = "wrong_length"
	InvalidJSON Kind = "invalid_json"
	Trickle     Kind = "trickle"
	Stall       Kind = "stall"
	Bomb        Kind = "bomb"

	// Of the pagination.
	LoopToken  Kind = "loop_token"
	LoopCycle  Kind = "loop_cycle"
	SamePage   Kind = "same_page"
	EmptyPages Kind = "empty_pages"
	Duplicate  Kind = "duplicate"
	NextHost   Kind = "next_host"

	// Of the data.
	Grow     Kind = "grow"
	Touch    Kind = "touch"
	Poison   Kind = "poison"
	Oversize Kind = "oversize"
	Deep     Kind = "deep"
)

// kinds is what each fault does, with the parameters it heeds and their defaults.
var kinds = []struct {
	kind Kind
	doc  string
}{
	{Latency, "waits wait=1s, then answers as usual"},
	{Hangup, "closes the connection without an answer"},
	{Status, "answers status=500 (429 and 503 for short: fault=429), retry_after=SECONDS | date:2s | any text"},
	{HTML, "an error page of HTML with status=200"},
	{Empty, "status=200 and no body"},
	{Redirect, "status=302 to=another origin | /path | self | URL; absent: this server by its other name"},
	{Revoke, "all tokens of oauth2 become invalid"},
	{HugeHeader, "a header of size=1MiB"},
	{ContentType, "the usual body as=text/html; charset=utf-8"},
	{Reset, "a TCP reset after bytes= of the body (half of it when absent, 0 for right after the header)"},
	{Cut, "the end of the connection after bytes=, on a body without Content-Length"},
	{CutLength, "the same on a body with Content-Length"},
	{CutChunked, "the same on a chunked body, without its terminator"},
	{WrongLength, "a Content-Length of bytes= and then the whole body"},
	{InvalidJSON, "the body with its last brackets gone"},
	{Trickle, "bytes=1 every wait=10ms"},
	{Stall, "the first bytes= of the body, then silence"},
	{Bomb, "gzip, asked for or not, of size=2GiB: the usual body with spaces in it"},
	{LoopToken, "the next token is the one that the request brought"},
	{LoopCycle, "after size=3 pages comes the first again"},
	{SamePage, "the first page under every token and number, without end"},
	{EmptyPages, "no records and a new token, without end"},
	{Duplicate, "the page begins with the last rows=5 of the page before"},
	{NextHost, "the next link leads to=another host; absent: this server by its other name"},
	{Grow, "after this page the set has rows=3 more (in front with order=desc)"},
	{Touch, "after this page its first rows=3 are updated and move to the end"},
	{Poison, "the record at=0 of the page is broken, as=no_key | null_key | wrong_type | text | null"},
	{Oversize, "the record at=0 of the page is size=16MiB larger"},
	{Deep, "the record at=0 of the page is nested size=10000 deep"},
}

// Fault is something that goes wrong, and when. As text it is written kind,key=value,key=value with the keys in lower
// case and with underscores; that is how the query parameter fault= and the control route take it.
type Fault struct {
	Kind Kind

	// Path is the beginning of the paths it concerns; empty means all but / and /_control/.
	Path string
	// Nth is the first request of those that it befalls (from 1), Every the distance to the next one, Count how often
	// it happens at most. All zero: always. Nth alone: just that one. Every alone: each Every-th.
	Nth, Every, Count int

	// Parameters; which ones a kind heeds, and what zero means, stands in GET /.
	Wait       time.Duration
	Status     int
	RetryAfter string
	Bytes      *int // where to cut
	Size       int
	Rows       int
	At         int
	To         string
	As         string
}

// ParseFault reads a fault from its text.
func ParseFault(text string) (Fault, error) {
	name, rest, more := strings.Cut(text, ",")
	f := Fault{Kind: Kind(name)}
	if status, err := strconv.Atoi(name); err == nil {
		f.Kind, f.Status = Status, status
	}
	for more {
		var pair string
		pair, rest, more = strings.Cut(rest, ",")
		key, value, _ := strings.Cut(pair, "=")
		if err := f.set(key, value); err != nil {
			return f, fmt.Errorf("read fault %q: %w", text, err)
		}
	}
	if err := f.check(); err != nil {
		return f, fmt.Errorf("read fault %q: %w", text, err)
	}
	return f, nil
}

func (f *Fault) check() error {
	for _, k := range kinds {
		if k.kind == f.Kind {
			if f.Kind == Status && f.Status != 0 && (f.Status < 200 || f.Status > 599) {
				return fmt.Errorf("status is %d: say 200 to 599", f.Status)
			}
			return nil
		}
	}
	return fmt.Errorf("there is no fault %q; GET / lists them", f.Kind)
}

func (f *Fault) set(key, value string) error {
	var err error
	number := func(into *int) {
		if *into, err = parseSize(value); err == nil && *into < 0 {
			err = fmt.Errorf("%s is %s: say 0 or more", key, value)
		}
	}
	switch key {
	case "kind":
		f.Kind = Kind(value)
	case "path":
		f.Path = value
	case "nth":
		number(&f.Nth)
	case "every":
		number(&f.Every)
	case "count":
		number(&f.Count)
	case "wait":
		f.Wait, err = time.ParseDuration(value)
	case "status":
		number(&f.Status)
	case "retry_after":
		f.RetryAfter = value
	case "bytes":
		f.Bytes = new(int)
		number(f.Bytes)
	case "size":
		number(&f.Size)
	case "rows":
		number(&f.Rows)
	case "at":
		number(&f.At)
	case "to":
		f.To = value
	case "as":
		f.As = value
	default:
		err = fmt.Errorf("there is no parameter %q; GET / lists them", key)
	}
	return err
}

// parseSize reads a number, with KiB, MiB or GiB behind it if need be.
func parseSize(text string) (int, error) {
	digits, factor := text, 1
	for unit, n := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if d, ok := strings.CutSuffix(text, unit); ok {
			digits, factor = d, n
		}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n > (1<<40)/factor {
		return 0, fmt.Errorf("%q is no number", text)
	}
	return n * factor, nil
}

// String is the text that ParseFault reads.
func (f Fault) String() string {
	b := []byte(f.Kind)
	text := func(key, value string) {
		if value != "" {
			b = append(append(append(append(b, ','), key...), '='), value...)
		}
	}
	number := func(key string, n int) {
		if n != 0 {
			text(key, strconv.Itoa(n))
		}
	}
	text("path", f.Path)
	number("nth", f.Nth)
	number("every", f.Every)
	number("count", f.Count)
	if f.Wait != 0 {
		text("wait", f.Wait.String())
	}
	number("status", f.Status)
	text("retry_after", f.RetryAfter)
	if f.Bytes != nil {
		text("bytes", strconv.Itoa(*f.Bytes))
	}
	number("size", f.Size)
	number("rows", f.Rows)
	number("at", f.At)
	text("to", f.To)
	text("as", f.As)
	return string(b)
}

// due tells whether the fault befalls the seen-th request of those it concerns.
func (f *Fault) due(seen, happened int) bool {
	first, every, most := f.Nth, f.Every, f.Count
	switch {
	case first == 0 && every == 0:
		first, every = 1, 1
	case first == 0:
		first = every
	case every == 0:
		every = 1
		if most == 0 {
			most = 1
		}
	}
	return seen >= first && (seen-first)%every == 0 && (most == 0 || happened < most)
}

// fired is the faults of one answer.
type fired []Fault

// find gives the first fault that is of one of these kinds.
func (fs fired) find(kinds ...Kind) (Fault, bool) {
	for _, f := range fs {
		if slices.Contains(kinds, f.Kind) {
			return f, true
		}
	}
	return Fault{}, false
}

// needWhole tells whether a fault wants the body in one piece.
func (fs fired) needWhole() bool {
	_, need := fs.find(Reset, Cut, CutLength, CutChunked, WrongLength, InvalidJSON, Trickle, Stall, Bomb, ContentType)
	return need
}

func (fs fired) String() string {
	texts := make([]string, len(fs))
	for i, f := range fs {
		texts[i] = f.String()
	}
	return strings.Join(texts, " ")
}

// rule is a fault and how often it was asked for and happened.
type rule struct {
	Fault
	seen, happened int
}

// rules is all faults that were injected, and the counts of those that came with requests.
type rules struct {
	count atomic.Int32 // of list, for the quick path

	mu      sync.Mutex
	list    []*rule
	byQuery map[string]*rule
}

// maxQueryRules bounds what is remembered of faults that came with requests. Beyond it counting begins anew.
const maxQueryRules = 4096

func (rs *rules) none() bool { return rs.count.Load() == 0 }

// replace puts other rules in the place of all, with counts of zero.
func (rs *rules) replace(faults []Fault) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.list, rs.byQuery = nil, nil
	rs.add(faults)
}

func (rs *rules) add(faults []Fault) {
	for _, f := range faults {
		rs.list = append(rs.list, &rule{Fault: f})
	}
	rs.count.Store(int32(len(rs.list)))
}

// match counts the request and gives the faults that befall it.
func (rs *rules) match(r *http.Request) (fired, error) {
	var asked []string
	if strings.Contains(r.URL.RawQuery, "fault=") {
		asked = r.URL.Query()["fault"]
	}
	if len(asked) == 0 && rs.none() {
		return nil, nil
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	var fs fired
	for _, ru := range rs.list {
		if strings.HasPrefix(r.URL.Path, ru.Path) {
			fs = ru.count(fs)
		}
	}
	for _, text := range asked {
		f, err := ParseFault(text)
		if err != nil {
			return nil, err
		}
		if f.Nth == 0 && f.Every == 0 && f.Count == 0 {
			fs = append(fs, f)
			continue
		}
		key := r.URL.Path + "?" + text
		if rs.byQuery == nil || len(rs.byQuery) >= maxQueryRules {
			rs.byQuery = map[string]*rule{}
		}
		if rs.byQuery[key] == nil {
			rs.byQuery[key] = &rule{Fault: f}
		}
		fs = rs.byQuery[key].count(fs)
	}
	return fs, nil
}

func (ru *rule) count(fs fired) fired {
	ru.seen++
	if !ru.due(ru.seen, ru.happened) {
		return fs
	}
	ru.happened++
	return append(fs, ru.Fault)
}

// Inject adds faults to those that wait already. It returns an error when one of them makes no sense, and then adds
// none.
func (s *Server) Inject(faults ...Fault) error {
	for _, f := range faults {
		if err := f.check(); err != nil {
			return fmt.Errorf("inject fault: %w", err)
		}
	}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.add(faults)
	return nil
}

// ClearFaults takes all injected faults away.
func (s *Server) ClearFaults() { s.faults.replace(nil) }

// injected lists the rules with their counts.
func (rs *rules) injected() []map[string]any {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	all := make([]map[string]any, 0, len(rs.list))
	for _, ru := range rs.list {
		all = append(all, map[string]any{"fault": ru.String(), "seen": ru.seen, "happened": ru.happened})
	}
	return all
}

// fault counts what happened.
func (l *Ledger) fault(fs fired) {
	if l.off {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range fs {
		l.faults[f.Kind]++
	}
}

func cloneCounts[K comparable](m map[K]int) map[K]int {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}
