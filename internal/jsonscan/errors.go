package jsonscan

import (
	"fmt"
	"unicode/utf8"
)

// SyntaxError is a text that is not JSON. Offset is the byte at which that shows, counted from the start of the slice.
type SyntaxError struct {
	Offset int
	Msg    string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("invalid JSON at byte %d: %s", e.Offset, e.Msg)
}

// KindError is a step of a path that does not fit the value it meets, such as a key asked of a number.
type KindError struct {
	Step int  // index of the step in the path
	Want Kind // Object or Array
	Got  Kind
}

func (e *KindError) Error() string {
	return fmt.Sprintf("step %d of the path needs an %s but meets a value of type %s", e.Step+1, e.Want, e.Got)
}

// unexpected is kept out of the hot functions; i is within b.
func unexpected(b []byte, i int, want string) error {
	var found string
	if r, n := utf8.DecodeRune(b[i:]); r == utf8.RuneError && n <= 1 {
		found = fmt.Sprintf("byte 0x%02x", b[i])
	} else {
		found = fmt.Sprintf("%q", r)
	}
	return &SyntaxError{Offset: i, Msg: "expected " + want + ", found " + found}
}
