package source

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/config"
)

// A token endpoint's wish to wait is obeyed as an API's is, and it is not asked again at once in another style.
func TestTokenRetryAfter(t *testing.T) {
	token := reply(jsonType, `{"access_token":"token-1","expires_in":3600}`)
	const at = " (GET http://localhost)"
	for _, c := range []struct {
		name    string
		cfg     config.Source
		token   http.HandlerFunc
		want    string // error, or ""
		kind    Kind
		retryIn time.Duration // from the end on; 0: not said
		asked   []time.Duration
		retries []string
	}{
		{name: "429", cfg: config.Source{Retries: 3}, token: script(status(429, "", "Retry-After", "17"), status(429, "", "Retry-After", "5"), token), asked: []time.Duration{0, 17 * time.Second, 22 * time.Second}, retries: []string{"429", "429"}},
		{name: "503", cfg: config.Source{Retries: 3}, token: script(status(503, "", "Retry-After", "9"), token), asked: []time.Duration{0, 9 * time.Second}, retries: []string{"503"}},
		{name: "429, then the other style", cfg: config.Source{Retries: 3}, token: script(status(429, "", "Retry-After", "17"), status(401, ""), token), asked: []time.Duration{0, 17 * time.Second, 17 * time.Second}, retries: []string{"429"}},
		{name: "beyond the limit", cfg: config.Source{Retries: 3, RetryAfter: 60 * second}, token: status(429, "", "Retry-After", "61"), want: "rate_limited: get token from http://localhost/token: status 429; asks to come back in 1m1s", kind: KindRateLimited, retryIn: 61 * time.Second, asked: []time.Duration{0}},
		{name: "429 without Retry-After", token: status(429, ""), want: "rate_limited: get token from http://localhost/token: status 429", kind: KindRateLimited, asked: []time.Duration{0}},
		{name: "500 without Retry-After", token: status(500, ""), want: "auth: get token from http://localhost/token: status 500", kind: KindAuth, asked: []time.Duration{0}},
		{name: "a refusal with Retry-After", cfg: config.Source{Retries: 3}, token: status(400, "", "Retry-After", "7"), want: "auth: get token from http://localhost/token: status 400; check client_id and client_secret", kind: KindAuth, asked: []time.Duration{0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []time.Duration
				start := time.Now()
				n := newFakeNet(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/token" {
						fmt.Fprint(w, "[1]")
						return
					}
					asked = append(asked, time.Since(start))
					c.token(w, r)
				})
				c.cfg.Base, c.cfg.Auth.OAuth2 = "http://localhost", &config.OAuth2{TokenURL: "http://localhost/token", ClientID: "id", ClientSecret: "s:cret"}
				w := &watchdog{}
				s := open(t, c.cfg, Options{Observer: w, dial: n.dial})
				_, err := s.Fetch(t.Context())
				var e *Error
				switch {
				case c.want == "":
					if err != nil {
						t.Errorf("error %v", err)
					}
				case !errors.As(err, &e) || e.Error() != c.want+at || e.Kind != c.kind:
					t.Errorf("error %v, want %s", err, c.want)
				case e.RetryAt.IsZero() != (c.retryIn == 0) || c.retryIn != 0 && time.Until(e.RetryAt) != c.retryIn:
					t.Errorf("come back at %s, want in %s", e.RetryAt, c.retryIn)
				}
				if !slices.Equal(asked, c.asked) || !slices.Equal(w.retries, c.retries) {
					t.Errorf("asked at %v, want %v; retries %q, want %q", asked, c.asked, w.retries, c.retries)
				}
				s.Close()
				synctest.Wait()
			})
		})
	}
}

// A token is taken whatever is said of its life, and what makes no sense is none.
func TestTokenLife(t *testing.T) {
	for _, c := range []struct {
		name string
		body string
		life time.Duration // 0: without an end
		want string        // error, or ""
	}{
		{name: "whole", body: `"expires_in":3600`, life: time.Hour},
		{name: "as a text", body: `"expires_in":"3600"`, life: time.Hour},
		{name: "a fraction", body: `"expires_in":3599.9`, life: 3599 * time.Second},
		{name: "a fraction as a text", body: `"expires_in":" 3599.9 "`, life: 3599 * time.Second},
		{name: "less than a second", body: `"expires_in":0.5`, life: time.Second},
		{name: "with an exponent", body: `"expires_in":3.6e3`, life: time.Hour},
		{name: "large", body: `"expires_in":1e10`, life: math.MaxInt32 * time.Second},
		{name: "too large for a number", body: `"expires_in":1e999`},
		{name: "zero", body: `"expires_in":0`},
		{name: "below zero", body: `"expires_in":-1`},
		{name: "empty", body: `"expires_in":""`},
		{name: "null", body: `"expires_in":null`},
		{name: "a word", body: `"expires_in":"NaN"`},
		{name: "a list", body: `"expires_in":[3600]`},
		{name: "not said", body: `"scope":"a"`},
		{name: "no JSON", body: `"scope"`, want: "auth: get token from http://localhost/token: oauth2: cannot parse json: invalid character '}' after object key (GET http://localhost)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newFakeNet(t, func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/token":
						reply(jsonType, `{"access_token":"a<\u0026>b",`+c.body+`}`)(w, r)
					default:
						fmt.Fprintf(w, "[%q]", r.Header.Get("Authorization"))
					}
				})
				s := open(t, config.Source{Base: "http://localhost", Auth: config.SourceAuth{OAuth2: &config.OAuth2{TokenURL: "http://localhost/token"}}}, Options{dial: n.dial})
				p, err := tryAll(t, s, nil)
				if err == nil && c.want != "" || err != nil && err.Error() != c.want {
					t.Errorf("error %v, want %s", err, c.want)
				}
				if c.want == "" && !slices.Equal(p.data, []string{`"Bearer a<&>b"`}) {
					t.Errorf("sent %q", p.data)
				}
				if token := s.tokens.current.Load(); token != nil {
					var end time.Time
					if c.life > 0 {
						end = time.Now().Add(c.life - min(c.life/5, time.Minute))
					}
					if !token.renewAt.Equal(end) {
						t.Errorf("renewed at %s, want %s", token.renewAt, end)
					}
				}
				s.Close()
				synctest.Wait()
			})
		})
	}
}
