package queuetest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// echo answers each line with the same line, and counts the bytes that reach it.
func echo(t *testing.T) (address string, heard *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	heard = new(atomic.Int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewReader(c); ; {
					line, err := in.ReadString('\n')
					heard.Add(int64(len(line)))
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, line)
				}
			}()
		}
	}()
	return l.Addr().String(), heard
}

func dial(t *testing.T, n *Network, address string) net.Conn {
	t.Helper()
	c, err := n.Dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a line and waits for its echo.
func ask(c net.Conn, line string, wait time.Duration) error {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	got := make([]byte, len(line)+1)
	_, err := io.ReadFull(c, got)
	if err == nil && string(got) != line+"\n" {
		return errors.New("heard " + string(got))
	}
	return err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func broken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestNetwork(t *testing.T) {
	server, heard := echo(t)
	root, n := t, NewNetwork(t)
	c := dial(t, n, server)
	if err := ask(c, "hello", time.Second); err != nil {
		t.Fatal(err)
	}
	if n.Address(server) == server {
		t.Fatal("the address is the broker's own")
	}

	t.Run("lost answers", func(t *testing.T) {
		before := heard.Load()
		n.LoseAnswers()
		if err := ask(c, "deaf", 100*time.Millisecond); !isTimeout(err) {
			t.Fatalf("a lost answer gave %v", err)
		}
		if heard.Load() != before+5 {
			t.Fatal("the request did not reach the server")
		}
		young := dial(root, n, server)
		if err := ask(young, "deaf", 100*time.Millisecond); !isTimeout(err) {
			t.Fatalf("a lost answer on a new connection gave %v", err)
		}
		n.Heal()
		if err := ask(c, "again", time.Second); !broken(err) {
			t.Fatalf("a connection that has lost something gave %v after Heal", err)
		}
		c = dial(root, n, server)
		if err := ask(c, "healed", time.Second); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("cut", func(t *testing.T) {
		n.Cut()
		if err := ask(c, "cut", time.Second); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("a cut connection gave %v, want a reset", err)
		}
		c = dial(root, n, server)
		if err := ask(c, "new", time.Second); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("down and up", func(t *testing.T) {
		n.Down()
		if err := ask(c, "down", time.Second); !broken(err) {
			t.Fatalf("a connection of a network that is down gave %v", err)
		}
		if _, err := n.Dial(t.Context(), "tcp", server); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dialling a network that is down gave %v", err)
		}
		other, _ := echo(root)
		if _, err := n.Dial(t.Context(), "tcp", other); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dialling another server while the network is down gave %v", err)
		}
		n.Up()
		for _, address := range []string{server, other} {
			c = dial(root, n, address)
			if err := ask(c, "up", time.Second); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("slow", func(t *testing.T) {
		n.Slow(150 * time.Millisecond)
		begin := time.Now()
		if err := ask(c, "slow", 5*time.Second); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d < 150*time.Millisecond {
			t.Fatalf("a slow answer came after %s", d)
		}
		n.Heal()
		begin = time.Now()
		if err := ask(c, "fast", 5*time.Second); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > 140*time.Millisecond {
			t.Fatalf("an answer came after %s on a healed network", d)
		}
	})
	t.Run("limit", func(t *testing.T) {
		before := heard.Load()
		n.LimitUp(5000)
		_ = ask(c, strings.Repeat("x", 20_000), 5*time.Second)
		until(t, "the connection goes on after its limit", func() bool { return broken(ask(c, "y", 50*time.Millisecond)) })
		if got := heard.Load() - before; got > 5000 {
			t.Fatalf("%d bytes came through, want at most 5000", got)
		}
		n.Heal()
		c = dial(root, n, server)
		if err := ask(c, "healed", time.Second); err != nil {
			t.Fatal(err)
		}
	})
}

// TestNetworkCutsBusyConnections breaks connections that are full of data; TestMain sees whether anything is left of
// them.
func TestNetworkCutsBusyConnections(t *testing.T) {
	server, _ := echo(t)
	n := NewNetwork(t)
	line := strings.Repeat("x", 30_000) + "\n"
	for i, breaks := range []func(){n.Cut, n.LoseAnswers, func() { n.Slow(time.Hour) }, func() { n.LimitUp(100_000) }, n.Down} {
		var done sync.WaitGroup
		for range 8 {
			c, err := n.Dial(t.Context(), "tcp", server)
			if err != nil {
				t.Fatal(err)
			}
			done.Go(func() {
				defer c.Close()
				for range 1000 {
					if _, err := io.WriteString(c, line); err != nil {
						return
					}
				}
				t.Errorf("fault %d: a connection outlives it", i)
			})
			done.Go(func() { _, _ = io.Copy(io.Discard, c) })
		}
		breaks()
		n.Heal()
		n.Cut()
		done.Wait()
	}
}
