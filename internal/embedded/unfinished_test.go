package embedded_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestUnfinishedChange cuts the change of a stream's settings short between its two files: the store opens with the new
// settings. Where the file of the settings is not the newer one, or not what the server writes, it is damage.
func TestUnfinishedChange(t *testing.T) {
	for name, tt := range map[string]struct {
		old, new string        // what is done to meta.inf besides
		age      time.Duration // of meta.sum, more than meta.inf's
		damage   bool
	}{
		"killed":           {age: time.Second},
		"a number rotten":  {old: `"max_age":3600000000000`, new: `"max_age":1600000000000`, damage: true},
		"cut off":          {old: `}`, new: ``, age: time.Second, damage: true},
		"something behind": {old: `}`, new: `}}`, age: time.Second, damage: true},
		"strange setting":  {old: `"max_age"`, new: `"mbx_age"`, age: time.Second, damage: true},
		"another stream's": {old: `"name":"S"`, new: `"name":"T"`, age: time.Second, damage: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := start(t, embedded.Options{Dir: dir})
			_, js := connect(t, s)
			config := jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}
			if _, err := js.CreateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			if _, err := js.Publish(t.Context(), "s", []byte("1")); err != nil {
				t.Fatal(err)
			}
			stream := filepath.Join(dir, "jetstream", "$G", "streams", "S")
			meta, sum := filepath.Join(stream, "meta.inf"), filepath.Join(stream, "meta.sum")
			before, err := os.ReadFile(sum)
			if err != nil {
				t.Fatal(err)
			}
			config.MaxAge = time.Hour
			if _, err := js.UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadFile(sum)
			if err != nil {
				t.Fatal(err)
			}
			settings, err := os.ReadFile(meta)
			if err != nil {
				t.Fatal(err)
			}
			damaged := settings
			if tt.old != "" {
				damaged = bytes.Replace(settings, []byte(tt.old), []byte(tt.new), 1)
				if bytes.Equal(damaged, settings) {
					t.Fatalf("%s does not hold %s", settings, tt.old)
				}
			}
			now := time.Now()
			for file, content := range map[string][]byte{meta: damaged, sum: before} {
				if err := os.WriteFile(file, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.Chtimes(meta, now, now), os.Chtimes(sum, now, now.Add(-tt.age))); err != nil {
				t.Fatal(err)
			}

			again, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
			if tt.damage {
				if err == nil {
					again.Close(t.Context())
					t.Fatal("damaged settings were taken")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close(t.Context())
			if got, err := os.ReadFile(sum); err != nil || !bytes.Equal(got, after) {
				t.Fatalf("meta.sum is %q, %v; the server wrote %q", got, err, after)
			}
			_, js = connect(t, again)
			str, err := js.Stream(t.Context(), "S")
			if err != nil {
				t.Fatal(err)
			}
			if info := str.CachedInfo(); info.State.Msgs != 1 || info.Config.MaxAge != time.Hour {
				t.Fatalf("%d messages, kept for %s", info.State.Msgs, info.Config.MaxAge)
			}
		})
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
