package jq

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/itchyny/gojq"
)

// gojq goes down into values and along paths by calling itself, and Go ends the process when a stack grows too large:
// nothing recovers that. So nothing may become that deep. Records are bounded by jsonscan.MaxDepth and constants by
// maxProgram. What a program builds grows by less than a level with each step of the machine (the prelude sees to it
// where one step would do more), so it is enough to look at the machine now and then.
const (
	maxNesting = 10_000   // levels of a value, and steps of a path
	maxProgram = 64 << 10 // bytes; gojq and visitFuncs call themselves for every level of the source
	shortPath  = 16       // steps of a path that are not worth counting
)

// ErrNesting: a program builds values, or paths, deeper than any it could give as a result.
var ErrNesting = errors.New("the program nests arrays and objects, or follows a path, more than 10,000 deep")

// lookEvery is how many steps a program may take between two looks. A look costs as much as what the machine holds is
// large, but small records must not build much in between.
func lookEvery(size int) int { return 1<<18 + min(size/32, 1<<19) }

// nests says whether a program could build a value deeper with every round of a loop. Others are as deep as their source
// says, or as the record is, and need no looks.
func nests(q *gojq.Query) bool {
	found := false
	visitNodes(reflect.ValueOf(q), func(node any) {
		switch n := node.(type) {
		case *gojq.FuncDef, *gojq.Reduce, *gojq.Foreach:
			found = true
		case *gojq.Query:
			found = found || isUpdate(n.Op)
		case *gojq.Func:
			switch n.Name {
			case "recurse", "walk", "while", "until", "repeat", "fromstream", "_modify", "_assign":
				found = found || len(n.Args) > 0
			}
		}
	})
	return found
}

func isUpdate(op gojq.Operator) bool { return op >= gojq.OpAssign && op <= gojq.OpUpdateAlt }

// unfold makes of an assignment to a long constant path, which gojq does in one step, one that takes a step for each key.
func unfold(q *gojq.Query) {
	visitNodes(reflect.ValueOf(q), func(node any) {
		if q, ok := node.(*gojq.Query); ok && q.Op == gojq.OpAssign && suffixes(q.Left) > shortPath {
			q.Left = &gojq.Query{Left: q.Left, Op: gojq.OpPipe, Right: &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeIdentity}}}
		}
	})
}

func suffixes(q *gojq.Query) int {
	n := 0
	for q != nil && q.Term != nil {
		n += 1 + len(q.Term.SuffixList)
		q = q.Term.Query
	}
	return n
}

// depths finds out how deep values are nested. A value may hold the same part many times; each part is walked once.
type depths struct{ seen map[part]int }

type part struct {
	at  uintptr
	len int
}

// of returns how deep v is nested; more than maxNesting when it, together with the level at which it lies, is too deep.
func (d *depths) of(v any, level int) int {
	var p part
	switch v := v.(type) {
	case []any:
		p = part{reflect.ValueOf(v).Pointer(), len(v)}
	case map[string]any:
		p = part{reflect.ValueOf(v).Pointer(), -1}
	default:
		return 0
	}
	if n, ok := d.seen[p]; ok {
		return n
	}
	if level >= maxNesting {
		return maxNesting + 1
	}
	deepest, width := 0, 0
	switch v := v.(type) {
	case []any:
		width = len(v)
		for _, e := range v {
			deepest = max(deepest, d.of(e, level+1))
		}
	case map[string]any:
		width = len(v)
		for _, e := range v {
			deepest = max(deepest, d.of(e, level+1))
		}
	}
	if deepest > 0 || width > 16 { // to walk a small one again is cheaper than to remember it
		d.seen[p] = deepest + 1
	}
	return deepest + 1
}

// tooDeep looks through what the machine holds: its variables, its stack, what loops have still to go through, and the
// path that it follows. gojq shows none of it, hence the reflection; TestNesting fails when a later gojq has changed.
func tooDeep(machine gojq.Iter) bool {
	env := reflect.ValueOf(machine).Elem()
	d := depths{seen: map[part]int{}}
	for _, v := range exposed[[]any](env.FieldByName("values")) {
		if d.of(v, 0) > maxNesting {
			return true
		}
	}
	stack := env.FieldByName("stack").Elem().FieldByName("data")
	for i := range stack.Len() {
		v := exposed[any](stack.Index(i).FieldByName("value"))
		switch v.(type) {
		case nil, bool, int, string, []any, map[string]any:
		default:
			if rest := reflect.ValueOf(v); rest.Kind() == reflect.Slice { // of elements
				for k := range rest.Len() {
					if d.of(exposed[any](rest.Index(k).FieldByName("value")), 0) > maxNesting {
						return true
					}
				}
			}
		}
		if d.of(v, 0) > maxNesting {
			return true
		}
	}
	paths := env.FieldByName("paths").Elem()
	data, length := paths.FieldByName("data"), 0
	for i := int(paths.FieldByName("index").Int()); i >= 0; i = int(data.Index(i).FieldByName("next").Int()) {
		at := data.Index(i).FieldByName("value")
		length++
		if length > maxNesting || d.of(exposed[any](at.FieldByName("path")), 0) > maxNesting || d.of(exposed[any](at.FieldByName("value")), 0) > maxNesting {
			return true
		}
	}
	return false
}

// exposed reads a field that is not exported.
func exposed[T any](field reflect.Value) T {
	return *(*T)(field.Addr().UnsafePointer())
}

// pathCost is how many steps the machine shall take for a path: one that is longer than any value is deep is refused.
func pathCost(path any, _ []any) any {
	p, ok := path.([]any)
	switch {
	case !ok || len(p) <= shortPath:
		return 0
	case len(p) > maxNesting:
		return fmt.Errorf("a path of %d steps is too long; at most 10,000 are followed", len(p))
	}
	return len(p)
}

// checkPaths refuses a list of paths with one that is too long.
func checkPaths(paths any, _ []any) any {
	list, _ := paths.([]any)
	for _, p := range list {
		if err, ok := pathCost(p, nil).(error); ok {
			return err
		}
	}
	return paths
}
