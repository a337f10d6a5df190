package source

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"

	"ferry/internal/config"
)

// raw answers with the bytes as they are and closes the connection.
func raw(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = conn.Write([]byte(text))
		_ = conn.Close()
	}
}

func reply(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{contentType}
		if contentType == "" {
			w.Header()["Content-Type"] = nil
		}
		fmt.Fprint(w, body)
	}
}

func status(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

func packed(encoding string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", encoding)
		_, _ = w.Write(body)
	}
}

func gzipped(s string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(s))
	_ = z.Close()
	return b.Bytes()
}

func zlibbed(s string) []byte {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write([]byte(s))
	_ = z.Close()
	return b.Bytes()
}

func deflated(s string) []byte {
	var b bytes.Buffer
	z, _ := flate.NewWriter(&b, 6)
	_, _ = z.Write([]byte(s))
	_ = z.Close()
	return b.Bytes()
}

const jsonType = "application/json"

// What is no success is never taken for one (invariant 9), and what is too large is stopped (invariant 7). The text of
// each error is part of the contract with the people who read it. AT stands for the address.
func TestBadAnswers(t *testing.T) {
	limits := func(l config.SourceLimits) config.Source { return config.Source{Limits: l} }
	data := config.Source{Records: ".data[]"}
	for _, c := range []struct {
		name   string
		cfg    config.Source
		answer http.HandlerFunc
		want   string
	}{
		// Content
		{"html", config.Source{}, reply("text/html; charset=utf-8", "<!DOCTYPE html>\n<title>Sign in</title>"), "content: the body is text/html, not JSON; it begins with: <!DOCTYPE html> <title>Sign in</title>"},
		{"html named json", config.Source{}, reply(jsonType, "<html>oops"), "content: the body is not JSON; it begins with: <html>oops"},
		{"html, format said", config.Source{Format: "json"}, reply("text/html", "  <html>oops"), "content: the body is not JSON; it begins with: <html>oops"},
		{"xml", config.Source{}, reply("application/xml", "<a/>"), "content: the body is application/xml, not JSON; it begins with: <a/>"},
		{"terminal codes", config.Source{}, reply("text/plain", "\x1b[31mno"), "content: the body is not JSON; it begins with: ?[31mno"},
		{"long", config.Source{}, reply("text/plain", "sorry"+strings.Repeat("!", 500)), "content: the body is not JSON; it begins with: sorry" + strings.Repeat("!", 75) + "…"},
		{"empty", config.Source{}, reply(jsonType, ""), "content: the body is empty"},
		{"only space", config.Source{}, reply(jsonType, " \n "), "content: the body is empty"},
		{"null", config.Source{}, reply(jsonType, "null"), "content: the page is null"},
		{"broken", config.Source{}, reply(jsonType, `[{"a":1},{"a":}]`), "content: the body is not valid JSON: expected a value, found '}' at byte 14"},
		{"not utf-8", config.Source{}, reply(jsonType, "[\"\xff\"]"), "content: the body is not valid JSON: invalid UTF-8 in a string at byte 2"},
		{"ends early", config.Source{}, reply(jsonType, `[{"a":1},{"a":`), "content: the body ends in the middle of its JSON, after 14 bytes"},
		{"ends early beside the records", data, reply(jsonType, `{"data":[1],"x":`), "content: the body ends in the middle of its JSON, after 16 bytes"},
		{"followed", config.Source{}, reply(jsonType, `[1] [2]`), "content: something follows the body's JSON at byte 4: [2]"},
		{"packed strangely", config.Source{}, packed("br", []byte("x")), "content: the body is packed as \"br\", which was not asked for; only gzip and deflate are understood"},
		{"not gzip", config.Source{}, packed("gzip", []byte("[1,2,3,4,5,6,7,8,9]")), "content: the body cannot be unpacked: gzip: invalid header"},
		{"cut gzip", config.Source{}, packed("gzip", gzipped(strings.Repeat("[1]", 100))[:20]), "content: the packed body ends before its content does, after 20 bytes"},
		{"gzip with a wrong sum", config.Source{}, packed("gzip", flip(gzipped("[1,2,3]"), -5)), "content: the body cannot be unpacked: gzip: invalid checksum"},
		// Framing
		{"shorter than its length", config.Source{}, raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n[1]"), "content: the body is cut short after 3 of 30 bytes"},
		{"lines shorter than their length", config.Source{}, raw("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 30\r\n\r\n1\n2\n"), "content: the body is cut short after 4 of 30 bytes"},
		{"no last chunk", config.Source{}, raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1]\r\n"), "content: the body is cut short after 3 bytes"},
		{"closed in the middle", config.Source{}, raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n[1,2"), "content: the body ends in the middle of its JSON, after 4 bytes"},
		{"closed in the middle of a line", config.Source{}, raw("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n{\"a\":1}\n{\"a\""), "content: the body ends in the middle of its JSON, after 12 bytes"},
		{"no answer", config.Source{}, raw(""), "network: EOF"},
		{"no http", config.Source{}, raw("SSH-2.0-x\r\n\r\n"), "network: net/http: HTTP/1.x transport connection broken: malformed HTTP response \"SSH-2.0-x\""},
		// Places
		{"no such place", data, reply(jsonType, `{"error":"quota","code":7}`), `content: the page has nothing at records .data[]; it has error, code; the page begins with: {"error":"quota","code":7}`},
		{"nothing at all", data, reply(jsonType, `{}`), "content: the page has nothing at records .data[]; it is an empty object; the page begins with: {}"},
		{"an object in place", data, reply(jsonType, `{"data":{"a":1}}`), `content: records .data[] meets a value of type object where it expects an array; the page begins with: {"data":{"a":1}}`},
		{"an array on the way", config.Source{Records: ".a.b[]"}, reply(jsonType, `{"a":[1]}`), "content: records .a.b[] meets a value of type array where it expects an object with \"b\"; the page begins with: {\"a\":[1]}"},
		{"an error beside no records", config.Source{Records: ".data"}, reply(jsonType, `{"data":[],"error":"quota"}`), `content: the page tells of an error and has nothing at records .data; if it is in order all the same, set records: .data[]?; the page begins with: {"data":[],"error":"quota"}`},
		{"null on the way", config.Source{Records: ".data.orders[]"}, reply(jsonType, `{"data":null,"errors":[{"message":"no right"}]}`), `content: records .data.orders[] meets a value of type null where it expects an object with "orders"; the page begins with: {"data":null,"errors":[{"message":"no right"}]}`},
		{"twice", data, reply(jsonType, `{"data":[1],"data":[2]}`), "content: the page has \"data\" twice"},
		{"program fails", config.Source{Records: ".a | map(.b)[]"}, reply(jsonType, `{"a":3}`), `content: records .a | map(.b)[] fails on the page: cannot iterate over: number (3); the page begins with: {"a":3}`},
		{"lines begin with what is no line", config.Source{Format: "ndjson"}, reply(jsonType, "id,name\n1,a\n"), "content: the body is not JSON; it begins with: id,name 1,a"},
		{"first line broken", config.Source{Format: "ndjson"}, reply(jsonType, "2024,a\n"), "content: the body is not valid JSON: something follows the value in its line at byte 4"},
		// Errors with status 200
		{"errors in place of records", config.Source{}, reply(jsonType, `{"data":null,"errors":[{"message":"throttled"}],"extensions":{"cost":7}}`), `content: the page tells of an error and has no records; if it is in order all the same, set records: .errors[]; the page begins with: {"data":null,"errors":[{"message":"throttled"}],"extensions":{"cost":7}}`},
		{"errors beside no records", config.Source{}, reply(jsonType, `{"items":[ ],"errors":["a"],"links":[{"rel":"self"}]}`), `content: the page tells of an error and has no records; if it is in order all the same, set records: .items[]; the page begins with: {"items":[ ],"errors":["a"],"links":[{"rel":"self"}]}`},
		{"an error and nothing else", config.Source{}, reply(jsonType, `{"error":{"code":403}}`), `content: the page tells of an error and has no records; if it is in order all the same, set records: .; the page begins with: {"error":{"code":403}}`},
		{"an error beside nothings", config.Source{}, reply(jsonType, `{"ok":false,"\u0065rror":"not_authed","more":[ ],"x":"","meta":{ },"y":null}`), `content: the page tells of an error and has no records; if it is in order all the same, set records: .; the page begins with: {"ok":false,"\u0065rror":"not_authed","more":[ ],"x":"","meta":{ },"y":null}`},
		{"an error in place of records", config.Source{Records: ".data.orders[]"}, reply(jsonType, `{"errors":[{"message":"timeout"}],"data":{"orders":null}}`), `content: the page tells of an error and has nothing at records .data.orders[]; if it is in order all the same, set records: .data.orders[]?; the page begins with: {"errors":[{"message":"timeout"}],"data":{"orders":null}}`},
		// Limits
		{"wire", limits(config.SourceLimits{Wire: 1000}), reply(jsonType, "["+strings.Repeat("1,", 5000)+"1]"), "limit: the body is larger than limits.wire (1000 bytes)"},
		{"inflated", limits(config.SourceLimits{Inflated: 100_000}), packed("gzip", gzipped("["+strings.Repeat(" ", 2_000_000)+"1]")), "limit: the body is larger than limits.inflated (100000 bytes)"},
		{"envelope", config.Source{Records: ".data[]", Limits: config.SourceLimits{Envelope: 1000}}, reply(jsonType, `{"x":"`+strings.Repeat("x", 2000)+`","data":[]}`), "limit: the page has more than limits.envelope (1000 bytes) beside its records"},
		{"envelope in small pieces", config.Source{Records: ".data[]", Limits: config.SourceLimits{Envelope: 1000}}, reply(jsonType, `{`+strings.Repeat(`"x":1,`, 1000)+`"data":[]}`), "limit: the page has more than limits.envelope (1000 bytes) beside its records"},
		{"whole, unset", limits(config.SourceLimits{Envelope: 1000}), reply(jsonType, `{"data":["`+strings.Repeat("x", 2000)+`"]}`), "limit: the page is larger than limits.envelope (1000 bytes) and has to be read as a whole, because records is not set"},
		{"whole, program", config.Source{Records: ".a | .[]", Limits: config.SourceLimits{Envelope: 1000}}, reply(jsonType, `{"a":["`+strings.Repeat("x", 2000)+`"]}`), "limit: the page is larger than limits.envelope (1000 bytes) and has to be read as a whole, because records is a program"},
		{"whole, stop", config.Source{Records: ".data[]", Stop: ".data | length < 5", Limits: config.SourceLimits{Envelope: 1000}}, reply(jsonType, `{"data":["`+strings.Repeat("x", 2000)+`"]}`), "limit: the page is larger than limits.envelope (1000 bytes) and has to be read as a whole, because .data | length < 5 looks at the records"},
		{"depth", config.Source{Records: ".data[]", Limits: config.SourceLimits{Depth: 5}}, reply(jsonType, `{"x":[[[[[[1]]]]]],"data":[]}`), "limit: the page is nested deeper than limits.depth (5)"},
		{"depth of a record beyond all", config.Source{Limits: config.SourceLimits{Depth: 5}}, reply(jsonType, "["+strings.Repeat("[", 20_000)), "limit: a record is nested deeper than 10000"},
		{"headers", limits(config.SourceLimits{Headers: 2000}), status(200, "[]", "X-Large", strings.Repeat("x", 10_000)), "limit: the answer's header is larger than limits.headers (2000 bytes)"},
		// Status
		{"not found", config.Source{}, status(404, `{"error":"no such\nthing"}`), "status: status 404 Not Found: {\"error\":\"no such\\nthing\"}"},
		{"server", config.Source{}, status(500, ""), "status: status 500 Internal Server Error"},
		{"login", config.Source{}, status(401, "who?"), "auth: status 401 Unauthorized: who?; set auth"},
		{"redirect without a place", config.Source{}, status(302, ""), "status: status 302 Found; the answer is no redirect that can be followed"},
		{"rate limited", config.Source{}, status(429, "slow", "Retry-After", "7"), "rate_limited: status 429 Too Many Requests: slow; asks to come back in 7s"},
		{"rate limited by 503", config.Source{}, status(503, "", "Retry-After", "0"), "rate_limited: status 503 Service Unavailable; asks to come back in 0s"},
		{"said to fail", config.Source{On: map[int]string{200: "fail"}}, status(200, "[]"), "status: status 200 OK: []"},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := serve(t, c.answer)
			c.cfg.Base = url
			s := open(t, c.cfg, Options{})
			p, err := tryAll(t, s, nil)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v, want an *Error; got records %v", err, p.data)
			}
			if want := c.want + " (GET " + url + ")"; err.Error() != want {
				t.Errorf("error\n got %s\nwant %s", err, want)
			}
			if c.cfg.Limits.Envelope == 0 && c.name != "twice" { // Fetch reads a page as a whole in any case
				if _, ferr := s.Fetch(t.Context()); ferr == nil || ferr.Error() != err.Error() {
					t.Errorf("Fetch says\n     %v\nwant %v", ferr, err)
				}
			}
		})
	}
}

func flip(b []byte, i int) []byte {
	b[len(b)+i] ^= 1
	return b
}

// What an API may do without it being wrong.
func TestOddButGoodAnswers(t *testing.T) {
	lines := "{\"a\":1}\n\n{\"a\":2}\r\n[3]"
	for _, c := range []struct {
		name   string
		cfg    config.Source
		answer http.HandlerFunc
		want   string
	}{
		{"no type", config.Source{}, reply("", "[1]"), "1"},
		{"plain text", config.Source{}, reply("text/plain", "[1]"), "1"},
		{"vendor's type", config.Source{}, reply("application/vnd.x+json;v=1", "[1]"), "1"},
		{"another type, format said", config.Source{Format: "json"}, reply("text/html", "[1]"), "1"},
		{"lines", config.Source{}, reply("application/x-ndjson", lines), `{"a":1} {"a":2} [3]`},
		{"lines, format said", config.Source{Format: "ndjson"}, reply(jsonType, lines), `{"a":1} {"a":2} [3]`},
		{"lines without line ends", config.Source{Format: "ndjson"}, reply(jsonType, `{"a":1}{"a":2} 3 "x"`), `{"a":1} {"a":2} 3 "x"`},
		{"no lines", config.Source{}, reply("application/jsonl", ""), ""},
		{"no content", config.Source{}, status(204, ""), ""},
		{"created", config.Source{}, status(201, "[1]"), "1"},
		{"end by status", config.Source{On: map[int]string{404: "end"}}, status(404, "<html>"), ""},
		{"skip by status", config.Source{On: map[int]string{404: "skip"}}, status(404, "<html>"), ""},
		{"gzip", config.Source{}, packed("gzip", gzipped("[1,2]")), "1 2"},
		{"gzip in members", config.Source{}, packed("x-gzip", append(gzipped("[1"), gzipped(",2]")...)), "1 2"},
		{"zlib", config.Source{}, packed("deflate", zlibbed("[1,2]")), "1 2"},
		{"deflate", config.Source{}, packed("deflate", deflated("[1,2]")), "1 2"},
		{"closed at the end", config.Source{}, raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[1]"), "1"},
		{"http 1.0", config.Source{}, raw("HTTP/1.0 200 OK\r\n\r\n[1]"), "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Base = serve(t, c.answer)
			s := open(t, c.cfg, Options{})
			if p := readAll(t, s, nil); strings.Join(p.data, " ") != c.want {
				t.Errorf("got %v, want %s", p.data, c.want)
			}
			part, err := s.Fetch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var f pull
			if f.take(t, part); strings.Join(f.data, " ") != c.want {
				t.Errorf("Fetch: got %v, want %s", f.data, c.want)
			}
		})
	}
}

// A record that cannot go on is bad, and does not stop the rest.
func TestBadRecords(t *testing.T) {
	big := `{"id":3,"x":"` + strings.Repeat("x", 10_000) + `"}`
	for _, c := range []struct {
		name string
		cfg  config.Source
		body string
		want []string // of the records 1 and 2, and between them
		bad  string
	}{
		{"no key", config.Source{Key: ".id"}, `[{"id":1},{"x":1},{"id":2}]`, []string{`{"x":1}`}, "the record has nothing at key .id"},
		{"null key", config.Source{Key: ".id"}, `[{"id":1},{"id":null},{"id":2}]`, []string{`{"id":null}`}, "key .id is of type null; it must be a string, a number or a boolean"},
		{"object as key", config.Source{Key: ".id"}, `[{"id":1},{"id":{}},{"id":2}]`, []string{`{"id":{}}`}, "key .id is of type object; it must be a string, a number or a boolean"},
		{"empty key", config.Source{Key: ".id"}, `[{"id":1},{"id":""},{"id":2}]`, []string{`{"id":""}`}, "key .id is empty"},
		{"long key", config.Source{Key: ".id"}, `[{"id":1},{"id":"` + strings.Repeat("k", 2000) + `"},{"id":2}]`, []string{`{"id":"` + strings.Repeat("k", 2000) + `"}`}, "key .id has 2000 bytes; at most 1024 are allowed"},
		{"no object", config.Source{Key: ".id"}, `[{"id":1},7,{"id":2}]`, []string{`7`}, "key .id: step 1 of the path needs an object but meets a value of type number"},
		{"large", config.Source{Key: ".id", Limits: config.SourceLimits{Record: 5000}}, `[{"id":1},` + big + `,{"id":2}]`, []string{string(quote(big[:sampleBytes]))}, "the record is larger than limits.record (5000 bytes)"},
		{"deep", config.Source{Key: ".id", Limits: config.SourceLimits{Depth: 3}}, `[{"id":1},[[[["]"]]]],{"id":2}]`, nil, "the record is nested deeper than limits.depth (3)"},
		{"broken line", config.Source{Key: ".id", Format: "ndjson"}, "{\"id\":1}\n{\"id\":tru}\n{\"id\":2}", nil, "the line is not valid JSON: expected true, found '}'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Base = serve(t, reply(jsonType, c.body))
			s := open(t, c.cfg, Options{})
			p := readAll(t, s, nil)
			if len(p.data) != 3 || p.data[0] != `{"id":1}` || p.data[2] != `{"id":2}` {
				t.Fatalf("records %.200v", p.data)
			}
			if c.want != nil && p.data[1] != c.want[0] {
				t.Errorf("the bad record is %.200s, want %.200s", p.data[1], c.want[0])
			}
			if len(p.bad) != 1 || p.bad[0] != c.bad {
				t.Errorf("bad: %q, want %q", p.bad, c.bad)
			}
			cut := map[string]string{"large": fmt.Sprint(len(big)), "deep": "11", "broken line": "11"} // with its end; the others are whole
			if size := p.sizes[0]; size != cut[c.name] {
				t.Errorf("the bad record has the size %q, want %q", size, cut[c.name])
			}
		})
	}
}
