//go:build linux

package main

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// process measures GET /process at 64 connections: ferry durable, the same pipeline into memory only (no durability),
// a bare handler that fetches and wraps, and a handler that only answers JSON. The load generator, the simulated API
// and the server share the machine.
func (b *bench) process() error {
	m, api, err := b.mock()
	if err != nil {
		return err
	}
	defer m.stop() //nolint:errcheck // its figures are not wanted
	config := func(queue string) string {
		return strings.NewReplacer("API", api, "QUEUE", queue).Replace(`
queue: "QUEUE"
pipelines:
  process:
    source: {base: API, get: /v1/data, key: .id, paginate: none}
    transform:
      - map: '{transformed_data: ., status: "processed"}'
`)
	}
	type result struct {
		load   loadResult
		server time.Duration // CPU of the server for each request
		all    time.Duration // of server, simulated API and load generator
	}
	servers := []struct {
		name  string
		start func() (*proc, string, error)
	}{
		{"ferry, durable", func() (*proc, string, error) { return b.serveFerry(config("embedded:")) }},
		{"ferry, in memory", func() (*proc, string, error) { return b.serveFerry(config("embedded:?storage=memory")) }},
		{"bare handler: fetch, wrap", func() (*proc, string, error) { return b.ceiling("fetch", api) }},
		{"bare handler: static JSON", func() (*proc, string, error) { return b.ceiling("static", "") }},
	}
	results := make([][]result, len(servers))
	for range *repeat {
		for i, s := range servers {
			p, address, err := s.start()
			if err != nil {
				return err
			}
			u, err := url.Parse(address)
			if err != nil {
				return err
			}
			l := load{addr: u.Host, path: "/process", conns: 64, time: time.Second, want: `"Data processed"`}
			if _, err := l.run(); err != nil { // warm up
				return fmt.Errorf("%s: %w\n%s", s.name, err, p.talk)
			}
			l.time = *seconds
			cpu, mcpu, self := p.cpuNow(), m.cpuNow(), selfCPU()
			r, err := l.run()
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", s.name, err, p.talk)
			}
			n := time.Duration(r.requests)
			server := p.cpuNow() - cpu
			results[i] = append(results[i], result{r, server / n, (server + m.cpuNow() - mcpu + selfCPU() - self) / n})
			if _, _, err := p.stop(); err != nil {
				return err
			}
		}
	}
	fmt.Println("| server | requests/s | p50 | p99 | CPU/request, server | CPU/request, all three processes |")
	fmt.Println("|---|---|---|---|---|---|")
	rates := make([]float64, len(servers))
	for i, s := range servers {
		pick := func(f func(result) float64) float64 {
			values := make([]float64, 0, len(results[i]))
			for _, r := range results[i] {
				values = append(values, f(r))
			}
			return median(values)
		}
		rates[i] = pick(func(r result) float64 { return r.load.perSecond() })
		fmt.Printf("| %s | %.0f | %.1f ms | %.1f ms | %.0f µs | %.0f µs |\n", s.name, rates[i],
			pick(func(r result) float64 { return r.load.p50.Seconds() * 1e3 }), pick(func(r result) float64 { return r.load.p99.Seconds() * 1e3 }),
			pick(func(r result) float64 { return r.server.Seconds() * 1e6 }), pick(func(r result) float64 { return r.all.Seconds() * 1e6 }))
	}
	fmt.Printf("\nDurable is %.2f of in memory, %.2f of the bare handler that fetches and wraps.\n", rates[0]/rates[1], rates[0]/rates[2])
	return nil
}

func (b *bench) serveFerry(config string) (*proc, string, error) {
	dir, err := b.newFolder(config)
	if err != nil {
		return nil, "", err
	}
	p, err := start(dir, b.ferry, "serve", "--listen", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	address, err := waitReady(filepath.Join(dir, "data"))
	if err != nil {
		return nil, "", fmt.Errorf("%w\n%s", err, p.talk)
	}
	return p, address, nil
}

// ceiling starts this program as one of the servers to compare with.
func (b *bench) ceiling(kind, target string) (*proc, string, error) {
	p, err := start(b.dir, b.self, "-serve", kind, "-target", target)
	if err != nil {
		return nil, "", err
	}
	var line struct{ URL string }
	if err := p.firstLine(&line); err != nil {
		return nil, "", err
	}
	return p, line.URL, nil
}
