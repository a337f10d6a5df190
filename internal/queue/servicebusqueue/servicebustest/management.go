package servicebustest

// manage does what a request to a queue's $management node asks for (Service Bus's "AMQP request-response based
// operations").
func (l *link) manage(body []byte) {
	r, err := parseRequest(body)
	if err != nil {
		l.reply(r, 400, err.Error(), nil)
		return
	}
	in, _ := r.value.(pairs)
	switch op := text(r.properties.get("operation")); op {
	case "com.microsoft:peek-message":
		l.peek(r, in)
	case "com.microsoft:update-disposition":
		l.update(r, in)
	case "com.microsoft:renew-lock":
		l.renew(r, in)
	case "com.microsoft:renew-session-lock":
		id := text(in.get("session-id"))
		lane := l.q.lanes[id]
		if lane == nil || lane.owner == nil || lane.owner != l.associated(r) {
			l.reply(r, 410, "SessionLockLost: The session lock has expired.", nil)
			return
		}
		lane.until = l.s.c.s.now().Add(l.q.options.Lock)
		l.reply(r, 200, "OK", pairs{{"expiration", lane.until}})
	default:
		l.reply(r, 501, "The operation '"+op+"' is not part of this server.", nil)
	}
}

// associated is the client's receiving link that a request speaks for, or nil.
func (l *link) associated(r request) *link {
	name := text(r.properties.get("associated-link-name"))
	for _, s := range l.s.c.sessions {
		for _, other := range s.links {
			if other.name == name && other.q == l.q && other.node == nodeQueue {
				return other
			}
		}
	}
	return nil
}

// peek looks at messages. An answer holds as many as one message may be large, so it may be fewer than asked for.
func (l *link) peek(r request, in pairs) {
	from, _ := number(in.get("from-sequence-number"))
	n, _ := number(in.get("message-count"))
	var session *string
	if id, ok := in.get("session-id").(string); ok {
		session = &id
	} else if other := l.associated(r); other != nil {
		session = other.session
	}
	var found list
	size := 0
	for _, m := range l.q.peek(from, int(n), session) {
		b := m.wire()
		if size += len(b); size > l.s.c.s.options.MaxMessage && len(found) > 0 {
			break
		}
		found = append(found, pairs{{"message", b}})
	}
	if len(found) == 0 {
		l.reply(r, 204, "NoContent", nil)
		return
	}
	l.reply(r, 200, "OK", pairs{{"messages", found}})
}

// update settles messages by their lock tokens, whichever link they were received on.
func (l *link) update(r request, in pairs) {
	o, ok := map[string]outcome{"completed": complete, "abandoned": abandon, "suspended": deadLetter}[text(in.get("disposition-status"))]
	tokens, isArray := in.get("lock-tokens").(array)
	if !ok || !isArray {
		l.reply(r, 400, "a disposition-status and lock-tokens are needed", nil)
		return
	}
	for _, t := range tokens {
		token, _ := t.(uuid)
		if err := l.q.settle(token, o, text(in.get("deadletter-reason")), text(in.get("deadletter-description"))); err != nil {
			l.reply(r, 410, "MessageLockLost: "+err.Description, nil)
			return
		}
	}
	l.reply(r, 200, "OK", nil)
}

// renew makes locks last their full time again.
func (l *link) renew(r request, in pairs) {
	tokens, _ := in.get("lock-tokens").(array)
	var until array
	for _, t := range tokens {
		token, _ := t.(uuid)
		m := l.q.locked[token]
		if m == nil {
			l.reply(r, 410, "MessageLockLost: The lock supplied is invalid.", nil)
			return
		}
		m.until = l.s.c.s.now().Add(l.q.options.Lock)
		until = append(until, m.until)
	}
	l.reply(r, 200, "OK", pairs{{"expirations", until}})
}
