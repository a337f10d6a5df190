package sqsqueue

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"ferry/internal/record"
)

// How a record lies in a message. The data are the body, id, key and headers are message attributes of type String.
// SQS takes ten attributes, none empty, and only the characters of XML 1.0; what does not fit goes another way:
//
//	ferry-headers    the headers that cannot be attributes: a JSON object, in ASCII, from name to value; a value that
//	                 is no UTF-8 is {"base64": "…"}
//	ferry-encoding   base64: so is the body; empty: the body stands for no data at all
const (
	attributeKey      = "ferry-key" // record.Record.Key
	attributeHeaders  = "ferry-headers"
	attributeEncoding = "ferry-encoding"

	encodingBase64 = "base64"
	encodingEmpty  = "empty"

	maxAttributes    = 10
	maxAttributeName = 256
	textType         = "String"
)

// message is a record made ready, but for its body, which is made when it is sent.
type message struct {
	attributes map[string]types.MessageAttributeValue
	encoding   string
	size       int // as SQS counts: body, and name, type and value of each attribute
}

// pack makes a record ready.
func pack(r *record.Record) message {
	m := message{attributes: make(map[string]types.MessageAttributeValue, len(r.Headers)+2), size: len(r.Data)}
	switch {
	case len(r.Data) == 0:
		m.encoding, m.size = encodingEmpty, 1
	case !isText(r.Data):
		m.encoding, m.size = encodingBase64, base64.StdEncoding.EncodedLen(len(r.Data))
	}
	if m.encoding != "" {
		m.set(attributeEncoding, m.encoding)
	}
	var aside map[string]string
	put := func(name, value string) {
		if isAttribute(name, value) {
			m.set(name, value)
			return
		}
		if aside == nil {
			aside = make(map[string]string)
		}
		aside[name] = value
	}
	if r.ID != "" {
		put(record.HeaderID, r.ID)
	}
	if r.Key != "" {
		put(attributeKey, r.Key)
	}
	for _, h := range r.Headers {
		put(h.Name, h.Value)
	}
	// Too many: the last ones go aside, and the attribute that holds them takes a place too.
	for i := len(r.Headers) - 1; i >= 0 && len(m.attributes)+min(len(aside), 1) > maxAttributes; i-- {
		h := r.Headers[i]
		if _, ok := m.attributes[h.Name]; !ok {
			continue
		}
		m.unset(h.Name)
		if aside == nil {
			aside = make(map[string]string)
		}
		aside[h.Name] = h.Value
	}
	if aside != nil {
		m.set(attributeHeaders, writeHeaders(aside))
	}
	return m
}

func (m *message) set(name, value string) {
	m.attributes[name] = types.MessageAttributeValue{DataType: aws.String(textType), StringValue: &value}
	m.size += len(name) + len(textType) + len(value)
}

func (m *message) unset(name string) {
	m.size -= len(name) + len(textType) + len(*m.attributes[name].StringValue)
	delete(m.attributes, name)
}

// body gives the record's data as SQS takes them.
func (m *message) body(r *record.Record) string {
	switch m.encoding {
	case encodingEmpty:
		return "-"
	case encodingBase64:
		return base64.StdEncoding.EncodeToString(r.Data)
	}
	return string(r.Data)
}

// unpack gives a message as a record, whoever sent it. Headers come sorted by name: SQS does not keep their order.
func unpack(m *types.Message) record.Record {
	var r record.Record
	values := make(map[string]string, len(m.MessageAttributes))
	var encoding, aside string
	for name, v := range m.MessageAttributes {
		value := aws.ToString(v.StringValue)
		if v.BinaryValue != nil {
			value = string(v.BinaryValue)
		}
		switch name {
		case attributeEncoding:
			encoding = value
		case attributeHeaders:
			aside = value
		default:
			values[name] = value
		}
	}
	if aside != "" && !readHeaders(aside, values) {
		values[attributeHeaders] = aside // someone else's
	}
	text := aws.ToString(m.Body)
	r.Data = []byte(text)
	switch encoding {
	case "":
	case encodingEmpty:
		r.Data = nil
	case encodingBase64:
		if data, err := base64.StdEncoding.DecodeString(text); err == nil {
			r.Data = data
			break
		}
		fallthrough
	default: // someone else's
		values[attributeEncoding] = encoding
	}
	r.ID, r.Key = values[record.HeaderID], values[attributeKey]
	delete(values, record.HeaderID)
	delete(values, attributeKey)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		r.Headers = append(r.Headers, record.Header{Name: name, Value: values[name]})
	}
	return r
}

// writeHeaders writes headers as a JSON object of ASCII characters.
func writeHeaders(headers map[string]string) string {
	var b strings.Builder
	for i, name := range slices.Sorted(maps.Keys(headers)) {
		if i == 0 {
			b.WriteByte('{')
		} else {
			b.WriteByte(',')
		}
		quote(&b, name)
		b.WriteByte(':')
		if value := headers[name]; utf8.ValidString(value) {
			quote(&b, value)
		} else {
			b.WriteString(`{"base64":"` + base64.StdEncoding.EncodeToString([]byte(value)) + `"}`)
		}
	}
	b.WriteByte('}')
	return b.String()
}

// quote writes a JSON string in which everything but printable ASCII is escaped.
func quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c >= ' ' && c <= '~':
			b.WriteRune(c)
		case c <= 0xffff:
			fmt.Fprintf(b, `\u%04x`, c)
		default: // as a surrogate pair (RFC 8259, section 7)
			c -= 0x10000
			fmt.Fprintf(b, `\u%04x\u%04x`, 0xd800+c>>10, 0xdc00+c&0x3ff)
		}
	}
	b.WriteByte('"')
}

// readHeaders is the reverse of writeHeaders. It tells whether the text was one of its own.
func readHeaders(text string, into map[string]string) bool {
	var headers map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &headers) != nil {
		return false
	}
	read := make(map[string]string, len(headers))
	for name, raw := range headers {
		var value string
		var coded struct {
			Base64 []byte `json:"base64"`
		}
		switch {
		case json.Unmarshal(raw, &value) == nil:
		case json.Unmarshal(raw, &coded) == nil:
			value = string(coded.Base64)
		default:
			return false
		}
		read[name] = value
	}
	maps.Copy(into, read)
	return true
}

// isAttribute tells whether SQS takes a header as a message attribute, and whether the name is free.
func isAttribute(name, value string) bool {
	if name == attributeHeaders || name == attributeEncoding || len(name) > maxAttributeName || value == "" || !isText(value) {
		return false
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '.' && i > 0 && i < len(name)-1 && name[i-1] != '.':
		default:
			return false
		}
	}
	lower := strings.ToLower(name)
	return name != "" && !strings.HasPrefix(lower, "aws.") && !strings.HasPrefix(lower, "amazon.")
}

// isText tells whether SQS takes this as it is: UTF-8 of the characters that XML 1.0 allows.
func isText[T string | []byte](s T) bool {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
				return false
			}
			i++
			continue
		}
		r, n := decodeRune(s[i:])
		if r == utf8.RuneError && n == 1 || r == 0xfffe || r == 0xffff {
			return false
		}
		i += n
	}
	return true
}

func decodeRune[T string | []byte](s T) (rune, int) {
	return utf8.DecodeRuneInString(string(s[:min(len(s), utf8.UTFMax)]))
}

// token makes an id or a name one that SQS takes as deduplication or group id: 1 to 128 characters of printable ASCII
// without space. What does not fit is hashed.
func token(s string) string {
	plain := s != "" && len(s) <= 128
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] > ' ' && s[i] < 0x7f
	}
	if plain {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// dedupID is what SQS knows a record by for five minutes. again counts how often the record was stored ahead of its
// turn; see target.overtook. A record without an id is never taken for another.
func dedupID(id string, again int) string {
	switch {
	case id == "":
		return rand.Text()
	case again > 0:
		return token(id + "~" + strconv.Itoa(again))
	}
	return token(id)
}
