package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A FormError says that a text is not of the form that its type has.
type FormError struct {
	Text string
	// Why does not repeat the text, which may be a secret that landed on the wrong key.
	Why string
}

func (e *FormError) Error() string { return fmt.Sprintf("%q %s", e.Text, e.Why) }

// Duration is typed as 250ms, 30s, 5m, 6h, 7d or 1h30m. It is never negative.
type Duration time.Duration

// D is the standard library's form.
func (d Duration) D() time.Duration { return time.Duration(d) }

const noDuration = "is not a duration such as 250ms, 30s, 5m, 6h or 7d"

const day = 24 * time.Hour

// UnmarshalText reads what people type. Its error is a *FormError.
func (d *Duration) UnmarshalText(text []byte) error {
	typed := string(text)
	rest, sum := typed, time.Duration(0)
	if days, after, ok := strings.Cut(typed, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return &FormError{typed, noDuration}
		}
		sum, rest = time.Duration(n)*day, after
	} else if typed == "" {
		return &FormError{typed, noDuration}
	}
	if rest != "" {
		n, err := time.ParseDuration(rest)
		switch {
		case err != nil:
			return &FormError{typed, noDuration}
		case n < 0:
			return &FormError{typed, "is negative"}
		}
		sum += n
	}
	if sum < 0 {
		return &FormError{typed, "is too long for a duration"}
	}
	*d = Duration(sum)
	return nil
}

// String gives the shortest form that means the same: 7d, 1d12h, 5m, 1.5s.
func (d Duration) String() string {
	days, rest := time.Duration(d)/day, time.Duration(d)%day
	text := rest.String()
	if rest == 0 {
		text = ""
	}
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	switch {
	case days != 0:
		return strconv.FormatInt(int64(days), 10) + "d" + text
	case text == "":
		return "0s"
	}
	return text
}

// MarshalText gives String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Bytes is typed as 512, 64KiB, 8MiB, 4GiB, 1TiB, or with KB, MB, GB, TB (powers of ten). It is never negative.
type Bytes int64

const noSize = "is not a size such as 512, 64KiB, 8MiB or 4GiB"

// byteUnits from the largest, so that String finds the shortest form first.
var byteUnits = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40},
	{"TB", 1e12},
	{"GiB", 1 << 30},
	{"GB", 1e9},
	{"MiB", 1 << 20},
	{"MB", 1e6},
	{"KiB", 1 << 10},
	{"KB", 1e3},
	{"B", 1},
	{"", 1},
}

// UnmarshalText reads what people type. Its error is a *FormError.
func (b *Bytes) UnmarshalText(text []byte) error {
	typed := string(text)
	for _, u := range byteUnits {
		number, ok := strings.CutSuffix(typed, u.name)
		if !ok {
			continue
		}
		n, err := parseNumber(number)
		switch n *= float64(u.size); {
		case err != nil:
			return &FormError{typed, noSize}
		case n < 0:
			return &FormError{typed, "is negative"}
		case n >= math.MaxInt64:
			return &FormError{typed, "is too large for a size"}
		}
		*b = Bytes(n)
		return nil
	}
	return &FormError{typed, noSize}
}

// parseNumber reads a decimal number, and none of the other forms that the standard library takes (0x1p-2, Inf).
func parseNumber(text string) (float64, error) {
	if strings.ContainsAny(text, "xXpP_iInN") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(strings.TrimSpace(text), 64)
}

// String gives a whole number of the largest unit that fits: 8MiB, 1500B as 1500.
func (b Bytes) String() string {
	for _, u := range byteUnits {
		if b != 0 && u.size > 1 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText gives String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// Rate is a number of requests per time, typed as 10/s, 600/m or 1000/h. The zero value means no limit.
type Rate struct {
	Count float64
	Per   time.Duration
}

const noRate = "is not a rate such as 10/s, 600/m or 1000/h"

var rateUnits = []struct {
	name string
	per  time.Duration
}{{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", day}}

// UnmarshalText reads what people type; an empty text means no limit. Its error is a *FormError.
func (r *Rate) UnmarshalText(text []byte) error {
	typed := string(text)
	if typed == "" {
		*r = Rate{}
		return nil
	}
	count, unit, _ := strings.Cut(typed, "/")
	n, err := parseNumber(count)
	switch {
	case err != nil:
		return &FormError{typed, noRate}
	case n <= 0 || n > 1e9:
		return &FormError{typed, "is not a rate between 0/s and 1000000000/s; leave the key out for no limit"}
	}
	for _, u := range rateUnits {
		if strings.TrimSpace(unit) == u.name {
			*r = Rate{Count: n, Per: u.per}
			return nil
		}
	}
	return &FormError{typed, noRate}
}

// String gives the form that people type, and "" for no limit.
func (r Rate) String() string {
	if r.Count == 0 {
		return ""
	}
	unit := r.Per.String()
	for _, u := range rateUnits {
		if u.per == r.Per {
			unit = u.name
		}
	}
	return strconv.FormatFloat(r.Count, 'f', -1, 64) + "/" + unit
}

// MarshalText gives String.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
