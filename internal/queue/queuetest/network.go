package queuetest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// Network lies between a queue and its broker and can be broken. It forwards TCP by toxiproxy, each address of the
// broker through a proxy of its own, made on first use. A fault holds for all of them, for the connections that are
// there and for those that come, until Heal. Safe for concurrent use.
type Network struct {
	t      testing.TB
	server *toxiproxy.ApiServer
	links  atomic.Int64 // directions of connections that were made

	mu      sync.Mutex
	proxies map[string]*toxiproxy.Proxy // by the broker's address
	down    bool

	sky     sync.Mutex    // not mu: stopping a proxy waits for a connection that is being made
	cut     chan struct{} // closed when the connections that are there are reset
	weather weather
}

// weather is what a connection meets; it is replaced as a whole.
type weather struct {
	deaf   bool          // what the broker says is dropped
	slow   time.Duration // what the broker says comes later
	limit  int           // bytes that a connection still carries to the broker; 0: no limit
	change chan struct{} // closed when another weather comes
}

// NewNetwork makes a network that works, and that ends with the test.
func NewNetwork(t testing.TB) *Network {
	toxics.Register("ferry", new(weathered))
	n := &Network{
		t: t, proxies: make(map[string]*toxiproxy.Proxy), cut: make(chan struct{}),
		weather: weather{change: make(chan struct{})},
		server:  toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()),
	}
	t.Cleanup(n.Down)
	return n
}

// Dial connects to a broker's address through its proxy; it fits where a client takes a dial function.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	through, err := n.through(address)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, network, through)
}

// Address is where a client connects to instead of to the broker's address, for clients that take no dial function.
func (n *Network) Address(broker string) string {
	n.t.Helper()
	address, err := n.through(broker)
	if err != nil {
		n.t.Fatal(err)
	}
	return address
}

// LoseAnswers lets requests reach the broker, and what it answers vanish. Heal resets the connections that have lost
// something.
func (n *Network) LoseAnswers() { n.change(weather{deaf: true}) }

// Slow lets everything that the broker says come d later.
func (n *Network) Slow(d time.Duration) { n.change(weather{slow: d}) }

// LimitUp lets each connection carry that many more bytes to the broker, and resets it then: in the middle of a batch.
func (n *Network) LimitUp(bytes int) { n.change(weather{limit: max(bytes, 1)}) }

// Cut resets every connection now. New ones can be made at once.
func (n *Network) Cut() {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.down {
		n.stop()
		n.start()
	}
}

// Down resets every connection and refuses new ones until Up.
func (n *Network) Down() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.down {
		n.down = true
		n.stop()
	}
}

// Up ends Down.
func (n *Network) Up() {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		n.down = false
		n.start()
	}
}

// Heal ends every fault.
func (n *Network) Heal() {
	n.t.Helper()
	n.change(weather{})
	n.Up()
}

func (n *Network) change(w weather) {
	n.sky.Lock()
	defer n.sky.Unlock()
	close(n.weather.change)
	w.change = make(chan struct{})
	n.weather = w
}

func (n *Network) now() weather {
	n.sky.Lock()
	defer n.sky.Unlock()
	return n.weather
}

// through gives the address of the proxy of a broker's address.
func (n *Network) through(broker string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.proxies[broker]; p != nil {
		return p.Listen, nil
	}
	p := toxiproxy.NewProxy(n.server, broker, "127.0.0.1:0", broker)
	for _, toxic := range []string{
		// Does nothing to the data, for its toxicity is none; but where a toxic of this type is, toxiproxy sets SO_LINGER
		// to 0, so that closing a connection resets it.
		`{"name": "abrupt", "type": "reset_peer", "stream": "upstream", "toxicity": 0}`,
		`{"name": "there", "type": "ferry", "stream": "upstream"}`,
		`{"name": "back", "type": "ferry", "stream": "downstream"}`,
	} {
		made, err := p.Toxics.AddToxicJson(strings.NewReader(toxic))
		if err != nil {
			return "", fmt.Errorf("make a proxy of %s: %w", broker, err)
		}
		if w, ok := made.Toxic.(*weathered); ok {
			w.n, w.up = n, made.Direction == stream.Upstream
		}
	}
	if err := p.Start(); err != nil { // while down too, for its port
		return "", fmt.Errorf("make a proxy of %s: %w", broker, err)
	}
	if n.down {
		p.Stop()
	}
	n.proxies[broker] = p
	return p.Listen, nil
}

func (n *Network) stop() {
	for _, p := range n.proxies {
		p.Stop()
	}
	n.sky.Lock()
	defer n.sky.Unlock()
	close(n.cut)
	n.cut = make(chan struct{})
}

func (n *Network) start() {
	n.t.Helper()
	for _, broker := range slices.Sorted(maps.Keys(n.proxies)) {
		if err := n.proxies[broker].Start(); err != nil {
			n.t.Errorf("open the proxy of %s again: %v", broker, err)
		}
	}
}

// weathered is the toxic of every connection, in each direction one, from its beginning to its end. It does what
// toxiproxy's own toxics (timeout, latency, limit_data) do, without their coming and going: those leave goroutines
// behind when a connection ends with data on its way, and removing them may wait for one of these for ever.
type weathered struct {
	n  *Network
	up bool // to the broker
}

// GetBufferSize implements toxics.BufferedToxic: what is late does not hold up what comes behind it.
func (w *weathered) GetBufferSize() int { return 1024 }

// NewState implements toxics.StatefulToxic: the channel that is closed when this connection is reset.
func (w *weathered) NewState() any {
	w.n.links.Add(1)
	w.n.sky.Lock()
	defer w.n.sky.Unlock()
	return w.n.cut
}

// Pipe implements toxics.Toxic.
func (w *weathered) Pipe(stub *toxics.ToxicStub) {
	w.carry(stub, stub.State.(chan struct{}))
	stub.Close() // closes the connection, if it is not closed yet
	for range stub.Input {
		continue // who writes must not be left waiting
	}
}

// carry moves data until the connection ends, by itself or by a fault.
func (w *weathered) carry(stub *toxics.ToxicStub, cut <-chan struct{}) {
	weather, lost, passed := w.n.now(), false, 0
	for {
		select {
		case <-cut:
			return
		case <-weather.change:
			weather, passed = w.n.now(), 0
			if lost && !weather.deaf {
				return
			}
		case c := <-stub.Input:
			if c == nil {
				return
			}
			if !w.up && weather.deaf {
				lost = true
				continue
			}
			if !w.up && !late(c.Timestamp, weather, cut) {
				return
			}
			last := false
			if w.up && weather.limit > 0 {
				left := weather.limit - passed
				last = left <= len(c.Data)
				c.Data = c.Data[:min(left, len(c.Data))]
				passed += len(c.Data)
			}
			select {
			case stub.Output <- c:
			case <-cut:
				return
			}
			if last {
				return
			}
		}
	}
}

// late waits until it is time for data that were sent at that moment; false: the connection is reset before.
func late(sent time.Time, w weather, cut <-chan struct{}) bool {
	if w.slow == 0 {
		return true
	}
	wait := time.NewTimer(w.slow - time.Since(sent))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-w.change:
	case <-cut:
		return false
	}
	return true
}
