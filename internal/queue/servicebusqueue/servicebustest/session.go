package servicebustest

import "time"

const (
	// sessionWindow is how many transfers a client may have sent that the server has not made room for (part 2, 2.5.6).
	sessionWindow = 5000
	// senderCredit is how many deliveries a sending link may have under way.
	senderCredit = 1000
)

// session is an AMQP session of a connection, which has nothing to do with the sessions of a queue.
type session struct {
	c       *conn
	channel uint16
	links   map[uint32]*link // by the client's handle; ours is the same

	incoming     uint32 // transfer id that comes next
	incomingLeft int    // window
	outgoing     uint32
	window       int // transfers that the client takes
	deliveries   uint32
	unsettled    map[uint32]delivery
	ended        bool // by us; the client's end is still to come
}

// delivery is one that the client has not settled.
type delivery struct {
	q     *queue
	token uuid
}

func newSession(c *conn, channel uint16, f fields) *session {
	return &session{
		c: c, channel: channel, links: make(map[uint32]*link), unsettled: make(map[uint32]delivery),
		incoming: f.uint(1), incomingLeft: sessionWindow, window: int(f.uint(2)),
	}
}

func (s *session) send(kind uint64, f fields) {
	s.c.send(frame{channel: s.channel, kind: kind, fields: f})
}

// end lets go of all links.
func (s *session) end() {
	s.ended = true
	for _, l := range s.links {
		l.gone()
	}
	clear(s.links)
}

// handle takes a frame of this session. An error ends the session.
func (s *session) handle(f frame) *Error {
	switch f.kind {
	case typeAttach:
		s.attach(f.fields)
	case typeFlow:
		return s.flow(f.fields)
	case typeTransfer:
		return s.transfer(f)
	case typeDisposition:
		s.disposition(f.fields)
	case typeDetach:
		handle := f.fields.uint(0)
		l := s.links[handle]
		delete(s.links, handle)
		switch {
		case l == nil:
			return &Error{badHandle, "detach of a link that is not attached"}
		case !l.dead: // otherwise this is the answer
			l.gone()
			s.send(typeDetach, fields{handle, true})
		}
	default:
		return &Error{notImplemented, "unknown performative"}
	}
	return nil
}

// flow brings the client's window and credit (part 2, 2.7.4).
func (s *session) flow(f fields) *Error {
	next, _ := number(f.at(0))
	s.window = int(uint32(next) + f.uint(1) - s.outgoing)
	if f.at(4) == nil {
		for _, l := range s.links {
			l.pump()
		}
		if f.flag(9) {
			s.sendFlow(nil)
		}
		return nil
	}
	l := s.links[f.uint(4)]
	if l == nil {
		return &Error{badHandle, "flow for a link that is not attached"}
	}
	if l.receives || l.dead {
		return nil
	}
	l.credit = int(f.uint(5) + f.uint(6) - l.delivered)
	l.pump()
	if f.flag(8) { // drain: what is left is used up
		l.delivered += uint32(max(l.credit, 0))
		l.credit = 0
		s.sendFlow(fields{l.handle, l.delivered, uint32(0), nil, true})
	} else if f.flag(9) {
		s.sendFlow(fields{l.handle, l.delivered, uint32(max(l.credit, 0))})
	}
	return nil
}

// sendFlow tells the state of the session, and of a link if there is one.
func (s *session) sendFlow(l fields) {
	s.send(typeFlow, append(fields{s.incoming, uint32(s.incomingLeft), s.outgoing, uint32(sessionWindow)}, l...))
}

// transfer takes one frame of a delivery from the client.
func (s *session) transfer(f frame) *Error {
	s.incoming++
	if s.incomingLeft--; s.incomingLeft < 0 {
		return &Error{windowViolation, "more transfers than the window allows"}
	}
	if s.incomingLeft < sessionWindow/2 {
		s.incomingLeft = sessionWindow
		s.sendFlow(nil)
	}
	l := s.links[f.fields.uint(0)]
	if l == nil || !l.receives {
		return &Error{badHandle, "transfer on a link that the client does not send on"}
	}
	if l.dead {
		return nil // in flight when the link was detached
	}
	l.take(f)
	return nil
}

// disposition is what a receiving client says of deliveries (part 2, 2.7.6).
func (s *session) disposition(f fields) {
	first, last := f.uint(1), f.uint(1)
	if f.at(2) != nil {
		last = f.uint(2)
	}
	settled, state := f.flag(3), f.at(4)
	for id := first; ; id++ {
		if d, ok := s.unsettled[id]; ok && state != nil {
			answer := s.settle(d, state)
			delete(s.unsettled, id)
			if !settled {
				s.send(typeDisposition, fields{false, id, id, true, answer})
			}
		}
		if id == last {
			return
		}
	}
}

// settle does what the client's state says, and gives the state for the answer.
func (s *session) settle(d delivery, state any) any {
	said, _ := state.(described)
	kind, _ := number(said.descriptor)
	values, _ := said.value.(list)
	var err *Error
	switch kind {
	case typeAccepted:
		err = d.q.settle(d.token, complete, "", "")
	case typeReleased:
		err = d.q.settle(d.token, release, "", "")
	case typeModified:
		if fields(values).flag(1) { // undeliverable here: Service Bus defers the message then
			err = &Error{notImplemented, "deferring messages is not part of this server"}
			break
		}
		err = d.q.settle(d.token, abandon, "", "")
	case typeRejected:
		reason, _ := fields(values).at(0).(described)
		parts, _ := reason.value.(list)
		info, _ := fields(parts).at(2).(pairs)
		err = d.q.settle(d.token, deadLetter, text(info.get("DeadLetterReason")), text(info.get("DeadLetterErrorDescription")))
	default:
		err = &Error{notImplemented, "unknown delivery state"}
	}
	if err != nil {
		return rejected(err)
	}
	return accepted()
}

// deliver sends a delivery in as many frames as it takes. The caller has checked credit and window.
func (s *session) deliver(l *link, tag, body []byte, settled bool) uint32 {
	id := s.deliveries
	s.deliveries++
	format := uint32(0)
	for first := true; first || len(body) > 0; first = false {
		part := body[:min(len(body), s.c.maxFrame-transferOverhead)]
		body = body[len(part):]
		f := fields{l.handle, nil, nil, nil, settled, len(body) > 0}
		if first {
			f[1], f[2], f[3] = id, tag, format
		}
		s.c.send(frame{channel: s.channel, kind: typeTransfer, fields: f, payload: part})
		s.outgoing++
		s.window--
	}
	return id
}

// transferOverhead is what the frame and performative of a transfer take at most.
const transferOverhead = 128

// frames is how many transfers a body of this size needs.
func (s *session) frames(size int) int { return size/(s.c.maxFrame-transferOverhead) + 1 }

// millis of a duration that a client gave as an integer.
func millis(v any) (time.Duration, bool) {
	n, ok := number(v)
	return time.Duration(n) * time.Millisecond, ok
}
