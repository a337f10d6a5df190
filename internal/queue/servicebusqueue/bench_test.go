package servicebusqueue

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"ferry/internal/queue/servicebusqueue/servicebustest"
	"ferry/internal/record"
)

const (
	benchPage = 500 // records of 1 KiB a call
	benchData = 1 << 10
)

func benchRecords(from int) []record.Record {
	data := make([]byte, benchData)
	for i := range data {
		data[i] = 'x'
	}
	data[0], data[len(data)-1] = '"', '"'
	all := make([]record.Record, benchPage)
	for i := range all {
		all[i] = record.Record{
			ID: record.ID("bench", fmt.Sprint(from+i), nil), Key: fmt.Sprint(from + i), Data: data,
			Headers: []record.Header{{Name: record.HeaderPipeline, Value: "bench"}, {Name: record.HeaderContentType, Value: "application/json"}},
		}
	}
	return all
}

// BenchmarkPublish publishes pages to the test server; BenchmarkBare does the same with the SDK alone.
func BenchmarkPublish(b *testing.B) {
	s := serve(b, servicebustest.Options{})
	q := open(b, parse(b, s.ConnectionString()+"?create=true"))
	if err := q.Prepare(within(b), "orders"); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchPage * benchData)
	for i := 0; b.Loop(); i++ {
		if err := q.Publish(within(b), "orders", benchRecords(i*benchPage)); err != nil {
			b.Fatal(err)
		}
		drain(b, s, i)
	}
	b.ReportMetric(float64(b.N)*benchPage/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkBare(b *testing.B) {
	s := serve(b, servicebustest.Options{})
	if err := s.CreateQueue("orders", servicebustest.QueueOptions{DuplicateDetection: 10 * time.Minute}); err != nil {
		b.Fatal(err)
	}
	sender, err := bare(b, s).NewSender("orders", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchPage * benchData)
	for i := 0; b.Loop(); i++ {
		records := benchRecords(i * benchPage)
		for len(records) > 0 {
			batch, err := sender.NewMessageBatch(within(b), nil)
			if err != nil {
				b.Fatal(err)
			}
			for len(records) > 0 {
				r := &records[0]
				err := batch.AddMessage(&azservicebus.Message{
					MessageID: &r.ID, Body: r.Data, ContentType: &r.Headers[1].Value,
					ApplicationProperties: map[string]any{"ferry-id": r.ID, "ferry-key": r.Key, "ferry-pipeline": "bench"},
				}, nil)
				if errors.Is(err, azservicebus.ErrMessageTooLarge) {
					break
				}
				if err != nil {
					b.Fatal(err)
				}
				records = records[1:]
			}
			if err := sender.SendMessageBatch(within(b), batch, nil); err != nil {
				b.Fatal(err)
			}
		}
		drain(b, s, i)
	}
	b.ReportMetric(float64(b.N)*benchPage/b.Elapsed().Seconds(), "records/s")
}

// drain empties the queue now and then, so that its quota and the machine's memory last.
func drain(b *testing.B, s *servicebustest.Server, i int) {
	if i%200 == 199 {
		b.StopTimer()
		s.Purge("orders")
		b.StartTimer()
	}
}
