package rabbitqueue

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
)

func payload(n, size int) []record.Record {
	all := recs("bench", 0, n)
	for i := range all {
		all[i].Data = fmt.Appendf(nil, `{"i":%d,"text":%q}`, i, strings.Repeat("x", size-20))
	}
	return all
}

func benchConfig(b *testing.B, kind string) Config {
	name := "FERRY_TEST_RABBITMQ"
	if kind == typeStream {
		name = "FERRY_TEST_RABBITMQ_STREAM"
	}
	c := parse(b, address(b, name))
	c.Type = kind
	return c
}

func benchTopic(b *testing.B, q *Queue) string {
	topic := name(b, "bench")
	if err := q.Prepare(b.Context(), topic); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { remove(b, q, topic); remove(b, q, topic+".dead") })
	return topic
}

func report(b *testing.B, records int, begin time.Time) {
	b.ReportMetric(float64(records)/time.Since(begin).Seconds(), "records/s")
	b.ReportMetric(0, "ns/op")
}

const benchPage = 1000

// BenchmarkCommit is a run: pages of 1000 records of 870 bytes with their cursor.
func BenchmarkCommit(b *testing.B) {
	for _, kind := range []string{typeQuorum, typeClassic, typeStream} {
		b.Run(kind, func(b *testing.B) {
			q := open(b, benchConfig(b, kind))
			topic := benchTopic(b, q)
			w, err := q.WithCursors(queuetest.NewCursors()).OpenWriter(b.Context(), "p", topic)
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close(b.Context())
			page := queue.Batch{Records: payload(benchPage, 870)}
			b.ResetTimer()
			begin := time.Now()
			for i := range b.N {
				if err := w.Commit(b.Context(), page, record.Cursor(fmt.Sprint(i))); err != nil {
					b.Fatal(err)
				}
			}
			report(b, b.N*benchPage, begin)
		})
	}
}

// BenchmarkPublish is what requests do: each caller publishes one record at a time.
func BenchmarkPublish(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			q := open(b, benchConfig(b, typeQuorum))
			topic := benchTopic(b, q)
			batch := payload(1, 150)
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			begin := time.Now()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := q.Publish(b.Context(), topic, batch); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			report(b, b.N, begin)
		})
	}
}

// BenchmarkBare is the client library alone with the same guarantee and the same bytes: persistent, mandatory, pages of
// 1000 whose confirms are awaited together.
func BenchmarkBare(b *testing.B) {
	for _, kind := range []string{typeQuorum, typeClassic, typeStream} {
		b.Run(kind, func(b *testing.B) {
			c := benchConfig(b, kind)
			topic := benchTopic(b, open(b, c))
			conn, err := amqp.Dial((&url.URL{Scheme: "amqp", User: url.UserPassword(c.User, c.Password.Reveal()), Host: c.Hosts[0], Path: "/"}).String())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			ch, err := conn.Channel()
			if err != nil {
				b.Fatal(err)
			}
			if err := ch.Confirm(false); err != nil {
				b.Fatal(err)
			}
			page := payload(benchPage, 870)
			b.ResetTimer()
			begin := time.Now()
			confirms := make([]*amqp.DeferredConfirmation, len(page))
			for range b.N {
				for i := range page {
					if confirms[i], err = ch.PublishWithDeferredConfirm("", topic, true, false, encode(&page[i], begin)); err != nil {
						b.Fatal(err)
					}
				}
				for _, c := range confirms {
					if !c.Wait() {
						b.Fatal("not confirmed")
					}
				}
			}
			report(b, b.N*benchPage, begin)
		})
	}
}
