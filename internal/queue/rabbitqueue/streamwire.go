package rabbitqueue

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// The stream protocol of RabbitMQ (PROTOCOL.adoc of its rabbitmq_stream plugin), as far as a writer needs it: AMQP 0.9.1
// has no publishing ids. The vendor's client is not used for it: it connects again for ever in sleeps that no context
// ends, and writes to the process's log. A frame is its length in four bytes, key, version, and for requests and answers
// a correlation id; numbers are big-endian, strings have two bytes of length.
const (
	streamDeclarePublisher = 1
	streamPublish          = 2
	streamConfirm          = 3
	streamPublishError     = 4
	streamQuerySequence    = 5
	streamSubscribe        = 7
	streamDeliver          = 8
	streamCredit           = 9
	streamMetadataUpdate   = 16
	streamPeerProperties   = 17
	streamHandshake        = 18
	streamAuthenticate     = 19
	streamTune             = 20
	streamOpen             = 21
	streamClose            = 22
	streamHeartbeat        = 23

	streamAnswer = 0x8000 // set in the keys of answers

	// streamFrame is the largest frame that we take and, unless the broker wants smaller ones, send.
	streamFrame = 1 << 20
	// streamRecordMax leaves room in a frame for its head and a message's own.
	streamRecordMax = streamFrame - 4<<10
	// streamWindow is how many records are on their way without a confirm.
	streamWindow = 2000
)

// streamError is an answer's code.
type streamError struct {
	code uint16
	what string
}

func (e *streamError) Error() string {
	texts := map[uint16]string{
		2: "the stream does not exist", 6: "the stream is not available", 7: "the broker does not offer this way to log in",
		8: "login refused", 11: "login refused: this user is let in from the broker's own machine only", 12: "the vhost is missing or not for this login",
		14: "frame too large", 15: "internal error", 16: "the login lacks the right", 17: "precondition failed", 18: "publisher unknown",
	}
	text := texts[e.code]
	if text == "" {
		text = "refused"
	}
	return fmt.Sprintf("%s: %s (stream protocol, code %d)", e.what, text, e.code)
}

// mapStreamError turns it into the contract's errors.
func mapStreamError(what string, err error) error {
	var said *streamError
	if errors.As(err, &said) {
		switch said.code {
		case 2:
			return retry.Permanent(fmt.Errorf("%s: %w: %w: declare the stream, or let ferry do it with create=true in the queue's URL", what, queue.ErrNoTopic, err))
		case 7, 8, 11, 12, 16:
			return retry.Permanent(fmt.Errorf("%s: %w", what, err))
		case 17: // what a new publisher is told under an alarm
			return fmt.Errorf("%s: %w: RabbitMQ takes no records until its alarm clears: %w", what, queue.ErrFull, err)
		}
	}
	return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
}

// streamConn is one connection in the stream protocol. It belongs to one writer and has no goroutine: it reads only
// while something is awaited. It asks for no heartbeats, so a quiet writer may lie still.
type streamConn struct {
	conn     net.Conn
	in       *bufio.Reader
	frameMax int
	next     uint32 // correlation id
}

// dialStream tries the hosts in turn. A node that is not the stream's leader passes on what is published, so any will do.
func (q *Queue) dialStream(ctx context.Context) (*streamConn, error) {
	var errs []error
	first := int(q.host.Load())
	for i := range q.cfg.Hosts {
		host := q.cfg.Hosts[(first+i)%len(q.cfg.Hosts)]
		name, _, err := net.SplitHostPort(host)
		if err != nil {
			return nil, fmt.Errorf("connect to RabbitMQ: %w", err)
		}
		host = net.JoinHostPort(name, strconv.Itoa(q.cfg.StreamPort))
		c, err := q.dialStreamHost(ctx, host)
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", host, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("%w (commits to streams need the plugin rabbitmq_stream and its port: stream_port)", errors.Join(errs...))
}

func (q *Queue) dialStreamHost(ctx context.Context, host string) (*streamConn, error) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	conn, err := q.cfg.socket(ctx, host)
	if err != nil {
		return nil, err
	}
	c := &streamConn{conn: conn, in: bufio.NewReaderSize(conn, 16<<10), frameMax: streamFrame}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = c.handshake(q.cfg)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *streamConn) handshake(cfg Config) error {
	var props frame
	props.u32(3)
	for _, s := range []string{"product", "ferry", "platform", "Go", "connection_name", "ferry writer"} {
		props.str(s)
	}
	if _, err := c.ask("connect", streamPeerProperties, props); err != nil {
		return err
	}
	offers, err := c.ask("log in", streamHandshake, frame{})
	if err != nil {
		return err
	}
	mechanism, secret := "PLAIN", "\x00"+cfg.User+"\x00"+cfg.Password.Reveal()
	switch {
	case cfg.User == "" && cfg.Cert != "":
		mechanism, secret = "EXTERNAL", ""
	case cfg.User == "":
		secret = "\x00guest\x00guest"
	}
	if !strings.Contains(string(offers), mechanism) {
		return &streamError{7, "log in by " + mechanism}
	}
	var login frame
	login.str(mechanism)
	login.u32(uint32(len(secret)))
	login = append(login, secret...)
	if _, err := c.ask("log in", streamAuthenticate, login); err != nil {
		return err
	}
	key, tune, err := c.read()
	if err != nil {
		return err
	}
	if key != streamTune || len(tune) < 8 {
		return fmt.Errorf("log in: the broker sent frame %d instead of its limits", key)
	}
	if n := int(binary.BigEndian.Uint32(tune)); n > 0 {
		c.frameMax = min(c.frameMax, n)
	}
	answer := newFrame(streamTune|streamAnswer, false, 0)
	answer.u32(uint32(c.frameMax))
	answer.u32(0) // no heartbeats
	if err := c.write(answer); err != nil {
		return err
	}
	var open frame
	open.str(cfg.vhost())
	_, err = c.ask("open vhost "+cfg.vhost(), streamOpen, open)
	return err
}

func (c Config) vhost() string {
	if c.VHost == "" {
		return "/"
	}
	return c.VHost
}

// declarePublisher takes a name under which the stream remembers the last publishing id.
func (c *streamConn) declarePublisher(id byte, reference, stream string) error {
	f := frame{id}
	f.str(reference)
	f.str(stream)
	_, err := c.ask("publish to "+stream, streamDeclarePublisher, f)
	return err
}

// sequence is the last publishing id that the stream has of a name, 0 for none.
func (c *streamConn) sequence(reference, stream string) (uint64, error) {
	var f frame
	f.str(reference)
	f.str(stream)
	rest, err := c.ask("ask "+stream+" for its last publishing id", streamQuerySequence, f)
	if err != nil {
		return 0, err
	}
	if len(rest) < 8 {
		return 0, errShort
	}
	return binary.BigEndian.Uint64(rest), nil
}

var errShort = errors.New("the broker's frame is too short")

// ask sends a request and reads its answer, without the head.
func (c *streamConn) ask(what string, key uint16, content frame) ([]byte, error) {
	c.next++
	f := newFrame(key, true, c.next)
	if err := c.write(append(f, content...)); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	for {
		got, rest, err := c.read()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if got != key|streamAnswer {
			continue // a late confirm
		}
		if len(rest) < 6 {
			return nil, fmt.Errorf("%s: %w", what, errShort)
		}
		if binary.BigEndian.Uint32(rest) != c.next {
			continue
		}
		if code := binary.BigEndian.Uint16(rest[4:]); code != 1 {
			return nil, &streamError{code, what}
		}
		return rest[6:], nil
	}
}

// write sends a frame, whose length it fills in.
func (c *streamConn) write(f frame) error {
	binary.BigEndian.PutUint32(f, uint32(len(f)-4))
	_, err := c.conn.Write(f)
	return err
}

// read reads a frame: its key and what follows the version.
func (c *streamConn) read() (uint16, []byte, error) {
	for {
		var head [8]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return 0, nil, err
		}
		size := int(binary.BigEndian.Uint32(head[:])) - 4
		if size < 0 || size > receiveBytes { // a delivery may be over the limit of frames: it is a chunk of the log
			return 0, nil, fmt.Errorf("a frame of %d bytes", size+4)
		}
		rest := make([]byte, size)
		if _, err := io.ReadFull(c.in, rest); err != nil {
			return 0, nil, err
		}
		switch key := binary.BigEndian.Uint16(head[4:]); key {
		case streamHeartbeat:
		case streamMetadataUpdate:
			return 0, nil, errors.New("the stream has another leader now, or is gone")
		case streamClose:
			return 0, nil, errors.New("the broker closes the connection")
		default:
			return key, rest, nil
		}
	}
}

// bound makes the end of a context end what is read and written, until it is released. What was cut off leaves the
// connection of no use; what came to its end just before does not, so release waits for a deadline that is just being
// set: it must not hit whoever uses the connection next.
func (c *streamConn) bound(ctx context.Context, timeout time.Duration) (release func()) {
	_ = c.conn.SetDeadline(time.Now().Add(timeout)) // fails with its connection
	set := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.conn.SetDeadline(time.Unix(1, 0))
		close(set)
	})
	return func() {
		if !stop() {
			<-set
		}
	}
}

// frame is what is written, in the making.
type frame []byte

func newFrame(key uint16, correlated bool, correlation uint32) frame {
	f := frame{0, 0, 0, 0}
	f = binary.BigEndian.AppendUint16(f, key)
	f = binary.BigEndian.AppendUint16(f, 1)
	if correlated {
		f.u32(correlation)
	}
	return f
}

func (f *frame) u16(n uint16) { *f = binary.BigEndian.AppendUint16(*f, n) }
func (f *frame) u32(n uint32) { *f = binary.BigEndian.AppendUint32(*f, n) }
func (f *frame) u64(n uint64) { *f = binary.BigEndian.AppendUint64(*f, n) }
func (f *frame) str(s string) {
	*f = append(binary.BigEndian.AppendUint16(*f, uint16(len(s))), s...)
}
