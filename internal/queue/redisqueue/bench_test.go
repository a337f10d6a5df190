//go:build unix

package redisqueue

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// The benchmarks write the same bytes, in the same fields, once by ferry and once by the client library alone: XADDs in
// a pipeline, and a script that does nothing but XADDs. Each waits for the server's answer, which comes after its sync.

func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// measure runs f, which writes n records, b.N times.
func measure(b *testing.B, n int, f func(i int) error) {
	b.ReportAllocs()
	b.ResetTimer()
	begin, used := time.Now(), cpu()
	for i := range b.N {
		if err := f(i); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*b.N)/time.Since(begin).Seconds(), "records/s")
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(n*b.N), "cpu-µs/record")
	b.ReportMetric(0, "ns/op")
}

// benchServer gives the broker, the library's client for it, and a topic of its own that goes away afterwards.
func benchServer(b *testing.B) (c Config, x *redis.Client, topic string) {
	c = broker(b, "FERRY_TEST_REDIS", "redis")
	x = redis.NewClient(&redis.Options{Addr: c.Hosts[0], Protocol: 2, MaxRetries: -1})
	topic = fmt.Sprintf("bench-%d", time.Now().UnixNano())
	b.Cleanup(func() {
		x.Unlink(context.Background(), topic, "{"+topic+"}.ferry.cursor.p")
		x.SRem(context.Background(), topicsKey, topic)
		x.Close()
	})
	return c, x, topic
}

func values(r *record.Record) []any {
	list := []any{fieldData, r.Data, record.HeaderID, r.ID, fieldKey, r.Key}
	for _, h := range r.Headers {
		list = append(list, h.Name, h.Value)
	}
	return list
}

func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		batch := queue.Batch{Records: payload(n, 870)}
		b.Run(fmt.Sprintf("%d/pipeline", n), func(b *testing.B) {
			_, x, topic := benchServer(b)
			measure(b, n, func(i int) error {
				p := x.Pipeline()
				for k := range batch.Records {
					p.XAdd(b.Context(), &redis.XAddArgs{Stream: topic, Values: values(&batch.Records[k])})
				}
				p.Set(b.Context(), "{"+topic+"}.ferry.cursor.p", i, 0)
				_, err := p.Exec(b.Context())
				return err
			})
		})
		b.Run(fmt.Sprintf("%d/eval", n), func(b *testing.B) {
			_, x, topic := benchServer(b)
			bare := redis.NewScript(`local p = 3
				for i = 1, ARGV[1] do local n = tonumber(ARGV[p]); redis.call('XADD', KEYS[1], '*', unpack(ARGV, p+1, p+n)); p = p+n+1 end
				redis.call('SET', KEYS[2], ARGV[2])`)
			measure(b, n, func(i int) error {
				args := []any{n, i}
				for k := range batch.Records {
					v := values(&batch.Records[k])
					args = append(append(args, len(v)), v...)
				}
				err := bare.Run(b.Context(), x, []string{topic, "{" + topic + "}.ferry.cursor.p"}, args...).Err()
				if err == redis.Nil {
					err = nil
				}
				return err
			})
		})
		b.Run(fmt.Sprintf("%d/ferry", n), func(b *testing.B) {
			c, _, topic := benchServer(b)
			w := writerOf(b, open(b, c), "p", topic)
			measure(b, n, func(i int) error { return w.Commit(b.Context(), batch, record.Cursor(fmt.Sprint(i))) })
		})
	}
}

// BenchmarkPublish is GET /process at several numbers of connections: each caller publishes one record at a time.
func BenchmarkPublish(b *testing.B) {
	one := payload(1, 870)
	for _, callers := range []int{1, 8, 64} {
		run := func(b *testing.B, f func() error) {
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			begin, used := time.Now(), cpu()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := f(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "records/s")
			b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-µs/record")
			b.ReportMetric(0, "ns/op")
		}
		b.Run(fmt.Sprintf("%d/xadd", callers), func(b *testing.B) {
			_, x, topic := benchServer(b)
			v := values(&one[0])
			run(b, func() error { return x.XAdd(b.Context(), &redis.XAddArgs{Stream: topic, Values: v}).Err() })
		})
		b.Run(fmt.Sprintf("%d/ferry", callers), func(b *testing.B) {
			c, _, topic := benchServer(b)
			q := open(b, c)
			run(b, func() error { return q.Publish(b.Context(), topic, one) })
		})
	}
}
