//go:build linux || darwin

package embedded

import (
	"errors"

	"golang.org/x/sys/unix"
)

// free is how many bytes this process may still put on the disk of a folder, as the file system says.
func free(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	if s.Blocks == 0 {
		return 0, errors.ErrUnsupported // a file system that does not count
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // a uint32 on macOS
}
