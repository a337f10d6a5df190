//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

const runConfig = `
pipelines:
  orders:
    source:
      base: API
      get: /v1/orders
      query: {limit: "1000", count: "COUNT", pad: "870", gzip: "0"}
      records: .data[]
      key: .id
      paginate: {cursor: {from: .meta.next, into: query.after}}
`

const runMap = `    transform:
      - map: '{id, status, customer: .customer.email, currency}'
`

type runLine struct {
	Status, Reason  string
	Read, Published int64
	Seconds         float64
}

// run measures `ferry run` over pages of 1,000 records of 870 bytes with a projecting map, from the simulated API in a
// process of its own into the embedded queue, every commit synced, beside publishing the same records ready-made.
func (b *bench) run() error {
	var rates, ceilings, perRecord, perCeiling, perMock []float64
	count := *pages * 1000
	for range *repeat {
		m, api, err := b.mock()
		if err != nil {
			return err
		}
		dir, err := b.newFolder(strings.NewReplacer("API", api, "COUNT", fmt.Sprint(count)).Replace(runConfig + runMap))
		if err != nil {
			return err
		}
		p, err := start(dir, b.ferry, "run", "orders", "--json")
		if err != nil {
			return err
		}
		var line runLine
		if err := p.firstLine(&line); err != nil {
			return err
		}
		cpu, _, err := p.wait()
		if err != nil {
			return err
		}
		if line.Published != int64(count) {
			return fmt.Errorf("run published %d of %d: %s %s", line.Published, count, line.Status, line.Reason)
		}
		rates = append(rates, float64(count)/line.Seconds)
		perRecord = append(perRecord, cpu.Seconds()*1e6/float64(count))
		mcpu, _, err := m.stop()
		if err != nil {
			return err
		}
		perMock = append(perMock, mcpu.Seconds()*1e6/float64(count))
		if err := os.RemoveAll(dir); err != nil {
			return err
		}

		dir, err = b.newFolder("")
		if err != nil {
			return err
		}
		p, err = start(dir, b.self, "-serve", "publish", "-folder", dir, "-pages", fmt.Sprint(*pages))
		if err != nil {
			return err
		}
		var made struct{ Seconds float64 }
		if err := p.firstLine(&made); err != nil {
			return err
		}
		if cpu, _, err = p.wait(); err != nil {
			return err
		}
		ceilings = append(ceilings, float64(count)/made.Seconds)
		perCeiling = append(perCeiling, cpu.Seconds()*1e6/float64(count))
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	fmt.Println("| what | records/s | CPU/record |")
	fmt.Println("|---|---|---|")
	fmt.Printf("| ferry run: fetch, map, commit (synced) | %.0f | %.1f µs |\n", median(rates), median(perRecord))
	fmt.Printf("| the queue alone: the same records ready-made | %.0f | %.1f µs |\n", median(ceilings), median(perCeiling))
	fmt.Printf("\nThe simulated API beside it took %.1f µs for each record.\n", median(perMock))
	return nil
}

// memory measures the greatest resident memory of a run over one page of 1 GB, and of one over ten million records: as it
// comes, and with a soft limit of 130 MiB as in a small container.
func (b *bench) memory() error {
	m, api, err := b.mock()
	if err != nil {
		return err
	}
	defer m.stop() //nolint:errcheck // its figures are not wanted
	for _, c := range []struct {
		name, config string
		env          []string
	}{
		{"one page of 1.15 million records, 1 GB", strings.NewReplacer("/v1/orders", "/none/orders", `limit: "1000", `, "", "paginate: {cursor: {from: .meta.next, into: query.after}}", "paginate: none",
			".data[]", ".[]", "COUNT", "1150000").Replace(runConfig + runMap), nil},
		{"10 million records in 10,000 pages, 8.7 GB", strings.ReplaceAll(runConfig+runMap, "COUNT", "10000000"), nil},
		{"the same 10 million, GOMEMLIMIT=130MiB", strings.ReplaceAll(runConfig+runMap, "COUNT", "10000000"), []string{"GOMEMLIMIT=130MiB"}},
	} {
		dir, err := b.newFolder(strings.ReplaceAll(c.config, "API", api))
		if err != nil {
			return err
		}
		begin := time.Now()
		p, err := startWith(c.env, dir, b.ferry, "run", "orders", "--json")
		if err != nil {
			return err
		}
		var line runLine
		if err := p.firstLine(&line); err != nil {
			return err
		}
		_, rss, err := p.wait()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", c.name, line.Reason, err)
		}
		fmt.Printf("| %s | %d records in %s, %.0f/s | RSS at most %.0f MiB |\n", c.name, line.Published,
			time.Since(begin).Round(time.Second), float64(line.Published)/line.Seconds, mib(rss))
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}
