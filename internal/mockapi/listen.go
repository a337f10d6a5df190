package mockapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Running is a Server that listens.
type Running struct {
	// URL is where, such as http://127.0.0.1:43211, without a slash at the end.
	URL string
	// Server is the handler behind it.
	Server *Server

	http   *http.Server
	cancel context.CancelFunc
	done   chan error
}

// Start listens on addr, which must be on loopback ("127.0.0.1:0" picks a free port), and serves in the background
// until Close. Anybody who can reach a mock can make it send gigabytes, which is why it refuses every other address.
func Start(addr string, opt Options) (*Running, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen for the simulated API on %q: %w; say it as 127.0.0.1:PORT", addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() {
		return nil, fmt.Errorf("listen for the simulated API on %q: only loopback is allowed; say 127.0.0.1:PORT", addr)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(context.Background(), "tcp", addr) // a loopback address is there or not, at once
	if err != nil {
		return nil, fmt.Errorf("listen for the simulated API on %s: %w", addr, err)
	}
	if at, ok := listener.Addr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() {
		_ = listener.Close()
		return nil, fmt.Errorf("listen for the simulated API on %q: it stands for %s, which is not loopback; say 127.0.0.1:PORT", addr, listener.Addr())
	}

	ctx, cancel := context.WithCancel(context.Background())
	s := New(opt)
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	if opt.Logger != nil {
		quiet = slog.NewLogLogger(opt.Logger.Handler(), slog.LevelDebug)
	}
	r := &Running{
		URL:    "http://" + listener.Addr().String(),
		Server: s,
		http: &http.Server{
			Handler:           s,
			ReadHeaderTimeout: 10 * time.Second,
			ErrorLog:          quiet,
			BaseContext:       func(net.Listener) context.Context { return ctx },
		},
		cancel: cancel,
		done:   make(chan error, 1),
	}
	go func() { r.done <- r.http.Serve(listener) }()
	return r, nil
}

// Close stops listening, ends waits and trickles, lets the other requests finish, and returns when nothing of the
// server runs any more. When ctx ends first the connections are cut and ctx's error is returned. Call it once.
func (r *Running) Close(ctx context.Context) error {
	r.cancel()
	err := r.http.Shutdown(ctx)
	if err != nil {
		_ = r.http.Close()
	}
	if served := <-r.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	r.Server.taken.Wait()
	if err != nil {
		return fmt.Errorf("stop the simulated API: %w", err)
	}
	return nil
}
