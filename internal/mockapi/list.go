package mockapi

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strconv"
)

// style is a way of walking through a set. Its name is the first part of the path.
type style struct {
	name   string
	tokens bool // pages are named by tokens
	doc    string
}

var styles = map[string]style{
	"v1":      {"v1", true, `{"data":[…],"has_more":true,"meta":{"next":"TOKEN","total":N}}; ?after=TOKEN &limit=`},
	"link":    {"link", true, `a bare array; header Link: <…>; rel="next"; ?limit=`},
	"nexturl": {"nexturl", true, `{"results":[…],"links":{"next":"http://…"}}; ?limit=`},
	"page":    {"page", false, `{"items":[…],"page":1,"total_pages":P,"total":N}; ?page= &per_page=`},
	"offset":  {"offset", false, `{"items":[…],"offset":0,"total":N}; ?offset= &limit=`},
	"header":  {"header", true, `a bare array; answer header X-Next-Token, request header X-Page-Token; ?limit=`},
	"body":    {"body", true, `POST {"page":{"token":"TOKEN","size":100}}; answer {"data":[…],"page":{"next":"TOKEN","total":N}}`},
	"none":    {"none", false, `the whole set as a bare array`},
	"ndjson":  {"ndjson", true, `the whole set as application/x-ndjson; with ?limit= in pages by header Link`},
}

const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
)

// page is what one request gets: rows from positions start to end, and where the next page is.
type page struct {
	style      style
	q          query
	v          view
	number     int // from 1
	start, end int
	next       *token // nil at the end
	pages      int    // page style: the total
	total      int    // of records, as the envelope says it
	url        func(t token) string
}

// serveList answers a listing in the given style.
func (s *Server) serveList(a *answer, st style) {
	want := http.MethodGet
	if st.name == "body" {
		want = http.MethodPost
	}
	if a.r.Method != want && (want != http.MethodGet || a.r.Method != http.MethodHead) {
		a.header.Set("Allow", want)
		a.fail(http.StatusMethodNotAllowed, "this route answers "+want)
		return
	}
	q, err := parseQuery(a, st)
	if err != nil {
		a.fail(http.StatusBadRequest, err.Error())
		return
	}
	p := &page{style: st, q: q, v: a.set.view(q)}
	p.locate()
	p.misplace(a.faults)
	p.url = func(t token) string { return nextURL(a, q, t) }
	a.noGzip = !q.gzip
	p.setHeaders(a)

	b := p.appendHead(a.buffer(), a.set.name)
	for i := p.start; i < p.end; i++ {
		if i > p.start && st.name != "ndjson" {
			b = append(b, ',')
		}
		b = p.appendRow(b, a, i)
		if st.name == "ndjson" && (q.newline || i < p.end-1) {
			b = append(b, '\n')
		}
		if len(b) >= flushSize {
			if b, err = a.flush(p.contentType(), b); err != nil {
				a.release(b)
				a.broken = true
				if errors.Is(err, errTooLarge) {
					a.fail(http.StatusBadRequest, err.Error())
				}
				return
			}
		}
	}
	b = p.appendTail(b, a.set.name)
	p.disturb(s, a)
	a.deliver(p.contentType(), b, func(times int) { s.ledger.page(p, a, times) })
}

// locate finds the page's rows and its successor, without faults.
func (p *page) locate() {
	n := p.v.len()
	p.total = n
	size := p.q.size
	p.number = p.q.number
	switch p.style.name {
	case "none":
		p.end = n
		return
	case "page":
		p.locateNumbered(n, size)
		return
	case "offset":
		p.start = min(p.q.start, n)
	default:
		if p.q.token.given {
			p.start = p.v.position(p.q.token.mark)
		}
	}
	if p.q.ragged && p.start < n {
		size = 1 + int(mix(uint64(p.v.row(p.start).key))%uint64(size))
	}
	if p.q.emptyEvery > 0 && p.number%p.q.emptyEvery == 0 {
		size = 0
	}
	p.end = min(p.start+size, n)
	if p.end < n && p.style.tokens {
		p.next = &token{number: p.number + 1, mark: p.v.mark(p.end)}
	}
}

// locateNumbered finds the rows of a numbered page. Pages that are left empty count as pages.
func (p *page) locateNumbered(n, size int) {
	p.pages = (n + size - 1) / size
	full := p.number
	if e := p.q.emptyEvery; e > 0 {
		if p.pages > 0 {
			p.pages += (p.pages - 1) / (e - 1)
		}
		full -= p.number / e
		if p.number%e == 0 {
			return
		}
	}
	if full > n/size+1 {
		full = n/size + 2
	}
	p.start = min((full-1)*size, n)
	p.end = min(p.start+size, n)
}

// contentType of the page when no fault says another.
func (p *page) contentType() string {
	if p.style.name == "ndjson" {
		return typeNDJSON
	}
	return typeJSON
}

func (p *page) setHeaders(a *answer) {
	switch p.style.name {
	case "link", "ndjson":
		if p.q.size == maxSetSize {
			return
		}
		value := "<" + p.url(token{number: 1, mark: p.v.mark(0)}) + `>; rel="first"`
		if p.next != nil {
			value += ", <" + p.url(*p.next) + `>; rel="next"`
		}
		a.header.Set("Link", value)
	case "header":
		if p.next != nil {
			a.header.Set("X-Next-Token", p.next.text(a.set.name))
		}
	}
}

// appendHead writes what stands before the records.
func (p *page) appendHead(b []byte, set string) []byte {
	switch p.style.name {
	case "ndjson":
		return b
	case "link", "header", "none":
		return append(b, '[')
	}
	b = append(b, '{')
	if p.q.metaFirst {
		b = p.appendMeta(b, set)
		b = append(b, ',')
	}
	switch p.style.name {
	case "nexturl":
		return append(b, `"results":[`...)
	case "page", "offset":
		return append(b, `"items":[`...)
	default:
		return append(b, `"data":[`...)
	}
}

// appendTail writes what stands behind them.
func (p *page) appendTail(b []byte, set string) []byte {
	switch p.style.name {
	case "ndjson":
		return b
	case "link", "header", "none":
		return append(b, ']')
	}
	b = append(b, ']')
	if !p.q.metaFirst {
		b = append(b, ',')
		b = p.appendMeta(b, set)
	}
	return append(b, '}')
}

// appendMeta writes the envelope's members, without braces.
func (p *page) appendMeta(b []byte, set string) []byte {
	switch p.style.name {
	case "v1":
		b = append(b, `"has_more":`...)
		b = strconv.AppendBool(b, p.next != nil)
		b = append(b, `,"meta":{`...)
		b = p.appendNext(b, set)
		b = p.appendTotal(b)
		return append(b, '}')
	case "nexturl":
		b = append(b, `"links":{`...)
		b = p.appendNext(b, set)
		return append(b, '}')
	case "body":
		b = append(b, `"page":{`...)
		b = p.appendNext(b, set)
		b = p.appendTotal(b)
		return append(b, '}')
	case "page":
		b = append(b, `"page":`...)
		b = strconv.AppendInt(b, int64(p.number), 10)
		if !p.q.noTotal {
			b = append(b, `,"total_pages":`...)
			b = strconv.AppendInt(b, int64(p.pages), 10)
		}
		return p.appendTotal(b)
	default:
		b = append(b, `"offset":`...)
		b = strconv.AppendInt(b, int64(p.q.start), 10)
		return p.appendTotal(b)
	}
}

func (p *page) appendTotal(b []byte) []byte {
	if p.q.noTotal {
		return b
	}
	if last := b[len(b)-1]; last != '{' && last != ',' {
		b = append(b, ',')
	}
	b = append(b, `"total":`...)
	return strconv.AppendInt(b, int64(p.total), 10)
}

// appendNext writes the member "next", or what stands for it on the last page.
func (p *page) appendNext(b []byte, set string) []byte {
	switch {
	case p.next != nil && p.style.name == "nexturl":
		b = append(b, `"next":`...)
		return appendText(b, p.url(*p.next))
	case p.next != nil:
		b = append(b, `"next":`...)
		return appendText(b, p.next.text(set))
	case p.q.end == "absent":
		return b
	case p.q.end == "empty":
		return append(b, `"next":""`...)
	default:
		return append(b, `"next":null`...)
	}
}

// appendText writes an address or a token as JSON. Both are escaped for URLs, so no quote or control byte is left.
func appendText(b []byte, text string) []byte {
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

// nextURL is the request's own address with another token.
func nextURL(a *answer, q query, t token) string {
	values := maps.Clone(a.query())
	values.Set("after", t.text(a.set.name))
	u := url.URL{Path: a.r.URL.Path, RawQuery: values.Encode()}
	host := a.r.Host
	if f, ok := a.faults.find(NextHost); ok {
		host = otherHost(host, f.To)
	} else if q.relative {
		return u.String()
	}
	u.Scheme, u.Host = "http", host
	return u.String()
}
