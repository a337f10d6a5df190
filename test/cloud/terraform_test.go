package cloud

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// TestTerraform: the files parse and are formatted, what they name exists, and what exists is named. The providers'
// schemas cannot be had without a registry: whether an argument is spelt as the provider wants it is not known here.
func TestTerraform(t *testing.T) {
	for _, dir := range []string{"../../deploy/aws", "../../deploy/azure"} {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			files, err := filepath.Glob(filepath.Join(dir, "*.tf"))
			if err != nil || len(files) != 3 {
				t.Fatalf("files %q, %v", files, err)
			}
			defined, used := map[string]bool{}, map[string]bool{}
			for _, name := range files {
				src, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if formatted := hclwrite.Format(src); string(formatted) != string(src) {
					t.Errorf("%s is not formatted as terraform fmt would:\n%s", name, formatted)
				}
				f, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
				if diags.HasErrors() {
					t.Fatal(diags)
				}
				walk(t, f.Body.(*hclsyntax.Body), defined, used)
			}
			for name := range used {
				if !defined[name] {
					t.Errorf("%s is named and does not exist", name)
				}
			}
			for name := range defined {
				if (strings.HasPrefix(name, "var.") || strings.HasPrefix(name, "local.") || strings.HasPrefix(name, "data.")) && !used[name] {
					t.Errorf("%s exists and is never named", name)
				}
			}
			if len(defined) < 20 || len(used) < 20 {
				t.Errorf("only %d names, %d uses", len(defined), len(used))
			}
		})
	}
}

func walk(t *testing.T, body *hclsyntax.Body, defined, used map[string]bool) {
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
	diags := hclsyntax.VisitAll(body, func(n hclsyntax.Node) hcl.Diagnostics {
		e, ok := n.(*hclsyntax.ScopeTraversalExpr)
		if !ok {
			return nil
		}
		parts := []string{e.Traversal.RootName()}
		for _, step := range e.Traversal[1:] {
			if attr, ok := step.(hcl.TraverseAttr); ok {
				parts = append(parts, attr.Name)
			} else {
				break
			}
		}
		switch root := parts[0]; {
		case (root == "var" || root == "local") && len(parts) > 1:
			used[root+"."+parts[1]] = true
		case root == "data" && len(parts) > 2:
			used[strings.Join(parts[:3], ".")] = true
		case strings.Contains(root, "_") && len(parts) > 1: // a resource: aws_lb.ferry
			used[root+"."+parts[1]] = true
		}
		return nil
	})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
}
