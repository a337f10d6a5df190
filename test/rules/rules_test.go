// Package rules checks what the compiler does not: which room may import which, and what no room may hold.
package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rooms is the table of docs/architecture.md: which internal packages each may import. "*" means all. A room that is
// not listed is a mistake; so is an entry that is not used.
var rooms = map[string][]string{
	"cmd/ferry":                                     {"internal/cli"},
	"internal/cli":                                  {"*"},
	"internal/app":                                  {"*"},
	"internal/api":                                  {"internal/config", "internal/record"},
	"internal/atomicfile":                           {},
	"internal/api/client":                           {"internal/api", "internal/config"},
	"internal/config":                               {},
	"internal/console":                              {},
	"internal/embedded":                             {"internal/atomicfile"},
	"internal/jq":                                   {"internal/jsonscan"},
	"internal/jsonscan":                             {},
	"internal/mockapi":                              {},
	"internal/pipeline":                             {"internal/queue", "internal/record", "internal/retry"},
	"internal/queue":                                {"internal/record", "internal/retry"},
	"internal/queue/cloudevents":                    {"internal/queue", "internal/record"},
	"internal/queue/journal":                        {"internal/atomicfile", "internal/queue", "internal/record", "internal/retry"},
	"internal/queue/natsqueue":                      {"internal/config", "internal/queue", "internal/queue/queueurl", "internal/record", "internal/retry"},
	"internal/queue/queuetest":                      {"internal/queue", "internal/record", "internal/retry"},
	"internal/queue/kafkaqueue":                     {"internal/config", "internal/queue", "internal/queue/queueurl", "internal/record", "internal/retry"},
	"internal/queue/rabbitqueue":                    {"internal/config", "internal/queue", "internal/queue/queueurl", "internal/record", "internal/retry"},
	"internal/queue/redisqueue":                     {"internal/config", "internal/queue", "internal/queue/queueurl", "internal/record", "internal/retry"},
	"internal/queue/servicebusqueue":                {"internal/config", "internal/queue", "internal/queue/queueurl", "internal/record", "internal/retry"},
	"internal/queue/servicebusqueue/servicebustest": {},
	"internal/queue/sqsqueue":                       {"internal/config", "internal/queue", "internal/queue/queueurl", "internal/record", "internal/retry"},
	"internal/queue/queueurl":                       {"internal/config"},
	"internal/record":                               {},
	"internal/retry":                                {},
	"internal/scheduler":                            {"internal/record", "internal/retry", "internal/state"},
	"internal/source":                               {"internal/config", "internal/jq", "internal/jsonscan", "internal/record", "internal/retry"},
	"internal/state":                                {"internal/record"},
	"internal/state/natsstate":                      {"internal/state"},
	"internal/state/pgstate":                        {"internal/config", "internal/state"},
	"internal/state/statetest":                      {"internal/state"},
	"internal/telemetry":                            {"internal/config"},
	"internal/transform":                            {"internal/config", "internal/jq", "internal/record"},
}

type listed struct {
	ImportPath string
	Imports    []string
	Dir        string
	GoFiles    []string
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Dir,GoFiles", "./cmd/...", "./internal/...")
	cmd.Dir = filepath.Join("..", "..")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var pkgs []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestImports(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range list(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		room := strings.TrimPrefix(p.ImportPath, "ferry/")
		allowed, ok := rooms[room]
		if !ok {
			t.Errorf("%s is not in the table of rooms: add it, with what it may import, here and in docs/architecture.md", room)
			continue
		}
		seen[room] = true
		for _, imp := range p.Imports {
			imp, internal := strings.CutPrefix(imp, "ferry/")
			if internal && !slices.Contains(allowed, "*") && !slices.Contains(allowed, imp) {
				t.Errorf("%s imports %s, which the table does not allow", room, imp)
			}
		}
	}
	for room := range rooms {
		if !seen[room] {
			t.Errorf("the table lists %s, which does not exist", room)
		}
	}
}

// TestNoInit: nothing runs before main, so that what a package does is what someone called.
func TestNoInit(t *testing.T) {
	for _, p := range list(t) {
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s/%s has an init function", p.ImportPath, name)
				}
			}
		}
	}
}

// TestNames: rooms are named by what they hold, and files stay of one subject.
func TestNames(t *testing.T) {
	banned := []string{"util", "utils", "common", "models", "types", "helpers", "misc"}
	root := filepath.Join("..", "..")
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && slices.Contains(banned, d.Name()) {
				t.Errorf("%s: a package named %s says nothing", path, d.Name())
			}
			if strings.HasSuffix(path, ".go") {
				info, err := os.Stat(path)
				if err != nil {
					return err
				}
				if info.Size() > 40_000 {
					t.Errorf("%s has grown into several rooms: %d bytes", path, info.Size())
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
