package retry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/retry"
)

var errFlaky = errors.New("flaky")

func TestDo(t *testing.T) {
	tests := []struct {
		name   string
		policy retry.Policy
		fails  int // how often f fails before it succeeds
		err    error
		calls  int
		want   string
	}{
		{"first try", retry.Policy{Retries: 3}, 0, errFlaky, 1, ""},
		{"zero policy tries once", retry.Policy{}, 1, errFlaky, 1, "flaky"},
		{"recovers", retry.Policy{Retries: 3}, 3, errFlaky, 4, ""},
		{"used up", retry.Policy{Retries: 3}, 9, errFlaky, 4, "flaky"},
		{"permanent", retry.Policy{Retries: 3}, 9, retry.Permanent(errFlaky), 1, "flaky"},
		{"without end", retry.Policy{Retries: -1}, 50, errFlaky, 51, ""},
		{"asked to wait too long", retry.Policy{Retries: 3, MaxAfter: time.Minute}, 9, retry.After(errFlaky, time.Hour), 1, "flaky (asked to wait 1h0m0s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				err := retry.Do(t.Context(), tt.policy, func(context.Context) error {
					if calls++; calls <= tt.fails {
						return tt.err
					}
					return nil
				})
				if calls != tt.calls {
					t.Errorf("calls = %d, want %d", calls, tt.calls)
				}
				if got := errText(err); (tt.want == "") != (err == nil) || !strings.HasPrefix(got, tt.want) {
					t.Errorf("err = %q, want prefix %q", got, tt.want)
				}
			})
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestAfterIsObeyedExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, calls := time.Now(), 0
		err := retry.Do(t.Context(), retry.Policy{Retries: 1, MaxAfter: time.Minute}, func(context.Context) error {
			if calls++; calls == 1 {
				return retry.After(errFlaky, 17*time.Second)
			}
			return nil
		})
		if err != nil || time.Since(start) != 17*time.Second {
			t.Fatalf("err %v after %s, want nil after exactly 17s", err, time.Since(start))
		}
	})
}

// Who may come back at once does so with the waits of the policy, not in a burst.
func TestAfterZeroWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := retry.Do(t.Context(), retry.Policy{Retries: 50}, func(context.Context) error {
			return retry.After(errFlaky, 0)
		})
		if took := time.Since(start); err == nil || took < time.Minute {
			t.Errorf("%v after 50 retries in %s", err, took)
		}
	})
}

func TestWaitsStayUnderTheirCeilings(t *testing.T) {
	p := retry.Policy{Base: 100 * time.Millisecond, Max: time.Second}
	for try := 1; try < 80; try++ {
		ceiling := time.Second
		if try < 5 {
			ceiling = 100 * time.Millisecond << (try - 1)
		}
		for range 50 {
			if w := p.Wait(try); w < 0 || w > ceiling {
				t.Fatalf("wait %d = %s, want 0..%s", try, w, ceiling)
			}
		}
	}
}

func TestDoStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := retry.Do(ctx, retry.Policy{Retries: -1, MaxAfter: time.Hour}, func(context.Context) error {
			return retry.After(errFlaky, time.Minute)
		})
		if !errors.Is(err, errFlaky) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("err = %v, want both the failure and the deadline", err)
		}
	})
}

// What others decide is announced before it begins; what Do chooses itself is not, or an outage without end would look
// like a wait that was asked for.
func TestAnnounce(t *testing.T) {
	tests := []struct {
		name string
		f    func(ctx context.Context) error
		want string
	}{
		{"asked for", func(ctx context.Context) error {
			return retry.Do(ctx, retry.Policy{Retries: 1, MaxAfter: time.Minute}, func(context.Context) error { return retry.After(errFlaky, 17*time.Second) })
		}, "17s true"},
		{"asked for too much", func(ctx context.Context) error {
			return retry.Do(ctx, retry.Policy{Retries: 1, MaxAfter: time.Minute}, func(context.Context) error { return retry.After(errFlaky, time.Hour) })
		}, ""},
		{"asked for nothing", func(ctx context.Context) error {
			return retry.Do(ctx, retry.Policy{Retries: 1}, func(context.Context) error { return retry.After(errFlaky, 0) })
		}, ""},
		{"chosen", func(ctx context.Context) error {
			return retry.Do(ctx, retry.Policy{Retries: 9}, func(context.Context) error { return errFlaky })
		}, ""},
		{"turn", func(ctx context.Context) error { return retry.AwaitTurn(ctx, time.Minute) }, "1m0s false"},
		{"turn at once", func(ctx context.Context) error { return retry.AwaitTurn(ctx, 0) }, ""},
		{"sleep", func(ctx context.Context) error { return retry.Sleep(ctx, time.Minute) }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, got := time.Now(), ""
				_ = tt.f(retry.Announce(t.Context(), func(until time.Time, asked bool) {
					if time.Now() != start {
						t.Error("announced after it had begun")
					}
					got += fmt.Sprintf("%s %t", until.Sub(start), asked)
				}))
				if got != tt.want {
					t.Errorf("announced %q, want %q", got, tt.want)
				}
				_ = tt.f(t.Context()) // nobody listens
			})
		})
	}
}
