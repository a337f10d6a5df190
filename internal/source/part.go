package source

import (
	"context"

	"ferry/internal/record"
)

// partCursor makes the cursors within one part, and the one behind it. It is not changed once the part is handed over.
type partCursor struct {
	s    *Source
	page *position // of the page, nothing of it committed
	next *position // behind the part, when the page ends with it; else nil

	// What was covered before this part:
	exact bool
	ids   shortIDs
	n     int
	sum   digest
	upTo  *mark

	// The part:
	records []record.Record
	bad     map[int]error
	order   shortIDs // its records and those left out as committed in part, in the page's order
	place   []int    // of each record, in order
	err     error
}

// handed returns the ids of the first k records.
func (c *partCursor) handed(k int) shortIDs {
	ids := make(shortIDs, 0, k)
	for _, i := range c.place[:k] {
		ids = append(ids, c.order[i])
	}
	return ids
}

// after is record.Part's After.
func (c *partCursor) after(k int) record.Cursor {
	k = max(0, min(k, len(c.records)))
	if k == len(c.records) && c.next != nil {
		next := *c.next
		return next.encode()
	}
	p := *c.page
	if c.s.inc != nil {
		p.UpTo = c.reached(k)
	}
	p.Page = c.progress(k, pageIDs(&p))
	if p.Page != nil || p.UpTo != nil {
		p.Style = c.s.paging.style
	}
	return p.encode()
}

// progress says that the first k records of the part are committed, and all before it.
func (c *partCursor) progress(k, most int) *progress {
	if c.exact && len(c.ids)+k <= most {
		if len(c.ids)+k == 0 {
			return nil
		}
		return &progress{IDs: append(append(make(shortIDs, 0, len(c.ids)+k), c.ids...), c.handed(k)...)}
	}
	end := len(c.order)
	if k < len(c.records) {
		end = c.place[k] // with what was left out before the first record that is not committed
	}
	p := &progress{Count: c.n + end, Sum: c.sum}
	for _, id := range c.order[:end] {
		p.Sum = p.Sum.add(id)
	}
	return p
}

// reached is the mark once the first k records are committed.
func (c *partCursor) reached(k int) *mark {
	m, n := c.upTo.clone(), c.s.inc
	for i := range c.records[:k] {
		if c.bad[i] != nil {
			continue
		}
		// A pure expression on one record: it ends, without a context.
		if raw, found, err := n.field.one(context.Background(), c.records[i].Data); err == nil && found {
			if v, ok := n.decode(raw); ok {
				n.observe(m, raw, v, shortID(c.records[i].ID))
			}
		}
	}
	if m.at.order == 0 {
		return nil
	}
	return m
}

// pageIDs is how many ids of a part-committed page have room in the cursor.
func pageIDs(p *position) int {
	room := maxCursor - maxToken - 2<<10
	for _, m := range []*mark{p.Since, p.UpTo} {
		if m != nil {
			room -= 8*len(m.IDs.ids) + 6*len(m.IDs.ages) + maxValue
		}
	}
	return min(maxPageIDs, room/11) // eight bytes in base64
}
