package servicebustest

import (
	"strings"
	"time"
)

// link is one link of a client: to a queue, to a queue's $management node, or to $cbs.
type link struct {
	s       *session
	handle  uint32
	name    string
	address string // of the node, without what follows a queue's name
	node    nodeKind
	q       *queue
	dead    bool // detached

	// receives is true when the client sends.
	receives bool
	credit   int
	partial  *transferUnderWay

	// For clients that receive.
	delivered  uint32
	settled    bool // deliveries are settled when they are sent
	replyTo    string
	attachment fields    // the client's attach, until it is answered
	giveUp     time.Time // of waiting for a session
	session    *string   // of the queue, which this link has locked
	replies    [][]byte  // that wait for credit
}

type nodeKind int

const (
	nodeQueue nodeKind = iota
	nodeManagement
	nodeCBS
)

// transferUnderWay is a delivery of which frames are still to come.
type transferUnderWay struct {
	id      uint32
	format  uint32
	settled bool
	body    []byte
}

const (
	managementSuffix = "/$management"
	sessionFilter    = "com.microsoft:session-filter"
	sessionFilterID  = uint64(0x137000000C)
)

// attach makes a link (part 2, 2.7.3).
func (s *session) attach(f fields) {
	l := &link{s: s, handle: f.uint(1), name: f.text(0), receives: !f.flag(2), attachment: f}
	source, target := terminus(f.at(5)), terminus(f.at(6))
	address := source.text(0)
	if l.receives {
		address = target.text(0)
	} else {
		l.replyTo = target.text(0)
		mode, _ := number(f.at(3))
		l.settled = mode == 1 && f.at(3) != nil
	}
	if _, rest, ok := strings.Cut(address, "://"); ok { // as Microsoft's SDK for Python has it: with the namespace
		_, address, _ = strings.Cut(rest, "/")
	}
	l.find(strings.TrimPrefix(address, "/"))
	s.links[l.handle] = l
	if err := l.refusal(); err != nil {
		l.refuse(err)
		return
	}
	filter, _ := source.at(7).(pairs)
	wanted, hasSession := filter.get(sessionFilter).(described)
	switch {
	case l.receives:
		l.answer(nil)
		l.credit = senderCredit
		s.sendFlow(fields{l.handle, uint32(0), uint32(senderCredit)})
	case l.node != nodeQueue:
		l.answer(nil)
	case l.q.options.Sessions != hasSession && l.q.dead != nil:
		l.refuse(&Error{NotAllowed, "It is not possible for an entity that requires sessions to create a non-sessionful message receiver, nor the other way round."})
	case !hasSession:
		l.answer(nil)
		l.q.receivers = append(l.q.receivers, l)
	case wanted.value == nil:
		properties, _ := f.at(13).(pairs)
		wait, ok := millis(properties.get("com.microsoft:timeout"))
		if !ok {
			wait = time.Minute
		}
		l.giveUp = s.c.s.now().Add(wait)
		l.q.waiting = append(l.q.waiting, l)
		l.q.pump()
	default:
		id := text(wanted.value)
		if l.q.lane(id).owner != nil {
			l.refuse(&Error{CannotLock, "The requested session '" + id + "' cannot be accepted. It may be locked by another receiver."})
			return
		}
		l.acceptSession(id)
	}
}

func terminus(v any) fields {
	d, _ := v.(described)
	all, _ := d.value.(list)
	return fields(all)
}

// find says which node an address means.
func (l *link) find(address string) {
	switch {
	case address == "$cbs":
		l.node = nodeCBS
		return
	case strings.HasSuffix(address, managementSuffix):
		l.node = nodeManagement
		address = strings.TrimSuffix(address, managementSuffix)
	}
	l.address = address
	l.q = l.s.c.s.find(address)
}

// refusal says why the link may not be.
func (l *link) refusal() *Error {
	if l.node == nodeCBS {
		return nil
	}
	right := Listen
	if l.receives && l.node == nodeQueue {
		right = Send
	}
	if l.node == nodeManagement {
		right = Send | Listen
	}
	if !l.s.c.may(l.address, right) {
		return &Error{Unauthorized, "Unauthorized access. '" + right.String() + "' claim(s) are required to perform this operation."}
	}
	if l.q == nil {
		return &Error{NotFound, "The messaging entity '" + l.address + "' could not be found."}
	}
	if l.receives && l.node == nodeQueue && l.q.dead == nil {
		return &Error{NotAllowed, "Cannot send to a dead-letter queue."}
	}
	return nil
}

// answer confirms the link with the client's own terms.
func (l *link) answer(properties pairs) {
	f := l.attachment
	l.attachment = nil
	reply := fields{l.name, l.handle, l.receives, f.at(3), f.at(4), f.at(5), f.at(6), nil, nil, nil, uint64(l.s.c.s.options.MaxMessage)}
	if !l.receives {
		reply[9] = uint32(0)
	}
	if l.session != nil {
		source := append(fields(nil), terminus(f.at(5))...)
		source[7] = pairs{{symbol(sessionFilter), described{sessionFilterID, *l.session}}}
		reply[5] = described{uint64(typeSource), list(source)}
	}
	if len(properties) > 0 {
		reply = append(reply, nil, nil, properties)
	}
	l.s.send(typeAttach, reply)
}

// refuse answers the attach without a node, and detaches with the reason (part 2, 2.6.3).
func (l *link) refuse(err *Error) {
	f := fields{l.name, l.handle, l.receives, nil, nil, nil, nil, nil, nil, nil}
	if !l.receives {
		f[9] = uint32(0)
	}
	l.s.send(typeAttach, f)
	l.detach(err)
}

// detach ends the link from this side. Its handle stays taken until the client has detached too: what it sends until
// then was on its way (part 2, 2.6.6).
func (l *link) detach(err *Error) {
	if l.dead {
		return
	}
	l.gone()
	l.s.send(typeDetach, fields{l.handle, true, err.wire()})
}

// gone takes the link off its queue.
func (l *link) gone() {
	if !l.dead {
		l.dead = true
		if l.q != nil {
			l.q.forget(l)
		}
	}
}

// epochTicks is 1970 in .NET's ticks of 100 ns since the year 1.
const epochTicks = 621355968000000000

func (l *link) acceptSession(id string) {
	lane := l.q.lane(id)
	lane.owner, lane.until = l, l.s.c.s.now().Add(l.q.options.Lock)
	l.session = &id
	l.answer(pairs{{symbol("com.microsoft:locked-until-utc"), lane.until.UnixMilli()*10000 + epochTicks}})
}

// pump hands out what the link has new credit for.
func (l *link) pump() {
	for len(l.replies) > 0 && l.credit > 0 {
		l.credit--
		l.delivered++
		l.s.deliver(l, []byte{0}, l.replies[0], true)
		l.replies = l.replies[1:]
	}
	if l.q != nil && l.node == nodeQueue && !l.receives {
		l.q.pump()
	}
}

// canTake tells whether credit and window allow a delivery now.
func (l *link) canTake(m *message) bool {
	return l.credit > 0 && l.s.window >= l.s.frames(m.size+1024)
}

func (l *link) deliver(m *message) {
	l.credit--
	l.delivered++
	if l.settled {
		l.s.deliver(l, []byte{0}, m.wire(), true)
		l.q.remove(m)
		return
	}
	l.q.lock(m, l)
	id := l.s.deliver(l, m.token.tag(), m.wire(), false)
	l.s.unsettled[id] = delivery{l.q, m.token}
}

// take gathers the frames of a delivery from the client.
func (l *link) take(f frame) {
	t := l.partial
	if t == nil {
		if l.credit--; l.credit < 0 {
			l.detach(&Error{creditExceeded, "more deliveries than the link has credit for"})
			return
		}
		t = &transferUnderWay{id: f.fields.uint(1), format: f.fields.uint(3)}
		l.partial = t
	}
	t.settled = t.settled || f.fields.flag(4)
	if f.fields.flag(9) { // aborted
		l.partial = nil
		return
	}
	t.body = append(t.body, f.payload...)
	if len(t.body) > l.s.c.s.options.MaxMessage {
		l.detach(&Error{TooLarge, "The received message exceeds the limit currently allowed on the link."})
		return
	}
	if f.fields.flag(5) { // more
		return
	}
	l.partial = nil
	l.delivered++
	if l.credit < senderCredit/2 {
		l.credit = senderCredit
		l.s.sendFlow(fields{l.handle, l.delivered, uint32(senderCredit)})
	}
	switch l.node {
	case nodeCBS:
		l.confirm(t, nil)
		l.s.c.putToken(l, t.body)
	case nodeManagement:
		l.confirm(t, nil)
		l.manage(t.body)
	default:
		l.s.c.s.take(l, t)
	}
}

// confirm settles a delivery of the client, as accepted or rejected.
func (l *link) confirm(t *transferUnderWay, err *Error) {
	if t.settled {
		return
	}
	state := accepted()
	if err != nil {
		state = rejected(err)
	}
	l.s.send(typeDisposition, fields{true, t.id, t.id, true, state})
}
