// Package deploy checks what is shipped for running ferry elsewhere: that dashboard and alerts name metrics that there
// are, that configurations are accepted, that names in the compose files fit together. Helm's chart has a module of its
// own, test/cloud, for what it needs.
package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"ferry/internal/app"
	"ferry/internal/config"
	"ferry/internal/telemetry"
)

const root = "../.."

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	metric   = regexp.MustCompile(`\b(?:ferry|process|go|up)_[a-z_]+\b`)
	selector = regexp.MustCompile(`\b(ferry_[a-z_]+)\{([^}]*)\}`)
	grouping = regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
)

// TestMetrics: every metric and label that an expression names is one that ferry has.
func TestMetrics(t *testing.T) {
	known := map[string][]string{}
	for _, m := range telemetry.MetricsTable() {
		known[m.Name] = m.Labels
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			known[m.Name+suffix] = append(slices.Clone(m.Labels), "le")
		}
	}
	every := map[string]bool{"instance": true, "job": true, "le": true} // what Prometheus itself adds
	for _, labels := range known {
		for _, l := range labels {
			every[l] = true
		}
	}
	expressions := 0
	check := func(where, expr string) {
		t.Helper()
		expressions++
		for _, name := range metric.FindAllString(expr, -1) {
			if _, ok := known[name]; !ok && strings.HasPrefix(name, "ferry_") {
				t.Errorf("%s: there is no metric %s: %s", where, name, expr)
			}
		}
		for _, m := range selector.FindAllStringSubmatch(expr, -1) {
			for pair := range strings.SplitSeq(m[2], ",") {
				label := regexp.MustCompile(`^\w+`).FindString(strings.TrimSpace(pair))
				if !slices.Contains(known[m[1]], label) && label != "instance" && label != "job" {
					t.Errorf("%s: %s has no label %q: %s", where, m[1], label, expr)
				}
			}
		}
		for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
			for label := range strings.SplitSeq(m[1], ",") {
				if !every[strings.TrimSpace(label)] {
					t.Errorf("%s: no metric has the label %q: %s", where, label, expr)
				}
			}
		}
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(read(t, "deploy/grafana/ferry.json"), &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			check("dashboard, "+p.Title, target.Expr)
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(read(t, "deploy/prometheus/alerts.yml"), &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			check("alert "+r.Alert, r.Expr)
		}
	}
	if expressions < 30 {
		t.Errorf("only %d expressions were found", expressions)
	}
}

type composeFile struct {
	Services map[string]struct {
		Image       string
		Hostname    string
		Command     []string
		Environment map[string]string
		Volumes     []string
		Configs     []struct{ Source, Target string }
		DependsOn   map[string]any `yaml:"depends_on"`
	}
	Configs map[string]struct{ File string }
	Volumes map[string]any
}

// TestCompose: what the services of each combination name is there.
func TestCompose(t *testing.T) {
	var base composeFile
	if err := yaml.Unmarshal(read(t, "compose.yaml"), &base); err != nil {
		t.Fatal(err)
	}
	overlays, err := filepath.Glob(filepath.Join(root, "compose.*.yaml"))
	if err != nil || len(overlays) != 4 {
		t.Fatalf("overlays: %q, %v", overlays, err)
	}
	for _, name := range append([]string{filepath.Join(root, "compose.yaml")}, overlays...) {
		var f composeFile
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(b, &f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for service, s := range f.Services {
			if _, ferry := base.Services[service]; s.Image == "" && !ferry {
				t.Errorf("%s: %s has no image", name, service)
			}
			if s.Image != "" && !strings.Contains(s.Image, ":") {
				t.Errorf("%s: the image %s names no version", name, s.Image)
			}
			for other := range s.DependsOn {
				if _, here := f.Services[other]; !here {
					t.Errorf("%s: %s depends on %s, which there is not", name, service, other)
				}
			}
			for _, c := range s.Configs {
				file := f.Configs[c.Source].File
				if _, err := os.Stat(filepath.Join(root, file)); file == "" || err != nil {
					t.Errorf("%s: %s needs the file %q for %s: %v", name, service, file, c.Target, err)
				}
			}
			for _, v := range s.Volumes {
				volume, _, _ := strings.Cut(v, ":")
				if _, ok := f.Volumes[volume]; !ok {
					t.Errorf("%s: %s needs the volume %s", name, service, volume)
				}
			}
			if queue, ok := s.Environment["FERRY_QUEUE"]; ok {
				acceptable(t, name, queue, s.Environment["FERRY_STATE"])
			}
		}
	}
	upstream := string(read(t, "deploy/nginx/ferry.d/upstream.conf"))
	for _, n := range []string{"ferry-1", "ferry-2", "ferry-3"} {
		if base.Services[n].Hostname != n || !strings.Contains(upstream, "server "+n+":8080 ") {
			t.Errorf("%s: its host name is %q; nginx's upstream:\n%s", n, base.Services[n].Hostname, upstream)
		}
	}
}

// acceptable loads the configuration that the containers get, as each of them.
func acceptable(t *testing.T, where, queue, state string) {
	t.Helper()
	for _, instance := range []string{"ferry-1", "ferry-2", "ferry-3"} {
		env := map[string]string{
			"FERRY_QUEUE": plain(queue), "FERRY_STATE": plain(state), "FERRY_INSTANCE": instance, "API_URL": "mock:",
			"FERRY_CLUSTER_SECRET": "only for a look on one machine", "FERRY_LISTEN": "0.0.0.0:8080",
		}
		if state == "" {
			env["FERRY_STATE"] = "embedded:?cluster=ferry-1:6222,ferry-2:6222,ferry-3:6222"
		}
		environ := slices.Sorted(maps.Keys(env))
		for i, k := range environ {
			environ[i] = k + "=" + env[k]
		}
		cfg, err := app.LoadConfig(config.Options{File: filepath.Join(root, "deploy/compose/ferry.yaml"), Environ: environ})
		if err != nil {
			t.Errorf("%s: %v", where, err)
			return
		}
		if len(cfg.Pipelines) != 3 || len(cfg.Warnings)+len(cfg.Callers) > 0 {
			t.Errorf("%s: %d pipelines, warnings %q %q", where, len(cfg.Pipelines), cfg.Warnings, cfg.Callers)
		}
	}
}

// plain puts a variable's default in its place, as compose does.
func plain(s string) string {
	return regexp.MustCompile(`\$\{\w+:-([^}]*)\}`).ReplaceAllString(s, "$1")
}

func TestPromtool(t *testing.T) {
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("there is no promtool: scripts/debian promtool")
	}
	for _, args := range [][]string{{"check", "config", "prometheus.yml"}, {"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), "promtool", args...)
		cmd.Dir = filepath.Join(root, "deploy/prometheus")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestNginx: nginx takes its configuration, with hosts that can be looked up here.
func TestNginx(t *testing.T) {
	if _, err := exec.LookPath("nginx"); err != nil {
		t.Skip("there is no nginx: scripts/debian nginx")
	}
	dir := t.TempDir()
	for _, name := range []string{"nginx.conf", "ferry.d/upstream.conf", "ferry.d/server.conf"} {
		b := regexp.MustCompile(`ferry-\d:`).ReplaceAll(read(t, "deploy/nginx/"+name), []byte("127.0.0.1:"))
		// The nginx of compose.yaml is newer than Debian's.
		b = bytes.ReplaceAll(b, []byte("\nkeepalive_min_timeout 10s;\n"), []byte("\n"))
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), "nginx", "-t", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", filepath.Join(dir, "error.log")).CombinedOutput()
	if err != nil {
		t.Errorf("nginx -t: %v\n%s", err, out)
	}
}

func TestSystemd(t *testing.T) {
	unit := string(read(t, "deploy/systemd/ferry.service"))
	for _, want := range []string{"TimeoutStopSec=45s", "NoNewPrivileges=yes", "ProtectSystem=strict", "StateDirectory=ferry"} {
		if !strings.Contains(unit, "\n"+want+"\n") {
			t.Errorf("the unit lacks %s", want)
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("there is no systemd-analyze: a Debian with systemd has it")
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", filepath.Join(root, "deploy/systemd/ferry.service")).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "ferry is not executable") && strings.Contains(line, "ferry.service") {
			t.Errorf("systemd-analyze verify: %s (%v)", strings.TrimSpace(line), err)
		}
	}
}

// TestImagesHaveOneVersion: an image that two files name is the same one in both.
func TestImagesHaveOneVersion(t *testing.T) {
	go1 := regexp.MustCompile(`golang:([\d.]+)-`).FindSubmatch(read(t, "Dockerfile"))
	mod := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(read(t, "go.mod"))
	if go1 == nil || mod == nil || !bytes.Equal(go1[1], mod[1]) {
		t.Errorf("Dockerfile builds with Go %s, go.mod wants %s", fmt.Sprintf("%s", go1), mod[1])
	}
}
