// Package servicebustest is a Service Bus namespace in memory: AMQP 1.0 and the management calls on one port, enough
// of both for the vendor's unmodified SDK (UseDevelopmentEmulator=true). Queues with duplicate detection, peek-lock,
// sessions, dead-letter queues, quotas and limits behave as Service Bus documents them; time can be moved, and faults
// put in.
//
// Not there: topics with subscriptions, scheduled and deferred messages, time to live, transactions, partitions. It
// proves that a client speaks the protocol and keeps its promises, and nothing about Service Bus itself.
package servicebustest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Rights are the claims of a shared access policy.
type Rights int

// The claims, which can be added.
const (
	Send Rights = 1 << iota
	Listen
	Manage
)

func (r Rights) String() string {
	var all []string
	for i, name := range []string{"Send", "Listen", "Manage"} {
		if r&(1<<i) != 0 {
			all = append(all, name)
		}
	}
	return strings.Join(all, ",")
}

// Key is a shared access policy of the namespace.
type Key struct {
	Name, Secret string
	Rights       Rights
}

// The policy that the vendor's own emulator has, and this server too unless Options names others.
const (
	DefaultKeyName = "RootManageSharedAccessKey"
	DefaultKey     = "SAS_KEY_VALUE"
)

// Options of Start. The zero value is a namespace of the standard tier.
type Options struct {
	// Address to listen on. Default 127.0.0.1 with a free port.
	Address string
	// Keys are the policies. Default: one with all rights.
	Keys []Key
	// Token is the bearer token that is taken for an Entra ID token; empty: none is.
	Token string
	// MaxMessage is the largest message in bytes. Default 256 KiB, the standard tier's; premium has 1 MiB and more.
	MaxMessage int
	// Tier is what the management calls say: Basic, Standard (default) or Premium.
	Tier string
}

// Sent is a transfer of a client to a queue, as Server.OnSend sees it.
type Sent struct {
	Queue string
	IDs   []string // message ids
	Bytes int
}

// Verdict is what becomes of a transfer. The zero value: stored and confirmed.
type Verdict struct {
	// Reject refuses the transfer; Detach ends the link instead. Nothing is stored.
	Reject, Detach *Error
	// CutBefore and CutAfter break the connection before the messages are stored, or after it and before the answer.
	CutBefore, CutAfter bool
	// Silent stores the messages and never answers.
	Silent bool
}

// Server is the namespace. Safe for concurrent use.
type Server struct {
	options Options

	mu       sync.Mutex // guards everything below, all queues and all connections
	ahead    time.Duration
	queues   map[string]*queue // by lower-case name
	conns    map[*conn]struct{}
	onSend   func(Sent) Verdict
	listener net.Listener
	web      *web
	stopped  bool

	running sync.WaitGroup
	stop    chan struct{}
}

// Start listens. Close stops it.
func Start(o Options) (*Server, error) {
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = 256 << 10
	}
	if o.Tier == "" {
		o.Tier = "Standard"
	}
	if len(o.Keys) == 0 {
		o.Keys = []Key{{DefaultKeyName, DefaultKey, Send | Listen | Manage}}
	}
	s := &Server{options: o, queues: make(map[string]*queue), conns: make(map[*conn]struct{}), stop: make(chan struct{})}
	if err := s.listen(); err != nil {
		return nil, err
	}
	s.running.Go(s.watch)
	return s, nil
}

func (s *Server) listen() error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", s.options.Address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener, s.stopped = l, false
	if at := l.Addr().String(); s.options.Address != at { // it does not change when the server resumes
		s.options.Address = at
	}
	s.web = newWeb(s)
	w := s.web
	s.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { s.accept(c, w) })
		}
	})
	return nil
}

// accept tells AMQP from HTTP by the first bytes.
func (s *Server) accept(c net.Conn, w *web) {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReaderSize(c, 64<<10)
	head, err := r.Peek(4)
	if err != nil {
		_ = c.Close()
		return
	}
	if string(head) != "AMQP" {
		_ = c.SetReadDeadline(time.Time{})
		w.hand(c, r)
		return
	}
	n := newConn(s, c)
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		_ = c.Close()
		return
	}
	s.conns[n] = struct{}{}
	s.mu.Unlock()
	n.serve(r)
}

// watch ends locks whose time has come.
func (s *Server) watch() {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			s.Advance(0)
		}
	}
}

// Address is host:port.
func (s *Server) Address() string { return s.options.Address }

// ConnectionString is for clients, with the first key.
func (s *Server) ConnectionString() string { return s.ConnectionStringFor(s.options.Keys[0]) }

// ConnectionStringFor is for clients with a key of their choice.
func (s *Server) ConnectionStringFor(k Key) string {
	return fmt.Sprintf("Endpoint=sb://%s;SharedAccessKeyName=%s;SharedAccessKey=%s;UseDevelopmentEmulator=true", s.Address(), k.Name, k.Secret)
}

// Advance moves the server's clock ahead: locks end and duplicates are forgotten as if that time had passed.
func (s *Server) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead += d
	now := s.now()
	for _, q := range s.queues {
		q.expire(now)
		q.dead.expire(now)
	}
}

func (s *Server) now() time.Time { return time.Now().Add(s.ahead) }

// OnSend asks f what becomes of each transfer to a queue; nil: nothing special. f must not call the server.
func (s *Server) OnSend(f func(Sent) Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onSend = f
}

// CreateQueue makes a queue; it fails when there is one.
func (s *Server) CreateQueue(name string, o QueueOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.create(name, o)
}

var errExists = errors.New("a queue of this name exists")

func (s *Server) create(name string, o QueueOptions) error {
	if s.queues[strings.ToLower(name)] != nil {
		return errExists
	}
	q := newQueue(s, name, o)
	o.Sessions, o.DuplicateDetection = false, 0
	q.dead = newQueue(s, name+deadSuffix, o)
	s.queues[strings.ToLower(name)] = q
	return nil
}

// DeleteQueue takes a queue away with all that is in it, under the links to it.
func (s *Server) DeleteQueue(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.queues, strings.ToLower(name))
	for c := range s.conns {
		for _, se := range c.sessions {
			for _, l := range se.links {
				if strings.EqualFold(l.address, name) {
					l.detach(&Error{NotFound, "The messaging entity '" + name + "' was deleted."})
				}
			}
		}
	}
}

// Messages are the message ids in a queue, in order, locked ones included. name/$DeadLetterQueue works too.
func (s *Server) Messages(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.find(name)
	if q == nil {
		return nil
	}
	ids := make([]string, 0, q.live())
	for _, m := range q.all {
		if !m.gone {
			ids = append(ids, m.id)
		}
	}
	return ids
}

// Purge takes everything out of a queue that nobody has received.
func (s *Server) Purge(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.find(name); q != nil {
		for _, l := range q.lanes {
			for _, m := range l.ready {
				q.remove(m)
			}
			l.ready = nil
		}
	}
}

// Locked counts the messages of a queue that somebody has received and not settled.
func (s *Server) Locked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.find(name)
	if q == nil {
		return 0
	}
	return len(q.locked)
}

// find gives the queue or dead-letter queue of an address, or nil. Names are not case-sensitive.
func (s *Server) find(address string) *queue {
	main, isDead := address, false
	if i := len(address) - len(deadSuffix); i > 0 && strings.EqualFold(address[i:], deadSuffix) {
		main, isDead = address[:i], true
	}
	q := s.queues[strings.ToLower(main)]
	if q != nil && isDead {
		return q.dead
	}
	return q
}

func (s *Server) key(name string) *Key {
	i := slices.IndexFunc(s.options.Keys, func(k Key) bool { return k.Name == name })
	if i < 0 {
		return nil
	}
	return &s.options.Keys[i]
}

// take stores what a client sent, or does what the hook says.
func (s *Server) take(l *link, t *transferUnderWay) {
	batch, err := parseBatch(t.format, t.body)
	if err != nil {
		l.detach(&Error{decodeError, err.Error()})
		return
	}
	var v Verdict
	if s.onSend != nil {
		sent := Sent{Queue: l.q.name, Bytes: len(t.body)}
		for _, m := range batch {
			sent.IDs = append(sent.IDs, m.id)
		}
		v = s.onSend(sent)
	}
	switch {
	case v.Reject != nil:
		l.confirm(t, v.Reject)
	case v.Detach != nil:
		l.detach(v.Detach)
	case v.CutBefore:
		l.s.c.cut()
	default:
		failure := l.q.store(batch)
		switch {
		case v.CutAfter:
			l.s.c.cut()
		case v.Silent:
		default:
			l.confirm(t, failure)
		}
	}
}

// CutConnections breaks every connection, as a broken network does.
func (s *Server) CutConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.cut()
	}
}

// Stop lets go of all clients and takes no new ones until Resume, at the same address. Queues keep what they hold.
func (s *Server) Stop() {
	s.mu.Lock()
	s.stopped = true
	_ = s.listener.Close()
	w := s.web
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	w.close()
}

// Resume listens again after Stop.
func (s *Server) Resume() error { return s.listen() }

// Close stops the server for good and waits for its goroutines.
func (s *Server) Close() {
	s.Stop()
	close(s.stop)
	s.running.Wait()
}
