//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// outside are the queues that `queues` measures, those of them that run: `scripts/brokers up`, then
// eval "$(scripts/brokers env)".
var outside = []struct {
	name, env string
	pages     int // of 1,000 records; fewer where the broker here is slow
	bare      string
}{
	{"kafka", "FERRY_TEST_KAFKA", 1000, "franz-go, one transaction for every 5,000 records and a cursor"},
	{"redis", "FERRY_TEST_REDIS", 500, "go-redis, MULTI with 5,000 XADD and a cursor"},
	{"rabbitmq", "FERRY_TEST_RABBITMQ", 50, "amqp091-go, 5,000 persistent messages on their way, each confirmed"},
	{"nats", "FERRY_TEST_NATS", 200, "nats.go, one atomic batch for every 999 messages and a cursor"},
	{"sqs", "FERRY_TEST_SQS", 5, "AWS SDK, SendMessageBatch of 10, one message group"},
	{"servicebus", "FERRY_TEST_SERVICEBUS", 50, "azservicebus, full message batches one after the other"},
}

// queues measures `ferry run` into each broker beside the broker's client library alone, which publishes the same
// bytes with the same guarantee. Both are processes of their own; the broker's own work is in neither figure. Records go
// as they come, and projected: then the client alone has a seventh of the bytes to move, and ferry still reads all of them.
func (b *bench) queues() error {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} { // for an emulator of SQS
		if os.Getenv(name) == "" {
			if err := os.Setenv(name, "x"); err != nil {
				return err
			}
		}
	}
	fmt.Println("| queue | records | ferry run, records/s | CPU/record | the client alone, records/s | CPU/record | share | the client alone is |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, o := range outside {
		url := os.Getenv(o.env)
		if url == "" || *only != "" && *only != o.name {
			continue
		}
		for _, whole := range []bool{true, false} {
			shape := map[bool]string{true: "as they come", false: "projected"}[whole]
			var rates, ceilings, cpus, cpusBare []float64
			for i := range *repeat {
				topic := fmt.Sprintf("bench-%d-%d", time.Now().UnixMilli(), i)
				rate, cpu, err := b.runInto(url, topic, o.pages*1000, whole)
				if err != nil {
					return fmt.Errorf("%s: %w", o.name, err)
				}
				bare, bareCPU, err := b.bareInto(o.name, url, topic+"-bare", o.pages, whole)
				if err != nil {
					return fmt.Errorf("%s: the client alone: %w", o.name, err)
				}
				rates, cpus = append(rates, rate), append(cpus, cpu)
				ceilings, cpusBare = append(ceilings, bare), append(cpusBare, bareCPU)
			}
			rate, ceiling := median(rates), median(ceilings)
			fmt.Printf("| %s | %s | %.0f | %.1f µs | %.0f | %.1f µs | %.2f | %s |\n", o.name, shape, rate, median(cpus), ceiling, median(cpusBare), rate/ceiling, o.bare)
		}
	}
	return nil
}

// runInto is one `ferry run` into the queue: records/s and µs of CPU a record.
func (b *bench) runInto(url, topic string, count int, whole bool) (rate, cpu float64, err error) {
	m, api, err := b.mock()
	if err != nil {
		return 0, 0, err
	}
	defer m.stop() //nolint:errcheck // its figures are not wanted
	config := "queue: " + fmt.Sprintf("%q", url) + strings.NewReplacer("API", api, "COUNT", fmt.Sprint(count)).Replace(runConfig) + "    topic: " + topic + "\n"
	if !whole {
		config += runMap
	}
	dir, err := b.newFolder(config)
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir) // in the folder that is removed at the end
	p, err := start(dir, b.ferry, "run", "orders", "--json")
	if err != nil {
		return 0, 0, err
	}
	var line runLine
	if err := p.firstLine(&line); err != nil {
		return 0, 0, err
	}
	used, _, err := p.wait()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", line.Reason, err)
	}
	if line.Published != int64(count) {
		return 0, 0, fmt.Errorf("run published %d of %d: %s %s", line.Published, count, line.Status, line.Reason)
	}
	return float64(count) / line.Seconds, used.Seconds() * 1e6 / float64(count), nil
}

// bareInto is the same records by the client library alone.
func (b *bench) bareInto(name, url, topic string, pages int, whole bool) (rate, cpu float64, err error) {
	p, err := start(b.dir, b.self, "-serve", "bare", "-queue", name, "-target", url, "-folder", topic, "-pages", fmt.Sprint(pages), fmt.Sprintf("-whole=%t", whole))
	if err != nil {
		return 0, 0, err
	}
	var made struct{ Seconds float64 }
	if err := p.firstLine(&made); err != nil {
		return 0, 0, err
	}
	used, _, err := p.wait()
	if err != nil {
		return 0, 0, err
	}
	count := float64(pages * 1000)
	return count / made.Seconds, used.Seconds() * 1e6 / count, nil
}
