package rabbitqueue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	amqp1 "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"

	"ferry/internal/record"
	"ferry/internal/retry"
)

// Where a subscription begins.
const (
	streamFirst  = 1
	streamLast   = 2
	streamOffset = 4
)

// streamReader looks at a stream over a connection of its own.
type streamReader struct {
	c      *streamConn
	stream string
	next   byte // subscription
}

// onStream runs f with a connection that ends with it.
func (q *Queue) onStream(ctx context.Context, stream string, f func(*streamReader) error) error {
	c, err := q.dialStream(ctx)
	if err == nil {
		defer c.conn.Close()
		defer c.bound(ctx, q.cfg.Timeout)()
		err = f(&streamReader{c: c, stream: stream})
	}
	switch {
	case err == nil || retry.IsPermanent(err):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("look at %s: %w", stream, context.Cause(ctx))
	}
	return mapStreamError("look at "+stream, err)
}

// ends gives the first and the last offset that are kept; last is below first when nothing is.
func (s *streamReader) ends() (first, last uint64, err error) {
	first, last = 1, 0
	err = s.read(streamFirst, 0, func(c chunk) (bool, error) { first = c.first; return false, nil })
	if err == nil {
		err = s.read(streamLast, 0, func(c chunk) (bool, error) { last = c.first + uint64(c.count) - 1; return false, nil })
	}
	return first, last, err
}

// read gives the chunks of the log from somewhere on, until f has enough or all that is there has been read. The broker
// sends what there is before it looks at the next frame, so when it answers a question asked behind a subscription or
// behind new credit, and has sent no chunk, there is none.
func (s *streamReader) read(kind uint16, offset uint64, f func(chunk) (more bool, err error)) error {
	id := s.next
	s.next++
	sub := frame{id}
	sub.str(s.stream)
	sub.u16(kind)
	if kind == streamOffset {
		sub.u64(offset)
	}
	const credit = 1 // chunk at a time
	sub.u16(credit)
	if _, err := s.c.ask("subscribe to "+s.stream, streamSubscribe, sub); err != nil {
		return err
	}
	for {
		chunks, err := s.c.delivered(s.stream, id)
		if err != nil || len(chunks) == 0 {
			return err
		}
		for _, c := range chunks {
			if more, err := f(c); err != nil || !more {
				return err
			}
		}
		grant := append(newFrame(streamCredit, false, 0), id)
		grant.u16(uint16(len(chunks)))
		if err := s.c.write(grant); err != nil {
			return err
		}
	}
}

// delivered asks the broker something, and gives the chunks of a subscription that come before the answer.
func (c *streamConn) delivered(stream string, id byte) (chunks []chunk, err error) {
	c.next++
	f := newFrame(streamQuerySequence, true, c.next)
	f.str("ferry")
	f.str(stream)
	if err := c.write(f); err != nil {
		return nil, err
	}
	for {
		key, rest, err := c.read()
		if err != nil {
			return nil, err
		}
		switch {
		case key == streamDeliver && len(rest) > 0 && rest[0] == id:
			one, err := readChunk(rest[1:])
			if err != nil {
				return nil, err
			}
			chunks = append(chunks, one)
		case key == streamQuerySequence|streamAnswer && len(rest) >= 4 && binary.BigEndian.Uint32(rest) == c.next:
			return chunks, nil
		}
	}
}

// chunk is a piece of the log: records that were written together.
type chunk struct {
	first uint64 // offset
	count uint32
	time  time.Time
	data  []byte
}

// readChunk reads a chunk's head: magic and version, type, entries (2 bytes), records (4), time in ms (8), epoch (8),
// first offset (8), checksum (4), bytes of data (4), bytes of trailer (4), reserved (4).
func readChunk(b []byte) (chunk, error) {
	if len(b) < 48 {
		return chunk{}, errShort
	}
	size := int(binary.BigEndian.Uint32(b[36:]))
	if size > len(b)-48 {
		return chunk{}, errShort
	}
	c := chunk{
		first: binary.BigEndian.Uint64(b[24:]), count: binary.BigEndian.Uint32(b[4:]),
		time: time.UnixMilli(int64(binary.BigEndian.Uint64(b[8:]))), data: b[48 : 48+size],
	}
	if b[1] != 0 { // the log's own
		c.count, c.data = 0, nil
	}
	return c, nil
}

// errCompressed is about records that another program has written.
var errCompressed = errors.New("the stream holds compressed batches of another program, which ferry does not read")

// records goes through the messages of a chunk. An entry is a message (4 bytes of length, of which the highest bit is
// 0) or a batch of them (type and compression, number (2), bytes when uncompressed (4), bytes (4)).
func (c chunk) records(f func(offset uint64, m []byte) (more bool, err error)) (more bool, err error) {
	offset, data := c.first, c.data
	for len(data) > 0 {
		if data[0]&0x80 != 0 {
			if data[0]&0x70 != 0 {
				return false, retry.Permanent(errCompressed)
			}
			if len(data) < 11 {
				return false, errShort
			}
			data = data[11:] // its messages follow, each with its length
			continue
		}
		if len(data) < 4 {
			return false, errShort
		}
		n := int(binary.BigEndian.Uint32(data))
		if n > len(data)-4 {
			return false, errShort
		}
		if more, err := f(offset, data[4:4+n]); err != nil || !more {
			return false, err
		}
		data = data[4+n:]
		offset++
	}
	return true, nil
}

// decodeStream gives a message of a stream as a record, by whichever protocol it was published.
func decodeStream(b []byte) (record.Record, error) {
	m, err := unmarshal(b)
	if err != nil {
		return record.Record{}, fmt.Errorf("decode message: %w", err)
	}
	r := record.Record{Data: slices.Concat(m.Data...)}
	if p := m.Properties; p != nil {
		if id, ok := p.MessageID.(string); ok {
			r.ID = id
		}
		if p.ContentType != "" {
			r.Headers = append(r.Headers, record.Header{Name: record.HeaderContentType, Value: p.ContentType})
		}
	}
	for name, value := range m.ApplicationProperties {
		text := fmt.Sprint(value)
		switch name {
		case record.HeaderID:
			r.ID = text
		case headerKey:
			r.Key = text
		default:
			if !strings.HasPrefix(name, "x-basic-") { // RabbitMQ's own, of what AMQP 0.9.1 has published
				r.Headers = append(r.Headers, record.Header{Name: name, Value: text})
			}
		}
	}
	slices.SortFunc(r.Headers, func(a, b record.Header) int { return strings.Compare(a.Name, b.Name) })
	return r, nil
}

func unmarshal(b []byte) (m amqp1.Message, err error) {
	defer func() {
		if v := recover(); v != nil { // an annotation whose name is an array: it must cost one message, not the process
			err = fmt.Errorf("not a message of AMQP 1.0: %v", v)
		}
	}()
	err = m.UnmarshalBinary(b)
	return m, err
}
