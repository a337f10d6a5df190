package embedded

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Cluster makes several processes' servers one: every member keeps a copy of each topic, and a write is confirmed when
// most members have it on disk. One member of three may be lost without a stop.
type Cluster struct {
	// Members are the host:port of all members, the same list everywhere, under which they reach each other. Three or
	// five: with two or four no more may be lost than with one less.
	Members []string
	// Self is this server's own entry in Members. Empty: it keeps nothing and only reaches the members, so that any
	// number of processes can use the queue.
	Self string
	// Secret is known to all who belong together, at least 16 characters. The keys of the members' TLS come out of it:
	// who does not know it can neither join nor listen.
	Secret string
}

// clusterName is said by members to each other. A server of another cluster is refused by its secret before.
const clusterName = "ferry"

// leastSecret is how many characters a cluster's secret has at least.
const leastSecret = 16

// Check tells what is wrong with a cluster's members and secret, all of it.
func (c *Cluster) Check() error {
	var errs []error
	if n := len(c.Members); n != 3 && n != 5 {
		errs = append(errs, fmt.Errorf("a cluster of the embedded queue has 3 or 5 members, not %d; more instances than that join it without being named", n))
	}
	seen := make(map[string]bool)
	for _, m := range c.Members {
		if _, _, err := splitAddress(m); err != nil {
			errs = append(errs, fmt.Errorf("member %q of the embedded queue's cluster: %w", m, err))
		}
		if seen[m] {
			errs = append(errs, fmt.Errorf("member %q of the embedded queue's cluster is named twice", m))
		}
		seen[m] = true
	}
	if c.Self != "" && !seen[c.Self] {
		errs = append(errs, fmt.Errorf("%q is not among the members of the embedded queue's cluster: %s", c.Self, strings.Join(c.Members, ", ")))
	}
	if len(c.Secret) < leastSecret {
		errs = append(errs, fmt.Errorf("the members of a cluster of the embedded queue need a secret in common, at least %d characters; "+
			"make one with `openssl rand -base64 24` and give it to all as FERRY_CLUSTER_SECRET", leastSecret))
	}
	return errors.Join(errs...)
}

func splitAddress(address string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return "", 0, errors.New("want host:port, such as ferry-1:6222")
	}
	if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("port %q is not a number from 1 to 65535", p)
	}
	return host, port, nil
}

// apply makes the options of a server those of a member, or of one that only reaches the members.
func (c *Cluster) apply(so *server.Options, password string) error {
	secure, err := c.tls()
	if err != nil {
		return fmt.Errorf("make keys of the embedded queue's cluster: %w", err)
	}
	so.Cluster = server.ClusterOpts{
		Name: clusterName, TLSConfig: secure, TLSTimeout: 5, NoAdvertise: true,
		PingInterval: 5 * time.Second, MaxPingsOut: 2, // a frozen member is noticed within 15 s instead of minutes
	}
	if so.DontListen {
		// A server that listens to no client never begins to talk to its cluster. So it listens on loopback, to nobody:
		// the password is in this process only.
		so.DontListen, so.Host, so.Port, so.Authorization = false, "127.0.0.1", server.RANDOM_PORT, password
	}
	for _, m := range c.Members {
		if m != c.Self {
			so.Routes = append(so.Routes, &url.URL{Scheme: "nats-route", Host: m})
		}
	}
	if c.Self == "" {
		so.ServerName = "ferry-guest-" + rand.Text()[:10]
		so.JetStream, so.StoreDir = false, ""
		so.Cluster.Host, so.Cluster.Port = "127.0.0.1", server.RANDOM_PORT // nobody has to reach it
		return nil
	}
	host, port, err := splitAddress(c.Self)
	if err != nil {
		return err
	}
	if net.ParseIP(host) == nil {
		host = "0.0.0.0" // a name may mean another address in here than it does for the others
	}
	so.Cluster.Host, so.Cluster.Port = host, port
	// A member is known by its name, for good: the copies are assigned to it.
	so.ServerName = "ferry-" + strings.NewReplacer(":", "-", ".", "-").Replace(c.Self)
	return nil
}

// tls gives what both ends of a connection between members use. The authority's key comes out of the secret (HKDF,
// RFC 5869), the same for all who know it; each process makes itself a certificate that the authority signs and that is
// never written anywhere.
func (c *Cluster) tls() (*tls.Config, error) {
	seed, err := hkdf.Key(sha256.New, []byte(c.Secret), nil, "ferry embedded queue, authority of a cluster, 1", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	authority := ed25519.NewKeyFromSeed(seed)
	// All processes must come to the same certificate for the authority, so nothing in it depends on the moment.
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ferry cluster"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, authority.Public(), authority)
	if err != nil {
		return nil, err
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	own := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: memberName}, DNSNames: []string{memberName},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leaf, err := x509.CreateCertificate(rand.Reader, own, ca, public, authority)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: memberName,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf}, PrivateKey: private}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}, nil
}

// memberName is the name in every member's certificate: what counts is who signed it.
const memberName = "member.ferry.internal"

// meet waits until the cluster answers: most members are there and have chosen who leads. It says every few seconds what
// it waits for.
func (s *Server) meet(ctx context.Context, ns *server.Server) error {
	nc, err := nats.Connect("", nats.InProcessServer(ns), nats.Token(s.password), nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("connect to embedded queue: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.StartTimeout)
	defer cancel()
	told := time.Now()
	for {
		if s.answers(ctx, js, ns) {
			return nil
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			s.opts.Logger.Info("waiting for the cluster of the embedded queue", "members", strings.Join(s.opts.Cluster.Members, ","),
				"connected", strings.Join(s.peers(ns), ","))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start embedded queue: its cluster does not answer; members: %s; connected: %s: %w (are most of them up, and have all the same secret?)",
				strings.Join(s.opts.Cluster.Members, ", "), strings.Join(s.peers(ns), ", "), context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *Server) answers(ctx context.Context, js jetstream.JetStream, ns *server.Server) bool {
	if s.opts.Cluster.Self != "" && health(ns) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := js.AccountInfo(ctx)
	return err == nil
}

// connected names the servers of the cluster that this one is connected to; it is empty for one that stands alone.
func (s *Server) connected() string {
	ns, err := s.server()
	if err != nil || s.opts.Cluster == nil {
		return ""
	}
	return strings.Join(s.peers(ns), ",")
}

// peers are the names of the servers that this one is connected to.
func (s *Server) peers(ns *server.Server) []string {
	z, err := ns.Routez(nil)
	if err != nil {
		return nil
	}
	var names []string
	for _, r := range z.Routes {
		if !slices.Contains(names, r.RemoteName) {
			names = append(names, r.RemoteName)
		}
	}
	slices.Sort(names)
	return names
}
