package mockapi

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// set is a data set: count records that are a function of seed and index, and an overlay of what has changed since.
type set struct {
	name   string
	seed   uint64
	count  int
	render func(b []byte, rw row, d dice, f form) []byte

	mu   sync.Mutex // one changer of over at a time
	over atomic.Pointer[overlay]
}

// row is a version of a record. Its key is its place in the order of updated_at and names the version: a record that
// was never touched has its index as key, a touched or new one has a key behind all others.
type row struct{ index, key int }

// form is how records are written.
type form struct {
	time timeForm
	pad  int // average size in bytes to fill up to; 0 means as they are
}

func newSet(name string, seed uint64, count int, render func([]byte, row, dice, form) []byte) *set {
	for _, c := range name {
		seed = mix(seed + golden + uint64(c))
	}
	return &set{name: name, seed: seed, count: count, render: render}
}

// append writes one record.
func (s *set) append(b []byte, rw row, f form) []byte {
	from := len(b)
	d := dice(mix(s.seed + uint64(rw.index)*golden))
	b = s.render(b, rw, d, f)
	if f.pad > 0 {
		b = appendPad(b, from, f.pad, rw.index)
	}
	return b
}

// Time moves with the key in steps that hold 1, 1, 2, 4 and 8 records each, so that ties at one second are the rule.
const (
	firstSecond = 1_704_067_200 // 2024-01-01T00:00:00Z
	blockKeys   = 16
	blockTime   = 20 * 60
)

var blockSeconds = [blockKeys]int64{0, 97, 241, 241, 489, 489, 489, 489, 811, 811, 811, 811, 811, 811, 811, 811}

func seconds(key int) int64 {
	return firstSecond + int64(key/blockKeys)*blockTime + blockSeconds[key%blockKeys]
}

// overlay is what has changed in a set. It is never changed itself: changers put another one in its place.
type overlay struct {
	moved []int // indices that no longer stand at their own place, ascending
	tail  []row // what stands behind all the others, by ascending key
	grown int   // records added
	next  int   // keys given out so far
}

// maxTail bounds the overlay: growth beyond it is ignored.
const maxTail = 1 << 16

func (o *overlay) grownRows() int {
	if o == nil {
		return 0
	}
	return o.grown
}

func (s *set) change(f func(*overlay) *overlay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over.Store(f(s.over.Load()))
}

func (o *overlay) clone() *overlay {
	if o == nil {
		return &overlay{}
	}
	return &overlay{slices.Clone(o.moved), slices.Clone(o.tail), o.grown, o.next}
}

// Grow adds n new records behind all others of a set: at the end of an ascending listing, at the front of one with
// order=desc. Listings with a count of their own do not see them. It does nothing for an unknown set.
func (s *Server) Grow(name string, n int) {
	set := s.set(name)
	if set == nil {
		return
	}
	set.change(func(o *overlay) *overlay {
		o = o.clone()
		for ; n > 0 && len(o.tail) < maxTail; n-- {
			o.tail = append(o.tail, row{set.count + o.grown, set.count + o.next})
			o.grown++
			o.next++
		}
		return o
	})
}

// Touch updates records of a set, by index: they get a new updated_at and with it a new place behind all others.
// Unknown indices are left out, and so is an unknown set.
func (s *Server) Touch(name string, indices ...int) {
	set := s.set(name)
	if set == nil {
		return
	}
	set.change(func(o *overlay) *overlay {
		o = o.clone()
		for _, i := range indices {
			if i < 0 || i >= set.count+o.grown || len(o.tail) >= maxTail {
				continue
			}
			if at, found := slices.BinarySearch(o.moved, i); found || i >= set.count {
				o.tail = slices.DeleteFunc(o.tail, func(rw row) bool { return rw.index == i })
			} else {
				o.moved = slices.Insert(o.moved, at, i)
			}
			o.tail = append(o.tail, row{i, set.count + o.next})
			o.next++
		}
		return o
	})
}

// view is one listing of a set as it is at one moment: a number of positions and the row at each.
type view struct {
	count    int // records before the overlay
	over     *overlay
	lo, hi   int // the stretch of ascending positions that since= leaves
	order    order
	multiply int // the permutation of a shuffled view
}

type order int

const (
	ascending order = iota
	descending
	shuffled
)

// view takes the listing that q asks for.
func (s *set) view(q query) view {
	v := view{count: s.count, over: s.over.Load(), order: q.order}
	if q.count >= 0 && q.count != s.count {
		v.count, v.over = q.count, nil
	}
	v.hi = v.count
	if v.over != nil {
		v.hi += len(v.over.tail) - len(v.over.moved)
	}
	if q.since != nil {
		v.lo = sort.Search(v.hi, func(p int) bool { return q.since(seconds(v.at(p).key)) })
	}
	if v.order == shuffled {
		v.multiply = coprime(v.len())
	}
	return v
}

func (v *view) len() int { return v.hi - v.lo }

// row is the one at position p of the listing.
func (v *view) row(p int) row {
	switch v.order {
	case descending:
		return v.at(v.hi - 1 - p)
	case shuffled:
		return v.at(v.lo + int((uint64(p)*uint64(v.multiply)+uint64(v.len()/3))%uint64(v.len())))
	default:
		return v.at(v.lo + p)
	}
}

// at is the row at an ascending position of the whole set.
func (v *view) at(p int) row {
	if v.over == nil {
		return row{p, p}
	}
	moved := v.over.moved
	if p >= v.count-len(moved) {
		return v.over.tail[p-(v.count-len(moved))]
	}
	// moved[i]-i unmoved rows stand before the i-th moved one, so each i with moved[i]-i <= p pushes p one further.
	p += sort.Search(len(moved), func(i int) bool { return moved[i]-i > p })
	return row{p, p}
}

// find is the present version of the record with an index.
func (v *view) find(index int) row {
	if v.over != nil {
		for _, rw := range v.over.tail {
			if rw.index == index {
				return rw
			}
		}
	}
	return row{index, index}
}

// mark names the place before position p in a way that stays right when the set grows: by the key of the row before
// it, as keyset pagination does. A shuffled view, which has no such order, is named by position.
func (v *view) mark(p int) int {
	switch {
	case v.order == shuffled:
		return p
	case p > 0:
		return v.row(p - 1).key
	case v.order == descending:
		return int(^uint(0) >> 1)
	default:
		return -1
	}
}

// position is where mark leads to.
func (v *view) position(mark int) int {
	n := v.len()
	switch v.order {
	case shuffled:
		return min(max(mark, 0), n)
	case descending:
		return sort.Search(n, func(p int) bool { return v.row(p).key < mark })
	default:
		return sort.Search(n, func(p int) bool { return v.row(p).key > mark })
	}
}

// coprime gives a factor whose multiples modulo n visit every number below n, far from their neighbours.
func coprime(n int) int {
	a := max(n*5/8, 1)
	for gcd(a, n) != 1 {
		a++
	}
	return a
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// timeForm is how times are written and since= is read.
type timeForm string

const (
	timeRFC3339  timeForm = "rfc3339"
	timeZone     timeForm = "rfc3339_zone"
	timeFraction timeForm = "rfc3339_ms"
	timeUnix     timeForm = "unix"
	timeUnixMS   timeForm = "unix_ms"
	timeDate     timeForm = "date"
)

var zone = time.FixedZone("", 2*60*60)
