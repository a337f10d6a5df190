package rabbitqueue

import (
	"encoding/binary"
	"fmt"
	"time"

	amqp1 "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// numbered is a record with its publishing id. A stream takes only ids above the last it has of the same publisher;
// what is not above is confirmed and not stored again.
type numbered struct {
	id     uint64
	record *record.Record
}

// publish writes records in order, and returns when the stream has all of them on most of its nodes. extend is called
// whenever the broker has confirmed something, and moves the deadline.
func (c *streamConn) publish(publisher byte, batch []numbered, extend func()) error {
	now := time.Now()
	unconfirmed := 0
	for next := 0; next < len(batch) || unconfirmed > 0; {
		if next < len(batch) && unconfirmed < streamWindow {
			n, err := c.send(publisher, batch[next:], streamWindow-unconfirmed, now)
			if err != nil {
				return err
			}
			next += n
			unconfirmed += n
			continue
		}
		n, err := c.confirms(publisher)
		if err != nil {
			return err
		}
		unconfirmed -= n
		extend()
	}
	return nil
}

// send writes one frame of as many records as fit.
func (c *streamConn) send(publisher byte, batch []numbered, most int, now time.Time) (int, error) {
	f := append(newFrame(streamPublish, false, 0), publisher, 0, 0, 0, 0)
	n := 0
	for n < min(len(batch), most) {
		m, err := encodeStream(batch[n].record, now)
		if err != nil {
			return 0, err
		}
		if size := len(f) + 12 + len(m); size > c.frameMax {
			if n == 0 {
				return 0, &queue.TooLargeError{Size: size, Limit: c.frameMax}
			}
			break
		}
		f.u64(batch[n].id)
		f.u32(uint32(len(m)))
		f = append(f, m...)
		n++
	}
	binary.BigEndian.PutUint32(f[9:], uint32(n))
	return n, c.write(f)
}

// confirms waits for the next answer and counts the records in it.
func (c *streamConn) confirms(publisher byte) (int, error) {
	for {
		key, rest, err := c.read()
		if err != nil {
			return 0, err
		}
		if len(rest) < 5 || rest[0] != publisher {
			continue
		}
		n := int(binary.BigEndian.Uint32(rest[1:]))
		switch key {
		case streamConfirm:
			return n, nil
		case streamPublishError:
			if n < 1 || len(rest) < 15 {
				return 0, errShort
			}
			return 0, &streamError{binary.BigEndian.Uint16(rest[13:]), "publish"}
		}
	}
}

// encodeStream gives a record in AMQP 1.0's encoding, in which streams hold messages. RabbitMQ translates for consumers
// by AMQP 0.9.1: they see the same properties and headers as from encode, but for the delivery mode. That would be in the
// header section, and RabbitMQ 3.10 ends the connection of a consumer by AMQP 0.9.1 that comes to a message with one;
// what is in a stream is durable anyway.
func encodeStream(r *record.Record, now time.Time) ([]byte, error) {
	m := amqp1.Message{
		Data:                  [][]byte{r.Data},
		Properties:            &amqp1.MessageProperties{CreationTime: now},
		ApplicationProperties: make(map[string]any, len(r.Headers)+2),
	}
	for _, h := range r.Headers {
		if h.Name == record.HeaderContentType && len(h.Value) <= shortMax {
			m.Properties.ContentType = h.Value
		} else {
			m.ApplicationProperties[h.Name] = h.Value
		}
	}
	m.ApplicationProperties[record.HeaderID] = r.ID
	if len(r.ID) <= shortMax {
		m.Properties.MessageID = r.ID
	}
	if r.Key != "" {
		m.ApplicationProperties[headerKey] = r.Key
	}
	b, err := m.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode record %s: %w", r.ID, err)
	}
	return b, nil
}
