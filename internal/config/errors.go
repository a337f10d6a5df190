package config

import (
	"fmt"
	"strings"
)

// Error is one thing wrong with the configuration, at its place.
type Error struct {
	// File is the file's name as it was given, or the name of the variable that holds the value.
	File string
	// Line and Col count from 1, Col in characters. Both are 0 where there is no line to point at.
	Line, Col int
	// Path is the key's place in the configuration, such as pipelines.orders.every.
	Path string
	Msg  string
	// Hint says what to do next, or is empty.
	Hint string
	// Snippet is the line as it was typed, with a caret under the place, secrets masked (invariant 8).
	Snippet string
}

// Error gives the place, what is wrong, the line under its caret and the hint, over several lines.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Col)
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Msg)
	if e.Snippet != "" {
		b.WriteString("\n" + e.Snippet)
	}
	if e.Hint != "" {
		b.WriteString("\n  hint: " + e.Hint)
	}
	return b.String()
}

// Errors are all the things wrong with a configuration, in the order of the file.
type Errors []*Error

// Error prints all, one after the other, like a compiler.
func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap lets errors.As find a single *Error.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}
