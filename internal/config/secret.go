package config

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"unicode"
)

// redacted stands wherever a secret was (invariant 8).
const redacted = "[secret]"

// Secret is a text that shows itself as "[secret]" wherever it is printed, logged or marshalled (invariant 8).
type Secret string

// Reveal gives the text itself, for the one place that sends it.
func (s Secret) Reveal() string { return string(s) }

// String hides the text; an empty secret stays empty, so that one sees that nothing is set.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format hides the text from every verb of package fmt, %d and %#v included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText hides the text from encoders of every kind.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue hides the text from handlers that look at the kind of a value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// URL is an address that may hold a login. It prints with the login hidden: what stands before the @ (but a user
// name that has a password), and query parameters with names such as token, key, secret, password or sig.
type URL string

// Reveal gives the address with its login.
func (u URL) Reveal() string { return string(u) }

// String gives the address with its login hidden. It also does for text that is no address at all, and for connection
// strings as Azure has them (Endpoint=sb://…;SharedAccessKey=…).
func (u URL) String() string {
	if name, _, ok := strings.Cut(string(u), "="); ok && !strings.ContainsAny(name, ":/?") {
		parts := strings.Split(string(u), ";")
		for i, part := range parts {
			if name, value, _ := strings.Cut(part, "="); value != "" && soundsSecret(name) {
				parts[i] = name + "=" + redacted
			}
		}
		return strings.Join(parts, ";")
	}
	scheme, rest, ok := strings.Cut(string(u), "://")
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", string(u)
	}
	ends := "?" // the login of a queue may hold slashes, see queueurl
	if strings.HasPrefix(scheme, "http") {
		ends = "/?#"
	}
	end := strings.IndexAny(rest, ends)
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@')
	if _, err := url.Parse(string(u)); err != nil {
		at = strings.LastIndexByte(rest, '@') // a ? in a password ends it too early
	}
	if at < 0 {
		return scheme + hideQuery(rest)
	}
	// With several hosts a comma may belong to a password: all up to the last @ is hidden.
	user, _, hasPassword := strings.Cut(rest[:at], ":")
	if hasPassword {
		user += ":"
	} else {
		user = "" // a lone name is often a token, as in nats://token@host
	}
	return scheme + user + redacted + hideQuery(rest[at:])
}

// Format hides the login from every verb of package fmt.
func (u URL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.String()) }

// MarshalText gives String.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// LogValue gives String.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }

func hideQuery(text string) string {
	path, query, ok := strings.Cut(text, "?")
	if !ok {
		return text
	}
	query, fragment, hasFragment := strings.Cut(query, "#")
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		if name, value, _ := strings.Cut(pair, "="); value != "" && soundsSecret(name) {
			pairs[i] = name + "=" + redacted
		}
	}
	text = path + "?" + strings.Join(pairs, "&")
	if hasFragment {
		text += "#" + fragment
	}
	return text
}

// Address is where the source begins to read, with the secrets in its query hidden.
func (s Source) Address() string { return hideQuery(s.Base + s.Get + s.Post) }

// Params are query or form parameters. They print with the values of those hidden that are named like a secret.
type Params map[string]string

func (p Params) shown() map[string]string {
	if p == nil {
		return nil
	}
	shown := make(map[string]string, len(p))
	for name, value := range p {
		if soundsSecret(name) && value != "" {
			value = redacted
		}
		shown[name] = value
	}
	return shown
}

// Format hides values from every verb of package fmt.
func (p Params) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), p.shown())
}

// MarshalJSON hides values.
func (p Params) MarshalJSON() ([]byte, error) { return json.Marshal(p.shown()) }

// MarshalYAML hides values.
func (p Params) MarshalYAML() (any, error) { return p.shown(), nil }

// LogValue hides values.
func (p Params) LogValue() slog.Value { return slog.AnyValue(p.shown()) }

// Body of a request: JSON made from the YAML that was typed, or a text. It is kept out of print like a Secret, since
// logins are sent in bodies too.
type Body struct {
	JSON []byte // compact JSON, when a mapping or list was typed
	Text Secret // when a scalar was typed
}

// IsZero tells that no body was set.
func (b Body) IsZero() bool { return b.JSON == nil && b.Text == "" }

// String hides the body; one that is not set stays empty.
func (b Body) String() string {
	if b.IsZero() {
		return ""
	}
	return redacted
}

// Format hides the body from every verb of package fmt.
func (b Body) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, b.String()) }

// MarshalText hides the body from encoders of every kind.
func (b Body) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// LogValue hides the body.
func (b Body) LogValue() slog.Value { return slog.StringValue(b.String()) }

// The logins are held by pointers, into which package fmt looks past all methods when the verb does not fit, as in
// log.Printf("%s", source). Their own Format is asked before that.

// Format hides the password from every verb of package fmt.
func (b Basic) Format(f fmt.State, verb rune) {
	type plain Basic
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), plain(b))
}

// Format hides the key from every verb of package fmt.
func (k Key) Format(f fmt.State, verb rune) {
	type plain Key
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), plain(k))
}

// Format hides the client secret from every verb of package fmt.
func (o OAuth2) Format(f fmt.State, verb rune) {
	type plain OAuth2
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), plain(o))
}

// soundsSecret tells whether a name (api_key, accessToken, X-Amz-Signature) is one under which secrets travel. It
// errs towards yes: a value hidden needlessly costs less than one shown.
func soundsSecret(name string) bool {
	for _, word := range words(name) {
		switch word {
		case "auth", "authorization", "bearer", "cookie", "credential", "credentials", "jwt", "pass", "passphrase", "passwd",
			"pwd", "sas", "session", "sig":
			return true
		}
		for _, end := range []string{"key", "token", "secret", "password", "signature"} {
			if strings.HasSuffix(word, end) || strings.HasSuffix(word, end+"s") {
				return true
			}
		}
	}
	return false
}

// words splits a name at everything that is no letter, and where a capital follows a small letter.
func words(name string) []string {
	var split strings.Builder
	small := false
	for _, r := range name {
		if !unicode.IsLetter(r) {
			r = ' '
		} else if small && unicode.IsUpper(r) {
			split.WriteByte(' ')
		}
		small = unicode.IsLower(r)
		split.WriteRune(unicode.ToLower(r))
	}
	return strings.Fields(split.String())
}
