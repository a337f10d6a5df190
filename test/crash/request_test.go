//go:build !windows

package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// answers collects what callers of /process were told.
type answers struct {
	mu     sync.Mutex
	ids    []string
	failed []string // answers that were no success although one came
	broken int      // requests without an answer
	why    error    // of the last of them
}

// hammer calls /process from n callers until stop is closed or no connection can be made.
func (a *answers) hammer(url string, n int, stop <-chan struct{}) {
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	for range n {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !a.call(client, url) {
					return
				}
			}
		})
	}
	wg.Wait()
}

func (a *answers) call(client *http.Client, url string) bool {
	resp, err := client.Get(url + "/process")
	if err != nil {
		if !errors.Is(err, syscall.ECONNREFUSED) {
			a.mu.Lock()
			a.broken++
			a.why = err
			a.mu.Unlock()
		}
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.broken++
		return false
	}
	var answer struct {
		Message string
		Data    struct {
			Transformed struct{ ID json.Number } `json:"transformed_data"`
			Status      string
		}
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &answer) != nil ||
		answer.Message != "Data processed" || answer.Data.Status != "processed" || answer.Data.Transformed.ID == "" {
		a.failed = append(a.failed, fmt.Sprintf("%d %s", resp.StatusCode, body))
		return true
	}
	a.ids = append(a.ids, answer.Data.Transformed.ID.String())
	return true
}

// end waits for the service to end, which it should have by the time its callers find nobody there.
func (s *service) end(t *testing.T, told *answers) error {
	t.Helper()
	select {
	case err := <-s.done:
		return err
	case <-time.After(40 * time.Second):
		t.Fatalf("ferry serve goes on; %d answers, %d requests without one (%v), failed: %q\n%s", len(told.ids), told.broken, told.why, told.failed, s.talk)
		return nil
	}
}

// inTopic counts how often each id of the simulated API lies in the topic.
func inTopic(t *testing.T, dir string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, r := range topic(t, dir, "process") {
		var data struct {
			Transformed struct{ ID json.Number } `json:"transformed_data"`
		}
		if err := json.Unmarshal(r.Data, &data); err != nil {
			t.Fatal(err)
		}
		count[data.Transformed.ID.String()]++
	}
	return count
}

// TestRequestsKilled: what was answered as processed is in the queue after a kill, once (invariant 2).
func TestRequestsKilled(t *testing.T) {
	url := mock(t)
	for _, point := range []string{"fetched", "committing", "committed", "random"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			dir := newFolder(t, processConfig(url))
			var told answers
			for range *rounds {
				crashAt := ""
				if point != "random" {
					crashAt = fmt.Sprintf("%s:%d", point, 1+rand.IntN(200))
				}
				s := serve(t, dir, crashAt)
				if point == "random" {
					time.AfterFunc(time.Duration(5+rand.IntN(200))*time.Millisecond, func() { _ = s.cmd.Process.Kill() })
				}
				told.hammer(s.url, 8, nil)
				if err := s.end(t, &told); !killed(err) {
					t.Fatalf("ferry serve ended with %v\n%s", err, s.talk)
				}
			}
			have := inTopic(t, dir)
			for _, id := range told.ids {
				if have[id] != 1 {
					t.Errorf("record %s was answered as processed and is in the queue %d times", id, have[id])
				}
			}
			for id, n := range have {
				if n != 1 {
					t.Errorf("record %s is in the queue %d times", id, n)
				}
			}
			if len(told.ids) == 0 || len(told.failed) > 0 {
				t.Errorf("%d answers; failed: %q", len(told.ids), told.failed)
			}
			t.Logf("%d kills: %d answers, all in the queue; %d records in it", *rounds, len(told.ids), len(have))
		})
	}
}

// TestStopUnderLoad: SIGTERM fails no request that had been accepted, and loses nothing (invariant 10).
func TestStopUnderLoad(t *testing.T) {
	url := mock(t)
	dir := newFolder(t, processConfig(url))
	for range *rounds {
		s := serve(t, dir, "")
		var told answers
		time.AfterFunc(300*time.Millisecond, func() { _ = s.cmd.Process.Signal(syscall.SIGTERM) })
		told.hammer(s.url, 8, nil)
		if err := s.end(t, &told); err != nil {
			t.Fatalf("ferry serve ended with %v, want exit code 0\n%s", err, s.talk)
		}
		have := inTopic(t, dir)
		for _, id := range told.ids {
			if have[id] != 1 {
				t.Errorf("record %s was answered as processed and is in the queue %d times", id, have[id])
			}
		}
		if len(told.ids) == 0 || len(told.failed) > 0 {
			t.Errorf("%d answers; failed: %q", len(told.ids), told.failed)
		}
		// A connection that the kernel took and the process never saw is reset when the listener closes; each of the
		// eight callers can meet that once. None of them may have been carried without an answer reaching the caller.
		if told.broken > 8 {
			t.Errorf("%d requests had no answer", told.broken)
		}
	}
}

// TestSyncPrecedesTheAnswer watches the system calls of one request: a sync of the queue's file lies between the
// request's arrival and the answer's first byte. A kill cannot show this, because the page cache survives it.
func TestSyncPrecedesTheAnswer(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed: apt-get install strace")
	}
	url := mock(t)
	dir := newFolder(t, processConfig(url))
	trace := filepath.Join(dir, "trace")
	s := serve(t, dir, "", "strace", "-f", "-y", "-s", "500", "-o", trace,
		"-e", "trace=openat,read,write,pwrite64,writev,pwritev,fsync,fdatasync,sync_file_range")
	const requests = 5
	for range requests {
		var told answers
		if !told.call(http.DefaultClient, s.url) || len(told.ids) != 1 {
			t.Fatalf("request failed: %+v\n%s", told.failed, s.talk)
		}
	}
	if err := syscall.Kill(s.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-s.done
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	var (
		// On a connection that is kept, net/http reads the first byte of a request by itself.
		arrived  = regexp.MustCompile(`\bread(\(| resumed).*ET /process HTTP`)
		answered = regexp.MustCompile(`\bwrite\(.*"HTTP/1\.1 200 OK.*Data processed`)
		synced   = regexp.MustCompile(`^(\d+) +(?:fsync|fdatasync)\(\d+<[^>]*/(?:streams/ferry-process/msgs|data/journal)/[^>]*>(?:\) += 0$| <unfinished)`)
		// A call during which another thread makes one is written as two lines, the second without the file's name.
		resumed = regexp.MustCompile(`^(\d+) +<\.\.\. (?:fsync|fdatasync) resumed>\) += 0$`)
	)
	answers, waiting, sync := 0, false, false
	syncing := map[string]bool{} // threads whose sync began after the request's arrival and goes on
	for _, line := range lines {
		switch {
		case arrived.MatchString(line):
			waiting, sync = true, false
			clear(syncing) // a sync that began earlier shows nothing
		case waiting && synced.MatchString(line):
			if strings.HasSuffix(line, "= 0") {
				sync = true
			} else {
				syncing[synced.FindStringSubmatch(line)[1]] = true
			}
		case resumed.MatchString(line):
			thread := resumed.FindStringSubmatch(line)[1]
			sync = sync || syncing[thread]
			delete(syncing, thread)
		case waiting && answered.MatchString(line):
			if !sync {
				t.Errorf("an answer without a sync before it: %s", line)
			}
			waiting = false
			answers++
		}
	}
	if answers != requests {
		t.Errorf("saw %d answers in the trace, want %d", answers, requests)
	}
}
