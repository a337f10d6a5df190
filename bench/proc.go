//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proc is a program that is measured: its CPU time and memory can be read while it runs.
type proc struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	talk *bytes.Buffer
}

// start runs a program that prints one line of JSON with its address first.
func start(dir, bin string, args ...string) (*proc, error) {
	return startWith(nil, dir, bin, args...)
}

// startWith is start with further variables in the environment.
func startWith(env []string, dir, bin string, args ...string) (*proc, error) {
	p := &proc{cmd: exec.Command(bin, args...), talk: &bytes.Buffer{}}
	p.cmd.Dir, p.cmd.Stderr = dir, p.talk
	p.cmd.Env = append(append(os.Environ(), "FERRY_LOG_LEVEL=warn"), env...)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

// firstLine decodes the line of JSON that the program prints first.
func (p *proc) firstLine(v any) error {
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", p.cmd, err, p.talk)
	}
	return json.Unmarshal(line, v)
}

// stop ends the program by SIGTERM and returns its CPU time and greatest resident memory.
func (p *proc) stop() (cpu time.Duration, rss int64, err error) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait()
}

func (p *proc) wait() (cpu time.Duration, rss int64, err error) {
	err = p.cmd.Wait()
	st := p.cmd.ProcessState
	if usage, ok := st.SysUsage().(*syscall.Rusage); ok {
		rss = usage.Maxrss << 10
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", p.cmd, err, p.talk)
	}
	return st.UserTime() + st.SystemTime(), rss, err
}

// cpuNow reads the CPU time used so far from /proc (Linux; 10 ms resolution).
func (p *proc) cpuNow() time.Duration { return cpuOf(strconv.Itoa(p.cmd.Process.Pid)) }

func cpuOf(pid string) time.Duration {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// rssNow reads the resident memory from /proc.
func (p *proc) rssNow() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

// selfCPU is the CPU time of this process: the load generator's part.
func selfCPU() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// waitReady waits until a ferry over the data folder answers /readyz, and returns its address.
func waitReady(data string) (string, error) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		var in struct{ URL string }
		b, err := os.ReadFile(filepath.Join(data, "instance.json"))
		if err != nil || json.Unmarshal(b, &in) != nil || in.URL == "" {
			continue
		}
		resp, err := http.Get(in.URL + "/readyz")
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return in.URL, nil
		}
	}
	return "", fmt.Errorf("ferry over %s did not become ready", data)
}
