package source

import (
	"errors"
	"fmt"
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
