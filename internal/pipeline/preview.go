package pipeline

import (
	"context"
	"errors"
	"fmt"

	"ferry/internal/record"
)

// Outcome of one record in a preview.
type Outcome struct {
	Record  record.Record
	Results []record.Record
	// Dead says why the record would be a dead letter; nil when it would not.
	Dead error
}

// Previewed is what a run would do with the first page.
type Previewed struct {
	Outcomes []Outcome
	Read     int // records in the page, shown or not
	Next     record.Cursor
	End      bool
	Warning  string // of the source, for a person
}

// Preview reads the page at the cursor and transforms at most limit of its records. It publishes nothing and moves no
// cursor. A nil transform means the pipeline's own.
func (p *Pipeline) Preview(ctx context.Context, from record.Cursor, tr Transform, limit int) (Previewed, error) {
	if tr == nil {
		tr = p.cfg.Transform
	}
	var out Previewed
	for part, err := range p.cfg.Source.Read(ctx, from) {
		if err != nil {
			return out, fmt.Errorf("read source: %w", err)
		}
		for i, rec := range part.Records {
			if len(out.Outcomes) >= limit {
				break
			}
			o := Outcome{Record: rec, Dead: part.Bad[i]}
			if o.Dead == nil {
				o.Results, o.Dead = tr.Apply(ctx, rec, nil)
			}
			if ctx.Err() != nil {
				return out, errors.Join(errors.New("preview took too long"), context.Cause(ctx))
			}
			out.Outcomes = append(out.Outcomes, o)
		}
		out.Read += len(part.Records) + part.Seen
		out.Next = part.After(len(part.Records))
		out.End = part.End
		if part.Warning != "" {
			out.Warning = part.Warning
		}
	}
	return out, nil
}
