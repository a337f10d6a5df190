package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A decoder fills the structs from a tree, by reflection over their tags, and notes everything that is wrong.
type decoder struct {
	*problems
	expander expander
	checks   map[string]func(string) error
	dir      string // what the path of a schema is relative to
	files    *[]string
	// partial is set while defaults are decoded, which need not be complete.
	partial bool
}

// value decodes n into v. f holds the tags that the value stands under.
func (d *decoder) value(n *node, v reflect.Value, f field, path string) {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch shapeOf(v.Type()) {
	case bodyShape:
		v.Set(reflect.ValueOf(d.body(n, path)))
	case structShape:
		if d.want(n, mapping, path) {
			d.fields(n, v, path)
		}
	case unionShape:
		d.union(n, v, path)
	case mapShape:
		if d.want(n, mapping, path) {
			d.mapping(n, v, f, path)
		}
	case listShape:
		if d.want(n, sequence, path) {
			d.list(n, v, f, path)
		}
	default:
		d.scalar(n, v, f, path)
	}
}

func (d *decoder) want(n *node, k kind, path string) bool {
	if n.kind == k {
		return true
	}
	hint := ""
	if k == sequence && n.kind == scalar {
		hint = "put it between [ and ]"
	}
	d.hideAll(n)
	d.add(n.at, path, hint, "wants %s, got %s", k, n.kind)
	return false
}

// fields decodes a mapping into a struct and fills in defaults. n may be nil, for a struct that was not typed.
func (d *decoder) fields(n *node, v reflect.Value, path string) {
	t := v.Type()
	if n != nil {
		d.unknown(n, t, path)
	}
	for _, f := range fieldsOf(t) {
		if e := n.get(f.key); e != nil && e.value.kind != null {
			partial := d.partial
			d.partial = partial || t == configType && f.key == "defaults"
			d.value(e.value, v.Field(f.index), f, join(path, f.key))
			d.partial = partial
			continue
		}
		if f.required && !d.partial && n != nil {
			d.missing(n.at, path, f)
		}
		d.absent(v.Field(f.index), f)
	}
}

// absent fills in the defaults of a field that was not typed.
func (d *decoder) absent(v reflect.Value, f field) {
	switch {
	case v.Kind() == reflect.Pointer:
	case shapeOf(v.Type()) == structShape:
		d.fields(nil, v, "")
	case f.def != "":
		d.scalar(&node{kind: scalar, text: f.def, plain: true}, v, field{}, "")
	}
}

func (d *decoder) missing(at place, path string, f field) {
	hint := ""
	if f.example != "" {
		hint = fmt.Sprintf("for example %s: %s", f.key, exampleOf(f))
	}
	d.add(at, path, hint, "the key %q is missing", f.key)
}

// unknown notes the keys of a mapping that its struct does not have. What they hold may be a secret under a mistyped
// key: it is shown only where the key that was meant is known, and holds none.
func (d *decoder) unknown(n *node, t reflect.Type, path string) {
	keys := keysOf(t)
	for _, e := range n.entries {
		if slices.Contains(keys, e.key) {
			continue
		}
		if d.full {
			d.hideAll(e.value)
			continue
		}
		hint := "known here: " + strings.Join(keys, ", ")
		meant, name, ok := meantBy(e.key, t, path)
		if ok {
			hint = fmt.Sprintf("did you mean %s?", name)
		}
		if !ok || !shapeOf(meant.typ).isScalar() || meant.typ == secretType || soundsSecret(e.key) {
			d.hideAll(e.value)
		}
		d.add(e.at, path, hint, "unknown key %q", crop(e.key))
	}
}

// meantBy finds the key that an unknown one stands for: one spelt nearly so, or one of that name nearby.
func meantBy(key string, t reflect.Type, path string) (f field, name string, ok bool) {
	if f, ok = fieldOf(t, Suggest(key, keysOf(t))); ok {
		return f, f.key, true
	}
	for _, child := range fieldsOf(t) {
		if inner := deref(child.typ); shapeOf(inner) == structShape {
			if f, ok = fieldOf(inner, key); ok {
				return f, join(join(path, child.key), key), true
			}
		}
	}
	if above, inSource := strings.CutSuffix(path, ".source"); inSource && t == sourceType {
		if f, ok = fieldOf(reflect.TypeFor[Pipeline](), key); ok {
			return f, join(above, key), true
		}
	}
	return field{}, "", false
}

// union decodes one of some words, or a mapping with exactly one key.
func (d *decoder) union(n *node, v reflect.Value, path string) {
	t := v.Type()
	words, keys := unions[t], keysOf(t)
	choices := choicesOf(t)
	if n.kind == scalar {
		text, refs, ok := d.text(n, path)
		if !ok {
			return
		}
		if slices.Contains(words, text) {
			if word := v.FieldByName("Word"); word.IsValid() {
				word.SetString(text)
			} else {
				v.FieldByName("None").SetBool(true)
			}
			return
		}
		hint := didYouMean(text, words)
		if slices.Contains(keys, text) {
			f, _ := fieldOf(t, text)
			hint = fmt.Sprintf("%s needs a value: {%s: %s}", text, text, exampleOf(f))
		}
		about := subject(text, refs)
		if soundsSecret(path[strings.LastIndexByte(path, '.')+1:]) && !slices.Contains(keys, text) {
			d.hideScalar(n) // a token may have been put where its kind was wanted
			about, hint = "the value", ""
		}
		d.add(n.at, path, hint, "%s is not %s", about, choices)
		return
	}
	if !d.want(n, mapping, path) {
		return
	}
	before := len(d.problems.list)
	d.unknown(n, t, path)
	known := before == len(d.problems.list)
	set := 0
	for _, f := range fieldsOf(t) {
		e := n.get(f.key)
		if e == nil || e.value.kind == null {
			continue
		}
		if set++; set == 2 {
			d.add(e.at, path, "keep one of them", "wants exactly one of %s", strings.Join(keys, ", "))
		}
		field, before := v.Field(f.index), len(d.problems.list)
		d.value(e.value, field, f, join(path, f.key))
		if shapeOf(field.Type()) == textShape && field.String() == "" && len(d.problems.list) == before {
			d.add(e.value.at, join(path, f.key), "", "is empty")
		}
	}
	if set == 0 && known && !d.partial {
		d.add(n.at, path, "", "wants %s", choices)
	}
}

func choicesOf(t reflect.Type) string {
	keys := keysOf(t)
	var words []string
	for _, word := range unions[t] {
		if !slices.Contains(keys, word) {
			words = append(words, word)
		}
	}
	if len(unions[t]) == 0 {
		return "one of " + strings.Join(keys, ", ")
	}
	return "one of " + strings.Join(append(words, keys...), ", ")
}

func (d *decoder) mapping(n *node, v reflect.Value, f field, path string) {
	t := v.Type()
	v.Set(reflect.MakeMapWithSize(t, len(n.entries)))
	inner := field{enum: f.enum}
	for _, e := range n.entries {
		entryPath := join(path, e.key)
		key := reflect.New(t.Key()).Elem()
		if key.Kind() == reflect.Int {
			number, err := strconv.Atoi(e.key)
			if err != nil {
				d.add(e.at, path, "", "%q is not a number", crop(e.key))
				continue
			}
			key.SetInt(int64(number))
		} else {
			key.SetString(e.key)
		}
		if e.value.kind == null {
			if shapeOf(t.Elem()).isScalar() {
				continue // taken away
			}
			e.value = &node{kind: mapping, at: e.at}
		}
		if t == paramsType && soundsSecret(e.key) {
			d.hideScalar(e.value)
		}
		elem := reflect.New(t.Elem()).Elem()
		d.value(e.value, elem, inner, entryPath)
		v.SetMapIndex(key, elem)
	}
}

func (d *decoder) list(n *node, v reflect.Value, f field, path string) {
	v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
	for i, item := range n.items {
		d.value(item, v.Index(i), field{enum: f.enum}, fmt.Sprintf("%s[%d]", path, i))
	}
}

// hideAll masks every scalar of a tree that cannot be judged, since none of its keys is known.
func (d *decoder) hideAll(n *node) {
	if n.kind == scalar {
		d.hideScalar(n)
	}
	for _, e := range n.entries {
		d.hideAll(e.value)
	}
	for _, item := range n.items {
		d.hideAll(item)
	}
}

// hideScalar masks a value in snippets, but for one that only refers to another place.
func (d *decoder) hideScalar(n *node) {
	if n.kind == scalar && !isReference(n.text) {
		n.at.hide(masked)
	}
}

// isReference tells whether a text is one ${NAME} or ${file:…} and nothing else.
func isReference(text string) bool {
	inner, ok := strings.CutPrefix(text, "${")
	inner, end := strings.CutSuffix(inner, "}")
	return ok && end && !strings.ContainsAny(inner, "{}$") && !strings.Contains(inner, ":-")
}
