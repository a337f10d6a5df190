package kafkaqueue

import (
	"cmp"
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"ferry/internal/queue"
)

const (
	// maxBack is how far back from the end a Browse counts; what is asked for beyond it begins at the oldest record.
	maxBack = 1_000_000
	// countExactly is up to how many offsets Stats looks at each record. Not every offset is a record: each commit
	// takes one in each partition that it touched, and compaction leaves gaps.
	countExactly = 2000
)

// A position names a record in a topic with several partitions: the offset, and in the last twelve bits the partition.
// It grows along each partition. Across partitions it says nothing about time.
func position(offset int64, partition int32) int64 { return offset<<12 | int64(partition) }

// offsetFrom gives the first offset of a partition whose position is not below from.
func offsetFrom(from int64, partition int32) int64 {
	offset := from >> 12
	if from&(maxPartitions-1) > int64(partition) {
		offset++
	}
	return offset
}

func stored(m *kgo.Record) queue.Stored {
	return queue.Stored{Record: decode(m), Position: position(m.Offset, m.Partition), Time: m.Timestamp}
}

// enterReader is enterTopic for a topic that must be there.
func (q *Queue) enterReader(ctx context.Context, name string) error {
	if err := q.enterTopic(name); err != nil {
		return err
	}
	if _, err := q.ensure(ctx, name, false); err != nil {
		q.calls.Leave()
		return err
	}
	return nil
}

// Browse implements queue.Reader. Records come in the order of their positions.
func (q *Queue) Browse(ctx context.Context, name string, from int64, max int) ([]queue.Stored, error) {
	if err := q.enterReader(ctx, name); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	if max <= 0 {
		return nil, nil
	}
	bound, cancel := q.roundTrip(ctx)
	defer cancel()
	got, err := q.browse(bound, name, from, max)
	if err != nil {
		return nil, q.mapError(ctx, "read topic "+name, err)
	}
	return got, nil
}

func (q *Queue) browse(ctx context.Context, name string, from int64, max int) ([]queue.Stored, error) {
	parts, err := q.settled(ctx, name)
	if err != nil {
		return nil, err
	}
	if from < 0 {
		if from, err = q.fromEnd(ctx, name, parts, -from); err != nil {
			return nil, err
		}
	}
	var got []queue.Stored
	horizon := int64(-1) // positions from here on were not all read
	for n, b := range parts {
		bytes, count := 0, 0
		_, err := q.walk(ctx, part{name, n}, later(b.start, offsetFrom(from, n)), b.end, committed, func(m *kgo.Record) bool {
			if count == max || bytes > q.browseBytes/len(parts) {
				if at := position(m.Offset, n); horizon < 0 || at < horizon {
					horizon = at
				}
				return false
			}
			got = append(got, stored(m))
			count++
			bytes += len(m.Key) + len(m.Value)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(got, func(a, b queue.Stored) int { return cmp.Compare(a.Position, b.Position) })
	for i := range got {
		if i == max || horizon >= 0 && got[i].Position >= horizon {
			return got[:i], nil
		}
	}
	return got, nil
}

// later is max, whose name Browse takes for its own.
func later(a, b int64) int64 { return max(a, b) }

// fromEnd finds the position of the topic's n-th last record: it reads each partition backwards, by ever larger steps,
// until that many are found.
func (q *Queue) fromEnd(ctx context.Context, name string, parts map[int32]bounds, n int64) (int64, error) {
	offsets := int64(0)
	for _, b := range parts {
		offsets += b.end - b.start
	}
	if n >= offsets || n > maxBack {
		return 0, nil
	}
	var last []int64
	for p, b := range parts {
		found := int64(0)
		for high, step := b.end, n+8; high > b.start && found < n; step *= 4 {
			low := max(b.start, high-step)
			if _, err := q.walk(ctx, part{name, p}, low, high, committed, func(m *kgo.Record) bool {
				last = append(last, position(m.Offset, p))
				found++
				return true
			}); err != nil {
				return 0, err
			}
			high = low
		}
	}
	if int64(len(last)) < n {
		return 0, nil
	}
	slices.Sort(last)
	return last[int64(len(last))-n], nil
}

// count says how many records lie in [from, to): exactly for short stretches, otherwise at most.
func (q *Queue) count(ctx context.Context, p part, from, to int64) (int64, error) {
	if to-from > countExactly {
		return to - from, nil
	}
	n := int64(0)
	_, err := q.walk(ctx, p, from, to, committed, func(*kgo.Record) bool { n++; return true })
	return n, err
}

// Stats implements queue.Reader. Records and Waiting are exact up to 2000 offsets in a partition; beyond, they count
// offsets, of which each commit takes one more than it has records.
func (q *Queue) Stats(ctx context.Context, name string) (queue.Stats, error) {
	if err := q.enterReader(ctx, name); err != nil {
		return queue.Stats{}, err
	}
	defer q.calls.Leave()
	bound, cancel := q.roundTrip(ctx)
	defer cancel()
	st, err := q.stats(bound, name)
	if err != nil {
		return queue.Stats{}, q.mapError(ctx, "ask for topic "+name, err)
	}
	return st, nil
}

func (q *Queue) stats(ctx context.Context, name string) (queue.Stats, error) {
	var st queue.Stats
	parts, err := q.settled(ctx, name)
	if err != nil {
		return st, err
	}
	book, err := q.readBook(ctx, name)
	if err != nil {
		return st, err
	}
	for n, b := range parts {
		count, err := q.count(ctx, part{name, n}, b.start, b.end)
		if err != nil {
			return st, err
		}
		st.Records += count
		next := b.start
		if l := book.Parts[n]; l != nil {
			st.Waiting += int64(len(l.Out))
			next = max(next, l.Next)
		}
		if count, err = q.count(ctx, part{name, n}, next, b.end); err != nil {
			return st, err
		}
		st.Waiting += count
	}
	if st.Records == 0 {
		return queue.Stats{}, nil
	}
	for from, into := range map[int64]*int64{0: &st.First, -1: &st.Last} {
		got, err := q.browse(ctx, name, from, 1)
		if err != nil {
			return st, err
		}
		if len(got) > 0 {
			*into = got[0].Position
		}
	}
	st.Bytes = q.bytes(ctx, name)
	return st, nil
}

// bytes is what the topic takes of a disk, one replica of each partition counted; 0 where that may not be asked.
func (q *Queue) bytes(ctx context.Context, name string) int64 {
	set := make(kadm.TopicsSet)
	l, err := q.layout(ctx, name)
	if err != nil {
		return 0
	}
	for n := range l.leaders {
		set.Add(name, int32(n))
	}
	dirs, err := q.adm.DescribeAllLogDirs(ctx, set)
	if err != nil && len(dirs) == 0 {
		return 0
	}
	most := make(map[int32]int64)
	dirs.Each(func(d kadm.DescribedLogDir) {
		d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			if p.Topic == name {
				most[p.Partition] = max(most[p.Partition], p.Size)
			}
		})
	})
	sum := int64(0)
	for _, n := range most {
		sum += n
	}
	return sum
}
