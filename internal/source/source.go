// Package source reads one page from an HTTP API: it logs in, asks, follows pages, finds the records and gives each an
// id that stays the same (invariant 3). It keeps no progress of its own: all of it is in the cursor.
package source

import (
	"context"
	"crypto/x509"
	"errors"
	"iter"
	"net/http"

	"ferry/internal/config"
	"ferry/internal/record"
)

// Options are what a Source needs beside its configuration. Only Pipeline is required.
type Options struct {
	// Pipeline's name goes into every record's id.
	Pipeline string
	// Limiters hold rate limits across sources. Nil: this source's own.
	Limiters *Limiters
	// Observer hears of requests and retries. Nil: nobody.
	Observer Observer
	// UserAgent is sent unless the configuration has a header of that name. Default "ferry".
	UserAgent string
	// RootCAs are trusted for TLS instead of the system's, when not nil.
	RootCAs *x509.CertPool
	// Transport takes the place of the source's own, for tests. The timeouts for connecting, TLS and headers, the
	// limit on headers and the refusal of metadata addresses by what a name resolves to are the transport's.
	Transport http.RoundTripper
}

// Source is an HTTP API. It is safe for concurrent use.
type Source struct{}

var errNotBuilt = errors.New("source: not built yet")

// New checks cfg, fills in defaults and compiles its expressions.
func New(cfg config.Source, opt Options) (*Source, error) { return &Source{}, nil }

// Read reads the one page at from and yields its parts, in order; a page of less than about 1 MiB is one part. The
// last has PageEnd, the very last of the data End. Reading goes on from the After of a part; Read has no state, so a
// retry, a crash recovery and a first call are the same call. An error is an *Error and comes last.
func (s *Source) Read(ctx context.Context, from record.Cursor) iter.Seq2[record.Part, error] {
	return func(yield func(record.Part, error) bool) { yield(record.Part{}, errNotBuilt) }
}

// Fetch makes one request, that for the first page, without a cursor, and returns all its records in one part.
func (s *Source) Fetch(ctx context.Context) (record.Part, error) {
	return record.Part{}, errNotBuilt
}

// Split finds the records of a body that was pushed: the elements of an array, the lines of NDJSON, or the one value.
// The part holds on to body.
func (s *Source) Split(contentType string, body []byte) (record.Part, error) {
	return record.Part{}, errNotBuilt
}

// Describe gives the method and address that Read would ask, secrets masked.
func (s *Source) Describe(from record.Cursor) (string, error) { return "", errNotBuilt }

// Close closes idle connections and gives up the source's part in rate limits. Reads under way go on.
func (s *Source) Close() {}
