// Package queueurl reads the URL that names a queue: scheme://user:password@host,host/path?name=value. Each queue says
// which parameters it knows; everything else is an error, all of them at once. No error shows a login (invariant 8).
package queueurl

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"ferry/internal/config"
)

// Address is what stands before the parameters.
type Address struct {
	Scheme string
	// User and Password are decoded; both empty when the URL has no login.
	User     string
	Password config.Secret
	// Hosts as written, each host or host:port. Empty for a URL without //.
	Hosts []string
	// Path is decoded and has no slash in front.
	Path string
}

// Parameters are the names that may follow the question mark, each with what checks and takes its value.
type Parameters map[string]func(value string) error

// Parse reads a URL whose hosts share one login. Each parameter may be given once.
func Parse(u config.URL, known Parameters) (Address, error) {
	scheme, rest, query, err := Split(u)
	if err != nil {
		return Address{}, err
	}
	a := Address{Scheme: scheme}
	return a, errors.Join(a.read(rest), known.Set(scheme, query))
}

// Split takes a URL apart without looking into its middle: scheme, what follows the colon, and what follows the
// question mark.
func Split(u config.URL) (scheme, rest, query string, err error) {
	scheme, rest, ok := strings.Cut(u.Reveal(), ":")
	if !ok || scheme == "" {
		return "", "", "", errors.New("queue URL: no scheme; write embedded: or nats://host, kafka://host, amqp://host, redis://host, sqs://region, azservicebus://namespace")
	}
	rest, query, _ = strings.Cut(rest, "?")
	return strings.ToLower(scheme), rest, query, nil
}

// read takes //login@host,host/path apart.
func (a *Address) read(rest string) error {
	rest, ok := strings.CutPrefix(rest, "//")
	if !ok {
		a.Path = rest
		return nil
	}
	// Everything up to the last @ is the login: keys made by machines hold slashes, colons and equal signs, and come
	// out of ${…} as they are. (Behind the host an @ is written as %40.)
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		user, uerr := url.PathUnescape(user)
		password, perr := url.PathUnescape(password)
		if uerr != nil || perr != nil {
			return errors.New("queue URL: the login cannot be read: write % as %25, @ as %40, ? as %3F")
		}
		a.User, a.Password, rest = user, config.Secret(password), rest[at+1:]
	}
	authority, path, _ := strings.Cut(rest, "/")
	var err error
	if a.Path, err = url.PathUnescape(path); err != nil {
		return fmt.Errorf("queue URL: what follows the host cannot be read: a %% must be written as %%25")
	}
	if authority == "" {
		return nil
	}
	for host := range strings.SplitSeq(authority, ",") {
		parsed, err := url.Parse("x://" + host)
		if err != nil || parsed.Hostname() == "" || parsed.User != nil {
			return fmt.Errorf("queue URL: a host cannot be read, want %s://host1,host2 with host or host:port", a.Scheme)
		}
		a.Hosts = append(a.Hosts, host)
	}
	return nil
}

// WithPort gives the hosts, each with the port where it has none.
func (a Address) WithPort(port string) []string {
	all := make([]string, len(a.Hosts))
	for i, host := range a.Hosts {
		all[i] = host
		if parsed, err := url.Parse("x://" + host); err == nil && parsed.Port() == "" {
			all[i] = host + ":" + port
		}
	}
	return all
}

// Set reads a query and hands each parameter to its function.
func (known Parameters) Set(scheme, query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("queue URL: its parameters cannot be read; write them as name=value&name=value")
	}
	names := slices.Sorted(maps.Keys(known))
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		f, ok := known[name]
		switch {
		case !ok:
			errs = append(errs, unknown(name, scheme, names))
		case len(values[name]) > 1:
			errs = append(errs, fmt.Errorf("queue URL: parameter %s is given twice", name))
		default:
			if err := f(values.Get(name)); err != nil {
				errs = append(errs, fmt.Errorf("queue URL: parameter %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func unknown(name, scheme string, known []string) error {
	hint := "it knows " + strings.Join(known, ", ")
	if near := config.Suggest(name, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	return fmt.Errorf("queue URL: %s has no parameter %q; %s", scheme, name, hint)
}

// Text takes any text.
func Text(into *string) func(string) error {
	return func(value string) error { *into = value; return nil }
}

// Secret takes a text that is not shown.
func Secret(into *config.Secret) func(string) error {
	return func(value string) error { *into = config.Secret(value); return nil }
}

// Word takes one of the words.
func Word(into *string, words ...string) func(string) error {
	return func(value string) error {
		if !slices.Contains(words, value) {
			last := len(words) - 1
			if last == 1 {
				return fmt.Errorf("%q is neither %s nor %s", value, words[0], words[1])
			}
			return fmt.Errorf("%q is none of %s and %s", value, strings.Join(words[:last], ", "), words[last])
		}
		*into = value
		return nil
	}
}

// Bool takes true or false.
func Bool(into *bool) func(string) error {
	return func(value string) error {
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", value)
		}
		*into = b
		return nil
	}
}

// Int takes a whole number between the bounds.
func Int(into *int, least, most int) func(string) error {
	return func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is not a number from %d to %d", value, least, most)
		}
		*into = n
		return nil
	}
}

// Bytes takes a size above zero, such as 10GiB.
func Bytes(into *int64) func(string) error {
	return func(value string) error {
		var b config.Bytes
		if err := b.UnmarshalText([]byte(value)); err != nil {
			return err
		}
		if b <= 0 {
			return fmt.Errorf("%q is not above zero", value)
		}
		*into = int64(b)
		return nil
	}
}

// Duration takes a time above zero, such as 30s or 7d.
func Duration(into *time.Duration) func(string) error {
	return func(value string) error {
		var d config.Duration
		if err := d.UnmarshalText([]byte(value)); err != nil {
			return err
		}
		if d <= 0 {
			return fmt.Errorf("%q is not above zero", value)
		}
		*into = d.D()
		return nil
	}
}

// File takes the path of a file that can be read.
func File(into *string) func(string) error {
	return func(value string) error {
		f, err := os.Open(value)
		if err != nil {
			return err
		}
		*into = value
		return f.Close()
	}
}
