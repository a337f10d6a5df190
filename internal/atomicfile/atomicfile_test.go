package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	// A kill has left half of a longer one.
	if err := os.WriteFile(name+Suffix, []byte("half of another"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "", "2nd"} {
		if err := Write(name, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Fatalf("holds %q, %v; want %q", got, err, want)
		}
	}
	only(t, dir, "a")
}

// TestFailedWrite: what cannot be put in place leaves nothing beside it.
func TestFailedWrite(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	if err := os.MkdirAll(filepath.Join(name, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(name, []byte("x")); err == nil {
		t.Error("a file was written over a folder")
	}
	only(t, dir, "a")
}

func only(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("the folder holds %v, %v; want only %s", entries, err, name)
	}
}
