package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// check runs the check that a key's tag names: one of those below, or one that the caller gave in Options.Checks.
func (d *decoder) check(n *node, v reflect.Value, name, path string, refs []string) {
	text := v.String()
	if name == "schema" {
		if !filepath.IsAbs(text) {
			text = filepath.Join(d.dir, text)
			v.SetString(text)
		}
		*d.files = append(*d.files, text)
	}
	check := builtin(name)
	if name == "from" {
		if isHeaderPlace(text) {
			return
		}
		name = "jqpath"
	}
	if check == nil {
		check = d.checks[name]
	}
	if check == nil {
		return
	}
	err := check(text)
	if err == nil {
		return
	}
	at, hint := n.at, ""
	var hinted *hintedError
	own := errors.As(err, &hinted)
	if own && len(refs) == 0 {
		hint = hinted.hint
	}
	var located interface{ Offset() int }
	if errors.As(err, &located) && len(refs) == 0 {
		at = n.within(located.Offset())
	}
	msg := scrub(err.Error(), text)
	switch {
	case own:
		msg = subject(URL(text).String(), refs) + " " + msg
	case len(refs) > 0 && v.Type() != reflect.TypeFor[URL]():
		// The check may have quoted any part of what ${…} brought in (invariant 8).
		msg = subject(text, refs) + " is not valid here"
	}
	d.add(at, path, hint, "%s", msg)
}

// scrub hides the login of an address in a message about it.
func scrub(msg, text string) string {
	shown := URL(text).String()
	if shown == text {
		return msg
	}
	msg = strings.ReplaceAll(msg, text, shown)
	if u, err := url.Parse(text); err == nil && u.User != nil {
		if password, ok := u.User.Password(); ok && password != "" {
			msg = strings.ReplaceAll(msg, password, redacted)
		}
	}
	// What is left of the address in the message, piece by piece.
	if strings.Contains(msg, "@") && !strings.Contains(msg, redacted) {
		return "is not a valid address"
	}
	return msg
}

// builtin gives the checks that need nothing else. Their errors do not repeat the value.
func builtin(name string) func(string) error {
	switch name {
	case "listen":
		return checkListen
	case "loopback":
		return checkLoopback
	case "http":
		return checkHTTP
	case "base":
		return checkBase
	case "token_url":
		return checkTokenURL
	case "topic":
		return checkTopic
	case "timezone":
		return checkTimezone
	case "name":
		return checkName
	case "into":
		return checkInto
	}
	return nil
}

func checkListen(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		hint := "write HOST:PORT, or :PORT for all addresses of this machine"
		if _, notNumber := strconv.Atoi(text); notNumber == nil {
			hint = fmt.Sprintf("did you mean 127.0.0.1:%s? :%s listens on all addresses of this machine", text, text)
		}
		return &hintedError{"is not an address such as 127.0.0.1:8080", hint}
	}
	if number, err := strconv.Atoi(port); err != nil || number < 0 || number > 65535 {
		return &hintedError{"has no port between 0 and 65535", "write HOST:PORT; port 0 takes a free one"}
	}
	if strings.ContainsAny(host, " /@") {
		return &hintedError{"is not an address such as 127.0.0.1:8080", "leave out http:// and the path"}
	}
	return nil
}

func checkLoopback(text string) error {
	if err := checkListen(text); err != nil {
		return err
	}
	if !isLoopback(text) {
		return &hintedError{"is not a loopback address", "pprof shows the memory of the process: write 127.0.0.1:PORT"}
	}
	return nil
}

// isLoopback tells whether an address to listen on can be reached from this machine only.
func isLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func checkHTTP(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		hint := ""
		if !strings.Contains(text, "://") {
			hint = "begin with https:// or http://"
		}
		return &hintedError{"is not an http or https address", hint}
	}
	return nil
}

// checkTokenURL takes a path too, which begins at the source's base.
func checkTokenURL(text string) error {
	if strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "//") {
		return nil
	}
	if err := checkHTTP(text); err != nil {
		return err
	}
	return refuseLogin(text)
}

// mockBase as a source's base means the simulated API inside this process.
const mockBase = "mock:"

func checkBase(text string) error {
	if text == mockBase {
		return nil
	}
	if err := checkHTTP(text); err != nil {
		return err
	}
	return refuseLogin(text)
}

// refuseLogin keeps logins out of addresses that appear in logs.
func refuseLogin(text string) error {
	if u, err := url.Parse(text); err == nil && u.User != nil {
		return &hintedError{"holds a login", "move it to auth: {basic: {user: …, password: …}}"}
	}
	return nil
}

var (
	topicName    = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	pipelineName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

func checkTopic(text string) error {
	switch {
	case len(text) > 200:
		return errors.New("the topic's name is longer than 200 characters")
	case !topicName.MatchString(text):
		return &hintedError{"is not a topic's name", "use letters, digits, _ and -, with single dots between them"}
	case strings.HasSuffix(text, ".dead"):
		return &hintedError{"ends in .dead, where dead letters go", "choose another name"}
	}
	return nil
}

func checkTimezone(text string) error {
	if _, err := time.LoadLocation(text); err != nil {
		return &hintedError{"is not a time zone", "write a name such as UTC or Europe/Berlin"}
	}
	return nil
}

// checkName is for names of headers and cookies (RFC 9110, 5.6.2: a token).
func checkName(text string) error {
	if !httpguts.ValidHeaderFieldName(text) {
		return &hintedError{"is not a header's name", "use letters, digits and -"}
	}
	return nil
}

func checkInto(text string) error {
	place, name, ok := strings.Cut(text, ".")
	if !ok || name == "" {
		return &hintedError{"does not say where", "write query.NAME, header.NAME or body.PATH"}
	}
	switch place {
	case "query":
		return nil
	case "header":
		return checkName(name)
	case "body":
		if slices.Contains(strings.Split(name, "."), "") {
			return &hintedError{"has an empty key in its path", "write body.PATH as in body.page.number"}
		}
		return nil
	}
	return &hintedError{"does not say where", "write query.NAME, header.NAME or body.PATH"}
}

func isHeaderPlace(text string) bool {
	name, ok := strings.CutPrefix(text, "header.")
	return ok && httpguts.ValidHeaderFieldName(name)
}
