package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"

	"ferry/internal/atomicfile"
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

// mendSums writes meta.sum anew where a kill came before it: the server changes a stream's settings by writing meta.inf and
// then its checksum, and passes a stream over whose two files do not fit each other. Only what is sure to be that is
// mended: meta.inf is the newer file, and is to the byte what the server writes for this stream. A file that has rotted is
// not newer, and stays damage.
func (o Options) mendSums() error {
	metas, err := fs.Glob(os.DirFS(o.Dir), "jetstream/*/streams/*/meta.inf")
	if err != nil {
		return fmt.Errorf("list streams of the embedded queue: %w", err)
	}
	for _, name := range metas {
		dir := filepath.Dir(filepath.Join(o.Dir, filepath.FromSlash(name)))
		sum, err := newSum(dir)
		if err == nil && sum != "" {
			o.Logger.Info("finishing a change of a stream's settings in the embedded queue", "folder", dir)
			err = atomicfile.Write(filepath.Join(dir, "meta.sum"), []byte(sum))
		}
		if err != nil {
			return fmt.Errorf("mend settings of a stream of the embedded queue: %w", err)
		}
	}
	return nil
}

// newSum gives what belongs into meta.sum of the stream in the folder, or "" where it is to be left alone.
func newSum(dir string) (string, error) {
	info, err := os.Stat(filepath.Join(dir, "meta.inf"))
	if err != nil {
		return "", err
	}
	switch old, err := os.Stat(filepath.Join(dir, "meta.sum")); {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil // see removeUnfinished
	case err != nil:
		return "", err
	case !info.ModTime().After(old.ModTime()):
		return "", nil
	}
	meta, err := os.ReadFile(filepath.Join(dir, "meta.inf"))
	if err != nil {
		return "", err
	}
	var stream server.FileStreamInfo
	if json.Unmarshal(meta, &stream) != nil || stream.Name != filepath.Base(dir) {
		return "", nil //nolint:nilerr // it is damage, for the check after the start to find
	}
	same, err := json.Marshal(stream)
	if err != nil || !bytes.Equal(same, meta) {
		return "", err
	}
	key := sha256.Sum256([]byte(stream.Name))
	hash, err := highwayhash.New64(key[:])
	if err != nil {
		return "", err
	}
	hash.Write(meta)
	sum := hex.EncodeToString(hash.Sum(nil))
	old, err := os.ReadFile(filepath.Join(dir, "meta.sum"))
	if err != nil || string(old) == sum {
		return "", err
	}
	return sum, nil
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
