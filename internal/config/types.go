package config

import "time"

// Secret is a text that shows itself as "[secret]" wherever it is printed, logged or marshalled (invariant 8).
type Secret string

// Reveal gives the text itself, for the one place that sends it.
func (s Secret) Reveal() string { return string(s) }

const redacted = "[secret]"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString keeps %#v quiet too.
func (s Secret) GoString() string { return s.String() }

// MarshalText keeps encoders of every kind quiet.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// URL is an address that may hold a login. It prints with the login hidden.
type URL string

// Reveal gives the address with its login.
func (u URL) Reveal() string { return string(u) }

// Duration is typed as 250ms, 30s, 5m, 6h or 7d.
type Duration time.Duration

// D is the standard library's form.
func (d Duration) D() time.Duration { return time.Duration(d) }

// Bytes is typed as 512, 64KiB, 8MiB, 4GiB, or with KB, MB, GB (powers of ten).
type Bytes int64

// Rate is a number of requests per time, typed as 10/s, 600/m or 1000/h. The zero value means no limit.
type Rate struct {
	Count float64
	Per   time.Duration
}

// Body of a request: JSON made from the YAML that was typed, or a text.
type Body struct {
	JSON []byte // compact JSON, when a mapping or list was typed
	Text Secret // when a scalar was typed
}
