package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// text gives a scalar's text with its references replaced; refs names them.
func (d *decoder) text(n *node, path string) (text string, refs []string, ok bool) {
	if n.at.src == nil || !n.at.src.expand {
		return n.text, nil, true
	}
	text, refs, err := d.expander.expand(n.text)
	if err != nil {
		d.add(n.within(err.offset), path, err.hint, "%s", err.msg)
		return "", nil, false
	}
	return text, refs, true
}

// within is the place of a byte of a scalar's text, as far as the text lies on its line as it is.
func (n *node) within(offset int) place {
	at := n.at
	if at.src == nil || at.line < 1 || at.line > len(at.src.lines) || offset < 0 || offset > len(n.text) {
		return at
	}
	line := []rune(at.src.lines[at.line-1])
	if at.col > len(line) {
		return at
	}
	typed, before := string(line[at.col-1:]), 0
	if !n.plain {
		typed, before = typed[1:], 1
	}
	if strings.HasPrefix(typed, n.text) {
		at.col += before + utf8.RuneCountInString(n.text[:offset])
	}
	return at
}

// subject is how a message speaks of a value: as it was typed, or by the reference that it came from, which may be
// to a secret (invariant 8).
func subject(text string, refs []string) string {
	if len(refs) > 0 {
		return "the value of " + strings.Join(refs, " and ")
	}
	return strconv.Quote(crop(text))
}

func (d *decoder) scalar(n *node, v reflect.Value, f field, path string) {
	t := v.Type()
	secret := t == secretType
	if secret {
		d.hideScalar(n)
	}
	if n.kind == null {
		n = &node{kind: scalar, plain: true, at: n.at}
	}
	if !d.want(n, scalar, path) {
		return
	}
	text, refs, ok := d.text(n, path)
	if !ok {
		return
	}
	about := subject(text, refs)
	if secret {
		about = "the secret"
	}
	// A quoted value is a text. References are quoted by habit, and have to be between { and }.
	if s := shapeOf(t); !n.plain && len(refs) == 0 && (s == boolShape || s == intShape || s == floatShape) {
		d.add(n.at, path, "leave out the quotes", "wants %s, got a text", nameOf(t))
		return
	}
	var err error
	switch shapeOf(t) {
	case textShape:
		v.SetString(text)
		err = checkText(text, f, refs)
	case boolShape:
		switch text {
		case "true", "false":
			v.SetBool(text == "true")
		default:
			err = errors.New("is neither true nor false")
		}
	case intShape:
		var number int
		if number, err = strconv.Atoi(text); err != nil {
			err = errors.New("is not a whole number")
		}
		v.SetInt(int64(number))
	case floatShape:
		var number float64
		if number, err = strconv.ParseFloat(text, 64); err != nil || number != number {
			err = errors.New("is not a number")
		}
		v.SetFloat(number)
	case typedShape:
		err = unmarshal(v, text)
	}
	if err == nil {
		err = checkBounds(v, f)
	}
	if err != nil {
		var hinted *hintedError
		hint := ""
		if errors.As(err, &hinted) {
			hint = hinted.hint
		}
		if len(refs) == 0 && !secret && hint == "" {
			hint = hintFor(text, t)
		}
		d.add(n.at, path, hint, "%s %s", about, err)
		return
	}
	if f.check != "" && text != "" {
		d.check(n, v, f.check, path, refs)
	}
}

// unmarshal reads a Duration, Bytes or Rate. Its error does not repeat the text.
func unmarshal(v reflect.Value, text string) error {
	form, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr())
	if !ok {
		return errors.New("has no form")
	}
	err := form.UnmarshalText([]byte(text))
	var formError *FormError
	if errors.As(err, &formError) {
		return errors.New(formError.Why)
	}
	return err
}

type hintedError struct{ msg, hint string }

func (e *hintedError) Error() string { return e.msg }

func checkText(text string, f field, refs []string) error {
	switch {
	case strings.ContainsRune(text, 0):
		return errors.New("contains a NUL character")
	case text == "" && f.def != "":
		return &hintedError{"is empty", "leave the key out to have " + f.def}
	case text == "" && f.required:
		return errors.New("is empty")
	case len(f.enum) > 0 && !slices.Contains(f.enum, text):
		err := &hintedError{msg: "is not one of " + strings.Join(f.enum, ", ")}
		if len(refs) == 0 {
			err.hint = didYouMean(text, f.enum)
		}
		return err
	}
	return nil
}

// checkBounds compares with min and max, which are typed as the value is.
func checkBounds(v reflect.Value, f field) error {
	for _, bound := range []struct {
		text string
		sign int
		word string
	}{{f.min, -1, "less"}, {f.max, 1, "more"}} {
		if bound.text == "" {
			continue
		}
		limit := reflect.New(v.Type()).Elem()
		switch { // a test sees to it that bounds are of their key's form
		case shapeOf(limit.Type()) == typedShape:
			_ = unmarshal(limit, bound.text)
		case limit.Kind() == reflect.Float64:
			number, _ := strconv.ParseFloat(bound.text, 64)
			limit.SetFloat(number)
		default:
			number, _ := strconv.Atoi(bound.text)
			limit.SetInt(int64(number))
		}
		if order(v, limit) == bound.sign {
			return fmt.Errorf("is %s than %s", bound.word, bound.text)
		}
	}
	return nil
}

func order(a, b reflect.Value) int {
	if a.Kind() == reflect.Float64 {
		return cmp.Compare(a.Float(), b.Float())
	}
	return cmp.Compare(a.Int(), b.Int())
}

// hintFor guesses what was meant by a value of the wrong form.
func hintFor(text string, t reflect.Type) string {
	try := func(guesses ...string) string {
		for _, guess := range guesses {
			if unmarshal(reflect.New(t).Elem(), guess) == nil {
				return fmt.Sprintf("did you mean %s?", guess)
			}
		}
		return ""
	}
	short := strings.ToLower(strings.Join(strings.Fields(text), ""))
	switch t {
	case durationType:
		unit := strings.TrimLeft(short, "0123456789.")
		number := strings.TrimSuffix(short, unit)
		for _, u := range []string{"ms", "s", "m", "h", "d"} {
			if word := durationWords[u]; unit != "" && len(word) > 0 && slices.Contains(word, unit) {
				return try(number + u)
			}
		}
		if unit == "" {
			return try(number + "s")
		}
	case bytesType:
		number := strings.TrimRight(short, "kmgtib")
		return try(number + strings.ToUpper(strings.TrimRight(strings.TrimPrefix(short, number), "ib")) + "iB")
	case rateType:
		count, unit, ok := strings.Cut(strings.Replace(short, "per", "/", 1), "/")
		if !ok || unit == "" {
			return try(count + "/s")
		}
		return try(count + "/" + unit[:1])
	}
	if t.Kind() == reflect.Bool {
		switch short {
		case "yes", "on", "y", "1":
			return "did you mean true?"
		case "no", "off", "n", "0":
			return "did you mean false?"
		}
	}
	return ""
}

var (
	durationType = reflect.TypeFor[Duration]()
	bytesType    = reflect.TypeFor[Bytes]()
	rateType     = reflect.TypeFor[Rate]()
)

var durationWords = map[string][]string{
	"ms": {"millis", "milliseconds", "msec"},
	"s":  {"sec", "secs", "second", "seconds"},
	"m":  {"min", "mins", "minute", "minutes"},
	"h":  {"hr", "hrs", "hour", "hours"},
	"d":  {"day", "days"},
}

// nameOf is what a type is called in messages and in the reference.
func nameOf(t reflect.Type) string {
	switch t = deref(t); t {
	case durationType:
		return "a duration"
	case bytesType:
		return "a size"
	case rateType:
		return "a rate"
	}
	switch shapeOf(t) {
	case boolShape:
		return "true or false"
	case intShape:
		return "a whole number"
	case floatShape:
		return "a number"
	case listShape:
		return "a list"
	case textShape:
		return "a text"
	}
	return "a mapping"
}
