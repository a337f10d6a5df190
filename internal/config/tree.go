package config

import (
	"slices"
	"strings"
)

// The loader turns every layer (the file, .env, the environment, flags) into a tree of nodes that know their place,
// merges the trees, and decodes the result into the structs.

type kind int

const (
	null kind = iota
	scalar
	mapping
	sequence
)

func (k kind) String() string {
	return [...]string{"nothing", "a single value", "a mapping", "a list"}[k]
}

type node struct {
	kind    kind
	text    string  // of a scalar: its value, ${…} not expanded
	plain   bool    // of a scalar: typed without quotes
	entries []entry // of a mapping, in the order typed
	items   []*node // of a sequence
	at      place
}

type entry struct {
	key   string
	at    place
	value *node
}

// get returns the entry of a mapping by its key. Any node may be asked, nil too.
func (n *node) get(key string) *entry {
	if n == nil {
		return nil
	}
	for i := range n.entries {
		if n.entries[i].key == key {
			return &n.entries[i]
		}
	}
	return nil
}

// index gives the values of a mapping by key.
func (n *node) index() map[string]*node {
	index := make(map[string]*node, len(n.entries))
	for _, e := range n.entries {
		index[e.key] = e.value
	}
	return index
}

// size counts the nodes of a tree.
func (n *node) size() int {
	size := 1
	for _, e := range n.entries {
		size += e.value.size()
	}
	for _, item := range n.items {
		size += item.size()
	}
	return size
}

// child returns the value under a key, or nil.
func (n *node) child(key string) *node {
	if e := n.get(key); e != nil {
		return e.value
	}
	return nil
}

// find walks down by keys, as far as it goes; ok tells whether it was all the way to something that is not null.
func (n *node) find(keys ...string) (found *node, ok bool) {
	for _, key := range keys {
		e := n.get(key)
		if e == nil {
			return n, false
		}
		n = e.value
	}
	return n, n != nil && n.kind != null
}

// has tells whether the key is there with a value.
func (n *node) has(key string) bool {
	_, ok := n.find(key)
	return ok
}

// mentions tells whether ${name} stands somewhere in the tree.
func (n *node) mentions(name string) bool {
	switch {
	case n == nil:
		return false
	case n.kind == scalar:
		return strings.Contains(n.text, "${"+name+"}") || strings.Contains(n.text, "${"+name+":-")
	}
	return slices.ContainsFunc(n.items, func(item *node) bool { return item.mentions(name) }) ||
		slices.ContainsFunc(n.entries, func(e entry) bool { return e.value.mentions(name) })
}

// nest puts the value under a chain of mappings, so that a single variable is a tree like any other.
func nest(keys []string, value *node) *node {
	for _, key := range slices.Backward(keys) {
		value = &node{kind: mapping, at: value.at, entries: []entry{{key: key, at: value.at, value: value}}}
	}
	return value
}

// A source is what places point into: a file's text, or a variable.
type source struct {
	name   string
	lines  []string // of a file that may be shown; nil otherwise
	expand bool     // whether ${…} means something in it
	masks  []mask
}

// A mask covers what must not be seen when its lines are shown.
type mask struct {
	line, col       int
	endLine, endCol int
	show            string // what stands there instead
}

type place struct {
	src       *source
	line, col int // from 1; 0 when the source has no lines
	end       pos // where the next token begins; only on scalars
}

type pos struct{ line, col int }

// hide makes snippets show the given text in the scalar's stead.
func (p place) hide(show string) {
	if p.src == nil || p.line == 0 {
		return
	}
	p.src.masks = append(p.src.masks, mask{p.line, p.col, p.end.line, p.end.col, show})
}

// hideLogins masks the logins in all addresses of a tree, under whatever key they stand.
func (n *node) hideLogins() {
	if n.kind == scalar && (strings.Contains(n.text, "://") || strings.HasPrefix(n.text, "/")) {
		if shown := URL(n.text).String(); shown != n.text {
			n.at.hide(shown)
		}
	}
	for _, e := range n.entries {
		e.value.hideLogins()
	}
	for _, item := range n.items {
		item.hideLogins()
	}
}
