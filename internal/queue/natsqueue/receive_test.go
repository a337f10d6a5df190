package natsqueue

import (
	"testing"
	"time"

	"ferry/internal/embedded"
	"ferry/internal/record"
)

// TestReceiveIsBounded: however many records are asked for, so many bytes come, and the rest the next time; also when they
// are delivered again.
func TestReceiveIsBounded(t *testing.T) {
	q := open(t, embeddedConfig(serve(t, embedded.Options{})))
	const records, size = 10, 8 << 20
	for _, r := range payload(records, size) {
		if err := q.Publish(t.Context(), "large", []record.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	for attempt := 1; attempt <= 2; attempt++ {
		var receipts []string
		for next := int64(1); next <= records; {
			got, err := q.Receive(t.Context(), "large", 1000, 10*time.Second)
			if err != nil || len(got) == 0 || len(got)*size > readBytes+size {
				t.Fatalf("%d records of %d bytes, %v", len(got), size, err)
			}
			for i := range got {
				if got[i].Position != next || got[i].Attempt != attempt {
					t.Fatalf("record %d, attempt %d; want %d, %d", got[i].Position, got[i].Attempt, next, attempt)
				}
				receipts = append(receipts, got[i].Receipt)
				next++
			}
		}
		if err := q.Nack(t.Context(), "large", receipts...); err != nil {
			t.Fatal(err)
		}
	}
}
