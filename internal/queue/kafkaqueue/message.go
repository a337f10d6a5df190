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

// encodeAll appends a batch as Kafka has it: a record's key is the message's key, everything else that travels beside the
// data a header.
func encodeAll(into []kgo.Record, topic string, batch []record.Record) []kgo.Record {
	headers, text := 0, 0
	for i := range batch {
		headers += 1 + len(batch[i].Headers)
		text += len(batch[i].ID) + len(batch[i].Key)
	}
	e := encoder{headers: make([]kgo.RecordHeader, 0, headers), text: make([]byte, 0, text)}
	for i := range batch {
		into = append(into, kgo.Record{Topic: topic})
		e.encode(&into[len(into)-1], &batch[i])
	}
	return into
}

// encoder holds what the messages of a batch are made of, in a few pieces of memory: a batch has thousands of messages.
type encoder struct {
	headers []kgo.RecordHeader
	text    []byte // of ids and keys

	shared []record.Header    // of the record before: those of one run are one slice
	ready  []kgo.RecordHeader // the same as Kafka has them
}

func (e *encoder) encode(m *kgo.Record, r *record.Record) {
	if len(r.Headers) != len(e.shared) || len(r.Headers) > 0 && &r.Headers[0] != &e.shared[0] {
		e.shared, e.ready = r.Headers, nil
		for _, h := range r.Headers {
			e.ready = append(e.ready, kgo.RecordHeader{Key: h.Name, Value: []byte(h.Value)})
		}
	}
	first := len(e.headers)
	e.headers = append(e.headers, kgo.RecordHeader{Key: record.HeaderID, Value: e.bytes(r.ID)})
	e.headers = append(e.headers, e.ready...)
	m.Value, m.Headers = r.Data, e.headers[first:len(e.headers):len(e.headers)]
	if r.Key != "" {
		m.Key = e.bytes(r.Key)
	}
}

func (e *encoder) bytes(s string) []byte {
	first := len(e.text)
	e.text = append(e.text, s...)
	return e.text[first:len(e.text):len(e.text)]
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
