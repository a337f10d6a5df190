package queuetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// remote is a Memory queue behind TCP: the smallest broker and adapter that RunFaults can break.
type remote struct {
	*Memory // what is not written goes the direct way
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	address string
	faulty  defects

	mu     sync.Mutex
	client *rpc.Client
	serial int
}

// defects that RunFaults has to find.
type defects struct {
	writesAgain  bool // a commit tried again is written again
	believes     bool // a lost answer counts as a good one
	givesUp      bool // a lost connection is permanent
	skips        bool // a publish tried again begins behind what was sent
	pingsFine    bool // ping does not ask the broker
	staysAway    bool // a lost connection is not made again
	forgets      bool // the broker loses its last commit when it is killed
	reverses     bool // what is tried again goes out last record first
	otherTier    bool
	aroundTheNet bool // does not use the network
}

// call asks the broker, over one connection that is made again when it has broken.
func (r *remote) call(ctx context.Context, method string, args, answer any) error {
	r.mu.Lock()
	if r.client == nil {
		conn, err := r.dial(ctx, "tcp", r.address)
		if err != nil {
			r.mu.Unlock()
			return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
		}
		r.client = rpc.NewClient(conn)
	}
	client := r.client
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var err error
	select {
	case call := <-client.Go("Broker."+method, args, answer, make(chan *rpc.Call, 1)).Done:
		err = call.Error
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	var said rpc.ServerError
	if errors.As(err, &said) {
		return errors.New(string(said))
	}
	_ = client.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client == client && !r.faulty.staysAway {
		r.client = nil
	}
	switch {
	case r.faulty.givesUp:
		return retry.Permanent(err)
	case r.faulty.believes:
		return nil
	}
	return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
}

func (r *remote) Info() queue.Info {
	i := r.Memory.Info()
	if r.faulty.otherTier {
		i.Tier = queue.AtLeastOnce
	}
	return i
}

func (r *remote) Ping(ctx context.Context) error {
	if r.faulty.pingsFine {
		return nil
	}
	return r.call(ctx, "Ping", struct{}{}, &struct{}{})
}

func (r *remote) Close(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		_ = r.client.Close()
		r.client = nil
	}
	return r.Memory.Close(ctx)
}

func (r *remote) Publish(ctx context.Context, topic string, batch []record.Record) error {
	err := r.call(ctx, "Publish", Writing{Topic: topic, Records: batch}, &struct{}{})
	if err != nil && r.faulty.skips {
		return &queue.PartError{Done: len(batch) - 1, Err: err}
	}
	return err
}

func (r *remote) OpenWriter(ctx context.Context, pipeline, topic string) (queue.Writer, error) {
	w := &remoteWriter{r: r}
	var answer Opened
	if err := r.call(ctx, "Open", Writing{Pipeline: pipeline, Topic: topic}, &answer); err != nil {
		return nil, err
	}
	w.id, w.cursor = answer.Writer, answer.Cursor
	return w, nil
}

type remoteWriter struct {
	r      *remote
	id     int
	cursor record.Cursor
	try    int // the commit's number
	again  bool
}

func (w *remoteWriter) Cursor() record.Cursor       { return w.cursor }
func (w *remoteWriter) Close(context.Context) error { return nil }

func (w *remoteWriter) Commit(ctx context.Context, b queue.Batch, next record.Cursor) error {
	if !w.again || w.r.faulty.writesAgain {
		w.r.mu.Lock()
		w.r.serial++
		w.try = w.r.serial
		w.r.mu.Unlock()
	}
	if w.again && w.r.faulty.reverses {
		b.Records = slices.Clone(b.Records)
		slices.Reverse(b.Records)
	}
	w.again = true
	if err := w.r.call(ctx, "Commit", Writing{Writer: w.id, Try: w.try, Records: b.Records, Cursor: next}, &struct{}{}); err != nil {
		return err
	}
	w.again, w.cursor = false, next
	return nil
}

// Broker answers remote queues out of a store. It knows a commit that it has written already by its number.
type Broker struct {
	memory *Memory
	faulty defects

	mu      sync.Mutex
	writers []queue.Writer
	tries   []int
	last    func() // takes back what was written last
}

// Writing is what a remote queue asks for.
type Writing struct {
	Pipeline, Topic string
	Writer, Try     int
	Records         []record.Record
	Cursor          record.Cursor
}

// Opened is the answer to Open.
type Opened struct {
	Writer int
	Cursor record.Cursor
}

func (b *Broker) Ping(struct{}, *struct{}) error { return nil }

func (b *Broker) Publish(w Writing, _ *struct{}) error {
	return b.memory.Publish(context.Background(), w.Topic, w.Records)
}

func (b *Broker) Open(w Writing, answer *Opened) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	opened, err := b.memory.OpenWriter(context.Background(), w.Pipeline, w.Topic)
	if err != nil {
		return err
	}
	b.writers, b.tries = append(b.writers, opened), append(b.tries, 0)
	answer.Writer, answer.Cursor = len(b.writers)-1, opened.Cursor()
	return nil
}

func (b *Broker) Commit(w Writing, _ *struct{}) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tries[w.Writer] == w.Try {
		return nil // it was written, and its answer was lost
	}
	opened := b.writers[w.Writer].(*memoryWriter)
	if err := opened.Commit(context.Background(), queue.Batch{Records: w.Records}, w.Cursor); err != nil {
		return err
	}
	b.tries[w.Writer] = w.Try
	b.last = func() {
		t := b.memory.s.topics[opened.topic]
		t.records = t.records[:len(t.records)-len(w.Records)]
	}
	return nil
}

// tcp serves a broker, and can stop and start.
type tcp struct {
	b        *Broker
	address  string
	listener net.Listener
	conns    sync.WaitGroup
	mu       sync.Mutex
	open     []net.Conn
}

func (s *tcp) start(t testing.TB) {
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	s.listener, s.address = l, l.Addr().String()
	server := rpc.NewServer()
	if err := server.Register(s.b); err != nil {
		t.Fatal(err)
	}
	s.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open = append(s.open, c)
			s.mu.Unlock()
			s.conns.Go(func() { server.ServeConn(c) })
		}
	})
}

func (s *tcp) stop(testing.TB) {
	s.listener.Close()
	s.mu.Lock()
	for _, c := range s.open {
		c.Close()
	}
	s.open = nil
	s.mu.Unlock()
	s.conns.Wait()
	if s.b.faulty.forgets && s.b.last != nil {
		s.b.last()
	}
}

// remoteHarness serves a broker for one test.
func remoteHarness(t *testing.T, d defects) FaultHarness {
	store := &Store{}
	s := &tcp{b: &Broker{memory: NewMemory(MemoryOptions{Store: store}), faulty: d}, address: "127.0.0.1:0"}
	s.start(t)
	t.Cleanup(func() { s.b.faulty.forgets = false; s.stop(t) })
	direct := func(testing.TB) queue.Queue { return NewMemory(MemoryOptions{Store: store}) }
	return FaultHarness{
		Tier: queue.ExactlyOnce, Outage: 300 * time.Millisecond,
		Open: func(t testing.TB, n *Network) queue.Queue {
			r := &remote{Memory: NewMemory(MemoryOptions{Store: store}), dial: n.Dial, address: s.address, faulty: d}
			if d.aroundTheNet {
				r.dial = (&net.Dialer{}).DialContext
			}
			return r
		},
		Direct: direct, Stop: s.stop, Kill: s.stop, Start: s.start,
	}
}

func TestFaultsOfARightQueue(t *testing.T) { RunFaults(t, remoteHarness(t, defects{})) }

// TestFaultsAreFound shows that each defect is found by some case.
func TestFaultsAreFound(t *testing.T) {
	for name, tt := range map[string]struct {
		d    defects
		want string
	}{
		"a commit tried again is written again":     {defects{writesAgain: true}, "are doubled"},
		"a lost answer counts as good":              {defects{believes: true}, "are lost"},
		"a lost connection is permanent":            {defects{givesUp: true}, "batch"},
		"a publish tried again skips":               {defects{skips: true}, "are lost"},
		"ping does not ask":                         {defects{pingsFine: true}, "ping succeeds"},
		"a lost connection is not made again":       {defects{staysAway: true}, ""},
		"the broker forgets when it is killed":      {defects{forgets: true}, "are lost"},
		"what is tried again is in another order":   {defects{reverses: true}, "came before an earlier one"},
		"the tier is not the one that was promised": {defects{otherTier: true}, "the queue's tier is"},
		"the network is not used":                   {defects{aroundTheNet: true}, "does not connect through the network"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := remoteHarness(t, tt.d)
			h.patience = 3 * time.Second
			mustFind(t, h, tt.want)
		})
	}
	t.Run("only keys have an order, and what is tried again is in another", func(t *testing.T) {
		t.Parallel()
		h := remoteHarness(t, defects{reverses: true})
		h.OrderByKey = true
		mustFind(t, h, "came before an earlier one")
	})
}

// mustFind wants some case to fail with this.
func mustFind(t *testing.T, h FaultHarness, want string) {
	t.Helper()
	var all []string
	for _, c := range slices.Concat(networkFaults, brokerFaults) {
		failed := watchFault(t, c, h)
		for _, text := range failed {
			if strings.Contains(text, want) {
				return
			}
		}
		all = append(all, failed...)
	}
	t.Errorf("no case finds it; failures: %q", all)
}

// watchFault runs one case and tells how it failed.
func watchFault(t *testing.T, c faultCase, h FaultHarness) []string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, f := range slices.Backward(r.cleanups) {
				f()
			}
		}()
		runFault(r, c, h)
	}()
	<-done
	return r.failed
}
