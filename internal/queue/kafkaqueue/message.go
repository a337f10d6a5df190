package kafkaqueue

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"ferry/internal/record"
)

const (
	// batchOverhead is what a batch takes beside its records: the header of the record batch format, version 2.
	batchOverhead = 70
	// recordOverhead bounds the lengths, deltas and counts in front of a record's own bytes.
	recordOverhead = 32
	headerOverhead = 10
)

// size is what a record weighs in a batch of its own, an upper bound, without compression.
func size(r *record.Record) int {
	n := batchOverhead + recordOverhead + r.Size() + len(record.HeaderID) + headerOverhead
	return n + len(r.Headers)*headerOverhead
}

// encode writes a record as Kafka has it: its key is the message's key, everything else that travels beside the data
// a header. headers is room for them.
func encode(m *kgo.Record, topic string, r *record.Record, headers []kgo.RecordHeader) []kgo.RecordHeader {
	first := len(headers)
	headers = append(headers, kgo.RecordHeader{Key: record.HeaderID, Value: []byte(r.ID)})
	for _, h := range r.Headers {
		headers = append(headers, kgo.RecordHeader{Key: h.Name, Value: []byte(h.Value)})
	}
	m.Topic, m.Value, m.Headers = topic, r.Data, headers[first:len(headers):len(headers)]
	if r.Key != "" {
		m.Key = []byte(r.Key)
	}
	return headers
}

// encodeAll gives the messages of a batch in one piece of memory.
func encodeAll(into []kgo.Record, topic string, batch []record.Record) []kgo.Record {
	n := len(batch)
	for i := range batch {
		n += len(batch[i].Headers)
	}
	headers := make([]kgo.RecordHeader, 0, n)
	for i := range batch {
		into = append(into, kgo.Record{})
		headers = encode(&into[len(into)-1], topic, &batch[i], headers)
	}
	return into
}

// decode gives a message as a record. Of a header that comes twice, which another writer may do, the first counts.
func decode(m *kgo.Record) record.Record {
	r := record.Record{Key: string(m.Key), Data: m.Value}
next:
	for _, h := range m.Headers {
		if h.Key == record.HeaderID {
			if r.ID == "" {
				r.ID = string(h.Value)
			}
			continue
		}
		for i := range r.Headers {
			if r.Headers[i].Name == h.Key {
				continue next
			}
		}
		r.Headers = append(r.Headers, record.Header{Name: h.Key, Value: string(h.Value)})
	}
	return r
}

// partitioner chooses partitions as the Java client does (murmur2), so that other programs' records with the same key
// lie beside ferry's. Records without a key, and all of them with partition=pipeline, go by the pipeline's name: its
// records then have one order (invariant 4). A partition without a leader is waited for, not avoided.
func (q *Queue) partitioner() kgo.Partitioner {
	return kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
		byHash := kgo.StickyKeyPartitioner(nil).ForTopic(topic) // of a record with a key: murmur2, and no state
		return func(m *kgo.Record, partitions int) int {
			if partitions == 1 {
				return 0
			}
			if m.Key != nil && (q.cfg.Partition == byKey || topic == q.cfg.Cursors) {
				return byHash.Partition(m, partitions)
			}
			by := []byte{}
			for _, h := range m.Headers {
				if h.Key == record.HeaderPipeline {
					by = h.Value
				}
			}
			return byHash.Partition(&kgo.Record{Key: by}, partitions)
		}
	})
}
