//go:build linux

// Command bench measures ferry, each figure beside its ceiling in the same run:
//
//	go run ./bench                 everything, about six minutes
//	go run ./bench process run     single parts: start, process, run, memory, queues, scaling
//
// It builds the binary, starts it and the simulated API as processes of their own, and reads their CPU time and memory
// from the operating system. It needs Linux. Everything stays on loopback and ends by itself.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

var (
	seconds = flag.Duration("time", 5*time.Second, "how long each load of `process` lasts")
	repeat  = flag.Int("repeat", 3, "how often each comparison is repeated; medians are quoted")
	pages   = flag.Int("pages", 1000, "pages of 1,000 records in `run`")
	serve   = flag.String("serve", "", "internal: be one of the ceilings")
	target  = flag.String("target", "", "internal: what the ceiling talks to")
	folder  = flag.String("folder", "", "internal: where the ceiling stores")
	whole   = flag.Bool("whole", false, "internal: records as the simulated API gives them")
	only    = flag.String("queue", "", "in `queues`, this one alone: kafka, redis, rabbitmq, nats, sqs, servicebus")
)

// bench is one invocation.
type bench struct {
	dir   string // for everything that is written
	ferry string // the binary
	self  string // this program, for the ceilings
}

func main() {
	flag.Parse()
	if *serve != "" {
		if err := serveCeiling(*serve); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := measure(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(parts []string) error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("CPU time and memory are read from /proc, which %s does not have", runtime.GOOS)
	}
	dir, err := os.MkdirTemp("", "ferry-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, ferry: filepath.Join(dir, "ferry")}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.ferry, "./cmd/ferry")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build ferry (run this in the repository's root): %w", err)
	}
	fmt.Printf("%s, %d CPUs, %s/%s\n", runtime.Version(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	all := []struct {
		name string
		f    func() error
	}{{"start", b.start}, {"process", b.process}, {"run", b.run}, {"memory", b.memory}, {"queues", b.queues}, {"scaling", b.scaling}}
	for _, p := range all {
		if len(parts) > 0 && !slices.Contains(parts, p.name) {
			continue
		}
		fmt.Printf("\n## %s\n\n", p.name)
		if err := p.f(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// median of the values, which it sorts.
func median[T int64 | float64 | time.Duration](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

// newFolder makes a folder with a configuration in it.
func (b *bench) newFolder(config string) (string, error) {
	dir, err := os.MkdirTemp(b.dir, "case")
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "ferry.yaml"), []byte(config), 0o600)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// mock starts the simulated API.
func (b *bench) mock() (*proc, string, error) {
	p, err := start(b.dir, b.ferry, "mock", "--listen", "127.0.0.1:0", "--json")
	if err != nil {
		return nil, "", err
	}
	var line struct{ URL string }
	if err := p.firstLine(&line); err != nil {
		return nil, "", err
	}
	return p, line.URL, nil
}
