package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ferry/internal/config"
)

// seen is what a server saw of a request's login.
func seen(r *http.Request) string {
	return fmt.Sprintf("%s %s auth=%q key=%q cookie=%q x=%q", r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("X-Api-Key"), r.Header.Get("Cookie"), r.Header.Get("X-Tenant"))
}

func TestAuth(t *testing.T) {
	const at = "GET /"
	for _, c := range []struct {
		name string
		cfg  config.Source
		want string
	}{
		{"none", config.Source{Auth: config.SourceAuth{None: true}}, at + ` auth="" key="" cookie="" x=""`},
		{"bearer", config.Source{Auth: config.SourceAuth{Bearer: "tok"}}, at + ` auth="Bearer tok" key="" cookie="" x=""`},
		{"basic", config.Source{Auth: config.SourceAuth{Basic: &config.Basic{User: "me", Password: "p:w"}}}, at + ` auth="Basic bWU6cDp3" key="" cookie="" x=""`},
		{"key in header", config.Source{Auth: config.SourceAuth{APIKey: &config.Key{Value: "k&1", Header: "X-API-Key"}}}, at + ` auth="" key="k&1" cookie="" x=""`},
		{"key in query", config.Source{Query: config.Params{"a": "1"}, Auth: config.SourceAuth{APIKey: &config.Key{Value: "k&1", Query: "api key"}}}, at + `?a=1&api+key=k%261 auth="" key="" cookie="" x=""`},
		{"key in cookie", config.Source{Headers: map[string]config.Secret{"Cookie": "a=b"}, Auth: config.SourceAuth{APIKey: &config.Key{Value: "k", Cookie: "sid"}}}, at + ` auth="" key="" cookie="a=b; sid=k" x=""`},
		{"headers", config.Source{Headers: map[string]config.Secret{"x-tenant": "t1"}}, at + ` auth="" key="" cookie="" x="t1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			c.cfg.Base = serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = append(got, seen(r))
				fmt.Fprint(w, "[]")
			})
			s := open(t, c.cfg, Options{})
			readAll(t, s, nil)
			if _, err := s.Fetch(t.Context()); err != nil || !slices.Equal(got, []string{c.want, c.want}) {
				t.Errorf("saw %q, %v; want %s", got, err, c.want)
			}
		})
	}
	t.Run("in the address", func(t *testing.T) {
		var got string
		u := serve(t, func(w http.ResponseWriter, r *http.Request) { got = seen(r); fmt.Fprint(w, "[]") })
		readAll(t, open(t, config.Source{Base: strings.Replace(u, "//", "//me:pw@", 1)}, Options{}), nil)
		if want := `GET / auth="Basic bWU6cHc=" key="" cookie="" x=""`; got != want {
			t.Errorf("saw %s, want %s", got, want)
		}
	})
}

// everything is a login in every place there is.
func everything(base string) config.Source {
	return config.Source{
		Base:    base,
		Headers: map[string]config.Secret{"X-Tenant": "tenant-1", "Cookie": "c=cookie-1", "Authorization": "Bearer bearer-1"},
		Auth:    config.SourceAuth{APIKey: &config.Key{Value: "query-key-1", Query: "k"}},
		Records: ".r[]", Paginate: config.Paginate{NextURL: ".next"},
	}
}

// Redirects and next links stay on their origin unless another one is allowed, and then the login stays behind
// (invariant 8).
func TestLoginStaysAtHome(t *testing.T) {
	var away []string
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		away = append(away, seen(r))
		fmt.Fprint(w, `{"r":[1]}`)
	})
	var home []string
	var answer func(w http.ResponseWriter, r *http.Request)
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		home = append(home, seen(r))
		answer(w, r)
	})
	redirect := func(code int, to string) func(w http.ResponseWriter, r *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/end" {
				fmt.Fprint(w, `{"r":[1]}`)
				return
			}
			w.Header().Set("Location", to)
			w.WriteHeader(code)
		}
	}
	const login = ` auth="Bearer bearer-1" key="" cookie="c=cookie-1" x="tenant-1"`
	const nothing = ` auth="" key="" cookie="" x=""`
	host := func(u string) string { return strings.TrimPrefix(u, "http://") }
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request)
		allow  bool
		post   bool
		bare   bool // a post without a body
		home   []string
		away   []string
		want   string // error
	}{
		{name: "redirect at home", answer: redirect(302, "/end?x=1"), home: []string{"GET /?k=query-key-1" + login, "GET /end?x=1&k=query-key-1" + login}},
		{name: "redirect at home, with the key in it", answer: redirect(307, "/end?k=query-key-1"), home: []string{"GET /?k=query-key-1" + login, "GET /end?k=query-key-1" + login}},
		{name: "redirect away", answer: redirect(302, other+"/x"), home: []string{"GET /?k=query-key-1" + login}, want: "blocked: a redirect leads to another origin, http://OTHER; if that is right, set base to it or add OTHER to allow.hosts"},
		{name: "redirect away, allowed", answer: redirect(302, other+"/x"), allow: true, home: []string{"GET /?k=query-key-1" + login}, away: []string{"GET /x" + nothing}},
		{name: "redirect away with the key", answer: redirect(302, other+"/x?stolen=query-key-1"), allow: true, home: []string{"GET /?k=query-key-1" + login}, want: "blocked: a redirect to http://OTHER carries the login in its query"},
		{name: "redirect with a user", answer: redirect(302, "http://a:b@"+host(other)), allow: true, home: []string{"GET /?k=query-key-1" + login}, want: "blocked: a redirect to http://OTHER carries a user or password"},
		{name: "redirect to metadata", answer: redirect(302, "http://169.254.169.254/x"), allow: true, home: []string{"GET /?k=query-key-1" + login}, want: "blocked: a redirect to 169.254.169.254: " + errMetadata.Error()},
		{name: "redirect to a file", answer: redirect(302, "file:///etc/passwd"), home: []string{"GET /?k=query-key-1" + login}, want: "blocked: a redirect leads to what is no http or https address"},
		{name: "post becomes get", answer: redirect(303, "/end"), post: true, home: []string{"POST /?k=query-key-1" + login, "GET /end?k=query-key-1" + login}},
		{name: "post moved", answer: redirect(301, "/end"), post: true, home: []string{"POST /?k=query-key-1" + login}, want: "blocked: the API answers a POST with 301 to HOME/end, which would drop its body; set post to that address"},
		{name: "post found, with the key", answer: redirect(302, "/end?k=query-key-1&t=tenant-1"), post: true, home: []string{"POST /?k=query-key-1" + login}, want: "blocked: the API answers a POST with 302 to HOME/end?k=[secret]&t=[secret], which would drop its body; set post to that address"},
		{name: "post moved away", answer: redirect(301, other+"/x"), post: true, allow: true, home: []string{"POST /?k=query-key-1" + login}, want: "blocked: the API answers a POST with 301 to http://OTHER/x, which would drop its body; set post to that address"},
		{name: "post without a body moved becomes get", answer: redirect(301, "/end"), bare: true, home: []string{"POST /?k=query-key-1" + login, "GET /end?k=query-key-1" + login}},
		{name: "post stays post", answer: redirect(308, "/end"), post: true, home: []string{"POST /?k=query-key-1" + login, "POST /end?k=query-key-1" + login}},
		{name: "post with its body away", answer: redirect(307, other+"/x"), post: true, allow: true, home: []string{"POST /?k=query-key-1" + login}, want: "blocked: a redirect leads to http://OTHER, where the body is not sent to: it may hold a login"},
		{name: "link at home", answer: func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("p") == "2" {
				fmt.Fprint(w, `{"r":[2]}`)
				return
			}
			fmt.Fprintf(w, `{"r":[1],"next":"/?p=2&k=query-key-1"}`)
		}, home: []string{"GET /?k=query-key-1" + login, "GET /?p=2&k=query-key-1" + login}},
		{name: "link away, allowed", answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"r":[1],"next":%q}`, other+"/y?p=2")
		}, allow: true, home: []string{"GET /?k=query-key-1" + login}, away: []string{"GET /y?p=2" + nothing}},
		{name: "link with the login in its path", answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"r":[1],"next":"/bearer-1/x"}`)
		}, home: []string{"GET /?k=query-key-1" + login}, want: "blocked: the link to the next page carries the login in its address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			home, away, answer = nil, nil, c.answer
			cfg := everything(base)
			if c.post {
				cfg.Post, cfg.Body = "/", config.Body{Text: "password=hunter2"}
			}
			if c.bare {
				cfg.Post = "/"
			}
			if c.allow {
				cfg.Allow.Hosts = []string{host(other), "169.254.169.254"}
			}
			p, err := tryAll(t, open(t, cfg, Options{}), nil)
			if strings.Contains(string(p.cursor), "query-key-1") {
				t.Errorf("the cursor holds the key: %s", p.cursor)
			}
			if !slices.Equal(home, c.home) || !slices.Equal(away, c.away) {
				t.Errorf("at home %q, want %q\naway %q, want %q", home, c.home, away, c.away)
			}
			want := strings.NewReplacer("OTHER", host(other), "HOME", base).Replace(c.want)
			if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want+" (") {
				t.Errorf("error\n got %v\nwant %s", err, want)
			}
		})
	}
}

func TestNoWayFromHTTPS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/x", http.StatusFound)
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // it complains of the client that does not trust it
	srv.StartTLS()
	t.Cleanup(srv.Close)
	pool := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, config.Source{Base: srv.URL, Allow: config.Allow{Hosts: []string{u.Hostname()}}}, Options{RootCAs: pool})
	if _, err := tryAll(t, s, nil); err == nil || !strings.HasPrefix(err.Error(), "blocked: a redirect to http://"+u.Host+" leaves https (") {
		t.Errorf("error %v", err)
	}
	s = open(t, config.Source{Base: srv.URL}, Options{})
	if _, err := tryAll(t, s, nil); err == nil || !strings.HasPrefix(err.Error(), "network: the certificate is not trusted: x509: ") {
		t.Errorf("error %v", err)
	}
}

// HTTP/2 has the same limits: a stream that falls silent is given up, and the connection goes on.
func TestHTTP2(t *testing.T) {
	var conns sync.Map
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, r.Proto)
		if r.URL.Path == "/stall" {
			begin("[1,")(w, r)
		}
		fmt.Fprint(w, rows(0, 10))
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	pool := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	cfg := config.Source{Base: srv.URL, Timeouts: config.Timeouts{Idle: config.Duration(50 * time.Millisecond)}}
	good := open(t, cfg, Options{RootCAs: pool})
	wantRows(t, readAll(t, good, nil), 10)
	cfg.Get = "/stall"
	if _, err := tryAll(t, open(t, cfg, Options{Transport: good.client.transport}), nil); err == nil || !strings.HasPrefix(err.Error(), "timeout: the body was silent for 50ms") {
		t.Errorf("error %v", err)
	}
	wantRows(t, readAll(t, good, nil), 10)
	n := 0
	conns.Range(func(_, proto any) bool { n++; return proto == "HTTP/2.0" })
	if n != 1 {
		t.Errorf("%d connections, or another protocol", n)
	}
}

// No text that a person or a program gets to see holds a secret, whatever the other side echoes (invariant 8).
func TestSecretsStayInside(t *testing.T) {
	secret := []string{"hunter2-bearer", "hunter2&query", "hunter2-header", "hunter2-client", "hunter2-password", "hunter2-token", "hunter2-body"}
	echo := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if r.FormValue("fail") != "" {
				w.WriteHeader(400)
				fmt.Fprintf(w, `{"error":"invalid_client","error_description":"bad secret hunter2-client for %s"}`, r.FormValue("client_secret"))
				return
			}
			w.Header().Set("Content-Type", jsonType)
			fmt.Fprint(w, `{"access_token":"hunter2-token","expires_in":3600}`)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(418)
		fmt.Fprintf(w, "you sent %s %s %v", body, r.URL, r.Header)
	}
	base := serve(t, echo)
	secrets := []config.Source{
		{Auth: config.SourceAuth{Bearer: "hunter2-bearer"}},
		{Auth: config.SourceAuth{APIKey: &config.Key{Value: "hunter2&query", Query: "k"}}},
		{Headers: map[string]config.Secret{"X-Vendor": "hunter2-header", "Authorization": "Custom hunter2-header"}},
		{Auth: config.SourceAuth{Basic: &config.Basic{User: "u", Password: "hunter2-password"}}},
		{Post: "/", Body: config.Body{Text: "hunter2-body"}},
		{Post: "/", Body: config.Body{JSON: []byte(`{"login":"hunter2-body"}`)}},
		{Query: config.Params{"access_token": "hunter2-token"}},
		{Auth: config.SourceAuth{OAuth2: &config.OAuth2{TokenURL: base + "/token", ClientID: "id", ClientSecret: "hunter2-client"}}},
		{Auth: config.SourceAuth{OAuth2: &config.OAuth2{TokenURL: base + "/token?fail=1&key=hunter2-client", ClientID: "id", ClientSecret: "hunter2-client", Style: "params"}}},
	}
	for i, cfg := range secrets {
		cfg.Base = base
		s := open(t, cfg, Options{})
		_, err := tryAll(t, s, nil)
		if err == nil {
			t.Fatal("no error")
		}
		described, derr := s.Describe(nil)
		if derr != nil {
			t.Fatal(derr)
		}
		text := fmt.Sprintf("%v %+v %#v %s", err, err, err, described)
		if !strings.Contains(text, hidden) {
			t.Errorf("%d: nothing is hidden in %s", i, text)
		}
		for _, x := range secret {
			for _, form := range []string{x, url.QueryEscape(x), "dTpodW50ZXIyLXBhc3N3b3Jk"} {
				if cfg.Query != nil && x == "hunter2-token" { // the body's echo of a parameter that only sounds secret
					text = strings.Replace(text, "/?access_token=hunter2-token", "", 3)
				}
				if strings.Contains(text, form) {
					t.Errorf("%d: %s in %s", i, form, text)
				}
			}
		}
	}
}

// Nor does the half of one show where an echo is cut: by ferry, which shows its beginning only, or by the network.
func TestSecretsAreHiddenBeforeTheCut(t *testing.T) {
	token := func(n int) string {
		var b strings.Builder
		for i := 0; b.Len() < n; i++ {
			fmt.Fprintf(&b, "%x.", i*i+77777)
		}
		return b.String()[:n]
	}
	oauth, bearer, short := token(900), "B"+token(189), "S"+token(63)
	said := ""
	var answer func(w http.ResponseWriter, said string)
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", jsonType)
		if r.URL.Path == "/token" {
			fmt.Fprintf(w, `{"access_token":%q,"expires_in":3600}`, oauth)
			return
		}
		answer(w, said)
	})
	ways := map[string]func(w http.ResponseWriter, said string){
		"status": func(w http.ResponseWriter, said string) {
			w.WriteHeader(418)
			fmt.Fprint(w, said)
		},
		"status, in pieces": func(w http.ResponseWriter, said string) {
			w.WriteHeader(418)
			slowly(w, said, 100)
		},
		"status, cut by the network": func(w http.ResponseWriter, said string) {
			w.Header().Set("Content-Length", "4000")
			w.WriteHeader(418)
			fmt.Fprint(w, said[:len(said)-20])
		},
		"no JSON": func(w http.ResponseWriter, said string) {
			fmt.Fprint(w, "no "+said[:60])
			_ = http.NewResponseController(w).Flush()
			fmt.Fprint(w, said[60:])
		},
		"another page":     func(w http.ResponseWriter, said string) { fmt.Fprintf(w, `{"error":%q}`, said) },
		"something behind": func(w http.ResponseWriter, said string) { fmt.Fprintf(w, `{"r":[]}x%s`, said) },
		"a next link":      func(w http.ResponseWriter, said string) { fmt.Fprintf(w, `{"r":[],"next":":/%s"}`, said) },
		"a program": func(w http.ResponseWriter, said string) {
			fmt.Fprintf(w, `{"r":[],"stop":%q}`, strings.TrimLeft(said, "-"))
		},
	}
	for _, c := range []struct {
		secret string
		auth   config.SourceAuth
	}{
		{oauth, config.SourceAuth{OAuth2: &config.OAuth2{TokenURL: base + "/token", ClientID: "id", ClientSecret: "client"}}},
		{bearer, config.SourceAuth{Bearer: config.Secret(bearer)}},
		{short, config.SourceAuth{Bearer: config.Secret(short)}},
	} {
		s := open(t, config.Source{Base: base, Auth: c.auth, Records: ".r[]", Stop: ".stop | if . then . + 1 else false end", Paginate: config.Paginate{NextURL: ".next"}}, Options{})
		for way, f := range ways {
			answer = f
			for _, before := range []int{0, 1, 30, 75, 140, 159, 300, 610, 639, 930, 1000, 1023, 1500} {
				said = strings.Repeat("-", before) + c.secret + c.secret
				_, err := tryAll(t, s, nil)
				if err == nil {
					t.Fatalf("%s: no error", way)
				}
				for i := range len(c.secret) - least {
					if strings.Contains(err.Error(), c.secret[i:i+least+1]) {
						t.Fatalf("%s, %d bytes in front of a secret of %d: %v", way, before, len(c.secret), err)
					}
				}
			}
		}
	}
}

// A token that has been replaced is still hidden in the answers that come to it, and may not be in a next link.
func TestOAuth2TokenIsASecret(t *testing.T) {
	s := newSecrets(&config.Source{})
	for _, token := range []string{"token-1", "token-2", "token&3"} {
		s.learn(token)
	}
	if got := s.text("token-1 token-2 token&3 token%263"); got != "token-1 [secret] [secret] [secret]" {
		t.Errorf("shows %s", got)
	}
	long := strings.Repeat("t0k3n-", 150)
	s.learn(long)
	if got := s.sample([]byte(long+" has ended"), 60); got != "[secret] has ended" {
		t.Errorf("shows %s: what is said behind a long token is lost", got)
	}
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", jsonType)
		if r.URL.Path == "/token" {
			fmt.Fprint(w, `{"access_token":"token-1","expires_in":3600}`)
			return
		}
		fmt.Fprint(w, `{"r":[],"next":"/?access_token=token-1"}`)
	})
	cfg := config.Source{Base: base, Records: ".r[]", Paginate: config.Paginate{NextURL: ".next"}, Auth: config.SourceAuth{OAuth2: &config.OAuth2{TokenURL: base + "/token"}}}
	if _, err := tryAll(t, open(t, cfg, Options{}), nil); err == nil || !strings.HasPrefix(err.Error(), "blocked: the link to the next page carries the login in its address") {
		t.Errorf("a next link with the token: %v", err)
	}
}

func TestOAuth2(t *testing.T) {
	var issued, refused, served atomic.Int64
	life := 3600
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		id, secret, ok := r.BasicAuth()
		if !ok || id != "id" || secret != "s%3Acret" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "a b" || r.FormValue("audience") != "x" {
			w.Header().Set("Content-Type", jsonType)
			w.WriteHeader(401)
			fmt.Fprint(w, `{"error":"invalid_client"}`)
			return
		}
		w.Header().Set("Content-Type", jsonType)
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"bearer","expires_in":%d}`, issued.Add(1), life)
	})
	good := func(r *http.Request) bool {
		return r.Header.Get("Authorization") == fmt.Sprintf("Bearer t%d", issued.Load())
	}
	withdrawn := false
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		if !good(r) || withdrawn {
			refused.Add(1)
			w.WriteHeader(401)
			return
		}
		served.Add(1)
		fmt.Fprint(w, `[1]`)
	})
	base := serve(t, mux.ServeHTTP)
	cfg := config.Source{Base: base, Auth: config.SourceAuth{OAuth2: &config.OAuth2{
		TokenURL: base + "/token", ClientID: "id", ClientSecret: "s:cret", Scopes: []string{"a", "b"}, Params: config.Params{"audience": "x"}, Style: "header",
	}}}
	s := open(t, cfg, Options{})

	// Any number at once share one token.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := s.Fetch(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if issued.Load() != 1 || served.Load() != 20 {
		t.Errorf("%d tokens for %d requests", issued.Load(), served.Load())
	}

	// One that is withdrawn before its time is replaced once.
	issued.Add(1)
	if _, err := s.Fetch(t.Context()); err != nil || issued.Load() != 3 || refused.Load() != 1 {
		t.Errorf("%v, %d tokens, %d refused", err, issued.Load(), refused.Load())
	}

	// And only once.
	withdrawn = true
	_, err := s.Fetch(t.Context())
	if want := "auth: status 401 Unauthorized; the login was refused, check auth (GET " + base + ")"; err == nil || err.Error() != want || refused.Load() != 3 {
		t.Errorf("%v after %d refusals, want %s", err, refused.Load()-1, want)
	}
	withdrawn = false

	// A token is renewed before it ends: one that lives a second is good for 800 ms.
	tok := &tokens{}
	tok.current.Store(&token{text: "x", renewAt: time.Now().Add(-time.Millisecond)})
	if _, ok := tok.valid(); ok {
		t.Error("a token at its renewal is taken as good")
	}
	life = 1
	s = open(t, cfg, Options{})
	before := issued.Load()
	if _, err := s.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := s.tokens.current.Load(); time.Until(c.renewAt) > 800*time.Millisecond {
		t.Errorf("a token of one second is renewed only in %s", time.Until(c.renewAt))
	}
	s.tokens.current.Load().renewAt = time.Now()
	if _, err := s.Fetch(t.Context()); err != nil || issued.Load() != before+2 {
		t.Errorf("%v, %d tokens", err, issued.Load()-before)
	}

	// A wrong secret.
	cfg.Auth.OAuth2.ClientSecret = "wrong"
	_, err = open(t, cfg, Options{}).Fetch(t.Context())
	if want := "auth: get token from " + base + "/token: status 401 invalid_client; check client_id and client_secret (GET " + base + ")"; err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

// A 401 that is to be tried again is tried with another token.
func TestOAuth2RetriesWithAnotherToken(t *testing.T) {
	issued := 0
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", jsonType)
		switch {
		case r.URL.Path == "/token":
			issued++
			fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":3600}`, issued)
		case r.Header.Get("Authorization") != "Bearer token-3":
			w.WriteHeader(401)
		default:
			fmt.Fprint(w, "[1]")
		}
	})
	cfg := config.Source{Base: base, Retries: 2, On: map[int]string{401: "retry"}, Auth: config.SourceAuth{OAuth2: &config.OAuth2{TokenURL: base + "/token", Style: "header"}}}
	if p, err := tryAll(t, open(t, quick(cfg), Options{}), nil); err != nil || len(p.data) != 1 || issued != 3 {
		t.Errorf("%d records with %d tokens, %v", len(p.data), issued, err)
	}
}

// namedTurns hears for which hosts turns are taken.
type namedTurns struct{ hosts []string }

func (n *namedTurns) Reserve(_ context.Context, host string, _ int, _ time.Duration) (time.Time, error) {
	n.hosts = append(n.hosts, host)
	return time.Time{}, nil
}

// A host has one rate, however it is spelt, in this process and among all that share the rate.
func TestRateIsOfTheHost(t *testing.T) {
	for _, c := range []struct {
		one, other string
		want       string // host
		apart      bool
	}{
		{one: "https://api.example.com/a", other: "https://API.Example.com:443/b", want: "api.example.com"},
		{one: "http://api.example.com", other: "http://api.example.com:80", want: "api.example.com"},
		{one: "http://api.example.com", other: "https://api.example.com", want: "api.example.com"},
		{one: "http://api.example.com", other: "http://api.example.com:", want: "api.example.com"},
		{one: "https://[2001:DB8::443]", other: "https://[2001:db8::443]:443", want: "[2001:db8::443]"},
		{one: "https://api.example.com", other: "https://api.example.com:80", want: "api.example.com", apart: true},
		{one: "http://api.example.com:8080", other: "http://api.example.com:443", want: "api.example.com:8080", apart: true},
	} {
		turns := &namedTurns{}
		limits := NewLimiters(turns)
		source := func(base string) *Source {
			return open(t, config.Source{Base: base, Rate: config.Rate{Count: 1, Per: time.Second}}, Options{Limiters: limits})
		}
		one, other := source(c.one), source(c.other)
		if err := one.limiter.wait(t.Context()); err != nil || !slices.Equal(turns.hosts, []string{c.want}) {
			t.Errorf("%s: %v, took turns of %q, want %s", c.one, err, turns.hosts, c.want)
		}
		if apart := one.limiter != other.limiter; apart != c.apart {
			t.Errorf("%s and %s: apart is %t, want %t", c.one, c.other, apart, c.apart)
		}
		one.Close()
		other.Close()
		if len(limits.hosts) != 0 {
			t.Errorf("%s and %s: %d hosts are left", c.one, c.other, len(limits.hosts))
		}
	}
}

// A redirect within a host is a request to it like any other, and waiting for its turn counts towards no timeout; a page's
// time is that of all its requests.
func TestRateOfRedirects(t *testing.T) {
	for _, c := range []struct {
		name string
		to   string
		page config.Duration
		stop time.Duration // when the context ends
		want string        // error, or ""
		at   []time.Duration
	}{
		{name: "the same host", to: "/end", page: second, at: []time.Duration{0, 8 * time.Second, 16 * time.Second, 24 * time.Second}},
		{name: "the same host, in another spelling", to: "http://LOCALHOST:80/end", page: second, at: []time.Duration{0, 8 * time.Second, 16 * time.Second, 24 * time.Second}},
		{name: "another host", to: "http://other.test/end", page: second, at: []time.Duration{0, 0, 8 * time.Second, 8 * time.Second}},
		{name: "stopped while it waits", to: "/end", page: second, stop: 12 * time.Second, want: "timeout: the time for the whole request or run is over (GET http://localhost)", at: []time.Duration{0, 8 * time.Second}},
		{name: "slow hops", to: "/slow", page: 7 * second, want: "timeout: the page took longer than 7s (GET http://localhost)", at: []time.Duration{0, 8 * time.Second, 16 * time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var at []time.Duration
				start := time.Now()
				n := newFakeNet(t, func(w http.ResponseWriter, r *http.Request) {
					at = append(at, time.Since(start))
					switch r.URL.Path {
					case "/slow":
						select {
						case <-time.After(4 * time.Second):
							http.Redirect(w, r, "/slow", http.StatusFound)
						case <-r.Context().Done():
						}
					case "/end":
						fmt.Fprint(w, "[1]")
					default:
						http.Redirect(w, r, c.to, http.StatusFound)
					}
				})
				cfg := config.Source{Base: "http://localhost", Rate: config.Rate{Count: 1, Per: 8 * time.Second}, Timeouts: config.Timeouts{Page: c.page}, Allow: config.Allow{Hosts: []string{"other.test"}}}
				s := open(t, cfg, Options{dial: n.dial})
				ctx := t.Context()
				if c.stop > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.stop)
					defer cancel()
				}
				var err error
				for i := 0; i < 2 && err == nil; i++ {
					_, err = s.Fetch(ctx)
				}
				s.Close()
				synctest.Wait() // until the handlers have ended
				if err == nil && c.want != "" || err != nil && err.Error() != c.want {
					t.Errorf("error %v, want %s", err, c.want)
				}
				if !slices.Equal(at, c.at) {
					t.Errorf("asked at %v, want %v", at, c.at)
				}
			})
		})
	}
}

func TestMetadataAddresses(t *testing.T) {
	for a, want := range map[string]bool{
		"169.254.169.254": true, "169.254.170.2": true, "::ffff:169.254.169.254": true, "64:ff9b::a9fe:a9fe": true, "fd00:ec2::254": true,
		"100.100.100.200": true, "192.0.0.192": true, "127.0.0.1": false, "10.0.0.1": false, "100.100.100.201": false, "fd00:ec2::253": false,
	} {
		if got := isMetadataAddress(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %t", a, got)
		}
	}
	for h, want := range map[string]bool{"Metadata.Google.Internal.": true, "169.254.169.254": true, "example.com": false} {
		if isMetadataHost(h) != want {
			t.Errorf("%s: want %t", h, want)
		}
	}
	for _, base := range []string{"http://169.254.169.254/latest", "http://[fd00:ec2::254]/", "http://metadata.google.internal/"} {
		s := open(t, config.Source{Base: base}, Options{})
		if _, err := s.Fetch(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "blocked: ") {
			t.Errorf("%s: %v", base, err)
		}
	}
}

// A harmless name that resolves to a metadata service is refused when it is dialled.
func TestMetadataByName(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go answerDNS(pc, [4]byte{169, 254, 169, 254})
	dialer := &net.Dialer{Control: refuseMetadata, Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}}
	s := open(t, config.Source{Base: "http://rebind.example.test", Retries: 3}, Options{dial: dialer.DialContext})
	_, err = s.Fetch(t.Context())
	if want := "blocked: " + errMetadata.Error() + " (GET http://rebind.example.test)"; err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
	// The source's own dialer has the same guard, unless it is switched off.
	_, err = (&net.Dialer{Control: refuseMetadata}).Dial("tcp", "169.254.169.254:80")
	if !errors.Is(err, errMetadata) {
		t.Errorf("error %v", err)
	}
	for _, allowed := range []bool{false, true} {
		s := open(t, config.Source{Base: "http://169.254.169.254", Allow: config.Allow{Metadata: allowed}}, Options{dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("reached")
		}})
		if _, err := s.Fetch(t.Context()); strings.Contains(err.Error(), "reached") != allowed {
			t.Errorf("allow.metadata %t: %v", allowed, err)
		}
	}
}

func answerDNS(pc net.PacketConn, ip [4]byte) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) == 0 {
			continue
		}
		q := m.Questions[0]
		m.Header.Response = true
		m.Additionals = nil
		if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: ip}}}
		}
		out, err := m.Pack()
		if err == nil {
			_, _ = pc.WriteTo(out, from)
		}
	}
}

func TestConfigurationErrors(t *testing.T) {
	for _, c := range []struct {
		cfg  config.Source
		want string
	}{
		{config.Source{}, "base and get or post must make an address that begins with http:// or https:// and a host"},
		{config.Source{Base: "http://a b"}, "base and get or post make no address that can be parsed"},
		{config.Source{Base: "ftp://a"}, "base and get or post must make an address that begins with http:// or https:// and a host"},
		{config.Source{Records: ".a["}, `records: jq: unexpected end; something is missing, such as a closing bracket or end in ".a["`},
		{config.Source{Key: "now"}, `key: jq: now is refused: it changes with time`},
		{config.Source{Paginate: config.Paginate{Word: "all"}}, `paginate: "all" is none of none, auto, link_header, next_url, cursor, page and offset`},
		{config.Source{Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".a", Into: "a"}}}, `paginate.cursor.into: "a" is none of query.NAME, header.NAME and body.PATH`},
		{config.Source{Paginate: config.Paginate{Cursor: &config.CursorPaging{From: "header.", Into: "query.a"}}}, "paginate.cursor.from: header. needs a name, as in header.X-Next"},
		{config.Source{Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".a", Into: "body.a"}}}, "body.a: only a post has a body"},
		{config.Source{Post: "/", Body: config.Body{Text: "x=1"}, Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".a", Into: "body.a..b"}}}, `paginate.cursor.into: "body.a..b" has an empty step; write body.a.b`},
		{config.Source{Post: "/", Body: config.Body{JSON: []byte(`[1]`)}, Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".a", Into: "body.a"}}}, "body: to carry body.PATH it must be a mapping"},
		{config.Source{Post: "/", Body: config.Body{JSON: []byte(`{"a":1}`)}, Paginate: config.Paginate{Page: &config.PagePaging{Into: "body.a.b"}}}, "body.a.b leads through a value that is not an object"},
		{config.Source{Paginate: config.Paginate{Page: &config.PagePaging{Size: 5}}}, "paginate.page: size and size_into go together"},
		{config.Source{Paginate: config.Paginate{Page: &config.PagePaging{Start: -1}}}, "paginate.page.start: must not be negative"},
		{config.Source{Records: ".orders[].lines[]", Paginate: config.Paginate{Offset: &config.OffsetPaging{Total: ".total"}}}, "paginate.offset counts records, and records .orders[].lines[] gives any number of them for each of .orders[]; set records: .orders[], and unfold it in transform with map: .lines[]"},
		{config.Source{Records: ".[][]", Paginate: config.Paginate{Page: &config.PagePaging{}}}, "paginate.page without total counts records, and records .[][] gives any number of them for each of .[]; set records: .[], and unfold it in transform with map: .[]"},
		{config.Source{Records: ".items[] | select(.a)", Paginate: config.Paginate{Page: &config.PagePaging{}}}, "paginate.page without total counts records, and records .items[] | select(.a) may give more of them than the page has, or fewer; set records to where they all lie, and choose or unfold them in transform, with where or map"},
		{config.Source{Records: ".a[] | {b: .c[]}", Paginate: config.Paginate{Offset: &config.OffsetPaging{Total: ".total"}}}, "paginate.offset counts records, and records .a[] | {b: .c[]} may give more of them than the page has, or fewer; set records to where they all lie, and choose or unfold them in transform, with where or map"},
		{config.Source{Auth: config.SourceAuth{APIKey: &config.Key{Value: "x"}}}, "auth.api_key: say exactly one of header, query and cookie"},
		{config.Source{Auth: config.SourceAuth{OAuth2: &config.OAuth2{TokenURL: "x"}}}, "auth.oauth2.token_url must be an address that begins with http:// or https://"},
		{config.Source{Incremental: &config.Incremental{Field: ".a", Into: "query.s", Type: "number", Overlap: 1}}, "incremental.overlap: a time cannot be taken from values of type number"},
	} {
		if c.cfg.Base == "" && c.want[:4] != "base" {
			c.cfg.Base = "http://localhost"
		}
		_, err := New(c.cfg, Options{Pipeline: "p"})
		if err == nil || !strings.HasPrefix(err.Error(), "source of p: "+c.want) {
			t.Errorf("error\n got %v\nwant source of p: %s", err, c.want)
		}
	}
	if _, err := New(config.Source{Base: "http://localhost"}, Options{}); err == nil {
		t.Error("a source without a pipeline's name")
	}
}
