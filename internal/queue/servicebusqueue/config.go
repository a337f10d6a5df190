package servicebusqueue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"ferry/internal/config"
	"ferry/internal/queue/queueurl"
)

// What a session id or partition key can be made of.
const (
	byNone     = "none"
	byKey      = "key"
	byPipeline = "pipeline"
)

// suffix is what a namespace's name stands before in the public cloud.
const suffix = ".servicebus.windows.net"

// What Service Bus allows (its quotas page, and the description of a queue).
const (
	leastWindow = 20 * time.Second
	mostWindow  = 7 * 24 * time.Hour
	leastLock   = 5 * time.Second
	mostLock    = 5 * time.Minute
	leastRecord = 4 << 10
	mostRecord  = 100 << 20 // of the premium tier, by AMQP
)

// Config of Open. ParseURL makes one; Topics are filled in by who opens.
type Config struct {
	// Namespace is the host to log in to with an identity: workload identity, managed identity, or what else
	// azidentity.DefaultAzureCredential finds. ClientID picks a user-assigned managed identity. Not used with a
	// ConnectionString.
	Namespace, ClientID string
	// ConnectionString of a shared access policy.
	ConnectionString config.Secret

	// Topics that will be written, without their dead-letter topics. Open learns from them, and their dead-letter
	// topics, what the queue can promise.
	Topics []string
	// Create says whether missing topics are made: with DuplicateDetection, sessions if Session asks for them, and
	// Redelivery as the lock.
	Create bool
	// DuplicateDetection is the window of topics that are made, 20 s to 7 days; default 10 minutes. When the login may
	// not look at topics, it is taken as what their window is.
	DuplicateDetection time.Duration
	// Session and Partition say what a record's session id and partition key are: none (default), key or pipeline.
	Session, Partition string
	// Redelivery is how long a record that was received and not acknowledged stays away from others, in topics that are
	// made. Default 30 s; Service Bus takes up to 5 minutes.
	Redelivery time.Duration

	// MaxRecord is the largest message in bytes. Default: what the broker says.
	MaxRecord int
	// WebSocket goes through port 443 instead of 5671.
	WebSocket bool
	// Management is host:port of an emulator's management calls, which are plain HTTP. Default: the emulator's own
	// address.
	Management string
	// Timeout of one round trip. Default 10 s.
	Timeout time.Duration

	// Dial opens connections below TLS. Nil: the net package.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// For tests: credential replaces the identity, patience usualPatience, and tls is what Dial's connections are
	// wrapped with.
	credential azcore.TokenCredential
	patience   time.Duration
	tls        *tls.Config
}

func (c Config) withDefaults() (Config, error) {
	if c.Session == "" {
		c.Session = byNone
	}
	if c.Partition == "" {
		c.Partition = byNone
	}
	if c.Redelivery == 0 {
		c.Redelivery = 30 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.patience == 0 {
		c.patience = usualPatience
	}
	if c.tls == nil {
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	switch {
	case c.Namespace == "" && c.ConnectionString == "":
		return c, errors.New("service bus queue: neither a namespace nor a connection string given")
	case c.DuplicateDetection < 0 || c.Redelivery < 0 || c.MaxRecord < 0 || c.Timeout < 0:
		return c, errors.New("service bus queue: a limit is negative")
	}
	return c, nil
}

// window of topics that are made.
func (c Config) window() time.Duration {
	if c.DuplicateDetection == 0 {
		return 10 * time.Minute
	}
	return c.DuplicateDetection
}

// IsAddress tells whether ParseURL is who reads this: azservicebus:, or a connection string as it is.
func IsAddress(u config.URL) bool {
	text := strings.ToLower(u.Reveal())
	return strings.HasPrefix(text, "azservicebus:") || strings.HasPrefix(text, "endpoint=")
}

// ParseURL reads
//
//	azservicebus://NAMESPACE                  with an identity of Entra ID
//	azservicebus://KEYNAME:KEY@NAMESPACE      with a shared access policy
//	azservicebus:?connection_string=…         the same, percent-encoded
//	Endpoint=sb://…;SharedAccessKey=…         a connection string as it is
//
// each followed by ?name=value&name=value. NAMESPACE is a whole host name, or its first part in the public cloud.
// Parameters that it does not know are errors. No error shows a login (invariant 8).
func ParseURL(u config.URL) (Config, error) {
	var c Config
	given := u
	if strings.HasPrefix(strings.ToLower(u.Reveal()), "endpoint=") {
		text, query, _ := strings.Cut(u.Reveal(), "?")
		c.ConnectionString, given = config.Secret(text), config.URL("azservicebus:?"+query)
	}
	known := queueurl.Parameters{
		"create": queueurl.Bool(&c.Create), "websocket": queueurl.Bool(&c.WebSocket),
		"duplicate_detection": between(&c.DuplicateDetection, leastWindow, mostWindow, "20s and 7d"),
		"session":             queueurl.Word(&c.Session, byNone, byKey, byPipeline),
		"partition":           queueurl.Word(&c.Partition, byNone, byKey, byPipeline),
		"redelivery":          between(&c.Redelivery, leastLock, mostLock, "5s and 5m"),
		"max_record":          recordBytes(&c.MaxRecord), "client_id": queueurl.Text(&c.ClientID),
		"management": hostPort(&c.Management), "timeout": queueurl.Duration(&c.Timeout),
	}
	if c.ConnectionString == "" {
		known["connection_string"] = queueurl.Secret(&c.ConnectionString)
	}
	address, err := queueurl.Parse(given, known)
	if err != nil {
		return Config{}, err
	}
	if err := c.locate(address); err != nil {
		return Config{}, err
	}
	if err := c.check(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// locate takes the namespace and the login from the address.
func (c *Config) locate(a queueurl.Address) error {
	switch {
	case a.Scheme != "azservicebus":
		return fmt.Errorf("queue URL: scheme %q is not of Service Bus, want azservicebus://namespace", a.Scheme)
	case c.ConnectionString != "" && (len(a.Hosts) > 0 || a.User != ""):
		return errors.New("queue URL: a connection string names the namespace and the login itself: write azservicebus:?connection_string=… and no host")
	case c.ConnectionString != "":
		return checkConnectionString(c.ConnectionString.Reveal())
	case len(a.Hosts) == 0:
		return errors.New("queue URL: no namespace, want azservicebus://namespace.servicebus.windows.net")
	case len(a.Hosts) > 1:
		return errors.New("queue URL: a namespace is one host, and several are given")
	case a.Path != "":
		return errors.New("queue URL: nothing goes behind the namespace: which queue it is, is the pipeline's topic")
	case (a.User == "") != (a.Password == ""):
		return errors.New("queue URL: a login is the policy's name and its key, want azservicebus://KEYNAME:KEY@namespace")
	}
	host := a.Hosts[0]
	if !strings.ContainsAny(host, ".:") {
		host += suffix
	}
	if a.User == "" {
		c.Namespace = host
		return nil
	}
	if strings.ContainsRune(a.User, ';') || strings.ContainsRune(a.Password.Reveal(), ';') {
		return errors.New("queue URL: neither a policy's name nor its key holds a semicolon")
	}
	c.ConnectionString = config.Secret(fmt.Sprintf("Endpoint=sb://%s/;SharedAccessKeyName=%s;SharedAccessKey=%s", host, a.User, a.Password.Reveal()))
	return nil
}

// checkConnectionString finds what is missing, as the SDK would, in words that say where to get it.
func checkConnectionString(text string) error {
	parts := connectionString(text)
	missing := func(what string) error {
		return fmt.Errorf("queue URL: the connection string has no %s; copy it whole from the namespace's Shared access policies", what)
	}
	u, err := url.Parse(parts["endpoint"])
	switch {
	case err != nil || u.Host == "" || u.Scheme != "sb":
		return missing("Endpoint=sb://host")
	case parts["sharedaccesssignature"] != "":
		return nil
	case parts["sharedaccesskeyname"] == "":
		return missing("SharedAccessKeyName")
	case parts["sharedaccesskey"] == "":
		return missing("SharedAccessKey")
	}
	return nil
}

// connectionString takes a connection string apart; names are lower case.
func connectionString(text string) map[string]string {
	parts := make(map[string]string)
	for part := range strings.SplitSeq(text, ";") {
		name, value, _ := strings.Cut(part, "=")
		parts[strings.ToLower(strings.TrimSpace(name))] = value
	}
	return parts
}

// host is the namespace's, and emulator tells whether it is the vendor's emulator or the like, which knows no TLS.
func (c Config) host() (host string, emulator bool) {
	if c.ConnectionString == "" {
		return c.Namespace, false
	}
	parts := connectionString(c.ConnectionString.Reveal())
	u, err := url.Parse(parts["endpoint"])
	if err != nil {
		return "", false
	}
	return u.Host, strings.EqualFold(parts["usedevelopmentemulator"], "true")
}

// check finds parameters that do not go together.
func (c Config) check() error {
	var errs []error
	refuse := func(why string) { errs = append(errs, errors.New("queue URL: "+why)) }
	if c.Session != "" && c.Session != byNone && c.Partition != "" && c.Partition != byNone {
		refuse("session and partition do not go together: the session id is the partition key")
	}
	if c.ClientID != "" && c.ConnectionString != "" {
		refuse("client_id is of a managed identity, and a shared access policy is given")
	}
	if !c.Create && c.Redelivery > 0 {
		refuse("redelivery is of topics that ferry makes: add create=true, or set the lock duration where the queue is made")
	}
	_, emulator := c.host()
	if c.Management != "" && !emulator {
		refuse("management is of an emulator (UseDevelopmentEmulator=true); Service Bus has one address for all")
	}
	if c.WebSocket && emulator {
		refuse("websocket does not go with an emulator")
	}
	return errors.Join(errs...)
}

func between(into *time.Duration, least, most time.Duration, words string) func(string) error {
	return func(value string) error {
		var d time.Duration
		if err := queueurl.Duration(&d)(value); err != nil {
			return err
		}
		if d < least || d > most {
			return fmt.Errorf("%q is not between %s", value, words)
		}
		*into = d
		return nil
	}
}

func recordBytes(into *int) func(string) error {
	return func(value string) error {
		var n int64
		if err := queueurl.Bytes(&n)(value); err != nil {
			return err
		}
		if n < leastRecord || n > mostRecord {
			return fmt.Errorf("%q is not between 4KiB and 100MiB", value)
		}
		*into = int(n)
		return nil
	}
}

func hostPort(into *string) func(string) error {
	return func(value string) error {
		if host, port, err := net.SplitHostPort(value); err != nil || host == "" || port == "" {
			return fmt.Errorf("%q is not host:port", value)
		}
		*into = value
		return nil
	}
}
