// Package telemetry tells what ferry does: log lines, metrics and traces. Each costs next to nothing where nobody looks.
package telemetry

import (
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"ferry/internal/config"
)

// NewLogger returns a logger that writes one line per record to w: JSON, or compact text where the format is text, or
// auto on a terminal. Text is coloured on a terminal unless NO_COLOR is set (no-color.org). Each line carries the
// attributes of its context (see With) and the trace id; durations in JSON are seconds; attributes with names like password or token are masked
// (invariant 8). w is written to by one goroutine at a time.
func NewLogger(cfg config.Log, w io.Writer, isTerminal bool) *slog.Logger {
	level := parseLevel(cfg.Level)
	var h slog.Handler
	if cfg.Format == "text" || cfg.Format != "json" && isTerminal {
		h = newTextHandler(w, level, isTerminal && os.Getenv("NO_COLOR") == "")
	} else {
		h = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: jsonAttr})
	}
	return slog.New(&contextHandler{root: h, inner: h})
}

func parseLevel(name string) slog.Level {
	switch name {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

type attrsKey struct{}

// With returns a context whose log lines carry the attributes, beside those that it has already. Of two with the same
// key the later one holds. Use the keys run, pipeline, caller and request.
func With(ctx context.Context, attrs ...slog.Attr) context.Context {
	old := attrsOf(ctx)
	all := make([]slog.Attr, 0, len(old)+len(attrs))
	for _, a := range old {
		if !hasKey(attrs, a.Key) {
			all = append(all, a)
		}
	}
	return context.WithValue(ctx, attrsKey{}, append(all, attrs...))
}

func attrsOf(ctx context.Context) []slog.Attr {
	attrs, _ := ctx.Value(attrsKey{}).([]slog.Attr)
	return attrs
}

func hasKey(attrs []slog.Attr, key string) bool {
	return slices.ContainsFunc(attrs, func(a slog.Attr) bool { return a.Key == key })
}

// contextHandler adds what the context knows, at the top of the line whatever group the logger is in.
type contextHandler struct {
	root  slog.Handler                      // before any With
	inner slog.Handler                      // after all of them
	ops   []func(slog.Handler) slog.Handler // what leads from root to inner
	have  []string                          // top-level keys that the logger carries itself
	group bool
}

func (h *contextHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.inner.Enabled(ctx, l)
}

func (h *contextHandler) Handle(ctx context.Context, r slog.Record) error {
	attrs := h.extra(ctx, r)
	switch {
	case len(attrs) == 0:
		return h.inner.Handle(ctx, r)
	case !h.group:
		r = r.Clone()
		r.AddAttrs(attrs...)
		return h.inner.Handle(ctx, r)
	}
	inner := h.root.WithAttrs(attrs)
	for _, op := range h.ops {
		inner = op(inner)
	}
	return inner.Handle(ctx, r)
}

// extra returns the context's attributes that the line does not say itself.
func (h *contextHandler) extra(ctx context.Context, r slog.Record) []slog.Attr {
	attrs := attrsOf(ctx)
	span := trace.SpanContextFromContext(ctx)
	if len(attrs) == 0 && !span.HasTraceID() {
		return nil
	}
	said := func(key string) bool {
		found := slices.Contains(h.have, key)
		if !h.group {
			r.Attrs(func(a slog.Attr) bool {
				found = found || a.Key == key
				return !found
			})
		}
		return found
	}
	out := make([]slog.Attr, 0, len(attrs)+1)
	for _, a := range attrs {
		if !said(a.Key) {
			out = append(out, a)
		}
	}
	if span.HasTraceID() && !said("trace_id") {
		out = append(out, slog.String("trace_id", span.TraceID().String()))
	}
	return out
}

func (h *contextHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	next := h.with(func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) })
	if !h.group {
		for _, a := range attrs {
			next.have = append(slices.Clip(next.have), a.Key)
		}
	}
	return next
}

func (h *contextHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := h.with(func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) })
	next.group = true
	return next
}

func (h *contextHandler) with(op func(slog.Handler) slog.Handler) *contextHandler {
	next := *h
	next.inner = op(h.inner)
	next.ops = append(slices.Clip(h.ops), op)
	return &next
}

const masked = "[secret]"

// mask hides the values of attributes whose name, or whose group's name, sounds like a secret. It is the second net:
// config.Secret and config.URL hide themselves.
func mask(groups []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() != slog.KindGroup && (secretName(a.Key) || slices.ContainsFunc(groups, secretName)) {
		return slog.String(a.Key, masked)
	}
	return a
}

// jsonAttr masks, and writes durations in seconds: slog's own nanoseconds look like any number.
func jsonAttr(groups []string, a slog.Attr) slog.Attr {
	a = mask(groups, a)
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.Float64Value(a.Value.Duration().Seconds())
	}
	return a
}

func secretName(name string) bool {
	for _, word := range [...]string{"password", "passwd", "token", "secret", "authorization", "apikey", "api_key", "api-key", "cookie", "credential"} {
		if containsFold(name, word) {
			return true
		}
	}
	return false
}

// containsFold tells whether s contains word in any case, without allocating. word is in lower-case ASCII.
func containsFold(s, word string) bool {
	for i := 0; i+len(word) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(word)], word) {
			return true
		}
	}
	return false
}
