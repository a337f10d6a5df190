// Package atomicfile writes small files that are there whole or not at all, and stay.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// Suffix ends the name of the file beside it that Write makes first. A kill may leave one; the next Write takes it over.
const Suffix = ".new"

// Write gives the file this content, readable by its owner only. Whoever opens it, now or after a loss of power, finds
// the old content or the new one, and after Write has returned nil the new one. An error leaves the old one, unless it
// is the folder that could not be synced: then it may be either.
func Write(name string, b []byte) error {
	f, err := os.OpenFile(name+Suffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // on a full disk it holds what others could use
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// SyncDir makes the names in a folder durable: a synced file can still be without its name after a loss of power (fsync(2)).
// Where folders cannot be synced it does nothing.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, os.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
