package api

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"ferry/internal/config"
)

// origins refuses what a browser sends on behalf of another site. Programs other than browsers are not affected: they
// send neither Sec-Fetch-Site nor Origin.
type origins struct {
	cross     *http.CrossOriginProtection
	hosts     bool   // check Host: whoever reaches the loopback listener may do everything
	publicURL string // host of server.public_url
}

func newOrigins(listen string, auth config.Auth, server config.Server) (*origins, error) {
	o := &origins{cross: http.NewCrossOriginProtection()}
	if server.PublicURL != "" {
		u, err := url.Parse(server.PublicURL)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("read server.public_url %q: it has to look like https://ferry.example.com", server.PublicURL)
		}
		if err := o.cross.AddTrustedOrigin(u.Scheme + "://" + u.Host); err != nil {
			return nil, fmt.Errorf("read server.public_url: %w", err)
		}
		o.publicURL = u.Hostname()
	}
	host, _, err := net.SplitHostPort(listen)
	o.hosts = err == nil && len(auth.Keys) == 0 && loopbackName(host)
	return o, nil
}

// check returns nil when the request may go on. runs says that the operation does something even when its method is
// safe (GET /process).
func (o *origins) check(r *http.Request, runs bool) *Problem {
	// A page of evil.example whose name is made to point to 127.0.0.1 (DNS rebinding) is of the same origin as this
	// service to the browser; the name in Host gives it away.
	if o.hosts && !o.local(r.Host) {
		return newProblem(CodeOriginRefused, fmt.Sprintf("This service listens on this machine only and without keys, so it "+
			"answers to localhost, not to %.100q. Set server.public_url to the name it is called by, or set API keys.", r.Host))
	}
	if err := o.cross.Check(r); err != nil {
		return newProblem(CodeOriginRefused, "A page of another origin may not change anything here.")
	}
	if runs {
		writes := *r
		writes.Method = http.MethodPost // safe ones are let pass
		if err := o.cross.Check(&writes); err != nil {
			return newProblem(CodeOriginRefused, "A page of another origin may not run a pipeline.")
		}
	}
	return nil
}

func (o *origins) local(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return loopbackName(host) || (o.publicURL != "" && strings.EqualFold(host, o.publicURL))
}

// loopbackName tells whether a host is this machine by name (RFC 6761, 6.3) or address.
func loopbackName(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}
