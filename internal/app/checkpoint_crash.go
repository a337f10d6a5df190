//go:build crash && !windows

package app

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// checkpoint kills this process, as kill -9 would, when it passes the point named in FERRY_CRASH_AT for the nth time:
// "committing:3". Built for test/crash only.
func checkpoint() func(string) {
	point, nth, ok := strings.Cut(os.Getenv("FERRY_CRASH_AT"), ":")
	if !ok {
		return nil
	}
	n, err := strconv.ParseInt(nth, 10, 64)
	if err != nil {
		return nil
	}
	var passed atomic.Int64
	return func(at string) {
		if at == point && passed.Add(1) == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // does not return
			select {}
		}
	}
}
