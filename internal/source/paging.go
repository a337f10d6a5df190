package source

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"ferry/internal/config"
	"ferry/internal/jq"
	"ferry/internal/jsonscan"
)

// The kinds of pagination. They are written into cursors.
const (
	styleNone   = "none"
	styleAuto   = "auto"
	styleLink   = "link_header"
	styleURL    = "next_url"
	styleCursor = "cursor"
	stylePage   = "page"
	styleOffset = "offset"
)

// paging says how pages follow each other.
type paging struct {
	style    string
	from     *lookup // next_url, cursor
	into     place   // cursor, page, offset
	total    *lookup // page, offset; or nil
	start    int
	size     int
	sizeInto place
}

// page is what is known of a page once it has been read, beside its records.
type page struct {
	header    http.Header
	url       *url.URL // where it came from, after redirects
	envelope  []byte   // the page's JSON with [] in the place of its records, or all of it; nil when it has none
	ndjson    bool
	complaint bool   // it tells of an error beside its records
	skipped   bool   // by its status: it was not looked into
	records   int    // in it, seen ones and bad ones included
	ids       digest // of the ids of its records

	remaining int64 // how many records come behind it, as far as a total says
}

// hasEnvelope says whether an expression on the page makes sense.
func (p *page) hasEnvelope(key, src string) error {
	switch {
	case p.ndjson:
		return failf(KindContent, "the page is NDJSON, which has no place for %s %s", key, src)
	case len(p.envelope) > 0 && jsonscan.KindOf(p.envelope[0]) == jsonscan.Array && needsObject(src):
		return failf(KindContent, "the page is an array, which has no place for %s %s", key, src)
	}
	return nil
}

func newPaging(c *config.Paginate) (paging, error) {
	p := paging{style: c.Word}
	var err error
	switch {
	case c.NextURL != "":
		p.style = styleURL
		p.from, err = newLookup("paginate.next_url", c.NextURL)
	case c.Cursor != nil:
		p.style = styleCursor
		if p.from, err = newLookup("paginate.cursor.from", c.Cursor.From); err == nil {
			p.into, err = parsePlace("paginate.cursor.into", c.Cursor.Into)
		}
	case c.Page != nil:
		p.style = stylePage
		err = p.numbered("paginate.page", or(c.Page.Into, "query.page"), c.Page.Start, c.Page.Total, c.Page.Size, "size", c.Page.SizeInto)
	case c.Offset != nil:
		p.style = styleOffset
		err = p.numbered("paginate.offset", or(c.Offset.Into, "query.offset"), c.Offset.Start, c.Offset.Total, c.Offset.Limit, "limit", c.Offset.LimitInto)
	case c.Word == "":
		p.style = styleAuto
	case c.Word != styleNone && c.Word != styleAuto && c.Word != styleLink:
		err = fmt.Errorf("paginate: %q is none of none, auto, link_header, next_url, cursor, page and offset", c.Word)
	}
	return p, err
}

func (p *paging) numbered(key, into string, start int, total string, size int, sizeKey, sizeInto string) (err error) {
	if p.into, err = parsePlace(key+".into", into); err != nil {
		return err
	}
	if p.start = start; start < 0 {
		return fmt.Errorf("%s.start: must not be negative", key)
	}
	if total != "" {
		if p.total, err = newLookup(key+".total", total); err != nil {
			return err
		}
	}
	if (size > 0) != (sizeInto != "") {
		return fmt.Errorf("%s: %s and %s_into go together", key, sizeKey, sizeKey)
	}
	if size > 0 {
		p.size = size
		p.sizeInto, err = parsePlace(key+"."+sizeKey+"_into", sizeInto)
	}
	return err
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// lookups returns the expressions that look at the page.
func (p *paging) lookups() []*lookup {
	var all []*lookup
	for _, l := range []*lookup{p.from, p.total} {
		if l != nil && l.body != nil {
			all = append(all, l)
		}
	}
	return all
}

// next says which page follows pg at from. more is false after the last. warning is for a person. The returned position
// has only what belongs to paging. Errors are *Error.
func (s *Source) next(ctx context.Context, from *position, pg *page) (to *position, more bool, warning string, err error) {
	to = &position{Style: s.paging.style, Pages: from.Pages + 1, Loop: from.Loop}
	if pg.records == 0 {
		to.Empty = from.Empty + 1
	}
	switch s.paging.style {
	case styleNone:
		return to, false, "", nil
	case styleAuto:
		link, warning := s.guess(pg)
		if link == "" {
			return to, false, warning, s.unnamed(from, pg)
		}
		return to, true, "", s.follow(to, from, pg, link)
	case styleLink:
		link, unread := nextLink(pg.header["Link"])
		switch {
		case link != "":
		case unread != "":
			return to, false, "", failf(KindContent, "the Link header cannot be read, and may name a next page: %s", s.secrets.sample([]byte(unread), 80))
		default:
			return to, false, "", s.unnamed(from, pg)
		}
		return to, true, "", s.follow(to, from, pg, link)
	case styleURL:
		raw, found, err := s.paging.from.find(ctx, "paginate.next_url", pg)
		if err != nil {
			return to, false, "", err
		}
		if !found {
			return to, false, s.astray(from, pg), s.unnamed(from, pg)
		}
		if raw[0] != '"' {
			return to, false, "", failf(KindContent, "paginate.next_url %s is %s, which is no address", s.paging.from.src, s.secrets.sample(raw, 80))
		}
		return to, true, "", s.follow(to, from, pg, textOf(raw))
	case styleCursor:
		raw, found, err := s.paging.from.find(ctx, "paginate.cursor.from", pg)
		if err != nil {
			return to, false, "", err
		}
		if !found {
			return to, false, s.astray(from, pg), s.unnamed(from, pg)
		}
		return to, true, "", s.carry(to, from, raw)
	}
	more, err = s.count(ctx, to, from, pg)
	return to, more, "", err
}

// unnamed is the error for a page that was skipped by its status and so could not name the next one: that it was the last
// is nowhere said (invariant 9). A first page whose header names none may be the only one.
func (s *Source) unnamed(from *position, pg *page) error {
	inBody := s.paging.from != nil && s.paging.from.body != nil
	if !pg.skipped || !inBody && from.Style == "" {
		return nil
	}
	return failf(KindStatus, "a page that is skipped by its status needs to name the next one in its header; if the status means that there is none, set on: {STATUS: end}")
}

// astray warns where the first page, at from, seems to be the last only because the path to the next one is wrong:
// something is named elsewhere; or not even the object is there in which it should be named (of .meta.next, the .meta),
// and the page has something else beside its records. From a later page on the path has shown that it leads somewhere.
func (s *Source) astray(from *position, pg *page) string {
	x := s.paging.from.body
	if x == nil || x.program != nil || pg.envelope == nil || from.Pages > 0 {
		return ""
	}
	steps := x.path.Steps()
	if _, found, err := jsonscan.Get(pg.envelope, steps); found || err != nil {
		return "" // null, say, as an end is written
	}
	for _, p := range slices.Concat(s.guesses, s.hints) {
		if raw, found, err := p.Get(pg.envelope); err == nil && found && !isEmptyValue(raw) {
			return fmt.Sprintf("the page has nothing at %s, which was taken for the end of the pages, but %s at %s; check the path", x.src, s.secrets.sample(raw, 40), p)
		}
	}
	if len(steps) < 2 {
		return ""
	}
	if _, found, err := jsonscan.Get(pg.envelope, steps[:len(steps)-1]); found || err != nil {
		return ""
	}
	if name := s.beside(pg.envelope); name != "" {
		return fmt.Sprintf("the page has nothing where %s would be, which was taken for the end of the pages, but it has %s; check the path", x.src, name)
	}
	return "" // some APIs leave out the whole object at the end
}

// beside is the name of a member of a page that may lead to the next page: it holds an object or a text, and the records
// do not lie in it.
func (s *Source) beside(envelope []byte) string {
	w := jsonscan.Walk(envelope, 0, jsonscan.MaxDepth)
	for w.Next() {
		kind := jsonscan.KindOf(w.Value()[0])
		if kind != jsonscan.Object && kind != jsonscan.String {
			continue
		}
		if steps := s.records.steps; len(steps) > 0 && jsonscan.KeyIs(w.Key(), steps[0].Key) {
			continue
		}
		return s.secrets.sample(w.Key(), 40)
	}
	return ""
}

// empties says whether too many pages without records have followed each other.
func empties(to *position) error {
	if to.Empty > maxEmpty {
		return failf(KindLoop, "%d pages without records followed each other, each naming a next one", to.Empty)
	}
	return nil
}

// carry takes a token over: a text or a number, and for a body any JSON, as in Elasticsearch's search_after.
func (s *Source) carry(to, from *position, raw []byte) error {
	if kind := jsonscan.KindOf(raw[0]); kind != jsonscan.String && kind != jsonscan.Number && s.paging.into.in != "body" {
		return failf(KindContent, "paginate.cursor.from %s is an %s, which is no token, but into: body.NAME", s.paging.from.src, kind)
	}
	if len(raw) > maxToken {
		return failf(KindLimit, "the token for the next page has %d bytes; more than %d are not carried", len(raw), maxToken)
	}
	if string(raw) == string(from.Token) {
		return failf(KindLoop, "the page names its own token as that of the next page")
	}
	loop, cycle := from.Loop.step(string(raw))
	if cycle > 0 {
		return failf(KindLoop, "the token for the next page is the one of %d pages ago", cycle)
	}
	to.Token, to.Loop = append(json.RawMessage(nil), raw...), loop
	return empties(to)
}

// follow takes the address of the next page over: as path and query on the source's own origin, else whole. A key in its
// query is left out of the cursor, and put in again when it is asked for (invariant 8).
func (s *Source) follow(to, from *position, pg *page, link string) error {
	u, err := s.resolve(pg.url, link)
	if err != nil {
		return err
	}
	if k := s.cfg.Auth.APIKey; k != nil && k.Query != "" {
		u.RawQuery = withoutParameter(u.RawQuery, k.Query)
	}
	text := s.short(u)
	if s.secrets.text(text) != text {
		return failf(KindBlocked, "the link to the next page carries the login in its address")
	}
	if len(text) > maxToken {
		return failf(KindLimit, "the address of the next page has %d bytes; more than %d are not carried", len(text), maxToken)
	}
	loop := from.Loop
	if loop == nil { // the first page is part of the trail too
		if first, err := s.build(from); err == nil {
			first.url.RawQuery = s.loginless(first.url.RawQuery)
			loop, _ = loop.step(s.short(first.url))
		}
	}
	if text == from.URL {
		return failf(KindLoop, "the page names its own address as that of the next page")
	}
	loop, cycle := loop.step(text)
	if cycle > 0 {
		return failf(KindLoop, "the address of the next page is the one of %d pages ago", cycle)
	}
	to.URL, to.Loop = text, loop
	return empties(to)
}

// short is u without the source's own origin. A path that begins with // would then be read as another one, and keeps it.
func (s *Source) short(u *url.URL) string {
	if !s.client.isOwn(u) {
		return u.String()
	}
	text := u.RequestURI()
	if strings.HasPrefix(text, "//") {
		text = s.client.base.Scheme + "://" + s.client.base.Host + text
	}
	return text
}

func (s *Source) loginless(query string) string {
	if k := s.cfg.Auth.APIKey; k != nil && k.Query != "" {
		return withoutParameter(query, k.Query)
	}
	return query
}

// count goes on to the next number. A short page is not the end: an offset goes on by the records that came, so that an
// API that gives fewer than it was asked for loses nothing.
func (s *Source) count(ctx context.Context, to, from *position, pg *page) (more bool, err error) {
	p := &s.paging
	n := int64(p.start)
	if from.Number != nil {
		n = *from.Number
	}
	to.Loop = &trail{Page: pg.ids}
	if pg.records > 0 && from.Loop != nil && from.Loop.Page == pg.ids {
		return false, failf(KindLoop, "the page at %s %d holds the same records as the one before; does the API know %s.%s?", p.style, n, p.into.in, p.into.name)
	}
	total := int64(-1)
	if p.total != nil {
		if total, err = s.total(ctx, pg); err != nil {
			return false, err
		}
		if total == 0 && pg.records > 0 { // as where counting is switched off
			return false, failf(KindContent, "the page at %s %d has records, although %s says that there are none; leave total out", p.style, n, p.total.src)
		}
	}
	if p.style == stylePage {
		n++
		more = pg.records > 0 || pg.skipped
		if total >= 0 {
			pages := int64(p.start) + total - n
			more = pages > 0
			pg.remaining = min(max(0, pages), maxRemaining) * int64(pg.records) // the last page may be shorter
		}
	} else {
		step := int64(pg.records)
		if pg.skipped {
			if step = int64(p.size); step == 0 {
				return false, failf(KindStatus, "a page that is skipped by its status needs paginate.offset.limit, to know where the next begins")
			}
		}
		n += step
		more = step > 0
		if total >= 0 {
			more = n < int64(p.start)+total
			pg.remaining = max(0, min(int64(p.start)+total-n, maxRemaining))
			if more && step == 0 {
				return false, failf(KindContent, "the page at offset %d has no records, although %s says that there are %d; leave total out if it is an estimate", n, p.total.src, total)
			}
		}
	}
	to.Number = &n
	if !more {
		return false, nil
	}
	return true, empties(to)
}

// maxRemaining keeps what can only be nonsense from overflowing.
const maxRemaining = 1 << 40

// total reads how many there are, -1 when the page does not say.
func (s *Source) total(ctx context.Context, pg *page) (int64, error) {
	raw, found, err := s.paging.total.find(ctx, "paginate."+s.paging.style+".total", pg)
	if err != nil || !found {
		return -1, err
	}
	text := textOf(raw)
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		return n, nil
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && f >= 0 && f < 1<<53 && f == float64(int64(f)) {
		return int64(f), nil
	}
	return -1, failf(KindContent, "paginate.%s.total %s is %s, which is no number", s.paging.style, s.paging.total.src, s.secrets.sample(raw, 40))
}

// guesses are the places where APIs write the next page's address. What lies there is followed by paginate: auto, and only
// when it looks like an address.
var guesses = []string{
	".next", ".next_url", ".nextUrl", ".next_page_url", ".next_link", ".nextLink", `.["@odata.nextLink"]`, ".next.href",
	".links.next", ".links.next.href", "._links.next", "._links.next.href",
	".paging.next", ".paging.next.link", ".pagination.next", ".pagination.next_url", ".meta.next", ".meta.next_url", ".meta.next_page_url",
}

// hints are places that say, when they hold something, that there is more, but not as an address.
var hints = []string{
	".next_cursor", ".nextCursor", ".next_page_token", ".nextPageToken", ".next_token", ".nextToken", ".has_more", ".hasMore",
	".meta.next_cursor", ".pagination.next_cursor", ".response_metadata.next_cursor",
}

// Places that say how many pages, or records, there are in all. They lead nowhere, but tell that a page is not all.
var (
	pageCounts = []string{
		".total_pages", ".totalPages", ".page_count", ".pageCount", ".pages", ".last_page", ".lastPage", ".meta.total_pages",
		".meta.totalPages", ".meta.last_page", ".meta.pagination.total_pages", ".pagination.total_pages", ".pagination.totalPages",
		".pagination.pages", ".paging.total_pages", ".page.totalPages",
	}
	recordCounts = []string{
		".total", ".total_count", ".totalCount", ".total_results", ".totalResults", ".total_records", ".totalSize", ".count",
		".meta.total", ".meta.total_count", ".meta.totalCount", ".pagination.total", ".pagination.total_count", ".paging.total",
		".page.totalElements", ".totalElements", ".hits.total.value",
	}
	pageHeaders   = []string{"X-Total-Pages", "X-WP-TotalPages", "X-Page-Count", "X-Pagination-Page-Count"}
	recordHeaders = []string{"X-Total-Count", "X-Total", "X-WP-Total", "X-Pagination-Total-Count"}
)

// guess finds the next page's address for paginate: auto: a Link header, else one of the guesses, else none. Where the
// page seems to say that there is more in a way that cannot be followed, it says so in the warning.
func (s *Source) guess(pg *page) (link, warning string) {
	link, unread := nextLink(pg.header["Link"])
	switch {
	case link != "":
		return link, ""
	case unread != "":
		warning = fmt.Sprintf("the Link header cannot be read, and may name a next page: %s", s.secrets.sample([]byte(unread), 80))
	}
	var page []byte
	if len(pg.envelope) > 0 && jsonscan.KindOf(pg.envelope[0]) == jsonscan.Object {
		page = outline(nil, pg.envelope, 3)
	}
	for _, g := range s.guesses {
		raw, found, err := g.Get(page)
		if err != nil || !found || isEmptyValue(raw) || raw[0] != '"' {
			continue
		}
		if text := textOf(raw); strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://") || text[0] == '/' || text[0] == '?' {
			return text, ""
		}
		if warning == "" {
			warning = fmt.Sprintf("the page has %s at %s, which does not look like an address; if it leads to the next page, set paginate: {cursor: {from: %s, into: query.NAME}}, or {next_url: %s}", s.secrets.sample(raw, 40), g, g, g)
		}
	}
	for _, h := range s.hints {
		raw, found, err := h.Get(page)
		if err == nil && found && !isEmptyValue(raw) && warning == "" {
			how := "paginate"
			if kind := jsonscan.KindOf(raw[0]); kind == jsonscan.String || kind == jsonscan.Number {
				how = fmt.Sprintf("paginate: {cursor: {from: %s, into: query.NAME}}", h)
			}
			warning = fmt.Sprintf("the page has %s at %s and so seems to have a next one; set %s to follow it, or to none", s.secrets.sample(raw, 40), h, how)
		}
	}
	if warning == "" {
		warning = s.counted(page, pg)
	}
	return "", warning
}

// counted warns when a page tells of more pages, or of more records, than it is and has.
func (s *Source) counted(page []byte, pg *page) string {
	beyond := func(paths []jq.Path, headers []string, than int) (place string, n int64) {
		for _, p := range paths {
			if raw, found, err := p.Get(page); err == nil && found {
				if n, err := strconv.ParseInt(textOf(raw), 10, 64); err == nil && n > int64(than) {
					return p.String(), n
				}
			}
		}
		for _, name := range headers {
			if n, err := strconv.ParseInt(pg.header.Get(name), 10, 64); err == nil && n > int64(than) {
				return "header." + name, n
			}
		}
		return "", 0
	}
	if pg.records == 0 {
		return ""
	}
	if place, n := beyond(s.pageCounts, pageHeaders, 1); place != "" {
		return fmt.Sprintf("the page has %d at %s, and names no next one; set paginate: {page: {into: query.NAME, total: %s}} to read all, or to none", n, place, place)
	}
	if place, n := beyond(s.recordCounts, recordHeaders, pg.records); place != "" {
		return fmt.Sprintf("the page has %d at %s and holds %d records, and names no next one; set paginate: {offset: {into: query.NAME, total: %s}}, or page, to read all, or to none", n, place, pg.records, place)
	}
	return ""
}

// outline appends an object without what lies in its arrays, and deeper than the places that are looked at: there are many
// of them, and a page may be large.
func outline(dst, object []byte, depth int) []byte {
	dst = append(dst, '{')
	w := jsonscan.Walk(object, 0, jsonscan.MaxDepth)
	for first := true; w.Next(); first = false {
		if !first {
			dst = append(dst, ',')
		}
		dst = append(append(dst, w.Key()...), ':')
		switch v := w.Value(); {
		case v[0] == '[':
			dst = append(dst, "[]"...)
		case v[0] == '{' && depth > 1:
			dst = outline(dst, v, depth-1)
		case v[0] == '{':
			dst = append(dst, "{}"...)
		default:
			dst = append(dst, v...)
		}
	}
	return append(dst, '}')
}

func mustPaths(sources []string) []jq.Path {
	paths := make([]jq.Path, 0, len(sources))
	for _, src := range sources {
		p, err := jq.ParsePath(src)
		if err != nil {
			panic("source: " + err.Error())
		}
		paths = append(paths, p)
	}
	return paths
}
