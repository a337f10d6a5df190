package jq

import (
	"bytes"
	"errors"

	"ferry/internal/jsonscan"
)

// want is a place in a record that a plan reads, or passes on the way to one. All places of a plan form a tree, so that
// one pass over the bytes finds them all and validates the rest.
type want struct {
	slot  int // where its span goes; -1 when it is only passed
	keys  []wantKey
	items []wantItem
}

type wantKey struct {
	key string
	*want
}

type wantItem struct {
	index int
	*want
}

// maxKeys is how many keys of one object a plan may read: their bits fit a word.
const maxKeys = 64

// span is a part of a record; the zero span is a value that is not there.
type span struct{ start, end int }

// errFallback: the plan does not fit this record; the whole program shall run.
var errFallback = errors.New("the plan does not fit")

// add puts a path into the tree. It returns false for what the tree cannot hold.
func (w *want) add(path []jsonscan.Step, slot int) bool {
	if len(path) == 0 {
		w.slot = slot
		return true
	}
	s, rest := path[0], path[1:]
	if s.Each || s.IsIndex && s.Index < 0 {
		return false
	}
	if s.IsIndex {
		for _, c := range w.items {
			if c.index == s.Index {
				return c.add(rest, slot)
			}
		}
		w.items = append(w.items, wantItem{s.Index, &want{slot: -1}})
		return w.items[len(w.items)-1].add(rest, slot)
	}
	for _, c := range w.keys {
		if c.key == s.Key {
			return c.add(rest, slot)
		}
	}
	if len(w.keys) == maxKeys {
		return false
	}
	w.keys = append(w.keys, wantKey{s.Key, &want{slot: -1}})
	return w.keys[len(w.keys)-1].add(rest, slot)
}

// resolve reads the value at b[i], where no space is, puts the spans of what is wanted into spans, and returns the
// value's end. Errors are those of jsonscan.Skip, or errFallback: for a key asked of what is no object, an index of what
// is no array, and a wanted key that comes twice.
func (w *want) resolve(b []byte, i, depth int, spans []span) (end int, err error) {
	kind := jsonscan.Null
	if i < len(b) {
		kind = jsonscan.KindOf(b[i])
	}
	switch {
	case kind == jsonscan.Object && len(w.keys) > 0 && len(w.items) == 0:
		end, err = w.object(b, i, depth, spans)
	case kind == jsonscan.Array && len(w.items) > 0 && len(w.keys) == 0:
		end, err = w.array(b, i, depth, spans)
	default:
		end, err = jsonscan.Skip(b, i, depth)
		if err == nil && kind != jsonscan.Null && len(w.keys)+len(w.items) > 0 {
			err = errFallback
		}
	}
	if w.slot >= 0 {
		spans[w.slot] = span{i, end}
	}
	return end, err
}

func (w *want) object(b []byte, i, depth int, spans []span) (int, error) {
	var seen uint64
	i, empty, err := jsonscan.Enter(b, i)
	for more := !empty; more && err == nil; {
		var key []byte
		if key, i, err = jsonscan.Member(b, i); err != nil {
			break
		}
		if k := w.find(key); k < 0 {
			i, err = jsonscan.Skip(b, i, depth-1)
		} else {
			if seen&(1<<k) != 0 {
				return i, errFallback
			}
			seen |= 1 << k
			i, err = w.keys[k].resolve(b, i, depth-1, spans)
		}
		if err == nil {
			i, more, err = jsonscan.Leave(b, i, '}')
		}
	}
	return i, err
}

// find returns the index of the raw key in w.keys, or -1.
func (w *want) find(raw []byte) int {
	body := raw[1 : len(raw)-1]
	for k := range w.keys {
		if string(body) == w.keys[k].key {
			return k
		}
	}
	if bytes.IndexByte(body, '\\') >= 0 {
		for k := range w.keys {
			if jsonscan.KeyIs(raw, w.keys[k].key) {
				return k
			}
		}
	}
	return -1
}

func (w *want) array(b []byte, i, depth int, spans []span) (int, error) {
	i, empty, err := jsonscan.Enter(b, i)
	for more, n := !empty, 0; more && err == nil; n++ {
		item := -1
		for k := range w.items {
			if w.items[k].index == n {
				item = k
			}
		}
		if item < 0 {
			i, err = jsonscan.Skip(b, i, depth-1)
		} else {
			i, err = w.items[item].resolve(b, jsonscan.SkipSpace(b, i), depth-1, spans)
		}
		if err == nil {
			i, more, err = jsonscan.Leave(b, i, ']')
		}
	}
	return i, err
}
