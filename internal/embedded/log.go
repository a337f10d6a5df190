package embedded

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// logger hands the server's log to slog and keeps the first fatal line, which otherwise would end the process.
type logger struct {
	log   *slog.Logger
	mu    sync.Mutex
	fatal error
}

func (l *logger) fatalError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *logger) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == nil {
		l.fatal = fmt.Errorf(format, v...)
	}
}

func (l *logger) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Maximum payloads over") {
		return // chosen, see Options.MaxPayload
	}
	// What NATS warns of is mostly how it recovers after a kill: worth knowing, nothing to do about.
	l.log.Info(fmt.Sprintf(format, v...), "part", "embedded queue")
}

func (l *logger) Errorf(format string, v ...any) {
	if strings.Contains(fmt.Sprintf(format, v...), "route") {
		// Each try to reach a member that is away is an error to NATS; watch says once who is connected.
		l.log.Debug(fmt.Sprintf(format, v...), "part", "embedded queue")
		return
	}
	l.log.Warn(fmt.Sprintf(format, v...), "part", "embedded queue")
}

func (l *logger) Noticef(format string, v ...any) {
	l.log.Debug(fmt.Sprintf(format, v...), "part", "embedded queue")
}

func (l *logger) Debugf(string, ...any) {}
func (l *logger) Tracef(string, ...any) {}
