package kafkaqueue

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Buffers of a client. What does not fit waits in its caller (invariant 7).
const (
	bufferedBytes   = 64 << 20
	bufferedRecords = bufferedBytes / 512 // more do not fit, see weight
)

// options are what every client of this queue has in common.
func (q *Queue) options() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.ClientID("ferry"),
		kgo.SeedBrokers(q.cfg.Brokers...),
		kgo.Dialer(q.dial),
		kgo.DialTimeout(q.cfg.Timeout),
		kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.RetryBackoffFn(func(tries int) time.Duration { return min(50*time.Millisecond<<min(tries, 4), 500*time.Millisecond) }),
		kgo.RetryTimeout(q.cfg.Timeout),
		kgo.RequestTimeoutOverhead(max(q.cfg.Timeout/2, time.Second)),
		kgo.ConcurrentTransactionsBackoff(10 * time.Millisecond),

		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProduceRequestTimeout(q.cfg.Timeout),
		kgo.ProducerBatchMaxBytesFn(q.batchBytes),
		kgo.ProducerBatchCompression(codec(q.cfg.Compression)),
		kgo.RecordPartitioner(q.partitioner()),
		kgo.UnknownTopicRetries(2),
		kgo.MaxBufferedRecords(bufferedRecords),
	}
	if q.login != nil {
		opts = append(opts, kgo.SASL(q.login))
	}
	return opts
}

// publisher is the client that all Publish calls share. It is idempotent, so its own repetitions never double a
// record. What is not confirmed in time is given up for good: were it kept, each repetition by the caller would add
// another copy, and all of them would be written once the brokers are back.
func (q *Queue) publisher() (*kgo.Client, error) {
	return kgo.NewClient(append(q.options(),
		kgo.ProducerLinger(q.cfg.Linger),
		kgo.RecordDeliveryTimeout(q.cfg.Timeout+q.cfg.Linger),
		kgo.AllowIdempotentProduceCancellation(),
	)...)
}

// transactional is a writer's client. Its records are sent when the commit has handed all of them over. narrow bounds the
// batches of topics whose brokers refused larger ones.
func (q *Queue) transactional(id string, narrow map[string]int32) (*kgo.Client, error) {
	return kgo.NewClient(append(q.options(),
		kgo.ProducerBatchMaxBytesFn(func(name string) int32 {
			if n, ok := narrow[name]; ok {
				return n
			}
			return q.batchBytes(name)
		}),
		kgo.TransactionalID(id),
		kgo.TransactionTimeout(q.cfg.Transaction),
		kgo.ProducerLinger(0),
	)...)
}

func codec(name string) kgo.CompressionCodec {
	switch name {
	case "gzip":
		return kgo.GzipCompression()
	case "snappy":
		return kgo.SnappyCompression()
	case "lz4":
		return kgo.Lz4Compression()
	case "zstd":
		return kgo.ZstdCompression()
	}
	return kgo.NoCompression()
}
