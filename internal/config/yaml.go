package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What a YAML text may cost.
const (
	maxFile  = 1 << 20 // bytes
	maxDepth = 64      // mappings and lists within one another
	maxKeys  = 2000    // keys of one mapping that is not between { and }
)

// readYAML parses one document. When whole is true, places are positions in src; otherwise all of it lies at at.
func readYAML(text string, at place, whole bool, p *problems) *node {
	r := &yamlReader{at: at, whole: whole, problems: p}
	switch {
	case len(text) > maxFile:
		p.add(at, "", "", "is larger than 1 MiB")
		return nil
	case !utf8.ValidString(text):
		p.add(r.firstInvalid(text), "", "save the file as UTF-8", "is not UTF-8 text")
		return nil
	}
	text = strings.TrimPrefix(text, "\ufeff")
	tokens := lexer.Tokenize(text)
	if !r.admissible(tokens) {
		return nil
	}
	file, err := r.parse(tokens)
	if err != nil {
		r.syntaxError(err)
		return nil
	}
	if len(file.Docs) == 0 {
		return r.node(nil, "", 0)
	}
	return r.node(file.Docs[0].Body, "", 0) // admissible has seen that there is one
}

type yamlReader struct {
	at       place
	whole    bool
	problems *problems
}

func (r *yamlReader) place(t *token.Token) place {
	if !r.whole || t == nil || t.Position == nil {
		return r.at
	}
	at := place{src: r.at.src, line: t.Position.Line, col: max(t.Position.Column, 1)}
	at.end = pos{at.line + len(r.at.src.lines), 1}
	if next := t.Next; next != nil && next.Position != nil {
		at.end = pos{next.Position.Line, max(next.Position.Column, 1)}
	}
	return at
}

func (r *yamlReader) firstInvalid(text string) place {
	at := r.at
	if !r.whole {
		return at
	}
	at.line, at.col = 1, 1
	for i, c := range text {
		if c == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd") {
			break
		}
		if at.col++; c == '\n' {
			at.line, at.col = at.line+1, 1
		}
	}
	return at
}

// admissible refuses what costs more than it is worth, before the parser sees it, which is recursive and takes
// quadratic time for many keys: deep nesting, large mappings, several documents, aliases (and with them bombs that
// expand to gigabytes) and tags.
func (r *yamlReader) admissible(tokens token.Tokens) bool {
	refuse := func(t *token.Token, hint, format string, args ...any) bool {
		r.problems.add(r.place(t), "", hint, format, args...)
		return false
	}
	depth, line, inLine := 0, 0, 0
	content, ended := false, false
	var blocks blockKeys
	for _, t := range tokens {
		if t.Position != nil && t.Position.Line != line {
			line, inLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.CommentType:
			continue
		case token.DocumentHeaderType:
			ended = content
		case token.DocumentEndType:
			ended = true
			continue
		case token.DirectiveType:
			return refuse(t, "leave it out", "directives are not supported")
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return refuse(t, "write values out; what all pipelines share goes under defaults: {source: …}", "anchors and aliases are not supported")
		case token.TagType:
			return refuse(t, "leave it out; each key knows its type", "tags are not supported")
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType:
			if depth > 0 {
				break
			}
			inLine++ // "- - - …" nests without indentation
			if t.Type == token.SequenceEntryType {
				blocks.close(t.Position.Column) // the mapping of the item before
			}
			if t.Type == token.MappingValueType && t.Prev != nil && blocks.add(t.Prev.Position.Column) > maxKeys {
				return refuse(t.Prev, "", "more than %d keys in one mapping", maxKeys)
			}
		}
		if ended {
			return refuse(t, "put everything into one", "a second document begins")
		}
		content = content || t.Type != token.DocumentHeaderType
		if depth > maxDepth || inLine > maxDepth {
			return refuse(t, "", "nested more than %d deep", maxDepth)
		}
	}
	return true
}

// blockKeys counts the keys of the block mappings that are open, by column.
type blockKeys []struct{ col, keys int }

// close ends the mappings that are indented deeper than the column.
func (b *blockKeys) close(col int) {
	for len(*b) > 0 && (*b)[len(*b)-1].col > col {
		*b = (*b)[:len(*b)-1]
	}
}

// add counts a key and returns how many its mapping has so far.
func (b *blockKeys) add(col int) int {
	b.close(col)
	open := *b
	if len(open) == 0 || open[len(open)-1].col < col {
		open = append(open, struct{ col, keys int }{col, 0})
	}
	open[len(open)-1].keys++
	*b = open
	return open[len(open)-1].keys
}

// parse calls the parser and turns a panic in it into an error: a configuration is input like any other.
func (r *yamlReader) parse(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the YAML parser failed")
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

func (r *yamlReader) syntaxError(err error) {
	at, msg, hint := r.at, "is not valid YAML", "" // err's own text may quote the file, secrets and all
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) {
		at, msg = r.place(syntax.Token), syntax.Message
	}
	if at.line > 0 && at.line <= len(at.src.lines) {
		line := at.src.lines[at.line-1]
		key, value, _ := strings.Cut(line, ": ")
		value = strings.TrimSpace(value)
		switch {
		case strings.HasSuffix(value, ":") && !strings.ContainsAny(value, " \"'"):
			hint = fmt.Sprintf("a value that ends in a colon needs quotes: %s: %q", strings.TrimSpace(key), value)
		case strings.Contains(line, "{") && strings.Contains(line, "${"):
			hint = `between { and } a ${VAR} needs quotes: "${VAR}"`
		case strings.Contains(line, "\t"):
			hint = "indent with spaces, not with tabs"
		}
		hideUnparsed(at.src)
	}
	r.problems.add(at, "", hint, "%s", msg)
}

// hideUnparsed masks what may be a secret in a text that could not be parsed: everything behind a key that sounds
// like one, on its line and on the lines indented below it, and logins in addresses.
func hideUnparsed(src *source) {
	below := -1 // the indentation of the key above whose value may go on
	for i, line := range src.lines {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if below >= 0 && (indent > below || strings.TrimSpace(line) == "") {
			src.masks = append(src.masks, mask{i + 1, indent + 1, i + 2, 1, masked})
			continue
		}
		below = -1
		if colon := secretAt(line); colon >= 0 {
			below = indent
			col := utf8.RuneCountInString(line[:colon]) + 2
			src.masks = append(src.masks, mask{i + 1, col, i + 2, 1, " " + masked})
		} else if shown := URL(line).String(); shown != line && strings.Contains(line, "://") {
			src.masks = append(src.masks, mask{i + 1, 1, i + 2, 1, shown})
		}
	}
}

// secretAt finds the colon of the first key on a line behind which a secret may stand in full; -1 for none.
func secretAt(line string) int {
	for at := 0; ; at++ {
		colon := strings.IndexByte(line[at:], ':')
		if colon < 0 {
			return -1
		}
		at += colon
		key := line[:at]
		key = strings.Trim(key[strings.LastIndexAny(key, " {,")+1:], `"'`)
		value := strings.TrimSpace(line[at+1:])
		inside := key == "auth" && (value == "" || value[0] == '{') || strings.HasPrefix(value, "${") && !strings.Contains(value, ":-")
		if (soundsSecret(key) || key == "headers") && !inside {
			return at
		}
	}
}

func (r *yamlReader) node(n ast.Node, path string, depth int) *node {
	if n == nil {
		return &node{kind: null, at: r.at}
	}
	out := &node{at: r.place(n.GetToken())}
	if depth > maxDepth {
		r.problems.add(out.at, path, "", "nested more than %d deep", maxDepth)
		return out
	}
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.MappingNode:
		out.kind = mapping
		r.entries(out, n.Values, path, depth)
	case *ast.MappingValueNode:
		out.kind = mapping
		r.entries(out, []*ast.MappingValueNode{n}, path, depth)
	case *ast.SequenceNode:
		out.kind = sequence
		for i, item := range n.Values {
			out.items = append(out.items, r.node(item, fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
	case *ast.LiteralNode:
		out.kind, out.text = scalar, n.Value.Value
		if t := n.Value.GetToken(); r.whole && t != nil {
			out.at.end = r.place(t).end
		}
	case *ast.StringNode:
		out.kind, out.text, out.plain = scalar, n.Value, n.Token.Type == token.StringType
	case ast.ScalarNode: // numbers, booleans, .inf: as typed
		out.kind, out.text, out.plain = scalar, n.GetToken().Value, true
	default:
		r.problems.add(out.at, path, "", "this form of YAML is not supported")
	}
	return out
}

func (r *yamlReader) entries(out *node, values []*ast.MappingValueNode, path string, depth int) {
	first := make(map[string]place, len(values))
	for i, value := range values {
		keyToken := value.Key.GetToken()
		key := keyToken.Value
		if k, ok := value.Key.(*ast.MappingKeyNode); ok && k.Value != nil {
			keyToken = k.Value.GetToken()
			key = keyToken.Value
		}
		at := r.place(keyToken)
		if i == 0 && at.line > 0 {
			// The parser places a block mapping at its first colon.
			if t := out.at; at.line < t.line || at.line == t.line && at.col < t.col {
				out.at.line, out.at.col = at.line, at.col
			}
		}
		entryPath := join(path, key)
		if was, again := first[key]; again {
			where := ""
			if was.line > 0 {
				where = fmt.Sprintf("; it is on line %d already", was.line)
			}
			r.problems.add(at, entryPath, "", "this key comes twice%s", where)
			continue
		}
		first[key] = at
		out.entries = append(out.entries, entry{key: key, at: at, value: r.node(value.Value, entryPath, depth+1)})
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
