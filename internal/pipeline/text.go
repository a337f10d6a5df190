package pipeline

import (
	"encoding/json"
	"strings"
)

// headerText makes a text fit for a header of any broker: one line, no control characters.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// textOf is b as a JSON text; bytes that are no UTF-8 become U+FFFD.
func textOf(b []byte) []byte {
	out, err := json.Marshal(string(b))
	if err != nil {
		return []byte(`""`) // a string always marshals
	}
	return out
}
