package source

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"ferry/internal/config"
	"ferry/internal/jsonscan"
)

// incremental asks only for what is new: the greatest value of a field that a complete pull has seen goes into the
// requests of the next. The value's boundary is inclusive, since others may have the same: records on it that were
// committed are known by their ids.
type incremental struct {
	field   *expression
	into    place
	start   string
	overlap time.Duration
	kind    string
}

// mark is how far a pull has come: the greatest value, and the ids of the records at the boundary, which is that value
// less the overlap.
type mark struct {
	Value json.RawMessage `json:"value"`          // as it came, or as start was typed
	IDs   boundary        `json:"ids,omitzero"`   // of the records at or after the boundary
	Full  bool            `json:"full,omitempty"` // there were more ids than are kept

	at value // Value, decoded
}

// boundary holds ids, the first 48 bits of each, and how far before the mark each lies: in units of a 2^32nd of the
// overlap and a day (maxGrain), rounded down, so that none is forgotten early. Without overlap all lie on the mark.
type boundary struct {
	ids  []uint64
	ages []uint32 // nil without overlap
}

// noAge is the age of an id from an earlier pull that this one has not met yet.
const noAge = 1<<32 - 1

// boundaryID shortens further what shortID does: the few hundred late records that are ever compared with these leave
// the chance of taking one for another below one in 10^9.
func boundaryID(id uint64) uint64 { return id >> 16 }

func (b boundary) has(id uint64) bool {
	return slices.Contains(b.ids, boundaryID(id))
}

// IsZero leaves the key out when there are none.
func (b boundary) IsZero() bool { return len(b.ids) == 0 }

// MarshalText gives base64: six bytes for each id, and four more for its age where there are ages, marked by a colon.
func (b boundary) MarshalText() ([]byte, error) {
	size := 6
	if b.ages != nil {
		size = 10
	}
	raw := make([]byte, 0, size*len(b.ids))
	for i, id := range b.ids {
		raw = append(raw, byte(id>>40), byte(id>>32), byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
		if b.ages != nil {
			a := b.ages[i]
			raw = append(raw, byte(a>>24), byte(a>>16), byte(a>>8), byte(a))
		}
	}
	var text []byte
	if b.ages != nil {
		text = append(text, ':')
	}
	return base64.RawStdEncoding.AppendEncode(text, raw), nil
}

// UnmarshalText reads what MarshalText writes.
func (b *boundary) UnmarshalText(text []byte) error {
	size := 6
	aged := len(text) > 0 && text[0] == ':'
	if aged {
		text, size = text[1:], 10
	}
	raw, err := base64.RawStdEncoding.AppendDecode(nil, text)
	if err != nil || len(raw)%size != 0 {
		return errors.New("ids are not whole")
	}
	*b = boundary{ids: make([]uint64, 0, len(raw)/size)}
	for ; len(raw) > 0; raw = raw[size:] {
		var id uint64
		for _, x := range raw[:6] {
			id = id<<8 | uint64(x)
		}
		b.ids = append(b.ids, id)
		if aged {
			b.ages = append(b.ages, uint32(raw[6])<<24|uint32(raw[7])<<16|uint32(raw[8])<<8|uint32(raw[9]))
		}
	}
	return nil
}

// The ways in which a value can be ordered. Values of different orders do not compare.
const (
	byTime   = 't'
	byNumber = 'n'
	byText   = 's'
)

// rank says which of them is meant where they are mixed and no type is set.
var rank = map[byte]int{byText: 1, byNumber: 2, byTime: 3}

// value is a field's value, decoded.
type value struct {
	order  byte
	time   time.Time
	layout string // of a time that is text
	unit   time.Duration
	number *big.Rat // when small does not do
	small  int64
	exact  bool // small is the number, or that which the text writes
	text   string
}

// maxValue bounds what is kept of a field's value, in bytes.
const maxValue = 256

// layouts that times are written in. RFC 3339 says T and a zone; without a zone UTC is meant.
var layouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999-0700", toTheMinute,
}

const toTheMinute = "2006-01-02T15:04Z07:00"

// decode reads a raw JSON value. ok is false for what has no place in the order of the kind.
func (n *incremental) decode(raw []byte) (v value, ok bool) {
	if len(raw) == 0 || len(raw) > maxValue {
		return value{}, false
	}
	kind := jsonscan.KindOf(raw[0])
	if kind != jsonscan.String && kind != jsonscan.Number {
		return value{}, false
	}
	text := textOf(raw)
	switch n.kind {
	case "rfc3339":
		return decodeTime(text)
	case "date":
		return decodeDate(text)
	case "unix", "unix_ms":
		unit := time.Second
		if n.kind == "unix_ms" {
			unit = time.Millisecond
		}
		v, ok := decodeNumber(text)
		v.unit = unit
		return v, ok
	case "number":
		return decodeNumber(text)
	case "string":
		return value{order: byText, text: text}, kind == jsonscan.String && text != ""
	}
	if kind == jsonscan.Number {
		v, ok := decodeNumber(text)
		// Times count in seconds or milliseconds since 1970; what is neither between 2001 and 2286 is just a number.
		if v.exact && v.small >= 1e9 && v.small < 1e10 {
			v.unit = time.Second
		} else if v.exact && v.small >= 1e12 && v.small < 1e13 {
			v.unit = time.Millisecond
		}
		return v, ok
	}
	if v, ok := decodeTime(text); ok {
		return v, true
	}
	if v, ok := decodeDate(text); ok {
		return v, true
	}
	v = value{order: byText, text: text}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		v.small, v.exact = i, true
	}
	return v, text != ""
}

func decodeTime(text string) (value, bool) {
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil {
			return value{order: byTime, time: t, layout: layout}, true
		}
	}
	return value{}, false
}

func decodeDate(text string) (value, bool) {
	t, err := time.Parse(time.DateOnly, text)
	return value{order: byTime, time: t, layout: time.DateOnly}, err == nil
}

func decodeNumber(text string) (value, bool) {
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return value{order: byNumber, small: i, exact: true}, true
	}
	// big.Rat would write out 1e999999999.
	if _, exponent, ok := strings.Cut(strings.ToLower(text), "e"); ok {
		if n, err := strconv.Atoi(exponent); err != nil || n < -400 || n > 400 {
			return value{}, false
		}
	}
	if end, err := jsonscan.Skip([]byte(text), 0, 0); err != nil || end != len(text) {
		return value{}, false
	}
	r, ok := new(big.Rat).SetString(text)
	return value{order: byNumber, number: r}, ok
}

func (v *value) rat() *big.Rat {
	if v.exact {
		return new(big.Rat).SetInt64(v.small)
	}
	return v.number
}

// compare orders two values of one order.
func (v *value) compare(w *value) int {
	switch {
	case v.order == byTime:
		return v.time.Compare(w.time)
	case v.exact && w.exact:
		return cmp.Compare(v.small, w.small)
	case v.order == byText && v.exact != w.exact: // whole numbers before all else: one order for a field that mixes them
		if v.exact {
			return -1
		}
		return 1
	case v.order == byText:
		return strings.Compare(v.text, w.text)
	}
	return v.rat().Cmp(w.rat())
}

// before is how far w lies before v, as a time, negative when it lies behind; ok is false where the values are no times.
func (v *value) before(w *value) (time.Duration, bool) {
	switch {
	case v.order == byTime:
		return v.time.Sub(w.time), true
	case v.order == byNumber && v.unit > 0:
		if v.exact && w.exact && max(v.small, w.small) < 1e15 && min(v.small, w.small) > -1e15 {
			if n := v.small - w.small; n > -1e9 && n < 1e9 {
				return time.Duration(n) * v.unit, true
			}
		}
		d := new(big.Rat).Sub(v.rat(), w.rat())
		f, _ := d.Mul(d, new(big.Rat).SetInt64(int64(v.unit))).Float64()
		return time.Duration(max(min(f, 1<<62), -1<<62)), true
	}
	return 0, false
}

// minus returns the value less d, in the notation of raw.
func (v *value) minus(raw []byte, d time.Duration) []byte {
	var text string
	switch {
	case v.order == byTime:
		t := v.time.Add(-d)
		layout := v.layout
		// The same number of digits behind the second as it came with; Go's nines would drop zeros.
		if digits := fractionDigits(textOf(raw)); digits > 0 {
			layout = strings.Replace(layout, ".999999999", "."+strings.Repeat("0", digits), 1)
		}
		text = t.Format(layout)
	case v.exact:
		text = strconv.FormatInt(v.small-int64((d+v.unit-1)/v.unit), 10)
	default:
		r := new(big.Rat).Sub(v.rat(), big.NewRat(int64(d), int64(v.unit)))
		text = r.FloatString(9)
	}
	if raw[0] == '"' {
		return jsonscan.AppendQuote(nil, text)
	}
	return []byte(text)
}

func fractionDigits(text string) int {
	_, rest, ok := strings.Cut(text, ".")
	if !ok {
		return 0
	}
	n := 0
	for n < len(rest) && n < 9 && rest[n] >= '0' && rest[n] <= '9' {
		n++
	}
	return n
}

func newIncremental(c *config.Incremental) (*incremental, error) {
	n := &incremental{start: c.Start, overlap: c.Overlap.D(), kind: c.Type}
	if n.kind == "" {
		n.kind = "auto"
	}
	var err error
	if n.field, err = compile("incremental.field", c.Field); err != nil {
		return nil, err
	}
	if n.into, err = parsePlace("incremental.into", c.Into); err != nil {
		return nil, err
	}
	if n.overlap > 0 && (n.kind == "number" || n.kind == "string") {
		return nil, fmt.Errorf("incremental.overlap: a time cannot be taken from values of type %s", n.kind)
	}
	return n, nil
}

// ask is what goes into the request: the mark less the overlap in the notation in which it came, or start as it was
// typed; nil when there is neither.
func (n *incremental) ask(since *mark) ([]byte, error) {
	if since == nil {
		if n.start == "" {
			return nil, nil
		}
		if end, err := jsonscan.Skip([]byte(n.start), 0, 0); err == nil && end == len(n.start) && n.kind != "string" && jsonscan.KindOf(n.start[0]) == jsonscan.Number {
			return []byte(n.start), nil
		}
		return jsonscan.AppendQuote(nil, n.start), nil
	}
	if n.overlap == 0 {
		return since.Value, nil
	}
	if since.at.order == byTime || since.at.unit > 0 {
		return since.at.minus(since.Value, n.overlap), nil
	}
	return nil, failf(KindCursor, "incremental.overlap cannot be taken from %s, which is no time; say what it is with incremental.type, or leave overlap out", since.Value)
}

// load decodes the value of a mark that comes from a cursor.
func (n *incremental) load(m *mark) error {
	if m == nil {
		return nil
	}
	if len(m.IDs.ids) > maxBoundary {
		return failf(KindCursor, "the saved cursor holds %d ids, more than ferry writes; reset it", len(m.IDs.ids))
	}
	if aged := m.IDs.ages != nil; n.overlap == 0 {
		m.IDs.ages = nil
	} else if !aged { // overlap was set only now
		m.IDs.ages = make([]uint32, len(m.IDs.ids))
	}
	var ok bool
	if m.at, ok = n.decode(m.Value); !ok {
		return failf(KindCursor, "the saved mark %s is not of incremental.type %s; reset the cursor, or set the type back", m.Value, n.kind)
	}
	return nil
}

// begin returns the mark with which a pull begins: the one that the last has reached. Its ids stay as long as the mark
// does not rise; when it does, those stay that have been met again and lie at the new boundary.
func (n *incremental) begin(since *mark) *mark {
	if since == nil {
		return &mark{}
	}
	m := since.clone()
	m.IDs.ages = nil
	if n.overlap > 0 {
		m.IDs.ages = make([]uint32, len(m.IDs.ids))
		for i := range m.IDs.ages {
			m.IDs.ages[i] = noAge
		}
	}
	return m
}

// end returns the mark as the next pull needs it, nil when there is none.
func (m *mark) end() *mark {
	if m == nil || m.at.order == 0 {
		return nil
	}
	e := m.clone()
	e.IDs.ages = nil
	return e
}

func (m *mark) clone() *mark {
	if m == nil {
		return nil
	}
	c := *m
	c.Value = slices.Clone(m.Value)
	c.IDs = boundary{ids: slices.Clone(m.IDs.ids), ages: slices.Clone(m.IDs.ages)}
	return &c
}

// observe takes a record into the reckoning: the mark rises to its value, and its id is kept when it lies at the
// boundary. A record whose value is of another order changes nothing, but that numbers take the place of texts, and
// times that of both.
func (n *incremental) observe(m *mark, raw []byte, v value, id uint64) {
	first := m.at.order == 0
	if !first && m.at.order != v.order {
		// A field of times may hold what is no time before the first of them, such as 0, or MySQL's 0000-00-00.
		if first = n.kind == "auto" && rank[v.order] > rank[m.at.order]; !first {
			return
		}
	}
	if first {
		n.raise(m, raw, v, 0, false)
		n.keep(m, boundaryID(id), 0)
		return
	}
	c := v.compare(&m.at)
	if n.overlap == 0 {
		if c > 0 {
			n.raise(m, raw, v, 0, false)
		}
		if c >= 0 {
			n.keep(m, boundaryID(id), 0)
		}
		return
	}
	d, known := v.before(&m.at)
	switch {
	case c > 0:
		n.raise(m, raw, v, d, known)
		n.keep(m, boundaryID(id), 0)
	case known && -d <= n.reach(&m.at, m.Value):
		n.keep(m, boundaryID(id), n.age(-d))
	}
}

// reach is how far before a mark the boundary lies: the overlap, rounded up to what the value is counted in, as the value
// that is asked for is rounded down (minus).
func (n *incremental) reach(at *value, raw []byte) time.Duration {
	grain := time.Nanosecond
	switch {
	case at.order == byNumber && at.exact:
		grain = at.unit
	case at.layout == time.DateOnly:
		grain = maxGrain
	case at.layout == toTheMinute:
		grain = time.Minute
	case at.order == byTime:
		if digits := fractionDigits(textOf(raw)); digits > 0 {
			grain = time.Duration(math.Pow10(9 - digits))
		}
	}
	if grain <= 0 {
		return n.overlap
	}
	if over := n.overlap % grain; over > 0 {
		return n.overlap - over + grain
	}
	return n.overlap
}

// maxGrain is the coarsest that a time is counted in.
const maxGrain = 24 * time.Hour

// age is d in units of a 2^32nd of the farthest that a boundary may lie, rounded down.
func (n *incremental) age(d time.Duration) uint32 {
	return uint32(min(float64(d)/float64(n.overlap+maxGrain), 1) * (noAge - 1))
}

// raise moves the mark up by d. Ids that now lie before the boundary are let go; all of them when it is not known
// how far.
func (n *incremental) raise(m *mark, raw []byte, v value, d time.Duration, known bool) {
	m.Value, m.at = append(m.Value[:0], raw...), v
	ids, ages := m.IDs.ids[:0], m.IDs.ages[:0]
	if known {
		shift, most := uint64(n.age(d)), uint64(n.age(n.reach(&v, raw)))
		for i, a := range m.IDs.ages {
			if a := uint64(a) + shift; a <= most {
				ids, ages = append(ids, m.IDs.ids[i]), append(ages, uint32(a))
			}
		}
	}
	m.IDs.ids, m.IDs.ages = ids, ages
	m.Full = m.Full && len(ids) >= maxBoundary
}

// keep adds an id at the boundary.
func (n *incremental) keep(m *mark, id uint64, age uint32) {
	for i, x := range m.IDs.ids {
		if x == id {
			if n.overlap > 0 && m.IDs.ages[i] == noAge {
				m.IDs.ages[i] = age
			}
			return
		}
	}
	if len(m.IDs.ids) >= maxBoundary {
		m.Full = true
		return
	}
	m.IDs.ids = append(m.IDs.ids, id)
	if n.overlap > 0 {
		m.IDs.ages = append(m.IDs.ages, age)
	}
}
