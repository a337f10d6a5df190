package natsqueue

import (
	"testing"
	"time"

	"ferry/internal/embedded"
	"ferry/internal/record"
)

// TestBrowseOfLargeRecords: what is on its way at once is not so much that the server ends the connection.
func TestBrowseOfLargeRecords(t *testing.T) {
	q := open(t, embeddedConfig(serve(t, embedded.Options{})))
	const records, size = 10, 8 << 20
	for _, r := range payload(records, size) {
		if err := q.Publish(t.Context(), "large", []record.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		got, err := q.Browse(t.Context(), "large", 0, 1000)
		if err != nil || len(got) != readBytes/size {
			t.Fatalf("%d records of %d bytes, %v", len(got), size, err)
		}
		rest, err := q.Browse(t.Context(), "large", got[len(got)-1].Position+1, 1000)
		if err != nil || len(rest) != records-len(got) {
			t.Fatalf("%d records after %d, %v", len(rest), len(got), err)
		}
	}
	if n := q.nc.Stats().Reconnects; n > 0 {
		t.Errorf("the connection was lost %d times", n)
	}
}

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
