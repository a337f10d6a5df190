package telemetry

import (
	"context"
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// textHandler writes lines for people: 06:16:30.123 INFO  run ended  pipeline=orders run=…
type textHandler struct {
	mu     *sync.Mutex // of w
	w      io.Writer
	level  slog.Level
	colour bool
	groups []string
	prefix string // the groups, each with its dot
	attrs  []byte // what WithAttrs has given, written out
}

func newTextHandler(w io.Writer, level slog.Level, colour bool) *textHandler {
	return &textHandler{mu: new(sync.Mutex), w: w, level: level, colour: colour}
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

const (
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	reset  = "\x1b[0m"
)

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var stack [512]byte
	b := stack[:0]
	if !r.Time.IsZero() {
		b = h.paint(b, dim, func(b []byte) []byte { return r.Time.AppendFormat(b, "15:04:05.000") })
		b = append(b, ' ')
	}
	name, colour := levelName(r.Level)
	b = h.paint(b, colour, func(b []byte) []byte { return append(b, name...) })
	for range max(1, 6-len(name)) {
		b = append(b, ' ')
	}
	b = h.paint(b, bold, func(b []byte) []byte { return appendText(b, r.Message, false) })
	b = append(b, h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		b = h.appendAttr(b, h.groups, h.prefix, a)
		return true
	})
	b = append(b, '\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(b)
	return err
}

func (h *textHandler) paint(b []byte, colour string, text func([]byte) []byte) []byte {
	if !h.colour || colour == "" {
		return text(b)
	}
	return append(text(append(b, colour...)), reset...)
}

func levelName(l slog.Level) (name, colour string) {
	switch {
	case l < slog.LevelInfo:
		return "DEBUG", dim
	case l < slog.LevelWarn:
		return "INFO", green
	case l < slog.LevelError:
		return "WARN", yellow
	}
	return "ERROR", red
}

func (h *textHandler) appendAttr(b []byte, groups []string, prefix string, a slog.Attr) []byte {
	a.Value = a.Value.Resolve()
	a = mask(groups, a)
	if a.Equal(slog.Attr{}) {
		return b
	}
	if a.Value.Kind() == slog.KindGroup {
		if a.Key != "" {
			groups, prefix = append(slices.Clip(groups), a.Key), prefix+a.Key+"."
		}
		for _, m := range a.Value.Group() {
			b = h.appendAttr(b, groups, prefix, m)
		}
		return b
	}
	b = append(b, ' ')
	b = h.paint(b, dim, func(b []byte) []byte {
		b = appendText(b, prefix, false)
		b = appendText(b, a.Key, false)
		return append(b, '=')
	})
	return appendText(b, valueText(a.Value), true)
}

func valueText(v slog.Value) string {
	switch v.Kind() {
	case slog.KindDuration:
		return roundDuration(v.Duration()).String()
	case slog.KindTime:
		return v.Time().Format(time.RFC3339)
	case slog.KindAny:
		switch x := v.Any().(type) {
		case error:
			return x.Error()
		case encoding.TextMarshaler:
			if text, err := x.MarshalText(); err == nil {
				return string(text)
			}
		case fmt.Stringer:
			return x.String()
		}
	}
	return v.String()
}

// roundDuration keeps three or four digits: 1.234567891s says no more than 1.235s.
func roundDuration(d time.Duration) time.Duration {
	switch abs := d.Abs(); {
	case abs >= time.Second:
		return d.Round(time.Millisecond)
	case abs >= time.Millisecond:
		return d.Round(time.Microsecond)
	}
	return d
}

// appendText writes s so that it cannot leave its place in the line: control characters, and in values also spaces and
// quotes, lead to Go's quoted form.
func appendText(b []byte, s string, value bool) []byte {
	plain := s != "" || !value
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError || value && strings.ContainsRune(` "=`, r) {
			plain = false
			break
		}
	}
	if plain {
		return append(b, s...)
	}
	return strconv.AppendQuote(b, s)
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.attrs = slices.Clip(h.attrs)
	for _, a := range attrs {
		next.attrs = h.appendAttr(next.attrs, h.groups, h.prefix, a)
	}
	return &next
}

func (h *textHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.groups = append(slices.Clip(h.groups), name)
	next.prefix += name + "."
	return &next
}
