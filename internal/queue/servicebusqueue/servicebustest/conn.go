package servicebustest

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"sync"
	"time"
)

// idle is after how long without a frame the server ends a connection; it says so when the connection opens.
const idle = 2 * time.Minute

var (
	headerSASL = []byte("AMQP\x03\x01\x00\x00")
	headerAMQP = []byte("AMQP\x00\x01\x00\x00")
)

// conn is one connection of a client. One goroutine reads, one writes; everything but out is guarded by the server's
// lock.
type conn struct {
	s        *Server
	net      net.Conn
	maxFrame int // that the client takes
	sessions map[uint16]*session
	claims   map[string]*Key // what $cbs has been told, by the audience's path
	opened   bool

	mu     sync.Mutex
	wake   *sync.Cond
	out    []byte
	ending bool // write what is there, then close
}

func newConn(s *Server, c net.Conn) *conn {
	n := &conn{s: s, net: c, maxFrame: 512, sessions: make(map[uint16]*session), claims: make(map[string]*Key)}
	n.wake = sync.NewCond(&n.mu)
	return n
}

// serve runs until the connection ends.
func (c *conn) serve(r *bufio.Reader) {
	written := make(chan struct{})
	go func() { defer close(written); c.write() }()
	err := c.handshake(r)
	if err == nil {
		err = c.read(r)
	}
	c.s.mu.Lock()
	for _, s := range c.sessions {
		s.end()
	}
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	if e, ok := err.(*Error); ok && c.opened { //nolint:errorlint // made here, never wrapped
		c.send(frame{kind: typeClose, fields: fields{e.wire()}})
	}
	c.end()
	<-written
	_ = c.net.Close()
}

// end closes the connection when all has been written.
func (c *conn) end() {
	c.mu.Lock()
	c.ending = true
	c.wake.Signal()
	c.mu.Unlock()
}

// cut ends the connection as a broken network does.
func (c *conn) cut() {
	c.mu.Lock()
	c.out, c.ending = nil, true
	c.wake.Signal()
	c.mu.Unlock()
	_ = c.net.Close()
}

// send hands a frame to the writer. It does not block.
func (c *conn) send(f frame) {
	c.mu.Lock()
	if !c.ending {
		c.out = f.append(c.out)
		c.wake.Signal()
	}
	c.mu.Unlock()
}

func (c *conn) raw(b []byte) {
	c.mu.Lock()
	c.out = append(c.out, b...)
	c.wake.Signal()
	c.mu.Unlock()
}

func (c *conn) write() {
	var spare []byte
	for {
		c.mu.Lock()
		for len(c.out) == 0 && !c.ending {
			c.wake.Wait()
		}
		out, ending := c.out, c.ending
		c.out = spare[:0]
		c.mu.Unlock()
		if len(out) > 0 {
			if _, err := c.net.Write(out); err != nil {
				_ = c.net.Close()
				return
			}
		}
		if ending {
			return
		}
		if spare = out; cap(spare) > 1<<20 {
			spare = nil
		}
	}
}

// handshake goes through SASL and the opening of the connection.
func (c *conn) handshake(r *bufio.Reader) error {
	_ = c.net.SetReadDeadline(time.Now().Add(10 * time.Second))
	head := make([]byte, 8)
	if err := readFull(r, head); err != nil {
		return err
	}
	if bytes.Equal(head, headerSASL) {
		if err := c.login(r); err != nil {
			return err
		}
		if err := readFull(r, head); err != nil {
			return err
		}
	}
	if !bytes.Equal(head, headerAMQP) {
		c.raw(headerAMQP)
		return fmt.Errorf("protocol header %q", head)
	}
	c.raw(headerAMQP)
	f, err := readFrame(r)
	if err != nil {
		return err
	}
	if f.kind != typeOpen {
		return fmt.Errorf("frame 0x%x before open", f.kind)
	}
	if c.maxFrame = int(min(f.fields.uint(2), maxFrame)); f.fields.at(2) == nil {
		c.maxFrame = maxFrame
	}
	c.send(frame{kind: typeOpen, fields: fields{"servicebustest", nil, uint32(maxFrame), uint16(4999), uint32(idle.Milliseconds())}})
	c.opened = true
	if n := f.fields.uint(4); n > 0 {
		c.keepAlive(time.Duration(n) * time.Millisecond)
	}
	return nil
}

// keepAlive sends empty frames, twice as often as the client asks for (part 2, 2.4.5).
func (c *conn) keepAlive(every time.Duration) {
	var timer *time.Timer
	timer = time.AfterFunc(every/2, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ending {
			return
		}
		c.out = frame{}.append(c.out)
		c.wake.Signal()
		timer.Reset(every / 2)
	})
}

// login is SASL: ANONYMOUS and MSSBCBS let everyone in, who then shows a token to $cbs; PLAIN takes a key.
func (c *conn) login(r *bufio.Reader) error {
	c.raw(headerSASL)
	c.send(frame{sasl: true, kind: typeMechanisms, fields: fields{array{symbol("MSSBCBS"), symbol("PLAIN"), symbol("ANONYMOUS"), symbol("EXTERNAL")}}})
	f, err := readFrame(r)
	if err != nil {
		return err
	}
	if f.kind != typeInit {
		return fmt.Errorf("SASL frame 0x%x instead of init", f.kind)
	}
	code := uint8(1) // auth
	switch f.fields.text(0) {
	case "ANONYMOUS", "MSSBCBS":
		code = 0
	case "PLAIN":
		response, _ := f.fields.at(1).([]byte)
		if part := bytes.Split(response, []byte{0}); len(part) == 3 {
			if key := c.s.key(string(part[1])); key != nil && key.Secret == string(part[2]) {
				c.claims[""], code = key, 0
			}
		}
	}
	c.send(frame{sasl: true, kind: typeOutcome, fields: fields{code}})
	if code != 0 {
		return fmt.Errorf("SASL %s refused", f.fields.text(0))
	}
	return nil
}

// read handles frames until the client closes, breaks a rule or stays silent for too long.
func (c *conn) read(r *bufio.Reader) error {
	for {
		_ = c.net.SetReadDeadline(time.Now().Add(idle))
		f, err := readFrame(r)
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // as the net package gives it
				return &Error{QuotaExceeded, "The connection was idle for too long."}
			}
			return err
		}
		if f.kind == typeClose {
			c.send(frame{kind: typeClose, fields: fields{}})
			return nil
		}
		if err := c.handle(f); err != nil {
			return err
		}
	}
}

func (c *conn) handle(f frame) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if f.kind == 0 {
		return nil
	}
	if f.kind == typeBegin {
		s := newSession(c, f.channel, f.fields)
		c.sessions[f.channel] = s
		c.send(frame{channel: f.channel, kind: typeBegin, fields: fields{f.channel, uint32(0), uint32(sessionWindow), uint32(sessionWindow), uint32(255)}})
		return nil
	}
	s := c.sessions[f.channel]
	if s == nil && f.kind == typeEnd {
		return nil // go-amqp ends a session again when our end came after it had stopped waiting
	}
	if s == nil {
		return &Error{decodeError, fmt.Sprintf("frame 0x%x on channel %d, which has no session", f.kind, f.channel)}
	}
	if f.kind == typeEnd {
		if !s.ended {
			s.end()
			c.send(frame{channel: f.channel, kind: typeEnd, fields: fields{}})
		}
		delete(c.sessions, f.channel)
		return nil
	}
	if s.ended { // what was on its way
		return nil
	}
	if err := s.handle(f); err != nil {
		s.end()
		c.send(frame{channel: f.channel, kind: typeEnd, fields: fields{err.wire()}})
	}
	return nil
}

func readFull(r *bufio.Reader, b []byte) error {
	for n := 0; n < len(b); {
		k, err := r.Read(b[n:])
		if n += k; err != nil {
			return err
		}
	}
	return nil
}
