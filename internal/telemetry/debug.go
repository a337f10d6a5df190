package telemetry

import (
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"ferry/internal/config"
)

// Debug returns a server for Go's profiler under /debug/pprof/, or nil when the configuration names no address. It has
// a mux of its own, so that the profiler is never on the API's address, and refuses any address but loopback. The
// caller listens on its Addr, serves and closes it.
func Debug(cfg config.Debug) (*http.Server, error) {
	if cfg.Listen == "" {
		return nil, nil
	}
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("debug.listen: %w; write for example 127.0.0.1:6060", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("debug.listen: %s is not a loopback address; the profiler shows memory, so write for example 127.0.0.1:6060", cfg.Listen)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return &http.Server{Addr: cfg.Listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}, nil
}
