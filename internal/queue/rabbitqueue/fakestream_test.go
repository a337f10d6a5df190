package rabbitqueue

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
)

// fakeStreams answers the stream protocol for a fakeBroker, as far as this package speaks it: logs with publishing ids.
type fakeStreams struct {
	b *fakeBroker

	mu    sync.Mutex
	logs  map[string]*fakeLog
	conns map[net.Conn]bool
	done  sync.WaitGroup

	// cut, when above zero, counts down with every record that is published, and breaks the connection at zero: before
	// the record is stored, or after it when late is true.
	cut  int
	late bool
}

type fakeLog struct {
	chunks []chunk
	next   uint64
	last   map[string]uint64 // publishing id by reference
}

// streamConfig is of a broker with streams, in this process.
func streamConfig(t testing.TB) (Config, *fakeStreams) {
	s := &fakeStreams{b: newFakeBroker(), logs: make(map[string]*fakeLog), conns: make(map[net.Conn]bool)}
	t.Cleanup(func() {
		s.mu.Lock()
		for c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.done.Wait()
	})
	s.b.streamed = s.publish
	return Config{Create: true, Type: typeStream, Hosts: []string{"fake:5672"}, connect: s.b.connect, Dial: s.dial}, s
}

func (s *fakeStreams) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[server] = true
	s.done.Go(func() {
		s.serve(server)
		server.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, server)
	})
	return client, nil
}

// publish is what comes by AMQP 0.9.1.
func (s *fakeStreams) publish(stream string, r record.Record) {
	m, err := encodeStream(&r, time.Now())
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log(stream).append(m)
}

func (s *fakeStreams) log(stream string) *fakeLog {
	l := s.logs[stream]
	if l == nil {
		l = &fakeLog{last: make(map[string]uint64)}
		s.logs[stream] = l
	}
	return l
}

func (l *fakeLog) append(m []byte) {
	data := binary.BigEndian.AppendUint32(nil, uint32(len(m)))
	l.chunks = append(l.chunks, chunk{first: l.next, count: 1, time: time.Now(), data: append(data, m...)})
	l.next++
}

func (s *fakeStreams) exists(stream string) bool {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.b.queues[stream] != nil
}

// fakeSession is one connection of the server's side.
type fakeSession struct {
	s          *fakeStreams
	publishers map[byte][2]string // reference, stream
	subs       map[byte]*fakeSub
}

type fakeSub struct {
	stream string
	at     int // chunk
}

func (s *fakeStreams) serve(conn net.Conn) {
	// The client may write while it does not read, so answers wait in a buffer.
	answers := make(chan []byte, 100_000)
	s.done.Go(func() {
		for a := range answers {
			if _, err := conn.Write(a); err != nil {
				for range answers { // let go of the rest
				}
			}
		}
	})
	defer close(answers)
	in := &streamConn{conn: conn, in: bufio.NewReader(conn)}
	f := &fakeSession{s: s, publishers: make(map[byte][2]string), subs: make(map[byte]*fakeSub)}
	say := func(a frame) {
		binary.BigEndian.PutUint32(a, uint32(len(a)-4))
		answers <- a
	}
	for {
		key, rest, err := in.read()
		if err != nil || !f.handle(key, rest, say) {
			return
		}
	}
}

func str(b []byte) (string, []byte) {
	n := binary.BigEndian.Uint16(b)
	return string(b[2 : 2+n]), b[2+n:]
}

func (f *fakeSession) handle(key uint16, rest []byte, say func(frame)) bool {
	answer := func(code uint16) frame {
		a := newFrame(key|streamAnswer, false, 0)
		a = append(a, rest[:4]...)
		a.u16(code)
		return a
	}
	switch key {
	case streamPeerProperties:
		a := answer(1)
		a.u32(0)
		say(a)
	case streamHandshake:
		a := answer(1)
		a.u32(1)
		a.str("PLAIN")
		say(a)
	case streamAuthenticate:
		if strings.Contains(string(rest), "s3cret") {
			say(answer(8))
			return true
		}
		say(answer(1))
		tune := newFrame(streamTune, false, 0)
		tune.u32(streamFrame)
		tune.u32(60)
		say(tune)
	case streamTune | streamAnswer:
	case streamOpen:
		say(answer(1))
	case streamDeclarePublisher:
		reference, more := str(rest[5:])
		stream, _ := str(more)
		if !f.s.exists(stream) {
			say(answer(2))
			return true
		}
		f.publishers[rest[4]] = [2]string{reference, stream}
		say(answer(1))
	case streamQuerySequence:
		reference, more := str(rest[4:])
		stream, _ := str(more)
		if !f.s.exists(stream) {
			say(append(answer(2), make([]byte, 8)...))
			return true
		}
		f.s.mu.Lock()
		last := f.s.log(stream).last[reference]
		f.s.mu.Unlock()
		a := answer(1)
		a.u64(last)
		say(a)
	case streamPublish:
		return f.publish(rest, say)
	case streamSubscribe:
		f.subscribe(rest, say, answer)
	case streamCredit:
		f.deliver(rest[0], int(binary.BigEndian.Uint16(rest[1:])), say)
	}
	return true
}

func (f *fakeSession) publish(rest []byte, say func(frame)) bool {
	p := f.publishers[rest[0]]
	n := binary.BigEndian.Uint32(rest[1:])
	confirm := append(newFrame(streamConfirm, false, 0), rest[0])
	confirm.u32(n)
	rest = rest[5:]
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	l := f.s.log(p[1])
	for range n {
		id, size := binary.BigEndian.Uint64(rest), binary.BigEndian.Uint32(rest[8:])
		m := rest[12 : 12+size]
		rest = rest[12+size:]
		cut := f.s.cut == 1
		f.s.cut = max(f.s.cut-1, 0)
		if cut && !f.s.late {
			return false
		}
		if id > l.last[p[0]] {
			l.last[p[0]] = id
			l.append(m)
		}
		if cut {
			return false
		}
		confirm.u64(id)
	}
	say(confirm)
	return true
}

func (f *fakeSession) subscribe(rest []byte, say func(frame), answer func(uint16) frame) {
	id := rest[4]
	stream, more := str(rest[5:])
	if !f.s.exists(stream) {
		say(answer(2))
		return
	}
	f.s.mu.Lock()
	l := f.s.log(stream)
	sub := &fakeSub{stream: stream}
	switch binary.BigEndian.Uint16(more) {
	case streamLast:
		sub.at = max(len(l.chunks)-1, 0)
	case streamOffset:
		sub.at = int(min(binary.BigEndian.Uint64(more[2:]), l.next))
	}
	f.subs[id] = sub
	f.s.mu.Unlock()
	say(answer(1))
	f.deliver(id, int(binary.BigEndian.Uint16(more[len(more)-2:])), say)
}

func (f *fakeSession) deliver(id byte, credit int, say func(frame)) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	sub := f.subs[id]
	l := f.s.log(sub.stream)
	for ; credit > 0 && sub.at < len(l.chunks); credit-- {
		say(append(append(newFrame(streamDeliver, false, 0), id), l.chunks[sub.at].bytes()...))
		sub.at++
	}
}

// bytes is the opposite of readChunk.
func (c chunk) bytes() frame {
	f := frame{0x50, 0}
	f.u16(uint16(c.count))
	f.u32(c.count)
	f.u64(uint64(c.time.UnixMilli()))
	f.u64(1)
	f.u64(c.first)
	f.u32(0)
	f.u32(uint32(len(c.data)))
	f.u32(0)
	f.u32(0)
	return append(f, c.data...)
}

// streamBrokers runs a test against the fake, and against the real broker where there is one.
func streamBrokers(t *testing.T, test func(t *testing.T, c Config)) {
	t.Run("fake", func(t *testing.T) {
		c, _ := streamConfig(t)
		test(t, c)
	})
	t.Run("real", func(t *testing.T) { test(t, parse(t, address(t, "FERRY_TEST_RABBITMQ_STREAM"))) })
}

// TestStreamCutEverywhere breaks the connection at every record of a commit, before and after it is stored; the same
// writer or the next one goes on.
func TestStreamCutEverywhere(t *testing.T) {
	all := recs("cut", 0, 24)
	batch := queue.Batch{Records: all[:20], Dead: all[20:]}
	for n := range 2 * 2 * 24 {
		c, s := streamConfig(t)
		cursors := queuetest.NewCursors()
		q := openStream(t, c, cursors)
		w := writer(t, q, "t")
		s.mu.Lock()
		s.cut, s.late = n/4+1, n%2 == 1
		s.mu.Unlock()
		if err := w.Commit(t.Context(), batch, record.Cursor("c")); err == nil {
			t.Fatalf("cut at %d: no error", n)
		}
		if n%4 > 1 {
			w = writer(t, q, "t")
		}
		if err := w.Commit(t.Context(), batch, record.Cursor("c")); err != nil {
			t.Fatal(err)
		}
		once(t, streamIDs(t, q, "t"), all[:20])
		once(t, streamIDs(t, q, "t.dead"), all[20:])
	}
}

// TestStreamForeign looks at a stream in which another program has put what is no message: the records before and behind
// it are shown, and what cannot be read is named.
func TestStreamForeign(t *testing.T) {
	for name, foreign := range map[string]struct{ message, why string }{
		"an annotation whose name is an array": {"\x00Sx\xd1\x00\x00\x00 \x00\x00\x00 AA\x8000000000AAAEA0000000000000000", "unhashable"},
		"nothing of AMQP":                      {"plain text", "decode message: "},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := streamConfig(t)
			q := openStream(t, c, queuetest.NewCursors())
			all := recs("foreign", 0, 4)
			w := writer(t, q, "t")
			commit := func(records []record.Record, cursor string) {
				t.Helper()
				if err := w.Commit(t.Context(), queue.Batch{Records: records}, record.Cursor(cursor)); err != nil {
					t.Fatal(err)
				}
			}
			commit(all[:2], "a")
			s.mu.Lock()
			s.logs["t"].append([]byte(foreign.message))
			s.mu.Unlock()
			commit(all[2:], "b")
			for _, from := range []int64{1, 4} {
				got, err := q.Browse(t.Context(), "t", from, 10)
				if err != nil || len(got) != 2 || got[0].Position != from {
					t.Fatalf("from %d: %v, %v; want two records", from, got, err)
				}
			}
			_, err := q.Browse(t.Context(), "t", 3, 10)
			if err == nil || !strings.Contains(err.Error(), "read record 3 of t: ") || !strings.Contains(err.Error(), foreign.why) || !strings.Contains(err.Error(), "from 4") {
				t.Fatalf("the foreign message: %v", err)
			}
		})
	}
}
