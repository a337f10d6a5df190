package app

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"ferry/internal/atomicfile"
)

// Instance says who holds a data folder. It lies in the folder as instance.json, readable by its owner only.
type Instance struct {
	PID     int       `json:"pid"`
	Command string    `json:"command"`       // serve, dev, run, …
	URL     string    `json:"url,omitempty"` // of its API; empty when it has none
	Token   string    `json:"token"`         // lets commands beside it in, as an admin
	Started time.Time `json:"started"`
}

// HeldError says that another process holds the data folder.
type HeldError struct {
	Folder string
	// By is nil when the holder has not said who it is (yet).
	By *Instance
}

func (e *HeldError) Error() string {
	if e.By == nil {
		return fmt.Sprintf("data folder %s is held by another process; wait for it to end, or use another folder with --data", e.Folder)
	}
	return fmt.Sprintf("data folder %s is held by `ferry %s` (process %d); stop it, or use another folder with --data",
		e.Folder, e.By.Command, e.By.PID)
}

// folder is a data folder held by this process: one process at a time, until release or the process's end.
type folder struct {
	path string
	lock *flock.Flock
	self Instance
}

// hold takes the folder, making it where it is missing. It does not wait: *HeldError tells who has it. A folder that cannot be
// used is an *EnvironmentError.
func hold(path, command string) (*folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, &EnvironmentError{fmt.Errorf("make data folder: %w; %s", err, wayOut(err))}
	}
	lock := flock.New(filepath.Join(path, "ferry.lock"))
	got, err := lock.TryLock()
	if err != nil {
		return nil, &EnvironmentError{fmt.Errorf("lock data folder %s: %w; %s", path, err, wayOut(err))}
	}
	if !got {
		by, err := Holder(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, &EnvironmentError{err}
		}
		return nil, &HeldError{Folder: path, By: by}
	}
	f := &folder{path: path, lock: lock, self: Instance{
		PID: os.Getpid(), Command: command, Token: rand.Text(), Started: time.Now().UTC(),
	}}
	if err := f.announce(""); err != nil {
		f.release()
		return nil, err
	}
	return f, nil
}

// wayOut says what to do about a folder that cannot be used. On a full disk another folder would be the wrong way: it
// holds neither the records nor the cursors.
func wayOut(err error) string {
	if errors.Is(err, syscall.ENOSPC) {
		return "free some space"
	}
	return "choose another data folder with --data"
}

// announce writes who holds the folder, and where its API is.
func (f *folder) announce(url string) error {
	f.self.URL = url
	b, err := json.Marshal(f.self)
	if err != nil {
		return fmt.Errorf("write instance file: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(f.path, "instance.json"), b); err != nil {
		return &EnvironmentError{fmt.Errorf("write instance file: %w; %s", err, wayOut(err))}
	}
	return nil
}

// id names the folder for good, wherever it is moved to.
func (f *folder) id() (string, error) {
	name := filepath.Join(f.path, "id")
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", &EnvironmentError{fmt.Errorf("read id of data folder: %w; %s", err, wayOut(err))}
	}
	if id := strings.TrimSpace(string(b)); id != "" {
		return id, nil
	}
	// An empty one names nothing: two folders that have it would pass for one queue.
	id := strings.ToLower(rand.Text())
	if err := atomicfile.Write(name, []byte(id)); err != nil {
		return "", &EnvironmentError{fmt.Errorf("write id of data folder: %w; %s", err, wayOut(err))}
	}
	return id, nil
}

// release lets go of the folder. The lock file stays: removing it would race with the next holder.
func (f *folder) release() {
	_ = os.Remove(filepath.Join(f.path, "instance.json")) // stale files are told apart by the lock
	_ = f.lock.Unlock()                                   // the process's end unlocks too
}

// Holder reads who says to hold the folder. It may be out of date: only the lock itself is the truth.
func Holder(path string) (*Instance, error) {
	b, err := os.ReadFile(filepath.Join(path, "instance.json"))
	if err != nil {
		return nil, err
	}
	var in Instance
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("read instance file: %w", err)
	}
	return &in, nil
}
