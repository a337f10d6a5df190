//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// start measures what a person waits for: from the process's start until /readyz is green, on a new store and on one
// that holds 10,000 records, the memory when idle, and the size of the binary.
func (b *bench) start() error {
	const config = `
pipelines:
  orders:
    source: {base: "mock:", get: /v1/orders, query: {limit: "500"}, records: ".data[]", key: .id,
      paginate: {cursor: {from: .meta.next, into: query.after}}}
`
	var fresh, existing []time.Duration
	var idle []int64
	for range max(*repeat, 5) {
		dir, err := b.newFolder(config)
		if err != nil {
			return err
		}
		took, rss, err := b.startOnce(dir, time.Second)
		if err != nil {
			return err
		}
		fresh, idle = append(fresh, took), append(idle, rss)
		run, err := start(dir, b.ferry, "run", "orders", "--json")
		if err != nil {
			return err
		}
		if _, _, err := run.wait(); err != nil {
			return err
		}
		if took, _, err = b.startOnce(dir, 0); err != nil {
			return err
		}
		existing = append(existing, took)
	}
	info, err := os.Stat(b.ferry)
	if err != nil {
		return err
	}
	fmt.Printf("| start to ready, new store | %s |\n", median(fresh).Round(time.Millisecond))
	fmt.Printf("| start to ready, store with 10,000 records | %s |\n", median(existing).Round(time.Millisecond))
	fmt.Printf("| memory when idle (RSS) | %.0f MiB |\n", mib(median(idle)))
	fmt.Printf("| binary, stripped | %.1f MiB |\n", mib(info.Size()))
	return nil
}

func (b *bench) startOnce(dir string, settle time.Duration) (took time.Duration, rss int64, err error) {
	begin := time.Now()
	p, err := start(dir, b.ferry, "serve", "--listen", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	if _, err := waitReady(filepath.Join(dir, "data")); err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, p.talk)
	}
	took = time.Since(begin)
	time.Sleep(settle)
	rss = p.rssNow()
	_, _, err = p.stop()
	return took, rss, err
}
