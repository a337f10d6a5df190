package servicebustest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxFrame is the largest frame that this server takes, as Service Bus does.
const maxFrame = 64 << 10

// Performatives (part 2, 2.7), SASL frames (part 5, 5.3.3) and delivery states (part 3, 3.4) by descriptor.
const (
	typeOpen        = 0x10
	typeBegin       = 0x11
	typeAttach      = 0x12
	typeFlow        = 0x13
	typeTransfer    = 0x14
	typeDisposition = 0x15
	typeDetach      = 0x16
	typeEnd         = 0x17
	typeClose       = 0x18
	typeError       = 0x1d

	typeAccepted = 0x24
	typeRejected = 0x25
	typeReleased = 0x26
	typeModified = 0x27
	typeSource   = 0x28
	typeTarget   = 0x29

	typeMechanisms = 0x40
	typeInit       = 0x41
	typeOutcome    = 0x44
)

// fields is the list behind a performative. Fields that are missing at its end are null.
type fields list

func (f fields) at(i int) any {
	if i < len(f) {
		return f[i]
	}
	return nil
}

// text of a string or symbol, "" when null.
func (f fields) text(i int) string { return text(f.at(i)) }

// flag of a boolean, false when null.
func (f fields) flag(i int) bool { b, _ := f.at(i).(bool); return b }

// uint of an unsigned integer, 0 when null.
func (f fields) uint(i int) uint32 { n, _ := number(f.at(i)); return uint32(n) }

// frame is one frame: an AMQP or SASL body on a channel. A frame without a body keeps the connection alive.
type frame struct {
	sasl    bool
	channel uint16
	kind    uint64 // descriptor of the body; 0: empty
	fields  fields
	payload []byte
}

// readFrame blocks until a whole frame is there.
func readFrame(r io.Reader) (frame, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	size, doff := binary.BigEndian.Uint32(head[:4]), int(head[4])*4
	if size < 8 || size > maxFrame || doff < 8 || doff > int(size) {
		return frame{}, fmt.Errorf("read frame: %d bytes with an offset of %d", size, doff)
	}
	f := frame{sasl: head[5] == 1, channel: binary.BigEndian.Uint16(head[6:])}
	body := make([]byte, size-8)
	if _, err := io.ReadFull(r, body); err != nil {
		return frame{}, err
	}
	if body = body[doff-8:]; len(body) == 0 {
		return f, nil
	}
	d := decoder{b: body}
	v, err := d.value()
	if err != nil {
		return frame{}, err
	}
	performative, ok := v.(described)
	kind, isCode := performative.descriptor.(uint64)
	all, isList := performative.value.(list)
	if !ok || !isCode || !isList {
		return frame{}, errors.New("read frame: its body is not a performative")
	}
	f.kind, f.fields, f.payload = kind, fields(all), d.b
	return f, nil
}

// append adds the frame in its wire form.
func (f frame) append(b []byte) []byte {
	start := len(b)
	kind := byte(0)
	if f.sasl {
		kind = 1
	}
	b = append(b, 0, 0, 0, 0, 2, kind)
	b = binary.BigEndian.AppendUint16(b, f.channel)
	if f.kind != 0 {
		b = encode(b, described{f.kind, list(f.fields)})
	}
	b = append(b, f.payload...)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// Error is what AMQP and Service Bus say when something went wrong.
type Error struct{ Condition, Description string }

func (e *Error) Error() string { return e.Condition + ": " + e.Description }

// The conditions that the server gives.
const (
	ServerBusy      = "com.microsoft:server-busy"
	Timeout         = "com.microsoft:timeout"
	LockLost        = "com.microsoft:message-lock-lost"
	SessionLockLost = "com.microsoft:session-lock-lost"
	CannotLock      = "com.microsoft:session-cannot-be-locked"
	QuotaExceeded   = "amqp:resource-limit-exceeded"
	TooLarge        = "amqp:link:message-size-exceeded"
	NotFound        = "amqp:not-found"
	NotAllowed      = "amqp:not-allowed"
	Unauthorized    = "amqp:unauthorized-access"
	InternalError   = "amqp:internal-error"
	DetachForced    = "amqp:link:detach-forced"

	notImplemented  = "amqp:not-implemented"
	creditExceeded  = "amqp:link:transfer-limit-exceeded" //nolint:gosec // no credential but a condition
	windowViolation = "amqp:session:window-violation"
	badHandle       = "amqp:session:unattached-handle"
	decodeError     = "amqp:decode-error"
)

func (e *Error) wire() any {
	if e == nil {
		return nil
	}
	return described{uint64(typeError), list{symbol(e.Condition), e.Description}}
}

func accepted() described { return described{uint64(typeAccepted), list{}} }

func rejected(e *Error) described { return described{uint64(typeRejected), list{e.wire()}} }
