package rabbitqueue

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"ferry/internal/queue"
)

// The tests of this file run the real client against a few lines of AMQP 0.9.1, to say what no broker says on demand.

// speak answers a client on one end of a pipe: it lets it in, opens channels, and hands the number of each message that
// was published to answer, which says what to send back.
func speak(conn net.Conn, answer func(n uint64) [][]byte) {
	defer conn.Close()
	var greeting [8]byte
	if _, err := io.ReadFull(conn, greeting[:]); err != nil {
		return
	}
	out := make(chan []byte, 10_000)
	defer close(out)
	go func() {
		for b := range out {
			if _, err := conn.Write(b); err != nil {
				conn.Close() // what follows fails at once
			}
		}
	}()
	out <- method(0, 10, 10, append([]byte{0, 9, 0, 0, 0, 0}, append(long("PLAIN"), long("en_US")...)...))
	published := uint64(0)
	for {
		var head [7]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
		if _, err := io.ReadFull(conn, payload); err != nil {
			return
		}
		ch := binary.BigEndian.Uint16(head[1:])
		if head[0] != 1 {
			continue // content, heartbeats
		}
		switch binary.BigEndian.Uint32(payload) {
		case 10<<16 | 11: // start-ok
			out <- method(0, 10, 30, []byte{0, 10, 0, 2, 0, 0, 0, 0}) // tune
		case 10<<16 | 40: // open
			out <- method(0, 10, 41, []byte{0})
		case 10<<16 | 50: // close
			out <- method(0, 10, 51, nil)
		case 20<<16 | 10: // channel.open
			out <- method(ch, 20, 11, []byte{0, 0, 0, 0})
		case 20<<16 | 40: // channel.close
			out <- method(ch, 20, 41, nil)
		case 85<<16 | 10: // confirm.select
			out <- method(ch, 85, 11, nil)
		case 60<<16 | 40: // basic.publish
			published++
			for _, b := range answer(published) {
				out <- b
			}
		}
	}
}

func long(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }

func method(ch, class, id uint16, args []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{1}, ch)
	b = binary.BigEndian.AppendUint32(b, uint32(len(args)+4))
	b = binary.BigEndian.AppendUint16(b, class)
	b = binary.BigEndian.AppendUint16(b, id)
	return append(append(b, args...), 0xce)
}

func ack(tag uint64, multiple byte) []byte {
	return method(1, 60, 80, append(binary.BigEndian.AppendUint64(nil, tag), multiple))
}

func nackOne(tag uint64) []byte {
	return method(1, 60, 120, append(binary.BigEndian.AppendUint64(nil, tag), 0))
}

func speaking(t *testing.T, answer func(n uint64) [][]byte) *Queue {
	t.Helper()
	return open(t, Config{
		Hosts: []string{"pipe:5672"}, Timeout: 5 * time.Second,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go speak(server, answer)
			return client, nil
		},
	})
}

// TestNackAheadOfItsTurn: a full classic queue refuses a record at once, while those before it still wait for the disk;
// then one confirm covers all up to a later one. The refused record is not among them.
func TestNackAheadOfItsTurn(t *testing.T) {
	q := speaking(t, func(n uint64) [][]byte {
		switch n {
		case 2:
			return [][]byte{nackOne(2)}
		case 3:
			return [][]byte{ack(3, 1)}
		}
		return nil
	})
	err := q.Publish(t.Context(), "t", recs("ahead", 0, 3))
	if !errors.Is(err, queue.ErrFull) || done(err) != 1 {
		t.Fatalf("error %v", err)
	}
}

// TestConfirmedBeforeTheEnd: what was confirmed before the broker closed the connection is not published again.
func TestConfirmedBeforeTheEnd(t *testing.T) {
	q := speaking(t, func(n uint64) [][]byte {
		if n != 5 {
			return nil
		}
		reason := "CONNECTION_FORCED - broker stops"
		args := append([]byte{1, 64, byte(len(reason))}, reason...) // 320
		return [][]byte{ack(3, 1), method(0, 10, 50, append(args, 0, 0, 0, 0))}
	})
	err := q.Publish(t.Context(), "t", recs("end", 0, 5))
	if !errors.Is(err, queue.ErrUnavailable) || done(err) != 3 || !strings.Contains(err.Error(), "broker stops") {
		t.Fatalf("error %v", err)
	}
}

// TestSilentBroker: a broker that answers nothing ends in time, at the handshake and later.
func TestSilentBroker(t *testing.T) {
	silent := Config{
		Hosts: []string{"pipe:5672"}, Timeout: 50 * time.Millisecond,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			t.Cleanup(func() { server.Close() })
			return client, nil
		},
	}
	if _, err := Open(t.Context(), silent); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("error %v", err)
	}
	q := speaking(t, func(uint64) [][]byte { return nil })
	q.cfg.Timeout = 50 * time.Millisecond
	if _, err := q.Stats(t.Context(), "t"); !errors.Is(err, queue.ErrUnavailable) { // queue.declare is not spoken
		t.Fatalf("error %v", err)
	}
}
