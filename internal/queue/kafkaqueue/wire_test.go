package kafkaqueue

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"ferry/internal/queue"
)

// wire makes connections that can lose the broker's answer to one request, and then break for good until mended.
type wire struct {
	mu    sync.Mutex
	lose  kmsg.Key // the answer to the next request with this key is lost
	armed bool
	half  bool // the request itself is cut in two instead, and never arrives
	down  bool // after that: no connection works
	lost  int
	open  map[*wireConn]struct{}
}

func newWire() *wire { return &wire{open: make(map[*wireConn]struct{})} }

// arm loses the answer to the next such request; with down the line stays dead afterwards.
func (w *wire) arm(key kmsg.Key, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose, w.armed, w.down = key, true, false
	if down {
		w.lost = -1 // go down when it is lost
	}
}

// tear breaks the connection in the middle of the next such request.
func (w *wire) tear(key kmsg.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose, w.armed, w.half = key, true, true
}

// cut breaks every connection, and refuses new ones.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for c := range w.open {
		c.Conn.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down, w.armed = false, false
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	down := w.down
	w.mu.Unlock()
	if down {
		return nil, errors.New("the line is cut")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &wireConn{Conn: conn, w: w}
	w.mu.Lock()
	w.open[c] = struct{}{}
	w.mu.Unlock()
	return c, nil
}

type wireConn struct {
	net.Conn
	w    *wire
	deaf bool // guarded by w.mu
}

// Write sees each request whole: the library writes one at a time.
func (c *wireConn) Write(p []byte) (int, error) {
	c.w.mu.Lock()
	if c.w.armed && len(p) >= 6 && kmsg.Key(binary.BigEndian.Uint16(p[4:])) == c.w.lose {
		c.w.armed = false
		if c.w.half {
			c.w.half = false
			c.w.mu.Unlock()
			n, _ := c.Conn.Write(p[:len(p)/2])
			c.Conn.Close()
			return n, io.ErrClosedPipe
		}
		c.deaf = true
	}
	c.w.mu.Unlock()
	return c.Conn.Write(p)
}

// Read waits for the answer, so that the broker has done its work, and loses it.
func (c *wireConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.w.mu.Lock()
	deaf := c.deaf
	stay := c.w.lost < 0
	if deaf {
		c.w.lost = 1
	}
	c.w.mu.Unlock()
	if !deaf {
		return n, err
	}
	if stay {
		c.w.cut()
	}
	c.Conn.Close()
	return 0, io.EOF
}

func (c *wireConn) Close() error {
	c.w.mu.Lock()
	delete(c.w.open, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

// eventually calls f until its error is no longer that the queue is unavailable.
func eventually(t testing.TB, f func() error) error {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		err := f()
		if !errors.Is(err, queue.ErrUnavailable) || time.Now().After(end) {
			return err
		}
		<-time.After(5 * time.Millisecond)
	}
}
