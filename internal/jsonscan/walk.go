package jsonscan

// Enter steps into the array or object that begins at b[i], after white space. It returns the position of its first
// element or member, or, when it is empty, the position behind its closing bracket. Errors are those of Skip.
func Enter(b []byte, i int) (next int, empty bool, err error) {
	if i = SkipSpace(b, i); i >= len(b) {
		return i, false, ErrIncomplete
	}
	if b[i] != '{' && b[i] != '[' {
		return i, false, unexpected(b, i, "an array or object")
	}
	end := b[i] + 2 // ']' is '[' + 2, '}' is '{' + 2
	if i = SkipSpace(b, i+1); i >= len(b) {
		return i, false, ErrIncomplete
	}
	if b[i] == end {
		return i + 1, true, nil
	}
	return i, false, nil
}

// Member reads the key of the member that begins at b[i], after white space, and returns it raw, quotes included, with
// the position of its value. Errors are those of Skip.
func Member(b []byte, i int) (key []byte, value int, err error) {
	start := SkipSpace(b, i)
	if i, err = SkipString(b, start); err != nil {
		return nil, i, err
	}
	key = b[start:i]
	if i = SkipSpace(b, i); i >= len(b) {
		return nil, i, ErrIncomplete
	}
	if b[i] != ':' {
		return nil, i, unexpected(b, i, "a colon")
	}
	if i = SkipSpace(b, i+1); i >= len(b) {
		return nil, i, ErrIncomplete
	}
	return key, i, nil
}

// Leave is called at the position behind a value within a container, whose closing bracket is '}' or ']'. It steps over
// a comma to the next element or member (more) or over the closing bracket. Errors are those of Skip.
func Leave(b []byte, i int, closing byte) (next int, more bool, err error) {
	if i = SkipSpace(b, i); i >= len(b) {
		return i, false, ErrIncomplete
	}
	switch b[i] {
	case ',':
		if i = SkipSpace(b, i+1); i >= len(b) {
			return i, false, ErrIncomplete
		}
		return i, true, nil
	case closing:
		return i + 1, false, nil
	}
	return i, false, unexpected(b, i, "a comma or "+string(rune(closing)))
}

// Walker goes through the elements of an array or the members of an object:
//
//	w := jsonscan.Walk(b, i, depth)
//	for w.Next() {
//		… w.Key(), w.Value() …
//	}
//	if err := w.Err(); err != nil { … }
//	i = w.End()
//
// It validates what it passes and allocates nothing. Not safe for concurrent use.
type Walker struct {
	b       []byte
	i       int
	depth   int
	closing byte
	more    bool
	key     []byte
	value   []byte
	err     error
}

// Walk begins at the array or object at b[i], after white space; any other value is a *SyntaxError. maxDepth counts
// this container.
func Walk(b []byte, i, maxDepth int) Walker {
	w := Walker{b: b, depth: maxDepth - 1}
	if maxDepth < 1 {
		w.err = ErrDepth
		return w
	}
	i = SkipSpace(b, i)
	var empty bool
	if w.i, empty, w.err = Enter(b, i); w.err == nil {
		w.closing = b[i] + 2
		w.more = !empty
	}
	return w
}

// Next goes to the next element or member; false at the end or at an error.
func (w *Walker) Next() bool {
	if !w.more || w.err != nil {
		return false
	}
	i := w.i
	if w.closing == '}' {
		if w.key, i, w.err = Member(w.b, i); w.err != nil {
			return false
		}
	}
	end, err := Skip(w.b, i, w.depth)
	if err != nil {
		w.err = err
		return false
	}
	w.value = w.b[i:end:end]
	w.i, w.more, w.err = Leave(w.b, end, w.closing)
	return w.err == nil
}

// Key is the raw key of the present member, quotes included; nil within an array. See Unquote and KeyIs.
func (w *Walker) Key() []byte { return w.key }

// Value is the raw value of the present element or member.
func (w *Walker) Value() []byte { return w.value }

// Err is what ended the walk early, one of Skip's errors, or nil.
func (w *Walker) Err() error { return w.err }

// End is the position behind the closing bracket, once Next has returned false and Err is nil.
func (w *Walker) End() int { return w.i }
