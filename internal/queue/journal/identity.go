package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"ferry/internal/atomicfile"
)

// idForm is what the file of an identity holds, to the byte.
var idForm = regexp.MustCompile(`^[a-z2-7]{12}\n$`)

// identity is the journal's own name, made once: a journal begun anew must not take another one's cursor for its own.
func identity(dir string) (string, error) {
	name := filepath.Join(dir, "id")
	b, err := os.ReadFile(name)
	switch {
	case err == nil && idForm.Match(b):
		return strings.TrimSuffix(string(b), "\n"), nil
	case err == nil:
		// Under another id, what the topics have of the records already would come again: that is not decided here.
		held, err := holdsRecords(dir)
		if err != nil {
			return "", err
		}
		if held {
			return "", fmt.Errorf("%s does not hold the id of the journal, and the journal beside it holds records: put the file "+
				"back from a backup; or remove it, and what the journal holds is delivered, also where it was delivered before", name)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	id := strings.ToLower(rand.Text()[:12])
	if err := atomicfile.Write(name, []byte(id+"\n")); err != nil {
		return "", err
	}
	return id, atomicfile.SyncDir(filepath.Dir(dir)) // the folder itself may be new
}

// holdsRecords tells whether a file of the journal holds a record, delivered or not.
func holdsRecords(dir string) (bool, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil {
		return false, err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return false, err
		}
		n := 0
		err = readSegment(f, func(item) { n++ })
		_ = f.Close()
		if err != nil || n > 0 {
			return n > 0, err
		}
	}
	return false, nil
}
