package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// cargo is a part after its transform: what to publish, and which results belong to which record, so that it can be
// cut between any two records.
type cargo struct {
	part    record.Part
	results []record.Record // of all records, in order
	ends    []int           // ends[i]: len(results) after record i
	sizes   []int           // sizes[i]: bytes that record i adds to a commit
	dead    map[int]record.Record
}

// stageSource is where a record dies that the source cannot give a key, or cannot hold.
const stageSource = "source"

// load transforms a part. Records that cannot go on become dead letters; nothing here fails the run, except the end
// of its context.
func (p *Pipeline) load(ctx context.Context, part record.Part, headers []record.Header) (*cargo, error) {
	c := &cargo{
		part:    part,
		results: make([]record.Record, 0, len(part.Records)),
		ends:    make([]int, len(part.Records)),
		sizes:   make([]int, len(part.Records)),
	}
	for i := range part.Records {
		part.Records[i].Headers = append(slices.Clip(headers), part.Records[i].Headers...)
		in := part.Records[i]
		from := len(c.results)
		err := part.Bad[i]
		stage := stageSource
		if err == nil {
			c.results, err = p.cfg.Transform.Apply(ctx, in, c.results)
			stage = stageOf(err)
		}
		if err == nil {
			c.sizes[i], err = p.fits(c.results[from:])
			stage = "queue"
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			c.results = c.results[:from]
			c.bury(i, p.deadLetter(in, stage, err))
		}
		c.ends[i] = len(c.results)
	}
	return c, nil
}

// fits checks the results of one record against the limits of one commit and returns their size.
func (p *Pipeline) fits(results []record.Record) (int, error) {
	size := 0
	for i := range results {
		n := results[i].Size()
		if p.limits.RecordBytes > 0 && n > p.limits.RecordBytes {
			return 0, &queue.TooLargeError{Size: n, Limit: p.limits.RecordBytes}
		}
		size += n
	}
	if p.limits.CommitRecords > 0 && len(results) > p.limits.CommitRecords {
		return 0, fmt.Errorf("the map gave %d results for one record; one commit holds %d", len(results), p.limits.CommitRecords)
	}
	if p.limits.CommitBytes > 0 && size > p.limits.CommitBytes {
		return 0, fmt.Errorf("the results of one record are %d bytes; one commit holds %d", size, p.limits.CommitBytes)
	}
	return size, nil
}

// bury makes record i a dead letter.
func (c *cargo) bury(i int, letter record.Record) {
	if c.dead == nil {
		c.dead = make(map[int]record.Record)
	}
	c.dead[i] = letter
	c.sizes[i] = letter.Size()
}

// drop takes the results of record i out again, in favour of a dead letter.
func (c *cargo) drop(i int, letter record.Record) {
	from := c.start(i)
	n := c.ends[i] - from
	c.results = append(c.results[:from:from], c.results[c.ends[i]:]...)
	for j := i; j < len(c.ends); j++ {
		c.ends[j] -= n
	}
	c.bury(i, letter)
}

// start is the index of record i's first result; start(len(ends)) is the number of results.
func (c *cargo) start(i int) int {
	if i == 0 {
		return 0
	}
	return c.ends[i-1]
}

// weight is the number of records that record i adds to a commit.
func (c *cargo) weight(i int) int {
	n := c.ends[i] - c.start(i)
	if _, ok := c.dead[i]; ok {
		n++
	}
	return n
}

// count tells what becomes of records from to to-1 (invariant 5).
func (c *cargo) count(from, to int) Counters {
	d := Counters{Read: int64(to - from)}
	if len(c.dead) == 0 && len(c.results) == len(c.ends) && allOnes(c.ends) {
		d.Published, d.RecordsOut = d.Read, d.Read
		return d
	}
	for i := from; i < to; i++ {
		n := c.start(i+1) - c.start(i)
		if _, ok := c.dead[i]; ok {
			d.Dead++
		} else if n == 0 {
			d.Filtered++
		} else {
			d.Published++
			d.RecordsOut += int64(n)
		}
	}
	return d
}

// allOnes tells whether every record has one result.
func allOnes(ends []int) bool {
	for i, e := range ends {
		if e != i+1 {
			return false
		}
	}
	return true
}

// deadKeep is how much of a record too large for the queue a dead letter keeps.
const deadKeep = 16 << 10

// deadLetter makes the dead letter of a record: its original bytes, and in the headers why and where it failed. A
// record too large even for that is cut to its beginning, as a JSON text.
func (p *Pipeline) deadLetter(in record.Record, stage string, err error) record.Record {
	reason := err.Error()
	if len(reason) > 1000 {
		reason = strings.ToValidUTF8(reason[:1000], "") + "…"
	}
	letter := in
	letter.Headers = append(slices.Clip(in.Headers),
		record.Header{Name: record.HeaderDeadStage, Value: stage},
		record.Header{Name: record.HeaderDeadReason, Value: headerText(reason)})
	if p.limits.RecordBytes > 0 && letter.Size() > p.limits.RecordBytes {
		letter = letter.Cut(min(deadKeep, p.limits.RecordBytes/8))
	}
	return letter
}

// stageOf is the stage that an error of a transform names.
func stageOf(err error) string {
	var s interface {
		error
		DeadStage() string
	}
	if errors.As(err, &s) {
		return s.DeadStage()
	}
	return "transform"
}
