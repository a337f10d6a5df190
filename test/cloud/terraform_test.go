package cloud

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

var terraformDirs = []string{"../../deploy/aws", "../../deploy/azure"}

// parse reads the files of a folder, which have to be formatted.
func parse(t *testing.T, dir string) []*hclsyntax.Body {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil || len(files) != 3 {
		t.Fatalf("files %q, %v", files, err)
	}
	var bodies []*hclsyntax.Body
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if formatted := hclwrite.Format(src); !bytes.Equal(formatted, src) {
			t.Errorf("%s is not formatted as terraform fmt would:\n%s", name, formatted)
		}
		f, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		bodies = append(bodies, f.Body.(*hclsyntax.Body))
	}
	return bodies
}

// reads are the names that a body reads, by the expression: var.name, aws_lb.ferry.dns_name and the like, as far as they
// are names.
func reads(t *testing.T, body *hclsyntax.Body) map[*hclsyntax.ScopeTraversalExpr][]string {
	t.Helper()
	all := map[*hclsyntax.ScopeTraversalExpr][]string{}
	diags := hclsyntax.VisitAll(body, func(n hclsyntax.Node) hcl.Diagnostics {
		e, ok := n.(*hclsyntax.ScopeTraversalExpr)
		if !ok {
			return nil
		}
		parts := []string{e.Traversal.RootName()}
		for _, step := range e.Traversal[1:] {
			attr, ok := step.(hcl.TraverseAttr)
			if !ok {
				break
			}
			parts = append(parts, attr.Name)
		}
		all[e] = parts
		return nil
	})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return all
}

// TestTerraform: what the files name exists, and what exists is named.
func TestTerraform(t *testing.T) {
	for _, dir := range terraformDirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			defined, used := map[string]bool{}, map[string]bool{}
			for _, body := range parse(t, dir) {
				define(t, body, defined)
				for _, parts := range reads(t, body) {
					switch root := parts[0]; {
					case (root == "var" || root == "local") && len(parts) > 1:
						used[root+"."+parts[1]] = true
					case root == "data" && len(parts) > 2:
						used[strings.Join(parts[:3], ".")] = true
					case strings.Contains(root, "_") && len(parts) > 1: // a resource: aws_lb.ferry
						used[root+"."+parts[1]] = true
					}
				}
			}
			for name := range used {
				if !defined[name] {
					t.Errorf("%s is named and does not exist", name)
				}
			}
			for name := range defined {
				if slices.Contains([]string{"var", "local", "data"}, strings.Split(name, ".")[0]) && !used[name] {
					t.Errorf("%s exists and is never named", name)
				}
			}
			if len(defined) < 20 || len(used) < 20 {
				t.Errorf("only %d names, %d uses", len(defined), len(used))
			}
		})
	}
}

// define adds what a body makes.
func define(t *testing.T, body *hclsyntax.Body, defined map[string]bool) {
	t.Helper()
	for _, b := range body.Blocks {
		var name string
		switch b.Type {
		case "variable":
			name = "var." + b.Labels[0]
			if b.Body.Attributes["description"] == nil || b.Body.Attributes["type"] == nil {
				t.Errorf("%s has no description or type", name)
			}
		case "resource":
			name = strings.Join(b.Labels, ".")
		case "data":
			name = "data." + strings.Join(b.Labels, ".")
		case "locals":
			for key := range b.Body.Attributes {
				defined["local."+key] = true
			}
		}
		if name != "" {
			if defined[name] {
				t.Errorf("%s exists twice", name)
			}
			defined[name] = true
		}
	}
}
