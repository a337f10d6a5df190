package rabbitqueue

import (
	"bufio"
	"bytes"
	"testing"
	"time"

	"ferry/internal/record"
)

// FuzzChunk reads what a broker could send as a piece of a stream's log.
func FuzzChunk(f *testing.F) {
	r := record.Record{ID: "1", Key: "k", Data: []byte(`{"a":1}`), Headers: []record.Header{{Name: "content-type", Value: "application/json"}, {Name: "h", Value: "v"}}}
	m, err := encodeStream(&r, time.Unix(1, 0))
	if err != nil {
		f.Fatal(err)
	}
	l := fakeLog{last: map[string]uint64{}}
	l.append(m)
	f.Add([]byte(l.chunks[0].bytes()))
	l.chunks[0].data = append([]byte{0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, l.chunks[0].data...) // a batch
	f.Add([]byte(l.chunks[0].bytes()))
	f.Fuzz(func(_ *testing.T, b []byte) {
		c, err := readChunk(b)
		if err != nil {
			return
		}
		_, _ = c.records(func(_ uint64, m []byte) (bool, error) {
			_, err := decodeStream(m)
			return true, err
		})
	})
}

// FuzzMessage reads what other programs could have written.
func FuzzMessage(f *testing.F) {
	r := record.Record{ID: "1", Key: "k", Data: []byte(`{"a":1}`), Headers: []record.Header{{Name: "content-type", Value: "application/json"}, {Name: "h", Value: "v"}}}
	m, err := encodeStream(&r, time.Unix(1, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m)
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = decodeStream(b) })
}

// FuzzFrame reads what a broker could send as frames.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 4, 0, 23, 0, 1, 0, 0, 0, 5, 0, 3, 0, 1, 9})
	f.Fuzz(func(_ *testing.T, b []byte) {
		c := streamConn{in: bufio.NewReader(bytes.NewReader(b))}
		for {
			if _, _, err := c.read(); err != nil {
				return
			}
		}
	})
}
