// Package record holds the two values that walk through every room of ferry: the Record and the Cursor, and the
// Part in which a source hands records over.
package record

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
)

// Header names that ferry writes on every record it publishes.
const (
	HeaderID          = "ferry-id"
	HeaderPipeline    = "ferry-pipeline"
	HeaderRun         = "ferry-run"
	HeaderContentType = "content-type"
	HeaderTraceparent = "traceparent"

	// On dead letters only.
	HeaderDeadReason = "ferry-dead-reason" // what was wrong, for a person
	HeaderDeadStage  = "ferry-dead-stage"  // where: source, where, map, schema, queue
	HeaderDeadSize   = "ferry-dead-size"   // how many bytes the record had, when Data is only a text of its beginning
)

// A Record is one JSON value with an id. A Record is not changed once it has been handed on: Data may be shared
// with a page's buffer, so who needs other bytes makes a new slice.
type Record struct {
	// ID is the same whenever the record is pulled again (invariant 3). See ID.
	ID string
	// Key is the source's own key of the record, or empty; queues that partition use it.
	Key string
	// Headers travel beside the data. ferry-id is not among them: queues write it from ID.
	Headers []Header
	// Data is one JSON value (RFC 8259), without leading or trailing space.
	Data []byte
}

// A Header is one name and value. Names are lower case; a name comes at most once in a record.
type Header struct{ Name, Value string }

// Header returns the value of the named header, or "".
func (r *Record) Header(name string) string {
	for _, h := range r.Headers {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// Size is what the record weighs in limits: the bytes of data, id, key and headers.
func (r *Record) Size() int {
	n := len(r.Data) + len(r.ID) + len(r.Key)
	for _, h := range r.Headers {
		n += len(h.Name) + len(h.Value)
	}
	return n
}

// Cut is the record with a JSON text of the first n bytes of its data, and without its key, which may be what is too
// large. Its header HeaderDeadSize says that it is not the record any more.
func (r *Record) Cut(n int) Record {
	text, err := json.Marshal(string(r.Data[:min(n, len(r.Data))])) // bytes that are no UTF-8 become U+FFFD
	if err != nil {
		text = []byte(`""`) // a string always marshals
	}
	cut := Record{ID: r.ID, Headers: r.Headers, Data: text}
	if r.Header(HeaderDeadSize) == "" {
		cut.Headers = append(slices.Clip(r.Headers), Header{HeaderDeadSize, strconv.Itoa(len(r.Data))})
	}
	return cut
}

// A Cursor is a pipeline's saved progress. It is opaque to all but the source that made it; empty means "from the
// beginning". Queues store it as it is.
type Cursor []byte

// ID derives a record's id from the pipeline's name, the record's key and its version (or, where it has none, its
// content), never from time or place in a page: 128 bits of SHA-256, as 32 hex digits (invariant 3). Each part is
// preceded by its length, so that no two different triples run into the same bytes.
func ID(pipeline, key string, version []byte) string {
	var stack [1536]byte
	b := stack[:0]
	for _, n := range [...]int{len(pipeline), len(key)} {
		b = strconv.AppendInt(b, int64(n), 10)
		b = append(b, ':')
	}
	b = append(b, pipeline...)
	b = append(b, key...)
	b = append(b, version...)
	sum := sha256.Sum256(b)
	var out [32]byte
	hex.Encode(out[:], sum[:16])
	return string(out[:])
}

// SubID is the id of the i-th of several results that a map made of the record id.
func SubID(id string, i int) string { return id + "#" + strconv.Itoa(i) }
