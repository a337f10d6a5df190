package api

import (
	"log/slog"
	"net/http"

	"ferry/internal/config"
)

// NewServer makes a server with every limit set; the caller listens, serves and shuts it down. When handler is a
// *Handler, Shutdown ends its streams and long waits at once, so that it waits only for work.
//
// ReadTimeout and WriteTimeout stay off, because they would cut off streams and ?wait; the Handler limits the time for
// each body and each answer instead.
func NewServer(addr string, handler http.Handler, cfg config.Server) *http.Server {
	cfg = withDefaults(cfg)
	s := &http.Server{
		Addr:              addr,
		Handler:           handler,
		ReadHeaderTimeout: cfg.HeaderTimeout.D(),
		IdleTimeout:       cfg.IdleTimeout.D(),
		MaxHeaderBytes:    int(cfg.HeaderBytes),
	}
	if h, ok := handler.(*Handler); ok {
		// What net/http has to say is about clients that hang up or speak no HTTP.
		s.ErrorLog = slog.NewLogLogger(h.log.Handler(), slog.LevelDebug)
		s.RegisterOnShutdown(h.Stop)
	}
	return s
}
