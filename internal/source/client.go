package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ferry/internal/config"
)

const maxRedirects = 10

// client sends requests and follows redirects by the source's own rules: Go's client would keep an X-Api-Key on its way
// to another host, and an Authorization on its way to another port.
type client struct {
	transport http.RoundTripper
	own       *http.Transport // transport, when it is the source's own
	base      *url.URL
	origin    string
	hosts     []string
	metadata  bool
}

func newClient(cfg *config.Source, opt *Options, base *url.URL) *client {
	c := &client{base: base, origin: origin(base), hosts: cfg.Allow.Hosts, metadata: cfg.Allow.Metadata}
	if opt.Transport != nil {
		c.transport = opt.Transport
		return c
	}
	dialer := &net.Dialer{Timeout: cfg.Timeouts.Connect.D(), KeepAlive: 30 * time.Second}
	if !cfg.Allow.Metadata {
		dialer.Control = refuseMetadata
	}
	dial := dialer.DialContext
	if opt.dial != nil {
		dial = opt.dial
	}
	c.own = &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{RootCAs: opt.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    cfg.Timeouts.TLS.D(),
		ResponseHeaderTimeout:  cfg.Timeouts.Headers.D(),
		MaxResponseHeaderBytes: int64(cfg.Limits.Headers),
		// Requests to one host, as many at once as callers make: their connections are kept for the next ones.
		MaxIdleConnsPerHost: 1024,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // unpacking is done here, where it can be bounded
		ReadBufferSize:      16 << 10,
	}
	c.transport = c.own
	return c
}

func (c *client) close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// answer is what came back: its header has been read, its body not yet.
type answer struct {
	s       *Source
	status  int
	header  http.Header
	length  int64    // of the body as sent; -1 when unknown
	unended bool     // nothing but the closing of the connection marks its end
	url     *url.URL // after redirects
	watch   *watch
	body    body
	raw     io.ReadCloser
	at      string // host, for the observer
	release bool
}

// ask sends the request and follows redirects. Errors are *Error.
func (s *Source) ask(ctx context.Context, r *request) (*answer, error) {
	var token string
	for try := 0; ; try++ {
		header := r.header
		if s.tokens != nil && s.client.isOwn(r.url) {
			var err error
			if token, err = s.tokens.get(ctx, s); err != nil {
				return nil, err
			}
			header = header.Clone()
			header.Set("Authorization", "Bearer "+token)
		}
		a, err := s.send(ctx, r, header)
		if err != nil {
			return nil, err
		}
		if a.status == http.StatusUnauthorized && s.tokens != nil {
			// The token may have been withdrawn before its time.
			switch on := s.cfg.On[a.status]; {
			case on == "" && try == 0: // once is enough to know
				s.tokens.drop(token)
				a.close()
				continue
			case on == "retry": // whose next try needs another one
				s.tokens.drop(token)
			}
		}
		return a, nil
	}
}

// send sends one request and those that redirects lead to.
func (s *Source) send(ctx context.Context, r *request, header http.Header) (*answer, error) {
	if !s.client.metadata && isMetadataHost(r.url.Hostname()) {
		return nil, failf(KindBlocked, "%s: %v", r.url.Host, errMetadata)
	}
	if err := s.limiter.wait(ctx); err != nil {
		return nil, ended(ctx)
	}
	w := newWatch(ctx, s.cfg.Timeouts.Page.D(), s.cfg.Timeouts.Idle.D())
	hop := *r
	hop.header = header
	for redirects := 0; ; redirects++ {
		resp, err := s.client.transport.RoundTrip(hop.http(w.ctx)) //nolint:bodyclose // the answer closes it, and drain that of a redirect
		if err != nil {
			w.rest()
			werr := s.transportError(ctx, w.ctx, err)
			w.close()
			s.observer.Request(hop.url.Host, 0, w.waited, 0)
			return nil, werr
		}
		if next, ok := redirected(resp); ok && s.cfg.On[resp.StatusCode] == "" {
			drain(resp.Body)
			s.observer.Request(hop.url.Host, resp.StatusCode, time.Since(w.since), 0)
			w.rest() // the wait for the rate counts towards no timeout
			err := s.redirect(&hop, resp.StatusCode, next, redirects)
			if err == nil && ratedHost(hop.url) == s.rated && s.limiter.wait(ctx) != nil {
				err = ended(ctx)
			}
			if err != nil {
				w.close()
				return nil, err
			}
			w.since = time.Now()
			w.timer.Reset(max(w.left, 1))
			continue
		}
		w.rest()
		a := &answer{s: s, status: resp.StatusCode, header: resp.Header, length: resp.ContentLength, url: hop.url, watch: w, raw: resp.Body, at: hop.url.Host}
		a.unended = resp.ProtoMajor == 1 && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0
		if err := a.body.open(s, resp, w); err != nil {
			a.close()
			return nil, err
		}
		return a, nil
	}
}

// drain reads the little that a redirect has as a body, so that its connection can be used again.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 4<<10)
	_ = body.Close()
}

func redirected(resp *http.Response) (location string, ok bool) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		location = resp.Header.Get("Location")
		return location, location != ""
	}
	return "", false
}

// redirect turns hop into the request that a redirect asks for (RFC 9110, 15.4), or says why it is not followed.
func (s *Source) redirect(hop *request, status int, location string, redirects int) error {
	if redirects >= maxRedirects {
		return failf(KindLoop, "more than %d redirects", maxRedirects)
	}
	ref, err := url.Parse(location)
	if err != nil {
		return failf(KindContent, "a redirect's Location cannot be parsed")
	}
	to := hop.url.ResolveReference(ref)
	to.Fragment, to.RawFragment = "", ""
	to.RawQuery = strings.ReplaceAll(to.RawQuery, " ", "%20") // a request line ends at a space
	if hop.url.Scheme == "https" && to.Scheme == "http" {
		return failf(KindBlocked, "a redirect to %s leaves https", origin(to))
	}
	if err := s.client.mayGo("a redirect", to); err != nil {
		return err
	}
	moved := hop.method == http.MethodPost && (status == http.StatusMovedPermanently || status == http.StatusFound)
	if moved && len(hop.body) > 0 {
		// The answer to a GET without the body would be that to another question (invariant 9).
		return failf(KindBlocked, "the API answers a POST with %d to %s, which would drop its body; set post to that address", status, s.secrets.address(to))
	}
	if moved || status == http.StatusSeeOther {
		hop.method, hop.body = http.MethodGet, nil
		hop.header = hop.header.Clone()
		hop.header.Del("Content-Type")
	}
	if s.client.isOwn(to) {
		s.addLogin(to)
	} else {
		if len(hop.body) > 0 {
			return failf(KindBlocked, "a redirect leads to %s, where the body is not sent to: it may hold a login", origin(to))
		}
		hop.host, hop.header = "", plainHeaders(hop.header)
		if s.secrets.text(to.RawQuery) != to.RawQuery {
			return failf(KindBlocked, "a redirect to %s carries the login in its query", origin(to))
		}
	}
	hop.url = to
	return nil
}

// close gives up what is left of the answer. It may be called twice.
func (a *answer) close() {
	if a.release {
		return
	}
	a.release = true
	a.body.close(a.s)
	_ = a.raw.Close()
	a.watch.close()
	a.s.observer.Request(a.at, a.status, a.watch.waited, a.body.wire.read)
}

// transportError says why no answer came.
func (s *Source) transportError(ctx, watched context.Context, err error) *Error {
	if e := s.interrupted(ctx, watched); e != nil {
		return e
	}
	var (
		netErr  net.Error
		opErr   *net.OpError
		certErr *tls.CertificateVerificationError
		text    = err.Error()
		t       = &s.cfg.Timeouts
	)
	switch {
	case errors.Is(err, errMetadata):
		return failf(KindBlocked, "%v", errMetadata)
	case errors.As(err, &certErr):
		return failf(KindNetwork, "the certificate is not trusted: %s", s.secrets.text(certErr.Err.Error()))
	case strings.Contains(text, "response headers exceeded"):
		return failf(KindLimit, "the answer's header is larger than limits.headers (%d bytes)", s.cfg.Limits.Headers)
	case strings.Contains(text, "TLS handshake timeout"):
		return failf(KindTimeout, "no TLS handshake within %s", t.TLS.D()).passing()
	case strings.Contains(text, "awaiting response headers"):
		return failf(KindTimeout, "no answer within %s", t.Headers.D()).passing()
	case errors.As(err, &opErr) && opErr.Op == "dial" && opErr.Timeout():
		return failf(KindTimeout, "no connection within %s", t.Connect.D()).passing()
	case errors.As(err, &netErr) && netErr.Timeout():
		return failf(KindTimeout, "%s", s.secrets.text(text)).passing()
	}
	return failf(KindNetwork, "%s", s.secrets.text(text)).passing()
}

// interrupted tells our own reasons for ending a request from those of the network; nil when there is none.
func (s *Source) interrupted(ctx, watched context.Context) *Error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	switch cause := context.Cause(watched); {
	case errors.Is(cause, errIdle):
		return failf(KindTimeout, "the body was silent for %s", s.cfg.Timeouts.Idle.D()).passing()
	case errors.Is(cause, errPage):
		return failf(KindTimeout, "the page took longer than %s", s.cfg.Timeouts.Page.D()).passing()
	}
	return nil
}

// readError says why the body could not be read to its end.
func (a *answer) readError(ctx context.Context, err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	if e := a.s.interrupted(ctx, a.watch.ctx); e != nil {
		return e
	}
	got := strconv.FormatInt(a.body.wire.read, 10)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		of := ""
		if a.body.packed && a.body.wire.read == a.length {
			return failf(KindContent, "the packed body ends before its content does, after %s bytes", got).passing()
		}
		if a.length >= 0 {
			of = fmt.Sprintf(" of %d", a.length)
		}
		return failf(KindContent, "the body is cut short after %s%s bytes", got, of).passing()
	}
	text := a.s.secrets.text(err.Error())
	if a.body.packed && (strings.HasPrefix(text, "gzip:") || strings.HasPrefix(text, "flate:") || strings.HasPrefix(text, "zlib:")) {
		return failf(KindContent, "the body cannot be unpacked: %s", text).passing()
	}
	return failf(KindNetwork, "the connection broke after %s bytes of the body: %s", got, text).passing()
}
