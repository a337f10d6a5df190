package pipeline

import "strings"

// headerText makes a text fit for a header of any broker: one line, no control characters.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
