package natsqueue

import (
	"fmt"

	"ferry/internal/record"
)

// payload makes records as a run publishes them.
func payload(n, size int) []record.Record {
	batch := make([]record.Record, n)
	for i := range batch {
		data := make([]byte, size)
		for j := range data {
			data[j] = 'a' + byte((i+j*7)%26)
		}
		data[0], data[size-1] = '"', '"'
		batch[i] = record.Record{
			ID:   record.ID("bench", fmt.Sprint(i), nil),
			Key:  fmt.Sprint(i),
			Data: data,
			Headers: []record.Header{
				{Name: record.HeaderPipeline, Value: "bench"},
				{Name: record.HeaderRun, Value: "01JD0000000000000000000000"},
				{Name: record.HeaderContentType, Value: "application/json"},
			},
		}
	}
	return batch
}
