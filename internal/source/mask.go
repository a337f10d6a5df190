package source

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"ferry/internal/config"
)

// secrets knows the texts that must not leave (invariant 8). It is safe for concurrent use.
type secrets struct {
	query  string   // the parameter that holds the key, or ""
	typed  []string // in the configuration
	tokens []string // of OAuth 2.0: the present one, and the one before, of requests that are under way
	mask   atomic.Pointer[mask]
}

// mask hides texts.
type mask struct {
	*strings.Replacer
	texts   []string
	longest int
}

const hidden = "[secret]"

// least is the length from which on a text is hidden: shorter ones would hide half of every message.
const least = 4

// newSecrets collects the secrets of a source.
func newSecrets(cfg *config.Source) *secrets {
	s := &secrets{}
	add := func(text string) { s.typed = append(s.typed, text) }
	for name, v := range cfg.Headers {
		if !isPlainHeader(name) {
			add(v.Reveal())
			if _, credentials, ok := strings.Cut(v.Reveal(), " "); ok {
				add(credentials)
			}
		}
	}
	a := &cfg.Auth
	add(a.Bearer.Reveal())
	if a.Basic != nil {
		add(a.Basic.Password.Reveal())
		add(basic(a.Basic))
	}
	if a.APIKey != nil {
		add(a.APIKey.Value.Reveal())
		s.query = a.APIKey.Query
	}
	if a.OAuth2 != nil {
		add(a.OAuth2.ClientSecret.Reveal())
		add(base64.StdEncoding.EncodeToString([]byte(a.OAuth2.ClientID + ":" + a.OAuth2.ClientSecret.Reveal())))
	}
	add(cfg.Body.Text.Reveal())
	add(string(cfg.Body.JSON))
	s.mask.Store(newMask(s.typed))
	return s
}

// learn takes in a token that was given out. One call at a time.
func (s *secrets) learn(token string) {
	s.tokens = append([]string{token}, s.tokens[:min(1, len(s.tokens))]...)
	s.mask.Store(newMask(append(slices.Clip(s.typed), s.tokens...)))
}

// newMask hides secrets in every form in which an answer may echo them.
func newMask(secrets []string) *mask {
	m := &mask{}
	for _, s := range secrets {
		for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s), jsonEscaped(s)} {
			if len(form) >= least {
				m.texts = append(m.texts, form)
				m.longest = max(m.longest, len(form))
			}
		}
	}
	// The longest first, so that a secret which is part of another does not leave the rest of it.
	slices.SortFunc(m.texts, func(x, y string) int { return len(y) - len(x) })
	pairs := make([]string, 0, 2*len(m.texts))
	for _, t := range m.texts {
		pairs = append(pairs, t, hidden)
	}
	m.Replacer = strings.NewReplacer(pairs...)
	return m
}

// head hides the secrets in t, whose end was cut off: of a secret there, only the beginning is left to know it by.
func (m *mask) head(t string) string {
	for i := max(0, len(t)-m.longest); i <= len(t)-least; i++ {
		if slices.ContainsFunc(m.texts, func(secret string) bool { return strings.HasPrefix(secret, t[i:]) }) {
			return m.Replace(t[:i]) + hidden
		}
	}
	return m.Replace(t)
}

func jsonEscaped(s string) string {
	b, err := json.Marshal(s)
	if err != nil || len(b) < 2 {
		return s
	}
	return string(b[1 : len(b)-1])
}

// isPlainHeader names the request headers whose values are no secrets, and which may be sent to another origin.
func isPlainHeader(name string) bool {
	switch strings.ToLower(name) {
	case "accept", "accept-encoding", "accept-language", "content-type", "user-agent":
		return true
	}
	return false
}

// text hides every known secret in s.
func (s *secrets) text(t string) string { return s.mask.Load().Replace(t) }

// detail hides the secrets in an error's text, in which jq may have quoted the beginning of a value, with " ..." behind it.
func (s *secrets) detail(t string) string {
	m := s.mask.Load()
	pieces := strings.Split(t, " ...")
	last := len(pieces) - 1
	for i := range last {
		pieces[i] = m.head(pieces[i])
	}
	pieces[last] = m.Replace(pieces[last])
	return strings.Join(pieces, " ...")
}

// address is u without its login, and with the values of query parameters hidden that are secret or sound so.
func (s *secrets) address(u *url.URL) string {
	shown := *u
	shown.User = nil
	if s.query != "" && shown.RawQuery != "" {
		pairs := strings.Split(shown.RawQuery, "&")
		for i, pair := range pairs {
			name, _, _ := strings.Cut(pair, "=")
			if plain, err := url.QueryUnescape(name); err != nil || plain == s.query {
				pairs[i] = name + "=" + hidden
			}
		}
		shown.RawQuery = strings.Join(pairs, "&")
	}
	return s.text(config.URL(shown.String()).String())
}

// reach is how much is looked at of what is shown n bytes of: white space is folded, and secrets are shortened.
func (s *secrets) reach(n int) int { return 4*n + s.mask.Load().longest }

// sample shows the beginning of what came, on one line, at most n bytes of it, without secrets and without bytes that a
// terminal would obey.
func (s *secrets) sample(b []byte, n int) string { return s.begin(b, n, false) }

// begin is sample; open says that b may end in the middle of what came.
func (s *secrets) begin(b []byte, n int, open bool) string {
	most := s.reach(n)
	cut := len(b) > most
	if cut {
		b = b[:most]
	}
	m := s.mask.Load()
	hide := m.Replace
	if cut || open {
		hide = m.head
	}
	var out strings.Builder
	space := false
	for _, r := range hide(string(b)) {
		switch {
		case unicode.IsSpace(r):
			space = out.Len() > 0
			continue
		case r == utf8.RuneError || !unicode.IsPrint(r):
			r = '?'
		}
		if space {
			out.WriteByte(' ')
			space = false
		}
		if out.Len()+utf8.RuneLen(r) > n {
			cut = true
			break
		}
		out.WriteRune(r)
	}
	if cut {
		out.WriteString("…")
	}
	return out.String()
}
