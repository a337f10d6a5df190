//go:build linux

package main

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// scaling measures GET /process through nginx with one, two and three instances (scripts/cluster). On a machine whose
// processors one instance fills, more of them cannot be faster: what is seen is what each of them costs. The instances
// share a NATS server (scripts/brokers up nats), so that the queue is the same for any number of them; beside it one
// embedded queue, and a cluster of three.
func (b *bench) scaling() error {
	nats, missing := exec.Command("scripts/brokers", "url", "nats").Output()
	if missing != nil {
		fmt.Println("not measured: it needs a queue that several instances share: scripts/brokers up nats")
		return nil //nolint:nilerr // said so; what is missing is no failure of the others
	}
	outside := strings.TrimSpace(string(nats))
	setups := []struct {
		name  string
		n     int
		queue string
	}{
		{"1 instance, NATS", 1, outside},
		{"2 instances, NATS", 2, outside},
		{"3 instances, NATS", 3, outside},
		{"1 instance, embedded", 1, ""},
		{"3 instances, embedded cluster", 3, ""},
	}
	results := make([][]scaled, len(setups))
	for range *repeat {
		for i, s := range setups {
			r, err := b.scale(s.n, s.queue)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			results[i] = append(results[i], r)
		}
	}
	fmt.Printf("%-32s %12s %10s %10s %22s\n", "", "requests/s", "p50", "p99", "CPU of the instances")
	for i, s := range setups {
		var rate []float64
		var p50, p99, cpu []time.Duration
		for _, r := range results[i] {
			rate, p50, p99, cpu = append(rate, r.load.perSecond()), append(p50, r.load.p50), append(p99, r.load.p99), append(cpu, r.cpu)
		}
		fmt.Printf("%-32s %12.0f %10s %10s %14s/request\n", s.name, median(rate), median(p50).Round(10*time.Microsecond),
			median(p99).Round(100*time.Microsecond), median(cpu).Round(time.Microsecond))
	}
	return nil
}

type scaled struct {
	load loadResult
	cpu  time.Duration // of all instances, for each request
}

// scale brings n instances up behind nginx, puts load on them, and takes them down.
func (b *bench) scale(n int, queue string) (r scaled, err error) {
	dir, err := os.MkdirTemp(b.dir, "cluster")
	if err != nil {
		return r, err
	}
	cluster := func(args ...string) (string, error) {
		cmd := exec.Command("scripts/cluster", args...)
		cmd.Env = append(os.Environ(), "FERRY_CLUSTER_DIR="+dir, "FERRY_QUEUE="+queue, "FERRY_STATE="+queue)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	defer cluster("down") //nolint:errcheck // its own words are on stderr
	address, err := cluster("up", strconv.Itoa(n))
	if err != nil {
		return r, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return r, err
	}
	cpu := func() (sum time.Duration) {
		for i := range n {
			if text, err := os.ReadFile(filepath.Join(dir, "cluster", strconv.Itoa(i+1), "pid")); err == nil {
				pid, _, _ := strings.Cut(string(text), " ")
				sum += cpuOf(pid)
			}
		}
		return sum
	}
	l := load{addr: u.Host, path: "/process", conns: 64, time: time.Second, want: `"Data processed"`}
	if _, err := l.run(); err != nil { // warm up
		return r, err
	}
	l.time = *seconds
	before := cpu()
	r.load, err = l.run()
	r.cpu = (cpu() - before) / time.Duration(max(r.load.requests, 1))
	return r, err
}
