//go:build unix

package natsqueue

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ferry/internal/embedded"
	"ferry/internal/queue"
	"ferry/internal/record"
)

func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func benchQueue(b *testing.B) *Queue {
	return open(b, embeddedConfig(serve(b, embedded.Options{})))
}

func report(b *testing.B, records int, begin time.Time, used time.Duration) {
	b.ReportMetric(float64(records)/time.Since(begin).Seconds(), "records/s")
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(records), "cpu-µs/record")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPublish is GET /process at several numbers of connections: each caller publishes one record at a time.
func BenchmarkPublish(b *testing.B) {
	for _, callers := range []int{1, 8, 16, 64, 256} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			q := benchQueue(b)
			batch := payload(1, 150)
			if err := q.Publish(b.Context(), "bench", batch); err != nil {
				b.Fatal(err)
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			begin, used := time.Now(), cpu()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := q.Publish(b.Context(), "bench", batch); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			report(b, b.N, begin, used)
		})
	}
}

// BenchmarkCommit is a run: pages of records with their cursor.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{100, 1000, 2000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			q := benchQueue(b)
			batch := queue.Batch{Records: payload(n, 870)}
			w, err := q.OpenWriter(b.Context(), "p", "bench")
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			begin, used := time.Now(), cpu()
			for i := range b.N {
				if err := w.Commit(b.Context(), batch, record.Cursor(fmt.Sprint(i))); err != nil {
					b.Fatal(err)
				}
			}
			report(b, n*b.N, begin, used)
		})
	}
}
