package servicebustest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// AMQP 1.0 values as Go has them: nil, bool, the integers by size, float32, float64, rune, time.Time (timestamp),
// uuid, []byte (binary), string, symbol, list, pairs (map), array, described.
// Source: OASIS AMQP 1.0, part 1, 1.6 "Primitive Type Definitions".
type (
	symbol string
	uuid   [16]byte
	list   []any
	array  []any // elements of one type
	pairs  []pair
	pair   struct{ key, value any }
	// described is a value with a descriptor that says what it means.
	described struct {
		descriptor any
		value      any
	}
)

// get finds the value of a key, a string or a symbol alike.
func (p pairs) get(key string) any {
	for _, e := range p {
		if text(e.key) == key {
			return e.value
		}
	}
	return nil
}

// set replaces or adds.
func (p pairs) set(key, value any) pairs {
	for i, e := range p {
		if text(e.key) == text(key) {
			p[i].value = value
			return p
		}
	}
	return append(p, pair{key, value})
}

// text gives a string or a symbol, and "" for anything else.
func text(v any) string {
	switch s := v.(type) {
	case string:
		return s
	case symbol:
		return string(s)
	}
	return ""
}

// number gives any integer as an int64.
func number(v any) (int64, bool) {
	switch n := v.(type) {
	case uint8:
		return int64(n), true
	case uint16:
		return int64(n), true
	case uint32:
		return int64(n), true
	case uint64:
		return int64(min(n, math.MaxInt64)), true
	case int8:
		return int64(n), true
	case int16:
		return int64(n), true
	case int32:
		return int64(n), true
	case int64:
		return n, true
	}
	return 0, false
}

// Format codes of part 1, 1.6.
const (
	codeDescribed  = 0x00
	codeNull       = 0x40
	codeTrue       = 0x41
	codeFalse      = 0x42
	codeBool       = 0x56
	codeUbyte      = 0x50
	codeUshort     = 0x60
	codeUint       = 0x70
	codeSmallUint  = 0x52
	codeUint0      = 0x43
	codeUlong      = 0x80
	codeSmallUlong = 0x53
	codeUlong0     = 0x44
	codeByte       = 0x51
	codeShort      = 0x61
	codeInt        = 0x71
	codeSmallInt   = 0x54
	codeLong       = 0x81
	codeSmallLong  = 0x55
	codeFloat      = 0x72
	codeDouble     = 0x82
	codeChar       = 0x73
	codeTimestamp  = 0x83
	codeUUID       = 0x98
	codeBin8       = 0xa0
	codeBin32      = 0xb0
	codeStr8       = 0xa1
	codeStr32      = 0xb1
	codeSym8       = 0xa3
	codeSym32      = 0xb3
	codeList0      = 0x45
	codeList8      = 0xc0
	codeList32     = 0xd0
	codeMap8       = 0xc1
	codeMap32      = 0xd1
	codeArray8     = 0xe0
	codeArray32    = 0xf0
)

var errShort = errors.New("decode AMQP value: it ends too early")

// maxDepth bounds values within values, so that no frame can exhaust the stack.
const maxDepth = 64

// decoder reads values off the front of its bytes.
type decoder struct {
	b     []byte
	depth int
}

func (d *decoder) take(n int) ([]byte, error) {
	if n < 0 || n > len(d.b) {
		return nil, errShort
	}
	head := d.b[:n]
	d.b = d.b[n:]
	return head, nil
}

// uint reads an unsigned integer of 1, 2, 4 or 8 bytes.
func (d *decoder) uint(size int) (uint64, error) {
	b, err := d.take(size)
	if err != nil {
		return 0, err
	}
	var padded [8]byte
	copy(padded[8-size:], b)
	return binary.BigEndian.Uint64(padded[:]), nil
}

// value reads the next value, constructor and all.
func (d *decoder) value() (any, error) {
	code, err := d.uint(1)
	if err != nil {
		return nil, err
	}
	if d.depth++; d.depth > maxDepth {
		return nil, errors.New("decode AMQP value: nested too deeply")
	}
	defer func() { d.depth-- }()
	if code == codeDescribed {
		descriptor, err := d.value()
		if err != nil {
			return nil, err
		}
		value, err := d.value()
		return described{descriptor, value}, err
	}
	return d.primitive(byte(code))
}

// primitive reads the value that a format code announces.
func (d *decoder) primitive(code byte) (any, error) {
	switch code {
	case codeNull:
		return nil, nil
	case codeTrue:
		return true, nil
	case codeFalse:
		return false, nil
	case codeUint0:
		return uint32(0), nil
	case codeUlong0:
		return uint64(0), nil
	case codeList0:
		return list{}, nil
	}
	// The upper half of the code says how wide a value is (part 1, 1.2).
	switch code >> 4 {
	case 0x5:
		return d.fixed(code, 1)
	case 0x6:
		return d.fixed(code, 2)
	case 0x7:
		return d.fixed(code, 4)
	case 0x8:
		return d.fixed(code, 8)
	case 0x9:
		b, err := d.take(16)
		if err != nil {
			return nil, err
		}
		return uuid(b), nil
	case 0xa:
		return d.variable(code, 1)
	case 0xb:
		return d.variable(code, 4)
	case 0xc, 0xe:
		return d.compound(code, 1)
	case 0xd, 0xf:
		return d.compound(code, 4)
	}
	return nil, fmt.Errorf("decode AMQP value: format code 0x%02x is unknown", code)
}

func (d *decoder) fixed(code byte, size int) (any, error) {
	n, err := d.uint(size)
	if err != nil {
		return nil, err
	}
	switch code {
	case codeBool:
		return n != 0, nil
	case codeUbyte:
		return uint8(n), nil
	case codeUshort:
		return uint16(n), nil
	case codeUint, codeSmallUint:
		return uint32(n), nil
	case codeUlong, codeSmallUlong:
		return n, nil
	case codeByte:
		return int8(n), nil
	case codeShort:
		return int16(n), nil
	case codeInt:
		return int32(n), nil
	case codeSmallInt:
		return int32(int8(n)), nil
	case codeLong:
		return int64(n), nil
	case codeSmallLong:
		return int64(int8(n)), nil
	case codeFloat:
		return math.Float32frombits(uint32(n)), nil
	case codeDouble:
		return math.Float64frombits(n), nil
	case codeChar:
		return rune(n), nil
	case codeTimestamp:
		return time.UnixMilli(int64(n)).UTC(), nil
	}
	return nil, fmt.Errorf("decode AMQP value: format code 0x%02x is unknown", code)
}

func (d *decoder) variable(code byte, width int) (any, error) {
	n, err := d.uint(width)
	if err != nil {
		return nil, err
	}
	b, err := d.take(int(n))
	if err != nil {
		return nil, err
	}
	switch code {
	case codeBin8, codeBin32:
		return b, nil
	case codeStr8, codeStr32:
		return string(b), nil
	case codeSym8, codeSym32:
		return symbol(b), nil
	}
	return nil, fmt.Errorf("decode AMQP value: format code 0x%02x is unknown", code)
}

func (d *decoder) compound(code byte, width int) (any, error) {
	size, err := d.uint(width)
	if err != nil {
		return nil, err
	}
	body, err := d.take(int(size))
	if err != nil {
		return nil, err
	}
	in := decoder{b: body, depth: d.depth}
	count, err := in.uint(width)
	if err != nil {
		return nil, err
	}
	if code == codeArray8 || code == codeArray32 {
		return in.array(int(count))
	}
	if count > uint64(len(in.b)) { // every element takes a byte at least
		return nil, errShort
	}
	all := make(list, 0, count)
	for range count {
		v, err := in.value()
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	if code == codeList8 || code == codeList32 {
		return all, nil
	}
	if len(all)%2 != 0 {
		return nil, errors.New("decode AMQP value: a map with a key that has no value")
	}
	m := make(pairs, 0, len(all)/2)
	for i := 0; i < len(all); i += 2 {
		m = append(m, pair{all[i], all[i+1]})
	}
	return m, nil
}

func (d *decoder) array(count int) (any, error) {
	code, err := d.uint(1)
	if err != nil {
		return nil, err
	}
	if code == codeDescribed {
		return nil, errors.New("decode AMQP value: arrays of described values are not known here")
	}
	if count > len(d.b)+1 {
		return nil, errShort
	}
	all := make(array, 0, count)
	for range count {
		v, err := d.primitive(byte(code))
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// encode adds a value. It takes the types above; anything else is a mistake of this package and panics.
func encode(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, codeNull)
	case bool:
		if v {
			return append(b, codeTrue)
		}
		return append(b, codeFalse)
	case uint8:
		return append(b, codeUbyte, v)
	case uint16:
		return binary.BigEndian.AppendUint16(append(b, codeUshort), v)
	case uint32:
		if v < 256 {
			return append(b, codeSmallUint, byte(v))
		}
		return binary.BigEndian.AppendUint32(append(b, codeUint), v)
	case uint64:
		if v < 256 {
			return append(b, codeSmallUlong, byte(v))
		}
		return binary.BigEndian.AppendUint64(append(b, codeUlong), v)
	case int8:
		return append(b, codeByte, byte(v))
	case int16:
		return binary.BigEndian.AppendUint16(append(b, codeShort), uint16(v))
	case int32:
		return binary.BigEndian.AppendUint32(append(b, codeInt), uint32(v))
	case int64:
		return binary.BigEndian.AppendUint64(append(b, codeLong), uint64(v))
	case float32:
		return binary.BigEndian.AppendUint32(append(b, codeFloat), math.Float32bits(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, codeDouble), math.Float64bits(v))
	case time.Time:
		return binary.BigEndian.AppendUint64(append(b, codeTimestamp), uint64(v.UnixMilli()))
	case uuid:
		return append(append(b, codeUUID), v[:]...)
	case []byte:
		return variable(b, codeBin8, codeBin32, v)
	case string:
		return variable(b, codeStr8, codeStr32, v)
	case symbol:
		return variable(b, codeSym8, codeSym32, v)
	case list:
		return encodeList(b, v)
	case pairs:
		body := binary.BigEndian.AppendUint32(nil, uint32(2*len(v)))
		for _, e := range v {
			body = encode(encode(body, e.key), e.value)
		}
		return sized(append(b, codeMap32), body)
	case array:
		return sized(append(b, codeArray32), encodeArray(v))
	case described:
		return encode(encode(append(b, codeDescribed), v.descriptor), v.value)
	}
	panic(fmt.Sprintf("servicebustest: no AMQP encoding for %T", v))
}

func encodeList(b []byte, v list) []byte {
	if len(v) == 0 {
		return append(b, codeList0)
	}
	body := binary.BigEndian.AppendUint32(nil, uint32(len(v)))
	for _, e := range v {
		body = encode(body, e)
	}
	return sized(append(b, codeList32), body)
}

// encodeArray gives count, constructor and elements; the elements are timestamps, longs, strings or symbols.
func encodeArray(v array) []byte {
	body := binary.BigEndian.AppendUint32(nil, uint32(len(v)))
	if len(v) == 0 {
		return append(body, codeNull)
	}
	for i, e := range v {
		one := encode(nil, e)
		switch e := e.(type) { // all elements share one constructor, so that small forms cannot be used
		case string:
			one = sized([]byte{codeStr32}, []byte(e))
		case symbol:
			one = sized([]byte{codeSym32}, []byte(e))
		}
		if i == 0 {
			body = append(body, one[0])
		}
		body = append(body, one[1:]...)
	}
	return body
}

func variable[T ~string | ~[]byte](b []byte, short, long byte, v T) []byte {
	if len(v) < 256 {
		return append(append(b, short, byte(len(v))), v...)
	}
	return append(binary.BigEndian.AppendUint32(append(b, long), uint32(len(v))), v...)
}

func sized(b, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}
