//go:build unix

package kafkaqueue

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"ferry/internal/queue"
	"ferry/internal/record"
)

func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func report(b *testing.B, records int, begin time.Time, used time.Duration) {
	b.ReportMetric(float64(records)/time.Since(begin).Seconds(), "records/s")
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(records), "cpu-µs/record")
	b.ReportMetric(0, "ns/op")
}

// benchRecords are n records of some bytes that compress about as JSON does.
func benchRecords(n, bytes int) []record.Record {
	all := make([]record.Record, n)
	for i := range all {
		all[i] = record.Record{
			ID: record.ID("bench", fmt.Sprint(i), nil), Key: fmt.Sprint(i),
			Headers: []record.Header{{Name: record.HeaderPipeline, Value: "bench"}, {Name: record.HeaderContentType, Value: "application/json"}},
			Data:    []byte(`{"id":` + fmt.Sprint(i) + `,"text":"` + strings.Repeat(record.ID("x", fmt.Sprint(i), nil), bytes/32) + `"}`),
		}
	}
	return all
}

// BenchmarkCommit is a run: pages of records with their cursor. "bare" is the client library alone with the same bytes
// and the same guarantee: one transaction a page, with one more record for the cursor.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		batch := benchRecords(n, 870)
		b.Run(fmt.Sprintf("%d/ferry", n), func(b *testing.B) {
			q := open(b, realConfig(b))
			w, err := q.OpenWriter(b.Context(), "bench", topicName(b))
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			begin, used := time.Now(), cpu()
			for i := range b.N {
				if err := w.Commit(b.Context(), queue.Batch{Records: batch}, record.Cursor(fmt.Sprint(i))); err != nil {
					b.Fatal(err)
				}
			}
			report(b, n*b.N, begin, used)
		})
		b.Run(fmt.Sprintf("%d/bare", n), func(b *testing.B) {
			q := open(b, realConfig(b))
			topic := topicName(b)
			if err := q.Prepare(b.Context(), topic); err != nil {
				b.Fatal(err)
			}
			cl, err := kgo.NewClient(kgo.SeedBrokers(q.cfg.Brokers...), kgo.TransactionalID("bare-"+token()), kgo.ProducerLinger(0))
			if err != nil {
				b.Fatal(err)
			}
			defer cl.Close()
			if _, _, err := cl.ProducerID(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			begin, used := time.Now(), cpu()
			for range b.N {
				if err := bareCommit(b, cl, topic, q.cfg.Cursors, batch); err != nil {
					b.Fatal(err)
				}
			}
			report(b, n*b.N, begin, used)
		})
	}
}

func bareMessage(topic string, r *record.Record) *kgo.Record {
	m := &kgo.Record{Topic: topic, Key: []byte(r.Key), Value: r.Data, Headers: []kgo.RecordHeader{{Key: record.HeaderID, Value: []byte(r.ID)}}}
	for _, h := range r.Headers {
		m.Headers = append(m.Headers, kgo.RecordHeader{Key: h.Name, Value: []byte(h.Value)})
	}
	return m
}

func bareCommit(b *testing.B, cl *kgo.Client, topic, cursors string, batch []record.Record) error {
	if err := cl.BeginTransaction(); err != nil {
		return err
	}
	all := make([]*kgo.Record, 0, len(batch)+1)
	for i := range batch {
		all = append(all, bareMessage(topic, &batch[i]))
	}
	all = append(all, &kgo.Record{Topic: cursors, Key: []byte(topic + "/bare"), Value: []byte("x")})
	if err := cl.ProduceSync(b.Context(), all...).FirstErr(); err != nil {
		return err
	}
	return cl.EndTransaction(b.Context(), kgo.TryCommit)
}

// BenchmarkPublish is GET /process at several numbers of connections: each caller publishes one record at a time.
func BenchmarkPublish(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		batch := benchRecords(1, 150)
		b.Run(fmt.Sprintf("%d/ferry", callers), func(b *testing.B) {
			q, topic := open(b, realConfig(b)), topicName(b)
			inParallel(b, callers, func() error { return q.Publish(b.Context(), topic, batch) })
		})
		b.Run(fmt.Sprintf("%d/bare", callers), func(b *testing.B) {
			q, topic := open(b, realConfig(b)), topicName(b)
			if err := q.Prepare(b.Context(), topic); err != nil {
				b.Fatal(err)
			}
			cl, err := kgo.NewClient(kgo.SeedBrokers(q.cfg.Brokers...), kgo.ProducerLinger(0))
			if err != nil {
				b.Fatal(err)
			}
			defer cl.Close()
			r := &batch[0]
			inParallel(b, callers, func() error {
				return cl.ProduceSync(b.Context(), bareMessage(topic, r)).FirstErr()
			})
		})
	}
}

func inParallel(b *testing.B, callers int, f func() error) {
	if err := f(); err != nil {
		b.Fatal(err)
	}
	var left atomic.Int64
	left.Store(int64(b.N))
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
	report(b, b.N, begin, used)
}
