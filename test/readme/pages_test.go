package readme

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ferry/internal/telemetry"
)

var update = flag.Bool("update", false, "write the tables that are made from code")

var pages = []string{
	"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/architecture.md", "docs/configuration.md",
	"docs/deployment.md", "docs/guarantees.md", "docs/invariants.md", "docs/operations.md", "docs/queues.md", "docs/recipes.md", "docs/scaling.md",
	"docs/state.md",
}

// TestMetrics: the table of docs/operations.md is that of the registry.
func TestMetrics(t *testing.T) {
	const name = "docs/operations.md"
	var table strings.Builder
	table.WriteString("\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, m := range telemetry.MetricsTable() {
		labels := ""
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, labels, m.Help)
	}
	table.WriteString("\n")

	page := read(t, name)
	start := strings.Index(page, "do not edit -->\n")
	end := strings.Index(page, "<!-- end of metrics -->")
	if start < 0 || end < start {
		t.Fatalf("%s: the comments around the table of metrics are gone", name)
	}
	start += len("do not edit -->\n")
	if page[start:end] == table.String() {
		return
	}
	if !*update {
		t.Fatalf("%s: the table of metrics is not current; run make generate", name)
	}
	page = page[:start] + table.String() + page[end:]
	if err := os.WriteFile(filepath.Join(root, name), []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRooms: docs/architecture.md lists every package that there is, and none that there is not.
func TestRooms(t *testing.T) {
	page := read(t, "docs/architecture.md")
	list := exec.CommandContext(context.Background(), "go", "list", "./cmd/...", "./internal/...")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		room := strings.TrimPrefix(strings.TrimSpace(line), "ferry/")
		there[room] = true
		if !strings.Contains(page, "| `"+room+"` |") {
			t.Errorf("docs/architecture.md does not list %s", room)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:cmd|internal)/[a-z/]+)` \\|").FindAllStringSubmatch(page, -1) {
		if !there[row[1]] {
			t.Errorf("docs/architecture.md lists %s, which does not exist", row[1])
		}
	}
}

// TestConfigurations: every configuration that a page shows holds. Those that name secrets get some.
func TestConfigurations(t *testing.T) {
	checked := 0
	for _, name := range pages {
		blocks, err := blocksOf(read(t, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, b := range blocks {
			if b.language != "yaml" || b.what != "" && b.what != "config" {
				continue
			}
			checked++
			s := newStranger(t)
			if err := os.WriteFile(filepath.Join(s.dir, "ferry.yaml"), []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd, err := s.command(t.Context(), []string{"ferry", "check"})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range reference.FindAllStringSubmatch(b.text, -1) {
				cmd.Env = append(cmd.Env, m[1]+"=a-secret-of-sixteen-letters-or-more")
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s:%d: the configuration does not hold: %v\n%s", name, b.line, err, out)
			}
		}
	}
	if checked == 0 {
		t.Error("no page shows a configuration")
	}
}

var (
	reference   = regexp.MustCompile(`\$\{([A-Z_]+)\}`)
	invoked     = regexp.MustCompile(`(?m)(?:^|[ (])(?:go run \./cmd/)?ferry ([a-z]+)(?: (list|replay|discard|get|set|reset))?\b([^\n]*)`)
	flagged     = regexp.MustCompile(` --?([a-z][a-z-]*)`)
	commandLine = regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`)
)

// TestCommands: the commands and flags that the pages type exist, and the README lists every command that there is.
func TestCommands(t *testing.T) {
	help := func(words ...string) string {
		cmd := exec.CommandContext(t.Context(), ferry, append(words, "--help")...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("ferry %s --help: %v\n%s", strings.Join(words, " "), err, out)
		}
		return string(out)
	}
	all := commandLine.FindAllStringSubmatch(help(), -1)
	if len(all) < 10 {
		t.Fatalf("ferry --help lists %d commands", len(all))
	}
	readme, names := read(t, "README.md"), map[string]bool{}
	for _, m := range all {
		names[m[1]] = true
		if m[1] != "help" && m[1] != "completion" && !strings.Contains(readme, "`ferry "+m[1]) && !strings.Contains(readme, "`"+m[1]+"`") {
			t.Errorf("README.md does not list ferry %s", m[1])
		}
	}
	typed := 0
	for _, name := range pages {
		blocks, err := blocksOf(read(t, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, b := range blocks {
			if b.language != "sh" {
				continue
			}
			for _, m := range invoked.FindAllStringSubmatch(b.text, -1) {
				words := []string{m[1]}
				if m[2] != "" {
					words = append(words, m[2])
				}
				if !names[m[1]] {
					t.Errorf("%s:%d: there is no command ferry %s", name, b.line, m[1])
					continue
				}
				typed++
				text := help(words...)
				line, _, _ := strings.Cut(m[3], " #")
				for _, f := range flagged.FindAllStringSubmatch(line, -1) {
					if !strings.Contains(text, "-"+f[1]) {
						t.Errorf("%s:%d: ferry %s has no flag %s", name, b.line, strings.Join(words, " "), f[0])
					}
				}
			}
		}
	}
	if typed < 10 {
		t.Errorf("the pages type %d commands; the test has lost them", typed)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// slugs are the anchors that headings get on code hosts.
func slugs(page string) map[string]bool {
	found := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(page, -1) {
		text := noSlug.ReplaceAllString(strings.ToLower(h[1]), "")
		found[strings.ReplaceAll(text, " ", "-")] = true
	}
	return found
}

// TestLinks: what the pages link to inside the project is there, headings too.
func TestLinks(t *testing.T) {
	for _, name := range pages {
		for _, m := range link.FindAllStringSubmatch(read(t, name), -1) {
			target := m[1] + m[2]
			if strings.Contains(target, "://") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			path := name
			if file != "" {
				path = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, target)
				continue
			}
			if anchor != "" && !slugs(read(t, path))[anchor] {
				t.Errorf("%s links to %s, and %s has no such heading", name, target, path)
			}
		}
	}
}
