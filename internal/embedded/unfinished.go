package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// removeUnfinished takes away the folders of streams whose making was cut short by a kill. The server writes a stream's
// folder, its empty first block, meta.inf and then meta.sum, and answers only after that. So a folder without meta.sum
// that holds no byte of a message is a stream that nobody was told of: it is made again when it is needed. Left there,
// the server would pass it over, and the check for damage would refuse to start. A folder that lacks meta.sum but holds
// messages is damage, and stays for that check to find (invariant 9).
func (o Options) removeUnfinished() error {
	streams, err := fs.Glob(os.DirFS(o.Dir), "jetstream/*/streams/*")
	if err != nil {
		return fmt.Errorf("list streams of the embedded queue: %w", err)
	}
	for _, name := range streams {
		dir := filepath.Join(o.Dir, filepath.FromSlash(name))
		switch ok, err := unfinished(dir); {
		case err != nil:
			return fmt.Errorf("look at stream of the embedded queue: %w", err)
		case !ok:
			continue
		}
		o.Logger.Info("removing a stream of the embedded queue that was not finished being made", "folder", dir)
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove unfinished stream of the embedded queue: %w", err)
		}
	}
	return nil
}

// removeProbes takes away the empty files by which the server finds out whether it can write, when it was killed before it
// could do so itself: it would take each for an account, and the check for damage would refuse to start.
func (o Options) removeProbes() error {
	probes, err := fs.Glob(os.DirFS(o.Dir), "jetstream/_test_*")
	if err != nil {
		return fmt.Errorf("list files of the embedded queue: %w", err)
	}
	for _, probe := range probes {
		name := filepath.Join(o.Dir, filepath.FromSlash(probe))
		info, err := os.Lstat(name)
		if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			err = os.Remove(name)
		}
		if err != nil {
			return fmt.Errorf("remove probe of the embedded queue: %w", err)
		}
	}
	return nil
}

// unfinished says whether the stream in the folder was never there for anybody.
func unfinished(dir string) (bool, error) {
	switch _, err := os.Lstat(filepath.Join(dir, "meta.sum")); {
	case err == nil:
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	empty := true
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		switch rel, _ := filepath.Rel(dir, path); rel {
		case "meta.inf", "meta.inf.tmp", "meta.sum.tmp":
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Size() > 0 {
			empty = false
			return fs.SkipAll
		}
		return nil
	})
	return empty && err == nil, err
}
