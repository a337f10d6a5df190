package transform

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"ferry/internal/jq"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// schema is a compiled JSON Schema. Safe for concurrent use.
type schema struct {
	compiled *jsonschema.Schema
	printer  *message.Printer
}

// CheckSchema says what New would say of a step with this schema file.
func CheckSchema(path string) error {
	_, err := newSchema(path, "")
	return err
}

// newSchema reads a schema and the files that it refers to. name is relative to dir.
func newSchema(name, dir string) (*schema, error) {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find schema %s: %w", name, err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	c.UseLoader(folder(filepath.Dir(path)))
	compiled, err := c.Compile(fileURL(path))
	if err != nil {
		return nil, fmt.Errorf("read schema %s: %w", name, explain(err))
	}
	return &schema{compiled: compiled, printer: message.NewPrinter(language.English)}, nil
}

func fileURL(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/…
	}
	return (&url.URL{Scheme: "file", Path: path}).String()
}

// folder loads schemas out of one folder and what is below it, never over the network and not through links that lead
// outside. The meta-schemas of JSON Schema itself are built in and do not come this way.
type folder string

// Load implements jsonschema.URLLoader.
func (f folder) Load(address string) (any, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "file" || u.Host != "" {
		return nil, fmt.Errorf("%s is not a file: a schema may refer only to files in the folder %s and below, never to the network; save it there", address, string(f))
	}
	path := u.Path
	if runtime.GOOS == "windows" {
		path = strings.TrimPrefix(path, "/")
	}
	name, err := filepath.Rel(string(f), filepath.FromSlash(path))
	if err != nil || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%s lies outside of the folder %s: a schema may refer only to files in it and below", path, string(f))
	}
	root, err := os.OpenRoot(string(f))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	file, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return jsonschema.UnmarshalJSON(file)
}

// explain leaves out what jsonschema's errors say of the inside, and says what to do.
func explain(err error) error {
	var load *jsonschema.LoadURLError
	if errors.As(err, &load) {
		err = load.Err
	}
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; its path is relative to the configuration file", err)
	case errors.As(err, &syntax), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it is not JSON: %w", err)
	}
	return err
}

// check validates a record. A violation comes with its place in the record, as a JSON Pointer (RFC 6901). Of several, it
// is the first by place; the number of the others is said.
func (s *schema) check(data []byte) (path string, err error) {
	v, err := jq.Decode(data)
	if err != nil {
		return "", err
	}
	if at, n, ok := unfitNumber(v); !ok {
		if len(n) > jq.MaxNumber {
			return at, fmt.Errorf("a number of %d digits, too large to be checked", len(n))
		}
		return at, fmt.Errorf("the number %.40s has an exponent beyond %d, too large to be checked", n, maxExponent)
	}
	defer func() {
		if r := recover(); r != nil { // a defect in the validator must cost one record, not the process
			err = fmt.Errorf("the schema could not be checked: %v", r)
		}
	}()
	err = s.compiled.Validate(v)
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return "", err
	}
	all := leaves(invalid, nil)
	first := slices.MinFunc(all, func(a, b *jsonschema.ValidationError) int {
		return cmp.Or(slices.Compare(a.InstanceLocation, b.InstanceLocation), strings.Compare(s.text(a), s.text(b)))
	})
	text := s.text(first)
	if more := len(all) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return pointer(first.InstanceLocation), errors.New(text)
}

func (s *schema) text(e *jsonschema.ValidationError) string {
	return e.ErrorKind.LocalizedString(s.printer)
}

// leaves are the violations that have no cause further in. Of a choice (anyOf, oneOf) it is the choice itself: each of its
// branches says something else.
func leaves(e *jsonschema.ValidationError, list []*jsonschema.ValidationError) []*jsonschema.ValidationError {
	switch e.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf:
		return append(list, e)
	}
	if len(e.Causes) == 0 {
		return append(list, e)
	}
	for _, c := range e.Causes {
		list = leaves(c, list)
	}
	return list
}

func pointer(tokens []string) string {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	var b strings.Builder
	for _, t := range tokens {
		b.WriteByte('/')
		b.WriteString(escape.Replace(t))
	}
	return b.String()
}

// maxExponent bounds what checking a number costs: the validator writes numbers out as fractions, and 1e999999 has a
// million digits.
const maxExponent = 1000

// unfitNumber finds a number that has too many digits or whose exponent is too large, and its place; of several, always the same one.
func unfitNumber(v any) (path string, n json.Number, ok bool) {
	switch v := v.(type) {
	case json.Number:
		if len(v) > jq.MaxNumber {
			return "", v, false
		}
		if k := strings.IndexAny(string(v), "eE"); k >= 0 {
			e, err := strconv.Atoi(string(v[k+1:]))
			return "", v, err == nil && -maxExponent <= e && e <= maxExponent
		}
	case []any:
		for i, e := range v {
			if p, n, ok := unfitNumber(e); !ok {
				return "/" + strconv.Itoa(i) + p, n, false
			}
		}
	case map[string]any:
		ok = true
		for k, e := range v {
			if p, m, fits := unfitNumber(e); !fits {
				if at := pointer([]string{k}) + p; ok || at < path {
					path, n, ok = at, m, false
				}
			}
		}
		return path, n, ok
	}
	return "", "", true
}
