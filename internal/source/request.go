package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"ferry/internal/config"
)

// template is what all requests of a source have in common.
type template struct {
	method  string
	url     *url.URL   // without the query
	host    string     // the Host header, when one was typed
	query   url.Values // typed with the address, and as query:
	header  http.Header
	body    []byte
	mutable bool // something is put into the body
}

// request is one request, ready to be sent any number of times. Its header is shared and not to be changed.
type request struct {
	method string
	url    *url.URL
	host   string
	header http.Header
	body   []byte
}

func newTemplate(cfg *config.Source, userAgent string) (*template, error) {
	t := &template{method: http.MethodGet}
	path := cfg.Get
	if cfg.Post != "" {
		t.method, path = http.MethodPost, cfg.Post
	}
	u, err := address(cfg.Base, path)
	if err != nil {
		return nil, err
	}
	t.query = u.Query()
	for name, v := range cfg.Query {
		t.query.Set(name, v)
	}
	u.RawQuery, u.Fragment, u.RawFragment = "", "", ""
	t.url = u

	t.header = make(http.Header)
	for name, v := range cfg.Headers {
		t.header.Set(name, v.Reveal())
	}
	t.host = t.header.Get("Host")
	t.header.Del("Host")
	setMissing(t.header, "Accept", "application/json, application/x-ndjson;q=0.9, */*;q=0.1")
	setMissing(t.header, "User-Agent", userAgent)
	if !isLoopback(u.Hostname()) { // there, packing costs more than it saves
		setMissing(t.header, "Accept-Encoding", "gzip, deflate")
	} else {
		setMissing(t.header, "Accept-Encoding", "identity")
	}
	if t.method == http.MethodPost {
		switch {
		case cfg.Body.JSON != nil:
			t.body = cfg.Body.JSON
			setMissing(t.header, "Content-Type", "application/json")
		case cfg.Body.Text != "":
			t.body = []byte(cfg.Body.Text.Reveal())
			if c := bytes.TrimSpace(t.body); len(c) > 0 && (c[0] == '{' || c[0] == '[') {
				setMissing(t.header, "Content-Type", "application/json")
			} else {
				setMissing(t.header, "Content-Type", "text/plain; charset=utf-8")
			}
		}
	}
	return t, nil
}

// address puts base and path together. A path may be a whole address, which then counts alone.
func address(base, path string) (*url.URL, error) {
	text := path
	if !strings.Contains(path, "://") {
		text = base
		if path != "" && path[0] != '?' {
			text = strings.TrimSuffix(base, "/") + "/" + strings.TrimPrefix(path, "/")
		} else {
			text += path
		}
	}
	u, err := url.Parse(text)
	if err != nil { // its text would show the address, with whatever secret is in it
		return nil, errors.New("base and get or post make no address that can be parsed")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("base and get or post must make an address that begins with http:// or https:// and a host")
	}
	return u, nil
}

func setMissing(h http.Header, name, value string) {
	if _, ok := h[name]; !ok && value != "" {
		h.Set(name, value)
	}
}

// build makes the request for a position.
func (s *Source) build(p *position) (*request, error) {
	t := s.template
	d := draft{query: cloneValues(t.query), header: t.header.Clone()}
	r := &request{method: t.method, host: t.host, body: t.body}
	if t.mutable {
		var err error
		if d.body, err = mapping(t.body); err != nil {
			return nil, err
		}
	}
	u := *t.url
	if p.URL != "" {
		// A next link is the whole address. What is put into headers and body still goes with it.
		next, err := s.resolve(t.url, p.URL)
		if err != nil {
			return nil, err
		}
		u, d.query = *next, nil
	}
	if err := s.fill(&d, p); err != nil {
		return nil, err
	}
	if d.query != nil {
		u.RawQuery = d.query.Encode()
	}
	s.addLogin(&u)
	if d.body != nil {
		r.body = d.body
		setMissing(d.header, "Content-Type", "application/json")
	}
	r.url, r.header = &u, d.header
	if !s.client.isOwn(&u) {
		if len(r.body) > 0 {
			return nil, failf(KindBlocked, "the next page is on %s, where the body is not sent to: it may hold a login", u.Host)
		}
		r.host, r.header = "", plainHeaders(r.header)
	}
	return r, nil
}

// fill puts what the position says into the draft. A next link carries everything that goes into a query by itself.
func (s *Source) fill(d *draft, p *position) error {
	put := func(where place, raw []byte) error {
		if where.in == "query" && d.query == nil {
			return nil
		}
		return d.put(where, raw)
	}
	pg := &s.paging
	if pg.size > 0 {
		if err := put(pg.sizeInto, strconv.AppendInt(nil, int64(pg.size), 10)); err != nil {
			return err
		}
	}
	switch pg.style {
	case styleCursor:
		if len(p.Token) > 0 {
			if err := put(pg.into, p.Token); err != nil {
				return err
			}
		}
	case stylePage, styleOffset:
		n := int64(pg.start)
		if p.Number != nil {
			n = *p.Number
		}
		if err := put(pg.into, strconv.AppendInt(nil, n, 10)); err != nil {
			return err
		}
	}
	if s.inc != nil {
		raw, err := s.inc.ask(p.Since)
		if err != nil {
			return err
		}
		if raw != nil {
			return put(s.inc.into, raw)
		}
	}
	return nil
}

// addLogin puts the api key into the query of an address of the source's own origin.
func (s *Source) addLogin(u *url.URL) {
	if k := s.cfg.Auth.APIKey; k != nil && k.Query != "" && s.client.isOwn(u) {
		u.RawQuery = withoutParameter(u.RawQuery, k.Query)
		if u.RawQuery != "" {
			u.RawQuery += "&"
		}
		u.RawQuery += url.QueryEscape(k.Query) + "=" + url.QueryEscape(k.Value.Reveal())
	}
}

// withoutParameter takes a parameter out of a raw query and leaves the rest as it is written, which next links need.
func withoutParameter(query, name string) string {
	if query == "" {
		return ""
	}
	kept := make([]string, 0, 8)
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(key); err == nil && plain == name {
			continue
		}
		kept = append(kept, pair)
	}
	return strings.Join(kept, "&")
}

// plainHeaders keeps only what may go to another origin: nothing that could be a login.
func plainHeaders(h http.Header) http.Header {
	plain := make(http.Header)
	for name, v := range h {
		if isPlainHeader(name) {
			plain[name] = v
		}
	}
	return plain
}

// blank is what all requests are copied from: WithContext makes a copy in any case.
var blank = &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}

// http makes the request in the form that a transport sends.
func (r *request) http(ctx context.Context) *http.Request {
	req := blank.WithContext(ctx)
	req.Method, req.URL, req.Host, req.Header = r.method, r.url, r.host, r.header
	if len(r.body) > 0 {
		req.ContentLength = int64(len(r.body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.body)), nil }
		req.Body, _ = req.GetBody() // does not fail
	}
	return req
}

func cloneValues(v url.Values) url.Values {
	c := make(url.Values, len(v)+4)
	for name, values := range v {
		c[name] = append([]string(nil), values...)
	}
	return c
}
