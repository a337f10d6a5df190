package journal_test

import (
	"fmt"
	"strings"
	"testing"

	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
)

// BenchmarkPublish is what confirming costs: 64 callers, one record each, over a queue in memory.
func BenchmarkPublish(b *testing.B) {
	q := open(b, b.TempDir(), queuetest.NewMemory(queuetest.MemoryOptions{}))
	data := []byte(`"` + strings.Repeat("x", 120) + `"`)
	if err := q.Publish(b.Context(), "orders", []record.Record{{ID: "0", Data: data}}); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := q.Publish(b.Context(), "orders", []record.Record{{ID: fmt.Sprint(i), Data: data}}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	closeNow(b, q)
}
