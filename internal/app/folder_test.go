package app

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestFolderThatCannotBeUsed is a failure of the environment, whatever about it fails.
func TestFolderThatCannotBeUsed(t *testing.T) {
	var env *EnvironmentError
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := hold(file, "run"); !errors.As(err, &env) || !strings.Contains(err.Error(), "--data") {
		t.Errorf("a file: %v", err)
	}
	for _, name := range []string{"ferry.lock", "instance.json.new"} {
		path := t.TempDir()
		if err := os.Mkdir(filepath.Join(path, name), 0o700); err != nil { // cannot be written, not even by root
			t.Fatal(err)
		}
		if _, err := hold(path, "run"); !errors.As(err, &env) || !strings.Contains(err.Error(), "--data") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOneProcessHoldsTheFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	f, err := hold(path, "serve")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.announce("http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	_, err = hold(path, "run")
	var held *HeldError
	if !errors.As(err, &held) || held.By == nil || held.By.URL != "http://127.0.0.1:1" || held.By.PID != os.Getpid() || held.By.Token == "" {
		t.Fatalf("second hold: %v, want a HeldError that says who has it", err)
	}
	if text := err.Error(); !strings.Contains(text, "`ferry serve`") || !strings.Contains(text, "--data") || strings.Contains(text, held.By.Token) {
		t.Errorf("error %q: want who holds it and what to do, and no token", text)
	}
	if runtime.GOOS != "windows" {
		info, err := os.Stat(filepath.Join(path, "instance.json"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("instance file %v, %v: only its owner may read the token", info, err)
		}
	}
	f.release()
	again, err := hold(path, "run")
	if err != nil {
		t.Fatalf("hold after release: %v", err)
	}
	again.release()
}

func TestHolderThatHasNotSaidWhoItIs(t *testing.T) {
	path := t.TempDir()
	f, err := hold(path, "serve")
	if err != nil {
		t.Fatal(err)
	}
	defer f.release()
	if err := os.Remove(filepath.Join(path, "instance.json")); err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := hold(path, "run"); !errors.As(err, &held) || held.By != nil || !strings.Contains(err.Error(), "--data") {
		t.Fatalf("hold: %v", err)
	}
}

// TestFolderID: the id stays, and a kill that has left an empty file is not taken for one.
func TestFolderID(t *testing.T) {
	f := &folder{path: t.TempDir()}
	if err := os.WriteFile(filepath.Join(f.path, "id"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := f.id()
	if err != nil || id == "" {
		t.Fatalf("id %q, %v", id, err)
	}
	if again, err := f.id(); err != nil || again != id {
		t.Errorf("id %q, %v the second time; %q the first", again, err, id)
	}
}

// TestFullDiskKeepsTheFolder: nobody is sent away from a folder that holds their records because its disk is full.
func TestFullDiskKeepsTheFolder(t *testing.T) {
	if way := wayOut(&os.PathError{Op: "write", Err: syscall.ENOSPC}); strings.Contains(way, "--data") || !strings.Contains(way, "space") {
		t.Errorf("the way out is to %s", way)
	}
	if way := wayOut(os.ErrPermission); !strings.Contains(way, "--data") {
		t.Errorf("the way out is to %s", way)
	}
}
