package source

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

// errMetadata is what a connection to a cloud's metadata service ends in.
var errMetadata = errors.New("the address is a cloud metadata service, which gives out credentials; set allow.metadata if that is meant")

// metadataNames resolve to metadata services, even where only a proxy resolves them.
var metadataNames = []string{"metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}

// metadataAddresses: all of IPv4 link-local (AWS, Azure, Google and most others use 169.254.169.254, ECS
// 169.254.170.2), and those that lie elsewhere.
var metadataAddresses = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fd00:ec2::254/128"),  // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052

func isMetadataAddress(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	return slices.ContainsFunc(metadataAddresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

// isMetadataHost looks at a host as it is written in an address.
func isMetadataHost(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if a, err := netip.ParseAddr(host); err == nil {
		return isMetadataAddress(a)
	}
	return slices.Contains(metadataNames, host)
}

// refuseMetadata is a net.Dialer's Control: it sees the address that a name has resolved to, so that no name, no
// redirect and no second answer of a DNS server leads there.
func refuseMetadata(_, address string, _ syscall.RawConn) error {
	if a, err := netip.ParseAddrPort(address); err == nil && isMetadataAddress(a.Addr()) {
		return errMetadata
	}
	return nil
}

// origin is scheme, host and port (RFC 6454), in one text.
func origin(u *url.URL) string {
	scheme, port := strings.ToLower(u.Scheme), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

func isLoopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsLoopback()
	}
	return host == "localhost"
}

// isOwn says whether u is of the source's own origin, where logins go.
func (c *client) isOwn(u *url.URL) bool {
	if u.Scheme == c.base.Scheme && u.Host == c.base.Host {
		return true
	}
	return origin(u) == c.origin
}

// mayGo says why redirects and next links may not lead to u, or nil.
func (c *client) mayGo(what string, u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return failf(KindBlocked, "%s leads to what is no http or https address", what)
	case u.User != nil:
		return failf(KindBlocked, "%s to %s carries a user or password", what, origin(u))
	case !c.metadata && isMetadataHost(u.Hostname()):
		return failf(KindBlocked, "%s to %s: %v", what, u.Host, errMetadata)
	case c.isOwn(u):
		return nil
	case c.base.Scheme == "https" && u.Scheme == "http":
		return failf(KindBlocked, "%s to %s leaves https", what, origin(u))
	}
	for _, h := range c.hosts {
		if strings.EqualFold(h, u.Host) || strings.EqualFold(h, u.Hostname()) {
			return nil
		}
	}
	return failf(KindBlocked, "%s leads to another origin, %s; if that is right, set base to it or add %s to allow.hosts", what, origin(u), u.Host)
}

// resolve makes a next link absolute against the address it came from and says whether it may be followed.
func (s *Source) resolve(from *url.URL, link string) (*url.URL, error) {
	ref, err := url.Parse(strings.TrimSpace(link))
	if err != nil {
		return nil, failf(KindContent, "the next page's address cannot be parsed: %s", s.secrets.sample([]byte(link), 80))
	}
	u := from.ResolveReference(ref)
	u.Fragment, u.RawFragment = "", ""
	u.RawQuery = strings.ReplaceAll(u.RawQuery, " ", "%20") // a request line ends at a space
	if err := s.client.mayGo("the link to the next page", u); err != nil {
		return nil, err
	}
	return u, nil
}
