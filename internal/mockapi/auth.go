package mockapi

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What the routes under /auth/ let in. None of it is a secret of anybody.
const (
	BearerToken  = "mock-bearer-token"
	BasicUser    = "mock-user"
	BasicPass    = "mock-password"
	APIKey       = "mock-api-key"
	ClientID     = "mock-client"
	ClientSecret = "mock-client-secret"
)

// authorize checks the login of a kind and answers 401 when it is wrong.
func (s *Server) authorize(a *answer, kind string) bool {
	var ok bool
	challenge := `Bearer realm="mockapi"`
	bearer, isBearer := strings.CutPrefix(a.r.Header.Get("Authorization"), "Bearer ")
	switch kind {
	case "bearer":
		ok = isBearer && bearer == BearerToken
	case "basic":
		challenge = `Basic realm="mockapi", charset="UTF-8"`
		user, pass, _ := a.r.BasicAuth()
		ok = user == BasicUser && pass == BasicPass
	case "apikey":
		challenge = `ApiKey realm="mockapi"`
		ok = a.r.Header.Get("X-API-Key") == APIKey || a.query().Get("api_key") == APIKey
		if cookie, err := a.r.Cookie("api_key"); err == nil {
			ok = ok || cookie.Value == APIKey
		}
	case "oauth2":
		ok = isBearer && s.tokens.valid(bearer, s.opt.Now())
		if isBearer && !ok {
			challenge += `, error="invalid_token"`
		}
	default:
		a.fail(http.StatusNotFound, "no such login; there are bearer, basic, apikey and oauth2")
		return false
	}
	if !ok {
		a.route = "/auth/" + kind
		a.header.Set("WWW-Authenticate", challenge)
		a.fail(http.StatusUnauthorized, "the login for "+kind+" is missing or wrong")
	}
	return ok
}

// tokens is the access tokens that were given out.
type tokens struct {
	mu     sync.Mutex
	expiry map[string]time.Time
	issued int
}

// maxTokens bounds the tokens that are good at one time; beyond it all of them end.
const maxTokens = 10_000

func (t *tokens) issue(until time.Time) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.expiry == nil || len(t.expiry) >= maxTokens {
		t.expiry = map[string]time.Time{}
	}
	t.issued++
	token := "mock-access-token-" + strconv.Itoa(t.issued)
	t.expiry[token] = until
	return token
}

func (t *tokens) valid(token string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	until, known := t.expiry[token]
	return known && now.Before(until)
}

func (t *tokens) revoke() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expiry = nil
}

func (t *tokens) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.issued
}

// RevokeTokens makes every access token of oauth2 invalid; new ones are given out as usual.
func (s *Server) RevokeTokens() { s.tokens.revoke() }

// serveToken is the token endpoint for client credentials (RFC 6749, 4.4). The query parameter expires_in sets the
// lifetime in seconds.
func (s *Server) serveToken(a *answer) {
	if a.r.Method != http.MethodPost {
		a.header.Set("Allow", http.MethodPost)
		a.fail(http.StatusMethodNotAllowed, "this route answers POST")
		return
	}
	a.header.Set("Cache-Control", "no-store")
	form, err := url.ParseQuery(string(a.body))
	if err != nil || form.Get("grant_type") != "client_credentials" {
		a.fail(http.StatusBadRequest, "unsupported_grant_type")
		return
	}
	id, secret, inHeader := a.r.BasicAuth()
	if inHeader { // both are form-encoded in the header too, RFC 6749 section 2.3.1
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
	} else {
		id, secret = form.Get("client_id"), form.Get("client_secret")
	}
	if id != ClientID || secret != ClientSecret {
		a.header.Set("WWW-Authenticate", `Basic realm="mockapi"`)
		a.fail(http.StatusUnauthorized, "invalid_client")
		return
	}
	p := params{values: a.query()}
	seconds := p.number("expires_in", 3600, 0, 1<<30)
	if p.err != nil {
		a.fail(http.StatusBadRequest, p.err.Error())
		return
	}
	a.json(http.StatusOK, map[string]any{
		"access_token": s.tokens.issue(s.opt.Now().Add(time.Duration(seconds) * time.Second)),
		"token_type":   "Bearer",
		"expires_in":   seconds,
		"scope":        form.Get("scope"),
	})
}
