package source

import (
	"context"

	"ferry/internal/record"
)

// Identify gives a single record its key and id anew, those that Split would give it. bad says why it cannot go on, as in
// record.Part. The record holds on to data.
func (s *Source) Identify(ctx context.Context, data []byte) (r record.Record, bad error) {
	found := s.identify(ctx, elem{data: data})
	return found.Record, found.bad
}
