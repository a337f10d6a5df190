package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"ferry/internal/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with the file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// frozen gives every line the same time.
type frozen struct{ slog.Handler }

func (f frozen) Handle(ctx context.Context, r slog.Record) error {
	r.Time = time.Date(2026, 11, 23, 6, 16, 30, 123456789, time.UTC)
	return f.Handler.Handle(ctx, r)
}

func (f frozen) WithAttrs(attrs []slog.Attr) slog.Handler { return frozen{f.Handler.WithAttrs(attrs)} }

func (f frozen) WithGroup(name string) slog.Handler { return frozen{f.Handler.WithGroup(name)} }

func traced(ctx context.Context) context.Context {
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36},
		SpanID:  trace.SpanID{0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7}, TraceFlags: trace.FlagsSampled,
	}))
}

// talk says one of everything.
func talk(log *slog.Logger) {
	ctx := With(context.Background(), slog.String("pipeline", "orders"), slog.String("run", "20261123T061630.123Z-x7f3k"))
	log.Debug("not at this level")
	log.Info("listening", "address", "127.0.0.1:8080")
	log.InfoContext(ctx, "run ended", "status", "succeeded", "read", 10000, "took", 1234567891*time.Nanosecond, "at", time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC))
	log.WarnContext(traced(ctx), "queue does not answer", "error", errors.New(`dial tcp 127.0.0.1:4222: connect: "refused"`))
	log.ErrorContext(ctx, "said by the line itself", "run", "another")
	log.With("pipeline", "users").ErrorContext(ctx, "said by the logger itself")
	log.WithGroup("upstream").With("host", "api.example.com").InfoContext(traced(ctx), "in a group", "status", 503, "run", "of the group")
	log.InfoContext(With(ctx, slog.String("run", "later"), slog.String("caller", "ops")), "the later word holds")
	log.Info("line\nbreak", "value", "two\nlines\x1b[31m", "empty", "", "space", "a b", "equals", "a=b", "key\nof lines", 1, slog.Group("g", "a", 1, "b", 2), "nothing", nil)
	log.Info("secrets", "password", "hunter2", "X-Api-Key", "hunter2", "Authorization", "Bearer hunter2", "accessToken", "hunter2", "set-cookie", []byte("hunter2"),
		"client_secret", config.Secret("hunter2"), "plain", config.Secret("hunter2"), "queue", config.URL("nats://ops:hunter2@h1:4222"),
		slog.Group("credentials", "user", "hunter2"), slog.Group("auth", "token", "hunter2", "kind", "bearer"))
	log.WithGroup("secret").With("a", "hunter2").Info("group", "b", "hunter2")
}

func TestLines(t *testing.T) {
	tests := []struct {
		file     string
		format   string
		terminal bool
		noColor  string
	}{
		{"log.json", "auto", false, ""},
		{"log.txt", "auto", true, "1"},
		{"log.txt", "text", false, ""},
		{"log-colour.txt", "auto", true, ""},
		{"log.json", "json", true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.file+" "+tt.format, func(t *testing.T) {
			t.Setenv("NO_COLOR", tt.noColor)
			var b bytes.Buffer
			log := NewLogger(config.Log{Level: "info", Format: tt.format}, &b, tt.terminal)
			talk(slog.New(frozen{log.Handler()}))
			if strings.Contains(b.String(), "hunter2") {
				t.Errorf("a secret was logged:\n%s", b.String())
			}
			golden(t, tt.file, b.String())
			if tt.file == "log.json" {
				for line := range strings.Lines(b.String()) {
					if !json.Valid([]byte(line)) {
						t.Errorf("not JSON: %s", line)
					}
				}
			}
		})
	}
}

func TestLevels(t *testing.T) {
	for level, want := range map[string]int{"debug": 4, "info": 3, "warn": 2, "error": 1, "": 3} {
		for _, format := range []string{"text", "json"} {
			var b bytes.Buffer
			log := NewLogger(config.Log{Level: level, Format: format}, &b, false)
			log.Debug("d")
			log.Info("i")
			log.Warn("w")
			log.Error("e")
			if got := strings.Count(b.String(), "\n"); got != want {
				t.Errorf("%s, %s: %d lines, want %d", level, format, got, want)
			}
		}
	}
}

func TestWithDoesNotReachSiblings(t *testing.T) {
	base := With(context.Background(), slog.String("run", "r"))
	a, b := With(base, slog.String("caller", "a")), With(base, slog.String("caller", "b"))
	if got := attrsOf(a); len(got) != 2 || got[1].Value.String() != "a" {
		t.Errorf("a = %v", got)
	}
	if got := attrsOf(b); len(got) != 2 || got[1].Value.String() != "b" {
		t.Errorf("b = %v", got)
	}
}

func FuzzTextStaysInItsLine(f *testing.F) {
	f.Add("message", "key", "value")
	f.Add("a\nb", "c\rd", "e\x1b[31m\u2028\x00\xff")
	f.Fuzz(func(t *testing.T, message, key, value string) {
		var b bytes.Buffer
		NewLogger(config.Log{Format: "text"}, &b, false).Info(message, key, value)
		line, ok := strings.CutSuffix(b.String(), "\n")
		if !ok || strings.ContainsAny(line, "\n\r\x1b\x00\u2028") {
			t.Errorf("%q left its line: %q", []string{message, key, value}, b.String())
		}
	})
}

func BenchmarkLine(b *testing.B) {
	ctx := With(context.Background(), slog.String("pipeline", "orders"), slog.String("run", "20261123T061630.123Z-x7f3k"))
	for _, format := range []string{"text", "json"} {
		b.Run(format, func(b *testing.B) {
			log := NewLogger(config.Log{Format: format}, discard{}, false)
			b.ReportAllocs()
			for b.Loop() {
				log.LogAttrs(ctx, slog.LevelInfo, "page read", slog.Int("records", 100), slog.String("host", "api.example.com"))
			}
		})
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
