package cloud

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// What the providers call their arguments cannot be asked for without Terraform's own registry. It is in
// testdata/providers.json, taken from the providers' TypeScript bindings, which npm has:
//
//	npm pack @cdktf/provider-aws@21.22.1 @cdktf/provider-azurerm@14.23.1 @cdktf/provider-random@12.0.1
//	go test -run TestArguments -bindings .
var bindings = flag.String("bindings", "", "folder of the packages that testdata/providers.json is written from")

const schemasFile = "testdata/providers.json"

// providers is what providers.json holds: names alone, and of blocks only what the files here use.
type providers struct {
	Versions map[string]string // of the providers, by name
	Types    map[string]*block // aws_lb, data.aws_region
}

// block is a resource, a data source, or a block within one.
type block struct {
	Required  []string          `json:",omitempty"`
	Optional  []string          `json:",omitempty"`
	Exported  []string          `json:",omitempty"` // can be read, and not set
	Blocks    map[string]*block `json:",omitempty"` // null: not used here
	Singles   []string          `json:",omitempty"` // blocks that come once at most
	Mandatory []string          `json:",omitempty"` // blocks that have to be there
}

// TestArguments: every argument and block is one that the provider knows, those that it needs are there, and what is read
// from a resource is something that it has.
func TestArguments(t *testing.T) {
	used := map[string][]*hclsyntax.Body{} // by type
	for _, dir := range terraformDirs {
		for _, body := range parse(t, dir) {
			for _, b := range body.Blocks {
				switch b.Type {
				case "resource":
					used[b.Labels[0]] = append(used[b.Labels[0]], b.Body)
				case "data":
					used["data."+b.Labels[0]] = append(used["data."+b.Labels[0]], b.Body)
				}
			}
		}
	}
	if *bindings != "" {
		writeSchemas(t, *bindings, used)
	}
	var known providers
	text, err := os.ReadFile(schemasFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &known); err != nil {
		t.Fatal(err)
	}
	for name, bodies := range used {
		schema := known.Types[name]
		if schema == nil {
			t.Errorf("%s is not in %s: see the beginning of this file", name, schemasFile)
			continue
		}
		for _, body := range bodies {
			schema.check(t, name, body, true)
		}
	}
	for _, dir := range terraformDirs {
		for _, body := range parse(t, dir) {
			checkReads(t, body, known.Types)
		}
	}
}

// meta arguments and blocks are Terraform's own.
var (
	metaArguments = []string{"for_each", "count", "depends_on", "provider"}
	metaBlocks    = []string{"lifecycle", "timeouts"}
)

func (s *block) check(t *testing.T, where string, body *hclsyntax.Body, top bool) {
	t.Helper()
	for name, a := range body.Attributes {
		if !slices.Contains(s.Required, name) && !slices.Contains(s.Optional, name) && (!top || !slices.Contains(metaArguments, name)) {
			t.Errorf("%s: %s has no argument %q", a.SrcRange, where, name)
		}
	}
	for _, name := range s.Required {
		if body.Attributes[name] == nil {
			t.Errorf("%s: %s lacks the argument %q", body.SrcRange, where, name)
		}
	}
	there := map[string]int{}
	for _, b := range body.Blocks {
		name, inner := b.Type, b.Body
		if name == "dynamic" {
			name = b.Labels[0]
			for _, content := range b.Body.Blocks {
				if content.Type == "content" {
					inner = content.Body
				}
			}
		}
		if top && slices.Contains(metaBlocks, name) {
			continue
		}
		there[name]++
		nested, ok := s.Blocks[name]
		switch {
		case !ok:
			t.Errorf("%s: %s has no block %q", b.TypeRange, where, name)
		case nested == nil:
			t.Errorf("%s: the block %q of %s is not in %s: see the beginning of this file", b.TypeRange, name, where, schemasFile)
		default:
			nested.check(t, where+"."+name, inner, false)
		}
		if slices.Contains(s.Singles, name) && there[name] > 1 {
			t.Errorf("%s: %s has more than one block %q", b.TypeRange, where, name)
		}
	}
	for _, name := range s.Mandatory {
		if there[name] == 0 {
			t.Errorf("%s: %s lacks a block %q", body.SrcRange, where, name)
		}
	}
}

// checkReads looks at aws_lb.ferry.dns_name, data.aws_region.here.name and the like: is there such an attribute?
func checkReads(t *testing.T, body *hclsyntax.Body, types map[string]*block) {
	t.Helper()
	for e, parts := range reads(t, body) {
		kind := parts[0]
		if kind == "data" && len(parts) > 1 {
			kind, parts = "data."+parts[1], parts[1:]
		}
		s := types[kind]
		if s == nil || len(parts) < 3 {
			continue
		}
		_, nested := s.Blocks[parts[2]]
		if !nested && !slices.Contains(s.Required, parts[2]) && !slices.Contains(s.Optional, parts[2]) && !slices.Contains(s.Exported, parts[2]) {
			t.Errorf("%s: %s has no attribute %q", e.SrcRange, kind, parts[2])
		}
	}
}

// writeSchemas takes from the packages what the types in use have.
func writeSchemas(t *testing.T, dir string, used map[string][]*hclsyntax.Body) {
	t.Helper()
	all := providers{Versions: map[string]string{}, Types: map[string]*block{}}
	archives, err := filepath.Glob(filepath.Join(dir, "cdktf-provider-*.tgz"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("no packages in %s: %v", dir, err)
	}
	for _, archive := range archives {
		if err := eachFile(archive, func(name string, r io.Reader) error {
			switch {
			case name == "package/package.json":
				var p struct {
					CDKTF struct {
						Provider struct{ Name, Version string }
					}
				}
				if err := json.NewDecoder(r).Decode(&p); err != nil {
					return err
				}
				all.Versions[filepath.Base(p.CDKTF.Provider.Name)] = p.CDKTF.Provider.Version
			case strings.HasSuffix(name, "/index.d.ts"):
				kind, s, err := readBinding(r)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				if used[kind] != nil {
					all.Types[kind] = s
					s.prune(used[kind])
				}
			}
			return nil
		}); err != nil {
			t.Fatalf("read %s: %v", archive, err)
		}
	}
	text, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(schemasFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func eachFile(archive string, do func(name string, r io.Reader) error) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	files := tar.NewReader(z)
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := do(h.Name, files); err != nil {
			return err
		}
	}
}

var (
	bindingInterface = regexp.MustCompile(`^export interface (\w+)( extends cdktf\.TerraformMetaArguments)? {`)
	bindingName      = regexp.MustCompile(`\{@link \S+#(\w+) `)
	bindingBlock     = regexp.MustCompile(`^    \* \w+ block$`)
	bindingField     = regexp.MustCompile(`^    readonly \w+(\??): (\w+)?(\[\])?`)
	bindingType      = regexp.MustCompile(`^    static readonly tfResourceType = "(\w+)"`)
	bindingGetter    = regexp.MustCompile(`^    get (\w+)\(\)`)
	bindingData      = regexp.MustCompile(`^export declare class Data\w+ extends cdktf\.TerraformDataSource`)
)

// readBinding reads the bindings of one resource or data source. Each interface in it is a block, whose fields have the
// provider's name in a link to its documentation; the getters of the resource's class are all that can be read from it.
func readBinding(r io.Reader) (kind string, top *block, err error) {
	interfaces := map[string]*block{}
	var current *block
	var name, prefix string
	var isBlock bool
	links := map[*block]map[string]string{} // the interface that a block's content is in
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case bindingInterface.MatchString(line):
			m := bindingInterface.FindStringSubmatch(line)
			current = &block{Blocks: map[string]*block{}}
			interfaces[m[1]], links[current] = current, map[string]string{}
			if m[2] != "" {
				top = current
			}
		case strings.HasPrefix(line, "}"):
			current = nil
		case bindingBlock.MatchString(line):
			isBlock = true
		case bindingName.MatchString(line):
			name = bindingName.FindStringSubmatch(line)[1]
		case bindingField.MatchString(line) && current != nil:
			m := bindingField.FindStringSubmatch(line)
			switch needed := m[1] == ""; {
			case isBlock:
				links[current][name] = m[2]
				if m[3] == "" {
					current.Singles = append(current.Singles, name)
				}
				if needed {
					current.Mandatory = append(current.Mandatory, name)
				}
			case needed:
				current.Required = append(current.Required, name)
			case name == "id" && current == top: // every resource has one; none of those here can be set
				current.Exported = append(current.Exported, name)
			default:
				current.Optional = append(current.Optional, name)
			}
			isBlock = false
		case bindingData.MatchString(line):
			prefix = "data."
		case bindingType.MatchString(line):
			kind = bindingType.FindStringSubmatch(line)[1]
		case bindingGetter.MatchString(line) && kind != "" && top != nil:
			if name := snake(bindingGetter.FindStringSubmatch(line)[1]); !strings.HasSuffix(name, "_input") {
				top.Exported = append(top.Exported, name)
			}
		}
	}
	if top == nil || kind == "" {
		return "", nil, lines.Err()
	}
	for b, blocks := range links {
		for name, in := range blocks {
			b.Blocks[name] = interfaces[in] // nil: in another file, as with some that are not used here
		}
	}
	return prefix + kind, top, lines.Err()
}

var capital = regexp.MustCompile(`[A-Z]`)

func snake(camel string) string {
	return capital.ReplaceAllStringFunc(camel, func(c string) string { return "_" + strings.ToLower(c) })
}

// prune leaves only names of what bodies do not use, and only once what can be set and read.
func (s *block) prune(bodies []*hclsyntax.Body) {
	used := map[string][]*hclsyntax.Body{}
	for _, body := range bodies {
		for _, b := range body.Blocks {
			if b.Type != "dynamic" {
				used[b.Type] = append(used[b.Type], b.Body)
				continue
			}
			for _, content := range b.Body.Blocks {
				used[b.Labels[0]] = append(used[b.Labels[0]], content.Body)
			}
		}
	}
	for name, nested := range s.Blocks {
		if used[name] == nil {
			s.Blocks[name] = nil
		} else {
			nested.prune(used[name])
		}
	}
	s.Exported = slices.DeleteFunc(s.Exported, func(name string) bool {
		_, nested := s.Blocks[name]
		return nested || slices.Contains(s.Required, name) || slices.Contains(s.Optional, name)
	})
	for _, names := range []*[]string{&s.Required, &s.Optional, &s.Exported, &s.Singles, &s.Mandatory} {
		slices.Sort(*names)
		*names = slices.Compact(*names)
	}
}
