// Package embedded runs a NATS server with JetStream inside this process: ferry's queue and state when nothing else
// is configured. Every acknowledged write is on disk (invariant 2): the server syncs always.
package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Options of Start. Only Dir is required.
type Options struct {
	// Dir is the folder of the store; it is made when missing. One process may use it at a time: who starts the
	// server holds a lock on the folder, or knows that nobody else does.
	Dir string
	// Listen is a host:port for clients outside this process, or empty for none. Port 0 takes a free one.
	Listen string
	// MaxBatch is the largest number of messages in one atomic batch. Default 8192.
	MaxBatch int
	// MaxPayload is the largest message in bytes, headers included. Default 9 MiB, so that a record of 8 MiB fits
	// with its headers.
	MaxPayload int
	// CheckEvery is how often the server looks after its own health. Default 1 s.
	CheckEvery time.Duration
	// StartTimeout bounds the recovery of a large store at the start. Default 5 min.
	StartTimeout time.Duration
	// Cluster makes the server one of several. Nil: it stands alone.
	Cluster *Cluster
	// Logger hears the server's warnings, and its notices at debug level. Nil: silence.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("embedded queue: no folder given")
	}
	if o.MaxBatch == 0 {
		o.MaxBatch = 8192
	}
	if o.MaxPayload == 0 {
		o.MaxPayload = 9 << 20
	}
	if o.CheckEvery == 0 {
		o.CheckEvery = time.Second
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 5 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxBatch < 2 || o.MaxPayload < 1<<10 {
		return o, fmt.Errorf("embedded queue: a batch of %d messages or a payload of %d bytes is too small", o.MaxBatch, o.MaxPayload)
	}
	if o.Cluster != nil {
		return o, o.Cluster.Check()
	}
	return o, nil
}

// Server is a running NATS server. All methods are safe for concurrent use.
type Server struct {
	opts     Options
	password string // of clients inside the process, where a port has to be open (see Cluster.apply)

	mu     sync.RWMutex
	ns     *server.Server // nil while restarting, and after Close
	sick   error          // why the last health check failed
	closed bool

	stop    context.CancelFunc
	watcher sync.WaitGroup
	restart sync.Mutex // one restart at a time
}

// ErrClosed is what a closed server answers.
var ErrClosed = errors.New("embedded queue is closed")

// Start starts the server and returns once it is ready, which in a cluster needs most of its members. The context bounds
// the start alone. A store that cannot be read whole is an error, not an empty queue (invariant 9).
func Start(ctx context.Context, o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, password: rand.Text()}
	if s.ns, err = s.launch(ctx); err != nil {
		return nil, err
	}
	watch, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.watcher.Go(func() { s.watch(watch) })
	return s, nil
}

// launch makes and starts one server and checks that it has recovered every stream.
func (s *Server) launch(ctx context.Context) (*server.Server, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start embedded queue: %w", context.Cause(ctx))
	}
	if err := os.MkdirAll(s.opts.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("make folder of the embedded queue: %w", err)
	}
	if err := s.opts.removeProbes(); err != nil {
		return nil, err
	}
	if err := s.opts.removeUnfinished(); err != nil {
		return nil, err
	}
	if err := s.opts.mendSums(); err != nil {
		return nil, err
	}
	if err := s.opts.room(0); err != nil {
		return nil, fmt.Errorf("start embedded queue: %w", err)
	}
	o, err := s.opts.server(s.password)
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("start embedded queue in %s: %w", s.opts.Dir, err)
	}
	log := &logger{log: s.opts.Logger}
	ns.SetLoggerV2(log, false, false, false)
	abandon := func() { shutdown(ns) }

	// Start returns when the server is up, or early when something is fatal, which the logger has heard then.
	started := make(chan struct{})
	go func() { defer close(started); ns.Start() }()
	limit := time.NewTimer(s.opts.StartTimeout)
	defer limit.Stop()
	select {
	case <-started:
	case <-ctx.Done():
		abandon()
		return nil, fmt.Errorf("start embedded queue: %w", context.Cause(ctx))
	case <-limit.C:
		abandon()
		return nil, fmt.Errorf("start embedded queue in %s: not ready after %s", s.opts.Dir, s.opts.StartTimeout)
	}
	if err := log.fatalError(); err != nil {
		abandon()
		if c := s.opts.Cluster; c != nil && c.Self != "" {
			return nil, fmt.Errorf("start embedded queue as member %s of its cluster: %w", c.Self, err)
		}
		if s.opts.Listen != "" {
			return nil, fmt.Errorf("start embedded queue on %s (another listen= address in the queue's URL may help): %w", s.opts.Listen, err)
		}
		return nil, fmt.Errorf("start embedded queue in %s: %w", s.opts.Dir, err)
	}
	if s.opts.Cluster != nil {
		// What a member lacks it gets from the others, so its own store is no reason to stop.
		if err := s.meet(ctx, ns); err != nil {
			abandon()
			return nil, err
		}
		return ns, nil
	}
	if err := health(ns); err != nil {
		abandon()
		if full(err) {
			return nil, fmt.Errorf("start embedded queue: the disk of the embedded queue (%s) is full: %w; free some space", s.opts.Dir, err)
		}
		return nil, fmt.Errorf("the store of the embedded queue in %s is damaged: %w; restore it from a backup, "+
			"or move the folder of the named stream away to go on without its records", filepath.Join(s.opts.Dir, "jetstream"), err)
	}
	return ns, nil
}

// server translates the options.
func (o Options) server(password string) (*server.Options, error) {
	so := &server.Options{
		ServerName:         "ferry",
		DontListen:         true,
		JetStream:          true,
		StoreDir:           o.Dir,
		JetStreamMaxMemory: 64 << 20,
		JetStreamMaxStore:  1 << 60, // limits are the topics' own; a full disk is seen by the health check
		SyncAlways:         true,    // the default syncs every two minutes
		MaxPayload:         int32(o.MaxPayload),
		NoSigs:             true,
		JetStreamLimits: server.JSLimitOpts{
			MaxBatchSize:              o.MaxBatch,
			MaxBatchInflightPerStream: 1024,
			MaxBatchInflightTotal:     4096,
		},
		StreamMaxBufferedMsgs: max(100_000, 16*o.MaxBatch),
		StreamMaxBufferedSize: 512 << 20,
	}
	if o.Listen != "" {
		host, port, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen address of the embedded queue: %w (want host:port, such as 127.0.0.1:4222)", err)
		}
		n, err := strconv.Atoi(port)
		if err != nil || n < 0 || n > 65535 {
			return nil, fmt.Errorf("listen address of the embedded queue: port %q is not a number from 0 to 65535", port)
		}
		if n == 0 {
			n = server.RANDOM_PORT
		}
		so.DontListen, so.Host, so.Port = false, host, n
	}
	if o.Cluster != nil {
		if err := o.Cluster.apply(so, password); err != nil {
			return nil, err
		}
	}
	return so, nil
}

// MaxBatch is the largest number of messages in one atomic batch.
func (s *Server) MaxBatch() int { return s.opts.MaxBatch }

// Addr is the address clients outside this process connect to, or "".
func (s *Server) Addr() string {
	ns, err := s.server()
	if err != nil || s.opts.Listen == "" || ns.Addr() == nil {
		return ""
	}
	return ns.Addr().String()
}

func (s *Server) server() (*server.Server, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return nil, ErrClosed
	case s.ns == nil:
		return nil, errors.New("embedded queue is restarting")
	}
	return s.ns, nil
}

// InProcessConn gives one end of a connection inside the process. A NATS client that was given the Server with
// nats.InProcessServer calls it again after a restart, and so finds the new server.
func (s *Server) InProcessConn() (net.Conn, error) {
	ns, err := s.server()
	if err != nil {
		return nil, err
	}
	return ns.InProcessConn()
}

// Connect connects a client inside the process. It stays connected over restarts until it is closed, which is the
// caller's to do before Close.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	own := []nats.Option{
		nats.InProcessServer(s),
		nats.Token(s.password),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(20 * time.Millisecond),
		nats.ReconnectJitter(10*time.Millisecond, 10*time.Millisecond),
		// Without a handler the client prints to stderr.
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.opts.Logger.Debug("connection to the embedded queue", "error", err)
		}),
	}
	nc, err := nats.Connect("", append(own, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to embedded queue: %w", err)
	}
	return nc, nil
}

// Close stops the server. When the context ends first the server goes on stopping in the background and the context's
// cause is returned. Every acknowledged write is safe either way.
func (s *Server) Close(ctx context.Context) error {
	s.stop()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.watcher.Wait()
		s.restart.Lock() // a restart under way ends first
		defer s.restart.Unlock()
		s.mu.Lock()
		ns := s.ns
		s.ns = nil
		s.mu.Unlock()
		if ns != nil {
			shutdown(ns)
		}
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop embedded queue: %w", context.Cause(ctx))
	}
}
