package embedded_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/embedded"
)

// TestUnfinishedStream cuts the making of a stream short at each step that a kill can come after: the store opens, and
// the stream can be made again. The same folders with messages in them are damage and refused.
func TestUnfinishedStream(t *testing.T) {
	steps := map[string][]string{
		"folder":             {"msgs", "obs", "meta.inf", "meta.sum"},
		"folders":            {"msgs/1.blk", "meta.inf", "meta.sum"},
		"first block":        {"meta.inf", "meta.sum"},
		"meta.inf.tmp":       {"meta.inf>meta.inf.tmp", "meta.sum"},
		"meta.inf":           {"meta.sum"},
		"meta.sum.tmp":       {"meta.sum>meta.sum.tmp"},
		"meta.sum: it is in": nil,
	}
	for name, undo := range steps {
		for _, full := range []bool{false, true} {
			if full && (len(undo) == 0 || undo[0] == "msgs" || undo[0] == "msgs/1.blk") {
				continue // then there is no block to hold messages
			}
			t.Run(name+map[bool]string{true: " with messages"}[full], func(t *testing.T) {
				dir := t.TempDir()
				s := start(t, embedded.Options{Dir: dir})
				_, js := connect(t, s)
				config := jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}
				if _, err := js.CreateStream(t.Context(), config); err != nil {
					t.Fatal(err)
				}
				if full {
					if _, err := js.Publish(t.Context(), "s", []byte("1")); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				stream := filepath.Join(dir, "jetstream", "$G", "streams", "S")
				if !full { // what a clean stop writes beside
					if err := os.RemoveAll(filepath.Join(stream, "msgs", "index.db")); err != nil {
						t.Fatal(err)
					}
				}
				for _, file := range undo {
					old, renamed, ok := strings.Cut(file, ">")
					var err error
					if ok {
						err = os.Rename(filepath.Join(stream, old), filepath.Join(stream, renamed))
					} else {
						err = os.RemoveAll(filepath.Join(stream, old))
					}
					if err != nil {
						t.Fatal(err)
					}
				}

				again, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
				if full {
					if err == nil {
						again.Close(t.Context())
						t.Fatal("a stream with messages and without its description was passed over")
					}
					if _, err := os.Stat(filepath.Join(stream, "msgs", "1.blk")); err != nil {
						t.Fatal(err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer again.Close(t.Context())
				_, js = connect(t, again)
				if _, err := js.CreateOrUpdateStream(t.Context(), config); err != nil {
					t.Fatal(err)
				}
				if ack, err := js.Publish(t.Context(), "s", []byte("1")); err != nil || ack.Sequence != 1 {
					t.Fatalf("published as %v, %v", ack, err)
				}
			})
		}
	}
}

// TestKilledWhileItProbes: a kill while the server finds out whether it can write leaves an empty file, which is no reason
// to refuse the store.
func TestKilledWhileItProbes(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Options{Dir: dir})
	_, js := connect(t, s)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	probe := filepath.Join(dir, "jetstream", "_test_1633144164")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(probe); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	// What holds something is nobody's probe, and not taken away.
	if err := os.WriteFile(probe, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if other, err := embedded.Start(t.Context(), embedded.Options{Dir: dir}); err == nil {
		other.Close(t.Context())
		t.Error("a strange file in the store was passed over")
	}
	if _, err := os.Lstat(probe); err != nil {
		t.Error(err)
	}
}
