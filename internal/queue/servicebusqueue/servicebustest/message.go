package servicebustest

import (
	"errors"
	"fmt"
	"time"
)

// Sections of a message (part 3, 3.2) by descriptor.
const (
	sectionHeader              = 0x70
	sectionDeliveryAnnotations = 0x71
	sectionAnnotations         = 0x72
	sectionProperties          = 0x73
	sectionApplication         = 0x74
	sectionData                = 0x75
	sectionValue               = 0x77
	sectionFooter              = 0x78
)

// formatBatch marks a message whose data sections are messages: Service Bus's own batch.
const formatBatch = 0x80013700

// message is one message as the sender encoded it. What a broker may not touch stays in the sender's bytes.
type message struct {
	id, session string // message-id and group-id of the properties
	header      fields
	annotations pairs
	properties  []byte // as they came, all three
	application []byte
	body        []byte
	size        int

	sequence int64
	enqueued time.Time
	count    uint32 // deliveries that failed
	token    uuid   // of the lock
	until    time.Time
	holder   *link // who has the lock; nil: nobody
	gone     bool  // settled, and only still in the order of all
}

// locked tells whether somebody has the message now.
func (m *message) locked() bool { return m.token != uuid{} }

// section is one section, decoded and as it came.
type section struct {
	kind  uint64
	value any
	raw   []byte
}

func sections(b []byte) ([]section, error) {
	var all []section
	for len(b) > 0 {
		d := decoder{b: b}
		v, err := d.value()
		if err != nil {
			return nil, err
		}
		s, ok := v.(described)
		kind, isCode := s.descriptor.(uint64)
		if !ok || !isCode {
			return nil, errors.New("decode message: something that is not a section")
		}
		all = append(all, section{kind, s.value, b[:len(b)-len(d.b)]})
		b = d.b
	}
	return all, nil
}

// parseMessage reads one message.
func parseMessage(b []byte) (*message, error) {
	all, err := sections(b)
	if err != nil {
		return nil, err
	}
	m := &message{size: len(b)}
	for _, s := range all {
		switch s.kind {
		case sectionHeader:
			h, _ := s.value.(list)
			m.header = fields(h)
		case sectionDeliveryAnnotations: // of this hop only
		case sectionAnnotations:
			m.annotations, _ = s.value.(pairs)
		case sectionProperties:
			p, _ := s.value.(list)
			m.properties = s.raw
			m.session = fields(p).text(10)
			if id := fields(p).at(0); id != nil {
				m.id = fmt.Sprint(id)
			}
		case sectionApplication:
			m.application = s.raw
		default:
			m.body = append(m.body, s.raw...)
		}
	}
	return m, nil
}

// parseBatch gives the messages of one transfer: one, or those within a batch.
func parseBatch(format uint32, b []byte) ([]*message, error) {
	if format != formatBatch {
		m, err := parseMessage(b)
		return []*message{m}, err
	}
	all, err := sections(b)
	if err != nil {
		return nil, err
	}
	var batch []*message
	for _, s := range all {
		if s.kind != sectionData {
			continue
		}
		inner, _ := s.value.([]byte)
		m, err := parseMessage(inner)
		if err != nil {
			return nil, err
		}
		batch = append(batch, m)
	}
	if len(batch) == 0 {
		return nil, errors.New("decode message: a batch without messages")
	}
	return batch, nil
}

// wire gives the message for a receiver, with what the broker knows of it.
func (m *message) wire() []byte {
	header := fields{true, nil, nil, nil, m.count}
	for i := 1; i < 4; i++ {
		header[i] = m.header.at(i)
	}
	b := encode(nil, described{uint64(sectionHeader), list(header)})
	notes := append(pairs(nil), m.annotations...)
	notes = notes.set(symbol("x-opt-sequence-number"), m.sequence).
		set(symbol("x-opt-enqueued-time"), m.enqueued)
	if m.locked() {
		notes = notes.set(symbol("x-opt-locked-until"), m.until)
	}
	b = encode(b, described{uint64(sectionAnnotations), notes})
	b = append(b, m.properties...)
	b = append(b, m.application...)
	return append(b, m.body...)
}

// note adds an application property, as the broker does when it moves a message to the dead-letter queue.
func (m *message) note(name, value string) {
	d := decoder{b: m.application}
	v, _ := d.value()
	s, _ := v.(described)
	all, _ := s.value.(pairs)
	m.application = encode(nil, described{uint64(sectionApplication), all.set(name, value)})
}

// tag is the lock as a delivery tag: a GUID in .NET's byte order.
func (u uuid) tag() []byte {
	return []byte{u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]}
}
