package natsqueue

import (
	"encoding/json"
	"strings"

	"github.com/nats-io/nats.go"

	"ferry/internal/record"
)

const (
	headerKey    = "ferry-key"    // record.Record.Key
	headerWriter = "ferry-writer" // on cursors: who claimed the pipeline
	headerCommit = "ferry-commit" // on cursors: which commit wrote it

	headerTTL            = "Nats-TTL"
	headerRollup         = "Nats-Rollup"
	headerExpectedCursor = "Nats-Expected-Last-Subject-Sequence"
	headerExpectedLast   = "Nats-Expected-Last-Sequence" // of a batch's first message
	headerMsgID          = "Nats-Msg-Id"

	// headerReserve is kept free in a message for what NATS and this package add to a record's own headers.
	headerReserve = 1 << 10
	// maxHeader is what a NATS server takes for all headers of a message.
	maxHeader = 1<<16 - 1 - headerReserve
)

// size is what a record weighs as a message, an upper bound: data and encoded headers.
func size(r *record.Record) (header, total int) {
	header = len(record.HeaderID) + len(r.ID) + 4
	if r.Key != "" {
		header += len(headerKey) + len(quoted(r.Key)) + 4
	}
	for i := range r.Headers {
		header += len(r.Headers[i].Name) + len(quoted(r.Headers[i].Value)) + 4
	}
	return header, header + len(r.Data)
}

// encode writes a record into a message that is sent at once; m and its header are used again for the next record.
func encode(m *nats.Msg, r *record.Record) {
	clear(m.Header)
	put(m.Header, record.HeaderID, r.ID)
	if r.Key != "" {
		put(m.Header, headerKey, r.Key)
	}
	for _, h := range r.Headers {
		put(m.Header, h.Name, h.Value)
	}
	m.Data = r.Data
}

func put(h nats.Header, name, value string) { h[name] = []string{quoted(value)} }

// quoted writes a value that a NATS header cannot hold as it is (line breaks, spaces at its ends) as a JSON string.
// So that nothing is read wrongly, a value that begins with a quotation mark is written so too.
func quoted(s string) string {
	plain := s == "" || s[0] > ' ' && s[0] != '"' && s[len(s)-1] > ' '
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= ' ' && s[i] != 0x7f
	}
	if plain {
		return s
	}
	b, _ := json.Marshal(s) // of a string it cannot fail
	return string(b)
}

func unquoted(s string) string {
	if !strings.HasPrefix(s, `"`) {
		return s
	}
	var out string
	if json.Unmarshal([]byte(s), &out) != nil {
		return s // someone else's header
	}
	return out
}

// decode gives a message as a record. Headers come sorted by name: NATS does not keep their order.
func decode(h nats.Header, data []byte) record.Record {
	r := record.Record{Data: data}
	for _, name := range sortedNames(h) {
		value := unquoted(h.Get(name))
		switch {
		case name == record.HeaderID:
			r.ID = value
		case name == headerKey:
			r.Key = value
		case strings.HasPrefix(name, "Nats-"):
		default:
			r.Headers = append(r.Headers, record.Header{Name: name, Value: value})
		}
	}
	return r
}
