package source

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// verdict is what a status means for the page.
type verdict int

const (
	verdictOK    verdict = iota
	verdictSkip          // the page has no records; go on to the next
	verdictEnd           // the end of the data
	verdictRetry         // may pass
	verdictFail
)

// statusVerdict goes by on, then by the defaults: 2xx is well; 408, 425, 429 and 5xx may pass; all else is a failure.
func statusVerdict(status int, on map[int]string) verdict {
	switch on[status] {
	case "skip":
		return verdictSkip
	case "end":
		return verdictEnd
	case "retry":
		return verdictRetry
	case "fail":
		return verdictFail
	}
	switch {
	case status >= 200 && status <= 299:
		return verdictOK
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		return verdictRetry
	}
	return verdictFail
}

// statusError says what a status that is no success means. It reads the beginning of the body for its reason.
func (a *answer) statusError() *Error {
	s := a.s
	e := &Error{Kind: KindStatus, Status: a.status}
	var detail strings.Builder
	detail.WriteString("status " + strconv.Itoa(a.status))
	if text := http.StatusText(a.status); text != "" {
		detail.WriteString(" " + text)
	}
	const shown = 160
	head, err := io.ReadAll(io.LimitReader(&a.body, int64(s.secrets.reach(shown))+1)) // one more: whether it goes on
	// The status is the failure; a body that cannot be read adds nothing to it.
	if said := s.secrets.begin(head, shown, err != nil); said != "" {
		detail.WriteString(": " + said)
	}
	switch {
	case a.status == http.StatusUnauthorized:
		e.Kind = KindAuth
		if s.cfg.Auth.None || isNoAuth(&s.cfg.Auth) {
			detail.WriteString("; set auth")
		} else {
			detail.WriteString("; the login was refused, check auth")
		}
	case a.status >= 300 && a.status < 400:
		detail.WriteString("; the answer is no redirect that can be followed")
	}
	e.Detail = detail.String()
	e.again = statusVerdict(a.status, s.cfg.On) == verdictRetry
	e.obey(a.header)
	return e
}

// obey takes in the Retry-After of the answer that e tells of, once all else of e is known.
func (e *Error) obey(h http.Header) {
	wait, asked := parseRetryAfter(h.Get("Retry-After"), h.Get("Date"), time.Now())
	if e.Status != http.StatusTooManyRequests && !(asked && (e.again || e.Status == http.StatusServiceUnavailable)) {
		return
	}
	e.Kind = KindRateLimited
	if asked {
		e.RetryAt = time.Now().Add(wait)
		e.wait = wait
		e.asked = true
		e.Detail += "; asks to come back in " + wait.Round(time.Millisecond).String()
	}
}

const (
	// maxRetryAfter keeps absurd values from overflowing.
	maxRetryAfter = 10 * 365 * 24 * time.Hour
	// firstMoment is where seconds are no longer a wait (of 31 years) but the moment itself, as Unix time.
	firstMoment = 1_000_000_000
)

// parseRetryAfter reads a Retry-After (RFC 9110, 10.2.3): seconds, or a date; some send the date as Unix time. A date
// is the server's: it is counted from the answer's own Date, so that clocks that differ do no harm. ok is false when
// there is none that makes sense.
func parseRetryAfter(v, date string, now time.Time) (wait time.Duration, ok bool) {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0, false
	}
	if theirs, err := http.ParseTime(date); err == nil {
		now = theirs
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter), true
	}
	whole, fraction, _ := strings.Cut(v, ".") // some send fractions
	if whole == "" || strings.Trim(whole+fraction, "0123456789") != "" || len(fraction) > 9 {
		return 0, false
	}
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err == nil && seconds >= firstMoment {
		seconds = max(seconds-now.Unix(), 0)
	}
	if err != nil || seconds > int64(maxRetryAfter/time.Second) {
		return maxRetryAfter, true
	}
	wait = time.Duration(seconds) * time.Second
	if fraction != "" {
		nanos, _ := strconv.ParseInt((fraction + "000000000")[:9], 10, 64) // digits only
		wait = min(wait+time.Duration(nanos), maxRetryAfter)
	}
	return wait, true
}
