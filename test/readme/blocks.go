// Package readme runs what the README shows: every block of commands, configuration and output in it is a test.
package readme

import (
	"fmt"
	"strings"
)

// A block is a fenced code block and the comment that stands before it, <!-- test: WHAT -->.
type block struct {
	line     int    // of its opening fence, from 1
	language string // sh, yaml, json, text, …
	what     string // of the comment; empty when there is none
	text     string // with its line breaks
}

// blocksOf finds the fenced code blocks of a Markdown text (CommonMark, 4.5, as far as the project's pages need it).
func blocksOf(markdown string) ([]block, error) {
	var (
		found []block
		open  *block
		what  string
	)
	for i, line := range strings.Split(markdown, "\n") {
		switch {
		case open != nil && strings.TrimSpace(line) == "```":
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(line, "```"):
			open = &block{line: i + 1, language: strings.TrimPrefix(line, "```"), what: what}
			what = ""
		case strings.HasPrefix(line, "<!-- test: "):
			what = strings.TrimSuffix(strings.TrimPrefix(line, "<!-- test: "), " -->")
		case strings.TrimSpace(line) != "":
			what = ""
		}
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the block is not closed", open.line)
	}
	return found, nil
}

// wordsOf cuts a command line into words as a shell would, as far as the README's commands need it: quotes, no
// variables, no pipes.
func wordsOf(line string) ([]string, error) {
	var (
		words  []string
		word   strings.Builder
		quote  rune
		inWord bool
	)
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case strings.ContainsRune("|&;<>$`\\*?()", r):
			return nil, fmt.Errorf("%q needs a shell: %q", string(r), line)
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quotation mark is not closed: %q", line)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
