package jsonscan

import "errors"

// Span is where a value lies in the bytes it was found in. The zero Span is a value that is not there.
type Span struct{ Start, End int }

// ErrUnfit is what Finder.Find says of a value for which its one pass is not enough: a key asked of what is no object, an
// index of what is no array, or a key on a path that comes twice. Get says what is at each of the paths.
var ErrUnfit = errors.New("the value does not fit the paths")

// Finder finds the values at several paths in one pass over the bytes, where Get needs one for each. It is safe for
// concurrent use.
type Finder struct {
	root place
	n    int
}

// place is a place in a value that is wanted, or passed on the way to one. All of them form a tree.
type place struct {
	slot  int // where its span goes; -1 when it is only passed
	keys  []keyPlace
	items []itemPlace
}

type keyPlace struct {
	key string
	*place
}

type itemPlace struct {
	index int
	*place
}

// maxKeys is how many keys of one object a Finder may look for: their bits fit a word.
const maxKeys = 64

// NewFinder returns a Finder for the paths. ok is false when it cannot follow one of them: a path with Each or an index
// from the end, more than 64 keys of one object, or one path twice.
func NewFinder(paths ...[]Step) (f *Finder, ok bool) {
	f = &Finder{root: place{slot: -1}, n: len(paths)}
	for slot, path := range paths {
		if !f.root.add(path, slot) {
			return nil, false
		}
	}
	return f, true
}

// Len is the number of paths.
func (f *Finder) Len() int { return f.n }

// Find validates the value that begins at b[i], after white space, as Skip does, and returns its end. spans gets, for each
// path, where in b its value lies; it must have room for Len. Errors are those of Skip, and ErrUnfit; spans and end are
// then meaningless. As with Skip, the value may be the beginning of a longer text, or what has come of it so far.
func (f *Finder) Find(b []byte, i, maxDepth int, spans []Span) (end int, err error) {
	spans = spans[:f.n]
	clear(spans)
	return f.root.find(b, SkipSpace(b, i), min(maxDepth, MaxDepth), spans)
}

func (p *place) add(path []Step, slot int) bool {
	if len(path) == 0 {
		if p.slot >= 0 {
			return false
		}
		p.slot = slot
		return true
	}
	s, rest := path[0], path[1:]
	if s.Each || s.IsIndex && s.Index < 0 {
		return false
	}
	if s.IsIndex {
		for _, c := range p.items {
			if c.index == s.Index {
				return c.add(rest, slot)
			}
		}
		p.items = append(p.items, itemPlace{s.Index, &place{slot: -1}})
		return p.items[len(p.items)-1].add(rest, slot)
	}
	for _, c := range p.keys {
		if c.key == s.Key {
			return c.add(rest, slot)
		}
	}
	if len(p.keys) == maxKeys {
		return false
	}
	p.keys = append(p.keys, keyPlace{s.Key, &place{slot: -1}})
	return p.keys[len(p.keys)-1].add(rest, slot)
}

// find reads the value at b[i], where no space is, and returns its end.
func (p *place) find(b []byte, i, depth int, spans []Span) (end int, err error) {
	kind := Null
	if i < len(b) {
		kind = KindOf(b[i])
	}
	switch {
	case kind == Object && len(p.keys) > 0 && len(p.items) == 0:
		end, err = p.object(b, i, depth, spans)
	case kind == Array && len(p.items) > 0 && len(p.keys) == 0:
		end, err = p.array(b, i, depth, spans)
	default:
		end, err = Skip(b, i, depth)
		if err == nil && kind != Null && len(p.keys)+len(p.items) > 0 {
			err = ErrUnfit
		}
	}
	if p.slot >= 0 {
		spans[p.slot] = Span{i, end}
	}
	return end, err
}

// object is find for the object that begins at b[i]. Here and in key, where most of the time goes, the common case comes
// first: keys without escapes, and no white space between tokens.
func (p *place) object(b []byte, i, depth int, spans []Span) (int, error) {
	if depth < 1 {
		return i, ErrDepth
	}
	if i = SkipSpace(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	var seen uint64
	for {
		k, v, err := p.key(b, i)
		switch {
		case err != nil:
			return v, err
		case k < 0:
			i, err = Skip(b, v, depth-1)
		case seen&(1<<k) != 0:
			return v, ErrUnfit
		default:
			seen |= 1 << k
			i, err = p.keys[k].find(b, v, depth-1, spans)
		}
		if err != nil {
			return i, err
		}
		if i < len(b) && b[i] <= ' ' {
			i = SkipSpace(b, i)
		}
		switch {
		case i >= len(b):
			return i, ErrIncomplete
		case b[i] == ',':
			if i++; i < len(b) && b[i] <= ' ' {
				i = SkipSpace(b, i)
			}
		case b[i] == '}':
			return i + 1, nil
		default:
			return i, unexpected(b, i, "a comma or }")
		}
	}
}

// key reads the key of the member that begins at b[i], where no space is. It returns the key's index in p.keys, or -1, and
// the position of the member's value.
func (p *place) key(b []byte, i int) (k, value int, err error) {
	end := plain(b, i+1)
	k = -1
	if end < len(b) && b[end] == '"' && b[i] == '"' {
		name := b[i+1 : end]
		end++
		for n := range p.keys {
			if string(name) == p.keys[n].key {
				k = n
				break
			}
		}
	} else {
		if end, err = SkipString(b, i); err != nil {
			return -1, end, err
		}
		for n := range p.keys {
			if KeyIs(b[i:end], p.keys[n].key) {
				k = n
				break
			}
		}
	}
	if end < len(b) && b[end] <= ' ' {
		end = SkipSpace(b, end)
	}
	switch {
	case end >= len(b):
		return k, end, ErrIncomplete
	case b[end] != ':':
		return k, end, unexpected(b, end, "a colon")
	}
	if end++; end < len(b) && b[end] <= ' ' {
		end = SkipSpace(b, end)
	}
	if end >= len(b) {
		return k, end, ErrIncomplete
	}
	return k, end, nil
}

func (p *place) array(b []byte, i, depth int, spans []Span) (int, error) {
	if depth < 1 {
		return i, ErrDepth
	}
	i, empty, err := Enter(b, i)
	for more, n := !empty, 0; more && err == nil; n++ {
		item := -1
		for k := range p.items {
			if p.items[k].index == n {
				item = k
			}
		}
		if item < 0 {
			i, err = Skip(b, i, depth-1)
		} else {
			i, err = p.items[item].find(b, SkipSpace(b, i), depth-1, spans)
		}
		if err == nil {
			i, more, err = Leave(b, i, ']')
		}
	}
	return i, err
}
