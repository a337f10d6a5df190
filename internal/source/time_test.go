package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/config"
	"ferry/internal/retry"
)

const second = config.Duration(time.Second)

// script answers request after request by the next of its functions, the last one for all that follow.
func script(answers ...http.HandlerFunc) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		answers[min(int(n.Add(1)), len(answers))-1](w, r)
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// begin sends the text and then nothing more.
func begin(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, text)
		w.(http.Flusher).Flush()
		hang(w, r)
	}
}

// trickle sends a byte a second for ever.
func trickle(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, "[")
	for {
		if _, err := io.WriteString(w, " "); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
			return
		}
	}
}

// Every phase has its limit, what may pass is tried again, and what the API asks for is obeyed exactly.
func TestTime(t *testing.T) {
	good := reply(jsonType, "[1]")
	for _, c := range []struct {
		name    string
		cfg     config.Source
		serve   http.HandlerFunc
		dial    func(context.Context, string, string) (net.Conn, error)
		want    string // error, or ""
		took    time.Duration
		atMost  time.Duration // for waits that are drawn
		retries []string
	}{
		{name: "no header", cfg: config.Source{Timeouts: config.Timeouts{Headers: 7 * second}}, serve: hang, want: "timeout: no answer within 7s", took: 7 * time.Second},
		{name: "timeout stands for headers", cfg: config.Source{Timeout: 3 * second}, serve: hang, want: "timeout: no answer within 3s", took: 3 * time.Second},
		{name: "silent body", cfg: config.Source{Timeouts: config.Timeouts{Idle: 5 * second}}, serve: begin("[1,"), want: "timeout: the body was silent for 5s", took: 5 * time.Second},
		{name: "trickle", cfg: config.Source{Timeouts: config.Timeouts{Idle: 5 * second, Page: 60 * second}}, serve: trickle, want: "timeout: the page took longer than 1m0s", took: time.Minute},
		{name: "no header for as long as a page may take", cfg: config.Source{Timeout: 100 * second, Timeouts: config.Timeouts{Page: 60 * second}}, serve: hang, want: "timeout: the page took longer than 1m0s", took: time.Minute},
		{name: "no TLS", cfg: config.Source{Base: "https://localhost", Timeouts: config.Timeouts{TLS: 4 * second}}, dial: func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, b) }()
			return a, nil
		}, want: "timeout: no TLS handshake within 4s", took: 4 * time.Second},
		{name: "no connection", cfg: config.Source{}, dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
		}, want: "timeout: no connection within 10s"},
		{name: "refused", cfg: config.Source{}, dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
		}, want: "network: dial tcp: connection refused"},
		{name: "tried again", cfg: config.Source{Retries: 6}, serve: script(status(500, ""), status(503, ""), status(408, ""), status(425, ""), hang, begin("[1"), good), took: -1, atMost: time.Minute + 7*time.Second, retries: []string{"500", "503", "408", "425", "timeout", "timeout"}},
		{name: "cut short, tried again", cfg: config.Source{Retries: 1}, serve: script(raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1]"), good), took: -1, atMost: time.Second, retries: []string{"content"}},
		{name: "used up", cfg: config.Source{Retries: 2}, serve: status(502, ""), want: "status: status 502 Bad Gateway", took: -1, atMost: time.Second, retries: []string{"502", "502"}},
		{name: "not tried again", cfg: config.Source{Retries: 9}, serve: status(400, ""), want: "status: status 400 Bad Request"},
		{name: "broken, not tried again", cfg: config.Source{Retries: 9}, serve: reply(jsonType, "[}"), want: "content: the body is not valid JSON: expected a value, found '}' at byte 1"},
		{name: "said to be tried again", cfg: config.Source{Retries: 9, On: map[int]string{404: "retry"}}, serve: script(status(404, ""), good), took: -1, atMost: time.Second, retries: []string{"404"}},
		{name: "Retry-After in seconds", cfg: config.Source{Retries: 5}, serve: script(status(429, "", "Retry-After", "17"), good), took: 17 * time.Second, retries: []string{"429"}},
		{name: "Retry-After as a date", cfg: config.Source{Retries: 5}, serve: script(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", time.Now().UTC().Add(23*time.Second).Format(http.TimeFormat))
			w.WriteHeader(503)
		}, good), took: 23 * time.Second, retries: []string{"503"}},
		{name: "Retry-After by another clock", cfg: config.Source{Retries: 5}, serve: script(status(503, "", "Date", "Mon, 01 Jan 2035 10:00:00 GMT", "Retry-After", "Mon, 01 Jan 2035 10:00:09 GMT"), good), took: 9 * time.Second, retries: []string{"503"}},
		{name: "Retry-After at the limit", cfg: config.Source{Retries: 5, RetryAfter: 60 * second}, serve: script(status(429, "", "Retry-After", "60"), good), took: time.Minute, retries: []string{"429"}},
		{name: "Retry-After beyond the limit", cfg: config.Source{Retries: 5, RetryAfter: 60 * second}, serve: status(429, "", "Retry-After", "61"), want: "rate_limited: status 429 Too Many Requests; asks to come back in 1m1s"},
		{name: "Retry-After of a status that is said to be tried again", cfg: config.Source{Retries: 5, On: map[int]string{403: "retry"}}, serve: script(status(403, "", "Retry-After", "17"), good), took: 17 * time.Second, retries: []string{"403"}},
		{name: "Retry-After of a status that is said to be tried again, beyond the limit", cfg: config.Source{Retries: 5, RetryAfter: 60 * second, On: map[int]string{403: "retry"}}, serve: status(403, "", "Retry-After", "61"), want: "rate_limited: status 403 Forbidden; asks to come back in 1m1s"},
		{name: "Retry-After of any status that may pass", cfg: config.Source{Retries: 5}, serve: script(status(502, "", "Retry-After", "9"), good), took: 9 * time.Second, retries: []string{"502"}},
		{name: "Retry-After of a status that fails", cfg: config.Source{Retries: 5}, serve: status(403, "", "Retry-After", "17"), want: "status: status 403 Forbidden"},
		{name: "429 without Retry-After", cfg: config.Source{Retries: 1}, serve: status(429, ""), want: "rate_limited: status 429 Too Many Requests", took: -1, atMost: time.Second, retries: []string{"429"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.dial == nil {
					c.dial = newFakeNet(t, c.serve).dial
				}
				if c.cfg.Base == "" {
					c.cfg.Base = "http://localhost"
				}
				if c.cfg.RetryMax == 0 {
					c.cfg.RetryMax = second
				}
				for _, fetch := range []bool{false, true} {
					if fetch && c.retries != nil && c.want == "" {
						break // the script has been played
					}
					w := &watchdog{}
					s := open(t, c.cfg, Options{Observer: w, dial: c.dial})
					start := time.Now()
					var err error
					if fetch {
						_, err = s.Fetch(t.Context())
					} else {
						_, err = tryAll(t, s, nil)
					}
					took := time.Since(start)
					if want := c.want + " (GET " + c.cfg.Base + ")"; err == nil && c.want != "" || err != nil && err.Error() != want {
						t.Errorf("error %v, want %s", err, c.want)
					}
					if c.took >= 0 && took != c.took || c.took < 0 && took > c.atMost {
						t.Errorf("took %s, want %s (at most %s)", took, c.took, c.atMost)
					}
					if !slices.Equal(w.retries, c.retries) {
						t.Errorf("retries %q, want %q", w.retries, c.retries)
					}
					s.Close()
				}
				synctest.Wait()
			})
		})
	}
}

func TestRetryAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, config.Source{Base: "http://localhost"}, Options{dial: newFakeNet(t, status(429, "", "Retry-After", "3600")).dial})
		_, err := s.Fetch(t.Context())
		var e *Error
		if !errors.As(err, &e) || e.Kind != KindRateLimited || e.Status != 429 || !e.RetryAt.Equal(time.Now().Add(time.Hour)) {
			t.Errorf("%+v", err)
		}
	})
}

// Time in which nobody reads, because a part is being committed, counts towards no limit.
func TestSlowCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t, reply(jsonType, widePage(0, 5000)))
		s := open(t, config.Source{Base: "http://localhost", Records: ".data[]", Timeouts: config.Timeouts{Idle: 5 * second, Page: 60 * second}}, Options{dial: n.dial})
		records, parts := 0, 0
		for part, err := range s.Read(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			records += len(part.Records)
			parts++
			time.Sleep(time.Hour) // of the bubble's time
		}
		if records != 5000 || parts < 4 {
			t.Errorf("%d records in %d parts", records, parts)
		}
	})
}

func TestContextEnds(t *testing.T) {
	errWhy := errors.New("the run was stopped")
	for _, c := range []struct {
		name  string
		cfg   config.Source
		serve http.HandlerFunc
		limit time.Duration // deadline; else it is cancelled
		want  string
	}{
		{"waiting for the header", config.Source{}, hang, 0, "cancelled: stopped: the run was stopped"},
		{"waiting for the body", config.Source{}, begin("["), 0, "cancelled: stopped: the run was stopped"},
		{"waiting to try again", config.Source{Retries: 9, RetryAfter: 3600 * second}, status(429, "", "Retry-After", "3600"), 0, "cancelled: stopped: the run was stopped; the last try: status 429 Too Many Requests; asks to come back in 1h0m0s"},
		{"deadline", config.Source{}, hang, time.Second, "timeout: the time for the whole request or run is over"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.cfg.Base = "http://localhost"
				s := open(t, c.cfg, Options{dial: newFakeNet(t, c.serve).dial})
				ctx, cancel := context.WithCancelCause(t.Context())
				cause := errWhy
				if c.limit > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeout(ctx, c.limit)
					defer stop()
					cause = context.DeadlineExceeded
				}
				time.AfterFunc(2*time.Second, func() { cancel(errWhy) })
				_, err := s.Fetch(ctx)
				if want := c.want + " (GET http://localhost)"; err == nil || err.Error() != want || !errors.Is(err, cause) {
					t.Errorf("error %v, want %s", err, want)
				}
				s.Close()
				synctest.Wait()
			})
		})
	}
}

// The lowest rate that sources name for a host holds for all of them; waiting for it counts towards no timeout.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		n := newFakeNet(t, func(w http.ResponseWriter, _ *http.Request) {
			at = append(at, time.Since(start))
			fmt.Fprint(w, "[]")
		})
		limits := NewLimiters(nil)
		source := func(rate config.Rate) *Source {
			return open(t, config.Source{Base: "http://localhost", Rate: rate, Timeout: second / 100, Timeouts: config.Timeouts{Page: second / 100}}, Options{Limiters: limits, dial: n.dial})
		}
		fast, slow, free := source(config.Rate{Count: 10, Per: time.Second}), source(config.Rate{Count: 30, Per: time.Minute}), source(config.Rate{})
		for _, s := range []*Source{fast, slow, free, fast} {
			if _, err := s.Fetch(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if want := []time.Duration{0, 2 * time.Second, 4 * time.Second, 6 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("asked at %v, want %v", at, want)
		}

		// Who is cancelled while waiting gives the place back.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := free.Fetch(ctx); err == nil || !strings.HasPrefix(err.Error(), "timeout: the time for the whole") {
			t.Errorf("error %v", err)
		}
		if _, err := free.Fetch(t.Context()); err != nil || at[len(at)-1] != 8*time.Second {
			t.Errorf("%v at %s", err, at[len(at)-1])
		}

		// When the slow one goes, the next rate holds; when all have gone, none.
		slow.Close()
		time.Sleep(10 * time.Second)
		at = nil
		start = time.Now()
		for range 3 {
			if _, err := free.Fetch(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if want := []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond}; !slices.Equal(at, want) {
			t.Errorf("asked at %v, want %v", at, want)
		}
		fast.Close()
		at = nil
		start = time.Now()
		for range 3 {
			if _, err := free.Fetch(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if at[2] != 0 {
			t.Errorf("without a rate asked at %v", at)
		}
		free.Close()
		if len(limits.hosts) != 0 {
			t.Errorf("%d hosts are left", len(limits.hosts))
		}
	})
}

// Who watches a run hears of what it is told to wait for: an outage it is not.
func TestWaitsAreAnnounced(t *testing.T) {
	day := config.Rate{Count: 24, Per: 24 * time.Hour}
	for _, c := range []struct {
		name  string
		cfg   config.Source
		turns Turns
		serve http.HandlerFunc
		want  []string
	}{
		{"rate", config.Source{Rate: day}, nil, reply(jsonType, "[1]"), []string{"1h0m0s false"}},
		{"shared rate", config.Source{Rate: day}, &fakeTurns{}, reply(jsonType, "[1]"), []string{"1h0m0s false"}},
		{"Retry-After", config.Source{Retries: 1, RetryAfter: 3600 * second}, nil, script(status(429, "", "Retry-After", "1800"), reply(jsonType, "[1]")), []string{"30m0s true"}},
		{"own waits", config.Source{Retries: 1}, nil, script(status(500, ""), reply(jsonType, "[1]")), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.cfg.Base = "http://localhost"
				s := open(t, c.cfg, Options{Limiters: NewLimiters(c.turns), dial: newFakeNet(t, c.serve).dial})
				var got []string
				ctx := retry.Announce(t.Context(), func(until time.Time, asked bool) {
					got = append(got, fmt.Sprintf("%s %t", time.Until(until), asked))
				})
				for range 2 {
					for _, err := range s.Read(ctx, nil) {
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("announced %q, want %q", got, c.want)
				}
			})
		})
	}
}

func TestObserver(t *testing.T) {
	w := &watchdog{}
	url := serve(t, script(status(500, "oh"), packed("gzip", gzipped(rows(0, 1000)))))
	s := open(t, quick(config.Source{Base: url, Retries: 1}), Options{Observer: w})
	readAll(t, s, nil)
	if !slices.Equal(w.requests, []string{"500", "200"}) || !slices.Equal(w.retries, []string{"500"}) || w.wire != int64(2+len(gzipped(rows(0, 1000)))) {
		t.Errorf("requests %q, retries %q, %d bytes", w.requests, w.retries, w.wire)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		v, date string
		want    time.Duration
		ok      bool
	}{
		{"", "", 0, false},
		{"0", "", 0, true},
		{" 120 ", "", 2 * time.Minute, true},
		{"1.5", "", 1500 * time.Millisecond, true},
		{"99999999999999999999", "", maxRetryAfter, true},
		{"999999999", "", maxRetryAfter, true},
		{"315360000.5", "", maxRetryAfter, true},
		{"1714564860", "", time.Minute, true}, // Unix time: 12:01:00
		{"1714564860.5", "", time.Minute + time.Second/2, true},
		{"1714564860", "Wed, 01 May 2024 12:00:30 GMT", 30 * time.Second, true},
		{"1714564799", "", 0, true},
		{"1000000000", "", 0, true},
		{"1714564800000", "", maxRetryAfter, true}, // in milliseconds, perhaps
		{"-1", "", 0, false},
		{"soon", "", 0, false},
		{"1.", "", time.Second, true},
		{".5", "", 0, false},
		{"1e3", "", 0, false},
		{"Wed, 01 May 2024 12:01:00 GMT", "", time.Minute, true},
		{"Wednesday, 01-May-24 12:01:00 GMT", "", time.Minute, true},
		{"Wed May  1 12:01:00 2024", "", time.Minute, true},
		{"Wed, 01 May 2024 11:00:00 GMT", "", 0, true},
		{"Wed, 01 May 2024 12:01:00 GMT", "Wed, 01 May 2024 12:00:30 GMT", 30 * time.Second, true},
		{"Fri, 01 May 2224 12:01:00 GMT", "", maxRetryAfter, true},
	} {
		got, ok := parseRetryAfter(c.v, c.date, now)
		if got != c.want || ok != c.ok {
			t.Errorf("parseRetryAfter(%q, %q) = %s, %t; want %s, %t", c.v, c.date, got, ok, c.want, c.ok)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	f.Add("120", "")
	f.Add("Wed, 01 May 2024 12:01:00 GMT", "Wed, 01 May 2024 12:00:30 GMT")
	f.Add("1.5", "x")
	f.Add("315360000.5", "")
	f.Add("1714564860", "Wed, 01 May 2024 12:00:30 GMT")
	f.Fuzz(func(t *testing.T, v, date string) {
		if wait, ok := parseRetryAfter(v, date, time.Now()); wait < 0 || wait > maxRetryAfter || !ok && wait != 0 {
			t.Errorf("parseRetryAfter(%q, %q) = %s, %t", v, date, wait, ok)
		}
	})
}
