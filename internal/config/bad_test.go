package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ferry/internal/config"
)

var update = flag.Bool("update", false, "rewrite the expected files")

// badAt is a check's error that knows where in the value it lies.
type badAt int

func (badAt) Error() string { return `unexpected "bad"` }
func (b badAt) Offset() int { return int(b) }

// fakeChecks refuse values that contain the word bad.
func fakeChecks() map[string]func(string) error {
	located := func(value string) error {
		if i := strings.Index(value, "bad"); i >= 0 {
			return badAt(i)
		}
		return nil
	}
	quoting := func(value string) error {
		if strings.Contains(value, "bad") || strings.Contains(value, "61") {
			return errors.New("cannot take " + value)
		}
		return nil
	}
	return map[string]func(string) error{
		"jq": located, "jqpath": located, "cron": quoting, "queue": quoting, "schema": quoting,
	}
}

// TestBadFiles compares every error of the files in testdata with the text beside them. The password in them is
// hunter2, wherever it stands.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/conf.*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "conf."), ".yml")
		t.Run(name, func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = config.Parse(src, "ferry.yaml", config.Options{
				Environ: []string{"TOKEN=hunter2 bad", "PERIOD=hunter2", "LEVEL=hunter2", "EMPTY="},
				Checks:  fakeChecks(),
			})
			var errs config.Errors
			if !errors.As(err, &errs) {
				t.Fatalf("err = %v, want config.Errors", err)
			}
			got := err.Error() + "\n"
			if strings.Contains(got, "hunter2") {
				t.Errorf("a secret is shown:\n%s", got)
			}
			golden := strings.TrimSuffix(file, ".yml") + ".err"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("errors differ (-want +got):\n%s", diff)
			}
		})
	}
}
