package source

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"ferry/internal/record"
)

// cursorVersion is raised when an older ferry could misread what a newer one wrote.
const cursorVersion = 1

// maxCursor bounds a cursor, in bytes. Tokens and addresses may take maxToken of it, the ids of two boundaries what
// maxBoundary gives; the ids of a part-committed page get the rest.
const (
	maxCursor   = 48 << 10
	maxToken    = 4 << 10
	maxBoundary = 1500
	maxPageIDs  = 4000
)

// position is what a cursor says: where reading goes on. The zero position is the beginning.
type position struct {
	Version int `json:"v"`

	// Inside a pull only.
	Style  string          `json:"by,omitempty"`    // the kind of pagination that URL, Token or Number belong to
	URL    string          `json:"url,omitempty"`   // of the next page; path and query where it is on the source's own origin
	Token  json.RawMessage `json:"token,omitempty"` // for the next page, as JSON
	Number *int64          `json:"n,omitempty"`     // of the next page, or its first record
	Pages  int             `json:"pages,omitempty"` // read in this pull
	Empty  int             `json:"empty,omitempty"` // pages without records, one after the other
	Loop   *trail          `json:"loop,omitempty"`
	Page   *progress       `json:"page,omitempty"`     // of a page that is committed in part
	UpTo   *mark           `json:"reaching,omitempty"` // the mark that this pull has reached

	// Since is where the last complete pull ended (incremental).
	Since *mark `json:"since,omitempty"`
}

// progress says which records of a page are committed: by their ids, or, where that list would grow too long, by how many
// they are and a digest of their ids in order.
type progress struct {
	IDs   shortIDs `json:"ids,omitempty"`
	Count int      `json:"n,omitempty"`
	Sum   digest   `json:"sum,omitempty"`
}

// shortIDs are the first 64 bits of record ids.
type shortIDs []uint64

// MarshalText gives base64, eight bytes for each.
func (s shortIDs) MarshalText() ([]byte, error) {
	raw := make([]byte, 0, 8*len(s))
	for _, id := range s {
		raw = binary.BigEndian.AppendUint64(raw, id)
	}
	return base64.RawStdEncoding.AppendEncode(nil, raw), nil
}

// UnmarshalText reads what MarshalText writes.
func (s *shortIDs) UnmarshalText(text []byte) error {
	raw, err := base64.RawStdEncoding.AppendDecode(nil, text)
	if err != nil || len(raw)%8 != 0 {
		return errors.New("ids are not whole")
	}
	ids := make(shortIDs, 0, len(raw)/8)
	for ; len(raw) > 0; raw = raw[8:] {
		ids = append(ids, binary.BigEndian.Uint64(raw))
	}
	*s = ids
	return nil
}

// shortID is the beginning of an id: enough to know a record again among thousands (one wrong in 10^15 pages).
func shortID(id string) uint64 {
	var first [8]byte
	if len(id) < 2*len(first) {
		return 0 // not an id of package record's
	}
	if _, err := hex.Decode(first[:], []byte(id[:2*len(first)])); err != nil {
		return 0
	}
	return binary.BigEndian.Uint64(first[:])
}

// digest runs over ids in their order. Ids are evenly spread already, so that little mixing is enough.
type digest uint64

func (d digest) add(id uint64) digest {
	x := (uint64(d) ^ id) * 0x9e3779b97f4a7c15
	return digest(x ^ x>>29)
}

// MarshalText gives 16 hex digits.
func (d digest) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(d)), nil }

// UnmarshalText reads what MarshalText writes.
func (d *digest) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 16, 64)
	*d = digest(n)
	return err
}

// encode gives the cursor's bytes.
func (p *position) encode() record.Cursor {
	p.Version = cursorVersion
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(p); err != nil {
		// Only a token that is no JSON could do that, and tokens are cut out of valid JSON.
		panic("source: encode cursor: " + err.Error())
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// decodeCursor reads a cursor. Its error is an *Error of KindCursor.
func decodeCursor(c record.Cursor) (*position, error) {
	p := &position{Version: cursorVersion}
	if len(c) == 0 || string(c) == "null" {
		return p, nil
	}
	if len(c) > 2*maxCursor {
		return nil, failf(KindCursor, "the saved cursor has %d bytes; reset it", len(c))
	}
	var head struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal(c, &head); err != nil {
		return nil, failf(KindCursor, "the saved cursor is not one of this source's: it must be a JSON object with \"v\"; reset it, or set one that was saved before")
	}
	if head.Version != cursorVersion {
		return nil, failf(KindCursor, "the saved cursor has version %d, and this ferry reads version %d; use the ferry that wrote it, or reset the cursor", head.Version, cursorVersion)
	}
	d := json.NewDecoder(bytes.NewReader(c))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, failf(KindCursor, "the saved cursor cannot be read: %v; reset it, or set one that was saved before", err)
	}
	if d.More() {
		return nil, failf(KindCursor, "the saved cursor has something behind its end; reset it, or set one that was saved before")
	}
	if p.Pages < 0 || p.Empty < 0 || p.Number != nil && *p.Number < 0 || p.Page != nil && p.Page.Count < 0 {
		return nil, failf(KindCursor, "the saved cursor has a negative count; reset it")
	}
	return p, nil
}
