package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// probeSize is how much must fit on the disk, for the server to be well and before one that ran out of space is restarted:
// a file of the journal, which is 8 MiB, and as much for commits. Of a commit that was cut short it is what the last block
// in its stream may take, 8 MiB too, beyond the commit itself.
const probeSize = 16 << 20

// short says that the disk has not got room for probeSize, or is nil. It only asks: writing would take from a server that
// is well the little space there is. A disk that does not tell is taken for a large one, and who only reaches the members
// of a cluster keeps nothing.
func (o Options) short() error {
	if o.Cluster != nil && o.Cluster.Self == "" {
		return nil
	}
	n, err := free(o.Dir)
	if err != nil || n >= probeSize {
		return nil //nolint:nilerr // what cannot be known is no alarm; a write that fails is one
	}
	return fmt.Errorf("the disk of the embedded queue (%s) takes no writes of more than %d MiB; free some space: %d MiB more must fit",
		o.Dir, n>>20, mebibytes(probeSize-n))
}

// mebibytes rounds up.
func mebibytes(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// room finds out whether that many bytes fit on the disk, and with them what the next server has to finish: a commit that
// was cut short. It does so in the way that counts: by writing.
func (o Options) room(size int64) error {
	staged, err := o.staged()
	if err != nil {
		return fmt.Errorf("look for unfinished commits of the embedded queue: %w", err)
	}
	if staged > 0 {
		size = staged + probeSize
	}
	if size == 0 {
		return nil
	}
	written, err := probe(filepath.Join(o.Dir, ".probe"), size)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("the disk of the embedded queue (%s) takes no writes: %w", o.Dir, err)
	if full(err) {
		return fmt.Errorf("%w; free some space: %d MiB more must fit", err, mebibytes(size-written))
	}
	return err
}

// staged is how many bytes of commits lie beside the streams. The server puts a commit aside as a whole and then writes it
// to its stream. One that was cut short there it finishes at its start, and then throws away what was put aside whether
// it could write all of it or not. Without room for it half a commit would stay for good, and come again as a whole.
func (o Options) staged() (int64, error) {
	batches, err := fs.Glob(os.DirFS(o.Dir), "jetstream/*/streams/*/batches")
	if err != nil {
		return 0, err
	}
	sum := int64(0)
	for _, name := range batches {
		err := filepath.WalkDir(filepath.Join(o.Dir, filepath.FromSlash(name)), func(_ string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				var info fs.FileInfo
				if info, err = e.Info(); err == nil {
					sum += info.Size()
				}
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a running server is done with it
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return sum, nil
}

// probe writes a file of that size and takes it away again. It tells how much of it fitted.
func probe(name string, size int64) (written int64, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer os.Remove(name)
	part := make([]byte, 1<<20)
	_, _ = rand.Read(part) // it never fails; a disk that compresses would take any number of zeros
	for err == nil && written < size {
		var n int
		n, err = f.Write(part[:min(int64(len(part)), size-written)])
		written += int64(n)
	}
	if err == nil {
		if err = f.Sync(); err != nil {
			written = 0 // nobody knows
		}
	}
	return written, errors.Join(err, f.Close())
}

// full says whether there is no space left. What the server tells of its disk is only a text.
func full(err error) bool {
	for _, text := range []string{syscall.ENOSPC.Error(), syscall.EDQUOT.Error(), "not enough space on the disk"} { // the last is Windows'
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}
