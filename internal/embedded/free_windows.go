package embedded

import "golang.org/x/sys/windows"

// free is how many bytes this process may still put on the disk of a folder, as the file system says.
func free(dir string) (int64, error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var n uint64
	if err := windows.GetDiskFreeSpaceEx(name, &n, nil, nil); err != nil {
		return 0, err
	}
	return int64(n), nil
}
