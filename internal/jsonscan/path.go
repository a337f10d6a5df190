package jsonscan

// Step is one step of a path into a value: exactly one of a key, an index and "each".
type Step struct {
	// Key of an object, when Each is false and IsIndex is false.
	Key string
	// Index of an array; a negative one counts from the end.
	Index   int
	IsIndex bool
	// Each stands for every element of an array.
	Each bool
}

// Get returns the raw bytes at the path, which are part of b. The last of several equal keys counts. found is false when
// a key or index is not there, or the path leads through null. An empty path is the value itself, without the space
// around it.
//
// Get reads all of b, and all of it must be valid: errors are those of Skip, with MaxDepth. A key asked of what is not an
// object, or an index of what is not an array, is a *KindError. Steps with Each are not for Get: it takes them for the
// first element.
func Get(b []byte, path []Step) (value []byte, found bool, err error) {
	hit, end, err := get(b, SkipSpace(b, 0), path, 0)
	if err != nil {
		return nil, false, err
	}
	if err := AtEnd(b, end); err != nil {
		return nil, false, err
	}
	if hit.got != Invalid {
		want := Object
		if s := path[hit.step]; s.IsIndex || s.Each {
			want = Array
		}
		return nil, false, &KindError{Step: hit.step, Want: want, Got: hit.got}
	}
	if hit.start < 0 {
		return nil, false, nil
	}
	return b[hit.start:hit.end:hit.end], true, nil
}

// hit is where a path has led: a span (start < 0: to nothing), or a step that met a value of a kind it does not fit. The
// latter is not an error yet, since a later member of the same key may replace it.
type hit struct {
	start, end int
	got        Kind
	step       int
}

var nowhere = hit{start: -1}

// get follows path[step:] from the value at b[i] and returns the end of that value too.
func get(b []byte, i int, path []Step, step int) (hit, int, error) {
	depth := MaxDepth - step
	if step == len(path) {
		end, err := Skip(b, i, depth)
		return hit{start: i, end: end}, end, err
	}
	if i >= len(b) {
		return nowhere, i, ErrIncomplete
	}
	kind := KindOf(b[i])
	switch s := &path[step]; {
	case kind == Object && !s.IsIndex && !s.Each:
		return getKey(b, i, path, step)
	case kind == Array && (s.IsIndex || s.Each):
		index := s.Index
		if s.Each {
			index = 0
		}
		if index < 0 {
			n, end, err := count(b, i, depth)
			if err != nil {
				return nowhere, i, err
			}
			if index += n; index < 0 {
				return nowhere, end, nil
			}
		}
		return getIndex(b, i, path, step, index)
	}
	end, err := Skip(b, i, depth)
	if kind == Null {
		return nowhere, end, err
	}
	return hit{start: -1, got: kind, step: step}, end, err
}

func getKey(b []byte, i int, path []Step, step int) (hit, int, error) {
	found := nowhere
	i, empty, err := Enter(b, i)
	for more := !empty; more && err == nil; {
		var key []byte
		if key, i, err = Member(b, i); err != nil {
			break
		}
		if KeyIs(key, path[step].Key) {
			found, i, err = get(b, i, path, step+1)
		} else {
			i, err = Skip(b, i, MaxDepth-step-1)
		}
		if err == nil {
			i, more, err = Leave(b, i, '}')
		}
	}
	return found, i, err
}

func getIndex(b []byte, i int, path []Step, step, index int) (hit, int, error) {
	found := nowhere
	i, empty, err := Enter(b, i)
	for more := !empty; more && err == nil; index-- {
		if index == 0 {
			found, i, err = get(b, SkipSpace(b, i), path, step+1)
		} else {
			i, err = Skip(b, i, MaxDepth-step-1)
		}
		if err == nil {
			i, more, err = Leave(b, i, ']')
		}
	}
	return found, i, err
}

// count returns how many elements the array at b[i] has, and its end.
func count(b []byte, i, depth int) (n, end int, err error) {
	w := Walk(b, i, depth)
	for w.Next() {
		n++
	}
	return n, w.End(), w.Err()
}
