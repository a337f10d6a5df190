package source

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"ferry/internal/config"
)

func basic(b *config.Basic) string {
	return base64.StdEncoding.EncodeToString([]byte(b.User + ":" + b.Password.Reveal()))
}

// addStatic writes the logins that never change into the header.
func addStatic(h http.Header, a *config.SourceAuth) error {
	switch {
	case a.Bearer != "":
		h.Set("Authorization", "Bearer "+a.Bearer.Reveal())
	case a.Basic != nil:
		h.Set("Authorization", "Basic "+basic(a.Basic))
	case a.APIKey != nil:
		k := a.APIKey
		set := 0
		for _, where := range []string{k.Header, k.Query, k.Cookie} {
			if where != "" {
				set++
			}
		}
		if set != 1 {
			return errors.New("auth.api_key: say exactly one of header, query and cookie")
		}
		if k.Header != "" {
			h.Set(k.Header, k.Value.Reveal())
		}
		if k.Cookie != "" {
			c := k.Cookie + "=" + k.Value.Reveal()
			if others := h.Get("Cookie"); others != "" {
				c = others + "; " + c
			}
			h.Set("Cookie", c)
		}
	}
	return nil
}

// tokens keeps the OAuth 2.0 token of a source. Any number of requests share one renewal.
type tokens struct {
	cfg     clientcredentials.Config
	client  *http.Client
	turn    chan struct{} // held by the one who renews
	current atomic.Pointer[token]
}

type token struct {
	text    string
	renewAt time.Time // zero: when it is refused
}

func newTokens(cfg *config.OAuth2, c *client, timeout time.Duration) (*tokens, error) {
	u, err := url.Parse(cfg.TokenURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("auth.oauth2.token_url must be an address that begins with http:// or https://")
	}
	if !c.metadata && isMetadataHost(u.Hostname()) {
		return nil, fmt.Errorf("auth.oauth2.token_url: %w", errMetadata)
	}
	t := &tokens{
		cfg: clientcredentials.Config{
			ClientID: cfg.ClientID, ClientSecret: cfg.ClientSecret.Reveal(), TokenURL: cfg.TokenURL, Scopes: cfg.Scopes,
			EndpointParams: make(url.Values),
		},
		// A redirect would carry the secret on: it is an answer like any other, and not the one that is wanted.
		client: &http.Client{
			Transport:     lenient{c.transport},
			Timeout:       timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		turn: make(chan struct{}, 1),
	}
	for name, v := range cfg.Params {
		t.cfg.EndpointParams.Set(name, v)
	}
	switch cfg.Style {
	case "header":
		t.cfg.AuthStyle = oauth2.AuthStyleInHeader
	case "params":
		t.cfg.AuthStyle = oauth2.AuthStyleInParams
	}
	return t, nil
}

// lenient is a transport to token endpoints whose expires_in is more than the oauth2 package can read: it takes whole
// numbers only, and fails for good at others.
type lenient struct{ http.RoundTripper }

func (l lenient) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // as much as the oauth2 package reads
	_ = resp.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(wholeSeconds(body)))
	return resp, nil
}

// wholeSeconds makes a whole number of a token's expires_in, and none of one that makes no sense: a token without an end is
// renewed when it is refused. What is no JSON object, or has no expires_in, stays as it is.
func wholeSeconds(body []byte) []byte {
	const name = "expires_in"
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || fields[name] == nil {
		return body
	}
	typed := strings.Trim(string(fields[name]), `" `) // some send it as a text
	seconds, err := strconv.ParseFloat(typed, 64)
	if err == nil && seconds > 0 {
		fields[name] = strconv.AppendInt(nil, int64(max(1, min(seconds, math.MaxInt32))), 10)
	} else {
		delete(fields, name)
	}
	whole, err := json.Marshal(fields)
	if err != nil {
		return body
	}
	return whole
}

// get returns a token that is good for a while yet. It blocks while one is fetched, until ctx ends. Errors are *Error.
func (t *tokens) get(ctx context.Context, s *Source) (string, error) {
	if text, ok := t.valid(); ok {
		return text, nil
	}
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return "", ended(ctx)
	}
	defer func() { <-t.turn }()
	if text, ok := t.valid(); ok { // somebody else has renewed it
		return text, nil
	}
	got, err := t.fetch(context.WithValue(ctx, oauth2.HTTPClient, t.client))
	if err != nil {
		return "", t.explain(ctx, s, err)
	}
	fresh := &token{text: got.AccessToken}
	if !got.Expiry.IsZero() {
		// Renewed when a fifth of its life is left, at most a minute before its end: a request that is on its way
		// must arrive with a good token.
		life := time.Until(got.Expiry)
		fresh.renewAt = got.Expiry.Add(-min(life/5, time.Minute))
	}
	s.secrets.learn(fresh.text)
	t.current.Store(fresh)
	return fresh.text, nil
}

// fetch asks for a token. Where no style is set, the header is tried and then the form, and what works is kept; but a
// server that asks to be left alone is not asked at once in the other style. Only the holder of the turn may call it.
func (t *tokens) fetch(ctx context.Context) (*oauth2.Token, error) {
	if t.cfg.AuthStyle != oauth2.AuthStyleAutoDetect {
		return t.cfg.Token(ctx)
	}
	t.cfg.AuthStyle = oauth2.AuthStyleInHeader
	got, err := t.cfg.Token(ctx)
	var refused *oauth2.RetrieveError
	if err != nil && !(errors.As(err, &refused) && mayPass(refused.Response.StatusCode)) {
		t.cfg.AuthStyle = oauth2.AuthStyleInParams
		got, err = t.cfg.Token(ctx)
	}
	if err != nil {
		t.cfg.AuthStyle = oauth2.AuthStyleAutoDetect
	}
	return got, err
}

// mayPass says whether a token endpoint's status speaks of its state, not of the login.
func mayPass(status int) bool { return statusVerdict(status, nil) == verdictRetry }

func (t *tokens) valid() (string, bool) {
	c := t.current.Load()
	if c == nil || !c.renewAt.IsZero() && !time.Now().Before(c.renewAt) {
		return "", false
	}
	return c.text, true
}

// drop forgets a token that was refused, unless it has been replaced already.
func (t *tokens) drop(text string) {
	if c := t.current.Load(); c != nil && c.text == text {
		t.current.CompareAndSwap(c, nil)
	}
}

// explain turns a token endpoint's failure into an error without its body, which may hold what was sent.
func (t *tokens) explain(ctx context.Context, s *Source, err error) *Error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	where := t.cfg.TokenURL
	if u, perr := url.Parse(where); perr == nil {
		where = s.secrets.address(u)
	}
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		var uerr *url.Error
		if errors.As(err, &uerr) { // its text begins with the address
			err = uerr.Err
		}
		if errors.Is(err, errMetadata) {
			return failf(KindBlocked, "get token from %s: %v", where, errMetadata)
		}
		return failf(KindAuth, "get token from %s: %s", where, s.secrets.text(err.Error())).passing()
	}
	status := refused.Response.StatusCode
	e := failf(KindAuth, "get token from %s: status %d", where, status)
	e.Status = status
	if refused.ErrorCode != "" {
		e.Detail += " " + s.secrets.sample([]byte(refused.ErrorCode), 60)
	}
	if refused.ErrorDescription != "" {
		e.Detail += ": " + s.secrets.sample([]byte(refused.ErrorDescription), 120)
	}
	if e.again = mayPass(status); !e.again {
		e.Detail += "; check client_id and client_secret"
	}
	e.obey(refused.Response.Header)
	return e
}
