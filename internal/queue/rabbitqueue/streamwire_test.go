package rabbitqueue

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowDeadline is a connection on which a deadline in the past takes its time to be set.
type slowDeadline struct {
	net.Conn
	past atomic.Bool
}

func (c *slowDeadline) SetDeadline(t time.Time) error {
	if t.Before(time.Now()) {
		time.Sleep(time.Second)
		c.past.Store(true)
	}
	return nil
}

// A context that ends just as a commit does must not cut off the next one on the same connection.
func TestStreamDeadlineOfTheLastCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &slowDeadline{}
		c := &streamConn{conn: conn}
		ctx, cancel := context.WithCancel(t.Context())
		release := c.bound(ctx, time.Minute)
		cancel()
		synctest.Wait()
		release()
		if !conn.past.Load() {
			t.Error("released while the deadline of the last commit was still on its way")
		}
		quiet := c.bound(t.Context(), time.Minute)
		quiet() // nothing ended, nothing to wait for
	})
}
