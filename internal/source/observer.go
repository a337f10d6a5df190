package source

import "time"

// Observer hears what a source does, for metrics and logs. Its methods are called from the goroutines that read, at
// any time, several at once, and must be quick. They are handed no secret (invariant 8).
type Observer interface {
	// Request hears of every request that was made, once its body has been read or given up. status is 0 when no
	// answer came; took counts from sending to the end of the body, without the time in which nobody read it; wire is
	// the number of body bytes as sent.
	Request(host string, status int, took time.Duration, wire int64)
	// Retry hears of every wait before another try. reason is a Kind, or the status such as "503".
	Retry(host, reason string, wait time.Duration)
}

// Silent is the Observer that hears nothing. It is the default.
type Silent struct{}

// Request does nothing.
func (Silent) Request(string, int, time.Duration, int64) {}

// Retry does nothing.
func (Silent) Retry(string, string, time.Duration) {}
