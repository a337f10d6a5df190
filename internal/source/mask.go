package source

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"ferry/internal/config"
)

// secrets knows the texts that must not leave (invariant 8).
type secrets struct {
	replacer *strings.Replacer
	query    string // the parameter that holds the key, or ""
}

const hidden = "[secret]"

// newSecrets collects the secrets of a source, in every form in which an answer may echo them. Texts shorter than four
// bytes are left alone: they would hide half of every message.
func newSecrets(cfg *config.Source) *secrets {
	var texts []string
	add := func(s string) {
		for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s), jsonEscaped(s)} {
			if len(form) >= 4 {
				texts = append(texts, form)
			}
		}
	}
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
	s := &secrets{}
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
	// The longest first, so that a secret which is part of another does not leave the rest of it.
	slices.SortFunc(texts, func(x, y string) int { return len(y) - len(x) })
	pairs := make([]string, 0, 2*len(texts))
	for _, t := range texts {
		pairs = append(pairs, t, hidden)
	}
	s.replacer = strings.NewReplacer(pairs...)
	return s
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
func (s *secrets) text(t string) string { return s.replacer.Replace(t) }

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

// sample shows the beginning of what came, on one line, at most n bytes of it, without secrets and without bytes that a
// terminal would obey.
func (s *secrets) sample(b []byte, n int) string {
	cut := len(b) > 4*n
	if cut {
		b = b[:4*n] // enough for a secret that begins within the first n
	}
	var out strings.Builder
	space := false
	for _, r := range s.text(string(b)) {
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
