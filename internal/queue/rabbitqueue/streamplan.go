package rabbitqueue

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"ferry/internal/record"
)

// streamPlace is where a pipeline stands in a stream: the publishing id at which its next commit begins, and which
// records the commit that is under way has planned from there on. A plan is written down before any of its records is
// published, and only by the writer that holds the claim. So a publishing id means one record and no other, whoever
// publishes it and however often, and the stream keeps it once.
type streamPlace struct {
	Next uint64 `json:"next"`
	Plan []byte `json:"plan,omitempty"` // a digest for each id from Next on
}

// digestSize bytes of SHA-256 stand for a record's id in a plan, so that a plan of the largest commit stays small.
const digestSize = 12

// void stands for an id that will not be used.
var void [digestSize]byte

func digest(r *record.Record) (d [digestSize]byte) {
	sum := sha256.Sum256([]byte(r.ID))
	copy(d[:], sum[:])
	return d
}

func (p streamPlace) planned() int { return len(p.Plan) / digestSize }

func (p streamPlace) at(i int) [digestSize]byte { return [digestSize]byte(p.Plan[i*digestSize:]) }

// match brings a batch under the plan: records that are planned keep their publishing ids, others get new ones behind
// them. When the source gave the same page again, that is the same plan; when the page has changed in between, what is
// new comes behind what was planned, and missing says that something planned is not in the batch any more.
func (p streamPlace) match(records []record.Record) (next streamPlace, batch []numbered, missing bool) {
	open := make(map[[digestSize]byte][]int, p.planned())
	for i := range p.planned() {
		if d := p.at(i); d != void {
			open[d] = append(open[d], i)
		}
	}
	next = streamPlace{Next: p.Next, Plan: bytes.Clone(p.Plan)}
	placed := make([]*record.Record, p.planned(), p.planned()+len(records))
	for i := range records {
		d := digest(&records[i])
		if places := open[d]; len(places) > 0 {
			placed[places[0]], open[d] = &records[i], places[1:]
			continue
		}
		placed = append(placed, &records[i])
		next.Plan = append(next.Plan, d[:]...)
	}
	for i, r := range placed {
		if r != nil {
			batch = append(batch, numbered{p.Next + uint64(i), r})
		} else if next.at(i) != void {
			missing = true
		}
	}
	return next, batch, missing
}

// without gives up planned ids that the batch does not use, unless the stream has them already (up to last). A later
// id seals an earlier one, so a record whose id is given up must get a new one should it come again.
func (p streamPlace) without(batch []numbered, last uint64) streamPlace {
	used := make(map[uint64]bool, len(batch))
	for _, n := range batch {
		used[n.id] = true
	}
	next := streamPlace{Next: p.Next, Plan: bytes.Clone(p.Plan)}
	for i := range p.planned() {
		if id := p.Next + uint64(i); !used[id] && id > last {
			copy(next.Plan[i*digestSize:], void[:])
		}
	}
	return next
}

// after is the place when a batch is committed, which match gave for a plan of old ids. A commit after an interrupted one
// need not be as large as that was: what else was planned, and lies in the stream already, stays in the plan for the
// commits that follow. It is forgotten with the first batch that has none of it, for the source has gone on then.
func (p streamPlace) after(batch []numbered, old int) streamPlace {
	if len(batch) == 0 {
		return p
	}
	next := streamPlace{Next: p.Next, Plan: bytes.Clone(p.Plan)}
	known := false
	for _, n := range batch {
		i := int(n.id - p.Next)
		known = known || i < old
		copy(next.Plan[i*digestSize:], void[:])
	}
	first := 0 // that is still open
	for first < next.planned() && next.at(first) == void {
		first++
	}
	if !known || first == next.planned() || next.planned() > 2*streamCommit {
		return p.done()
	}
	next.Next += uint64(first)
	next.Plan = next.Plan[first*digestSize:]
	return next
}

// done is the place behind the plan.
func (p streamPlace) done() streamPlace {
	return streamPlace{Next: p.Next + uint64(p.planned())}
}

func (p streamPlace) equal(o streamPlace) bool {
	return p.Next == o.Next && slices.Equal(p.Plan, o.Plan)
}
