package source

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// maxEmpty is how many pages without records may follow each other, each naming a further one.
const maxEmpty = 1000

// trail finds out whether the tokens or addresses of pages come again, in constant space: the last few of them catch
// short cycles at once, and Brent's tortoise (R. Brent, An improved Monte Carlo factorization algorithm, BIT 1980)
// catches those of any length, within three times the pages that the way into the cycle and the cycle itself have.
type trail struct {
	Last     shortIDs `json:"last,omitempty"`
	Tortoise shortIDs `json:"at,omitempty"` // one, or none
	Power    int      `json:"power,omitempty"`
	Steps    int      `json:"steps,omitempty"`
	Page     digest   `json:"page,omitempty"` // of the ids of the last page, for numbered pages
}

const trailLength = 16

func hashOf(text string) uint64 {
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:])
}

// step returns the trail with a further token, and after how many pages the token has come again (0: it has not).
func (t *trail) step(token string) (next *trail, cycle int) {
	h := hashOf(token)
	next = &trail{}
	if t != nil {
		*next = *t
	}
	for i, last := range slices.Backward(next.Last) {
		if last == h {
			return nil, len(next.Last) - i
		}
	}
	next.Steps++
	if len(next.Tortoise) == 1 && next.Tortoise[0] == h {
		return nil, next.Steps
	}
	if next.Steps >= next.Power {
		next.Tortoise, next.Power, next.Steps = shortIDs{h}, max(1, 2*next.Power), 0
	}
	kept := next.Last[max(0, len(next.Last)-trailLength+1):]
	next.Last = append(append(make(shortIDs, 0, trailLength), kept...), h)
	return next, 0
}
