package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// An expander replaces ${VAR}, ${VAR:-default} and ${file:/path} in the values of a file. What comes out is a value:
// it is never read as YAML, nor expanded again.
type expander struct {
	lookup func(name string) (string, bool)
	dir    string // what the path of ${file:…} is relative to
	files  *[]string
}

// An expandError lies at a byte of the text that was to be expanded.
type expandError struct {
	offset    int
	msg, hint string
}

func (e *expandError) Error() string { return e.msg }

// expand returns the text with its references replaced. refs names them, for messages that must not show the value;
// it is empty when there are none.
func (x *expander) expand(text string) (out string, refs []string, err *expandError) {
	var b strings.Builder
	for at := 0; ; {
		i := strings.Index(text[at:], "${")
		if i < 0 {
			b.WriteString(text[at:])
			return b.String(), refs, nil
		}
		i += at
		if i > at && text[i-1] == '$' { // $${ stands for ${
			b.WriteString(text[at:i-1] + "${")
			at = i + 2
			continue
		}
		b.WriteString(text[at:i])
		end := strings.IndexByte(text[i:], '}')
		if end < 0 {
			return "", nil, &expandError{i, "${ has no closing }", "write $${ for the two characters themselves"}
		}
		inner := text[i+2 : i+end]
		value, err := x.value(inner)
		if err != nil {
			err.offset = i
			return "", nil, err
		}
		b.WriteString(value)
		name, _, _ := strings.Cut(inner, ":-")
		refs = append(refs, "${"+name+"}")
		at = i + end + 1
	}
}

func (x *expander) value(inner string) (string, *expandError) {
	if path, ok := strings.CutPrefix(inner, "file:"); ok {
		return x.file(path)
	}
	name, fallback, hasFallback := strings.Cut(inner, ":-")
	switch {
	case !isVariable(name):
		return "", &expandError{msg: fmt.Sprintf("${%s} names no variable", crop(name)), hint: "write ${NAME}, ${NAME:-default} or ${file:/path}; $${ for the two characters themselves"}
	case strings.Contains(fallback, "${"):
		return "", &expandError{msg: "a default cannot hold another ${", hint: "write the default out"}
	}
	value, ok := x.lookup(name)
	switch {
	case hasFallback && value == "":
		return fallback, nil
	case !ok:
		return "", &expandError{msg: fmt.Sprintf("the variable %s is not set", name), hint: fmt.Sprintf("set it, in .env too, or give a default: ${%s:-default}", name)}
	case strings.ContainsRune(value, 0) || !utf8.ValidString(value):
		return "", &expandError{msg: fmt.Sprintf("the variable %s is not UTF-8 text", name)}
	}
	return value, nil
}

// file reads a secret that the platform lays down as a file (Docker and Kubernetes secrets). Its trailing newlines
// are the editor's, not the secret's.
func (x *expander) file(path string) (string, *expandError) {
	if path == "" {
		return "", &expandError{msg: "${file:} names no file", hint: "write ${file:/run/secrets/name}"}
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(x.dir, path)
	}
	data, err := readRegular(path)
	if err != nil {
		return "", &expandError{msg: err.Error(), hint: "put the file there, or correct the path"}
	}
	*x.files = append(*x.files, path)
	if !utf8.Valid(data) || bytes.ContainsRune(data, 0) {
		return "", &expandError{msg: fmt.Sprintf("%s is not UTF-8 text", path)}
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

// readRegular reads a file of at most maxFile bytes. Devices and pipes, which may block or never end, are refused.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read file: %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read file: %s is larger than 1 MiB", path)
	}
	return data, nil
}

func isVariable(name string) bool {
	for i, c := range name {
		switch {
		case c == '_', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', i > 0 && '0' <= c && c <= '9':
		default:
			return false
		}
	}
	return name != ""
}

// crop keeps what is quoted in messages short.
func crop(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
