package mockapi

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// answer is one request on its way through the server.
type answer struct {
	s      *Server
	w      http.ResponseWriter
	r      *http.Request
	header http.Header
	body   []byte     // of the request
	values url.Values // of the query, parsed once

	route  string // what the ledger calls it; empty for what is not known
	set    *set
	faults fired
	noGzip bool

	pooled *[]byte
	stream io.Writer // set once a large body has begun to flow
	zip    packer

	status int
	broken bool // the body did not go out whole, or not as it should be

	counted, countedBroken bool // what the ledger has of it
}

// flushSize is how much of a body is held before it is sent in pieces. Smaller ones have a Content-Length.
const flushSize = 4 << 20

// maxRequestBody bounds what clients may send.
const maxRequestBody = 1 << 20

// smallest body that is compressed.
const leastPacked = 1 << 10

// query gives the parameters of the request.
func (a *answer) query() url.Values {
	if a.values == nil {
		a.values = a.r.URL.Query()
	}
	return a.values
}

// readBody takes the request's body in. It has to be read before anything is sent, or net/http would not notice a
// client that goes away.
func (a *answer) readBody() error {
	if a.r.Body == nil || a.r.Body == http.NoBody {
		return nil
	}
	var err error
	a.body, err = io.ReadAll(http.MaxBytesReader(a.w, a.r.Body, maxRequestBody))
	if err != nil {
		return fmt.Errorf("read the request's body: %w", err)
	}
	return nil
}

// fail answers with a status and a reason, and marks the answer as one without records.
func (a *answer) fail(status int, reason string) {
	a.json(status, map[string]string{"error": reason})
}

// json answers with a status and a value, past all faults of the body.
func (a *answer) json(status int, value any) {
	b, err := json.Marshal(value)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer has no JSON form"}`)
	}
	a.write(status, typeJSON, append(b, '\n'))
}

// write sends a whole body as it is.
func (a *answer) write(status int, contentType string, body []byte) {
	a.status = status
	if contentType != "" {
		a.header.Set("Content-Type", contentType)
	}
	a.count()
	a.w.WriteHeader(status)
	if _, err := a.w.Write(body); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		a.broken = true
	}
}

// pools keeps what answers use again: buffers of /v1/data and of pages, and compressors.
type pools struct{ small, pages, gzips, zlibs sync.Pool }

// buffer gives a slice to render into; deliver takes it back.
func (a *answer) buffer() []byte {
	if a.pooled, _ = a.s.pools.pages.Get().(*[]byte); a.pooled == nil {
		a.pooled = new(make([]byte, 0, 64<<10))
	}
	return (*a.pooled)[:0]
}

func (a *answer) release(b []byte) {
	if a.pooled != nil && cap(b) <= 2*flushSize {
		*a.pooled = b[:0]
		a.s.pools.pages.Put(a.pooled)
	}
	a.pooled = nil
}

// flush sends the beginning of a large body and gives the buffer back empty. When a fault needs the body as a whole
// it is kept, up to a bound.
func (a *answer) flush(contentType string, b []byte) ([]byte, error) {
	if a.faults.needWhole() {
		if len(b) > maxWhole {
			return b, errTooLarge
		}
		return b, nil
	}
	if a.stream == nil {
		a.header.Set("Content-Type", contentType)
		a.stream = a.w
		if name, zip := a.packer(leastPacked); zip != nil {
			a.header.Set("Content-Encoding", name)
			zip.Reset(a.w)
			a.zip, a.stream = zip, zip
		}
	}
	_, err := a.stream.Write(b)
	return b[:0], err
}

// maxWhole bounds bodies that a fault needs in one piece.
const maxWhole = 256 << 20

var errTooLarge = errors.New("the page is too large for a fault that needs it in one piece: ask for fewer records")

// count puts the answer into the ledger, once, before its last byte leaves: a client that has read its answer finds it
// there. Whether it broke on the way is added when that shows.
func (a *answer) count() {
	a.s.ledger.request(a, !a.counted, a.broken && !a.countedBroken)
	a.counted, a.countedBroken = true, a.broken
}

// deliver sends the (rest of the) body with the faults that concern it, and counts by served(1) what is in it, before
// the last byte leaves. When the body does not go out whole after all, served(-1) takes that back.
func (a *answer) deliver(contentType string, b []byte, served func(times int)) {
	defer a.release(b)
	if len(a.faults) > 0 && a.stream == nil && a.damaged(contentType, b, served) {
		return
	}
	var err error
	a.count()
	a.served(1, served)
	if a.stream == nil {
		b = a.packed(b)
		a.header.Set("Content-Type", contentType)
		a.header["Content-Length"] = []string{decimal(len(b))}
		_, err = a.w.Write(b)
	} else {
		_, err = a.stream.Write(b)
		if a.zip != nil {
			err = errors.Join(err, a.zip.Close())
			a.unpack()
		}
	}
	if err != nil {
		a.broken = true
		a.served(-1, served)
	}
}

func (a *answer) served(times int, served func(int)) {
	if a.r.Method != http.MethodHead && !a.s.opt.NoLedger {
		served(times)
	}
}

// packer is gzip.Writer or zlib.Writer.
type packer interface {
	io.WriteCloser
	Reset(io.Writer)
}

// packer picks the compression that the client accepts, or none.
func (a *answer) packer(size int) (string, packer) {
	if a.noGzip || a.s.opt.NoCompression || size < leastPacked {
		return "", nil
	}
	for _, accept := range a.r.Header["Accept-Encoding"] {
		for word := range strings.SplitSeq(accept, ",") {
			name, q, _ := strings.Cut(strings.TrimSpace(word), ";")
			if q = strings.TrimSpace(q); q == "q=0" || q == "q=0.0" {
				continue
			}
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "gzip":
				zip, _ := a.s.pools.gzips.Get().(*gzip.Writer)
				if zip == nil {
					zip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
				}
				return "gzip", zip
			case "deflate": // the zlib format, RFC 9110 section 8.4.1.2
				zip, _ := a.s.pools.zlibs.Get().(*zlib.Writer)
				if zip == nil {
					zip, _ = zlib.NewWriterLevel(nil, zlib.BestSpeed)
				}
				return "deflate", zip
			}
		}
	}
	return "", nil
}

func (a *answer) unpack() {
	switch zip := a.zip.(type) {
	case *gzip.Writer:
		a.s.pools.gzips.Put(zip)
	case *zlib.Writer:
		a.s.pools.zlibs.Put(zip)
	}
	a.zip = nil
}

// packed compresses a whole body when the client accepts it, and says so in the header.
func (a *answer) packed(b []byte) []byte {
	name, zip := a.packer(len(b))
	if zip == nil {
		return b
	}
	var out bytes.Buffer
	out.Grow(len(b) / 3)
	zip.Reset(&out)
	_, _ = zip.Write(b) // a bytes.Buffer takes everything
	_ = zip.Close()
	a.zip = zip
	a.unpack()
	a.header.Set("Content-Encoding", name)
	return out.Bytes()
}
