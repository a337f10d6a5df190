//go:build !windows

package crash

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// outside is a broker of its own process, which stays while ferry is killed, and a client that is not ferry's, to read
// back with.
type outside struct {
	url  string // what goes into queue:
	read func(t *testing.T, url, topic string) []stored
	// doubles: a kill may double records, with the same id (tier "at least once").
	doubles bool
	// few: the broker of the tests is too slow for all the orders; the users are a tenth of them.
	few bool
}

func brokerURL(t *testing.T, variable, name string) string {
	t.Helper()
	u := os.Getenv(variable)
	if u == "" {
		t.Skipf(`%s is not set: scripts/brokers up %s; eval "$(scripts/brokers env)"`, variable, name)
	}
	return u
}

func kafka(t *testing.T) outside {
	return outside{url: brokerURL(t, "FERRY_TEST_KAFKA", "kafka"), read: readKafka}
}

func redis(t *testing.T) outside {
	return outside{url: brokerURL(t, "FERRY_TEST_REDIS", "redis"), read: readRedis}
}

func nats(t *testing.T) outside {
	return outside{url: brokerURL(t, "FERRY_TEST_NATS", "nats"), read: python(t, "read_nats.py")}
}

func rabbitMQ(t *testing.T) outside {
	return outside{url: brokerURL(t, "FERRY_TEST_RABBITMQ", "rabbitmq"), read: python(t, "read_rabbitmq.py"), doubles: true}
}

func rabbitMQStream(t *testing.T) outside {
	return outside{url: brokerURL(t, "FERRY_TEST_RABBITMQ_STREAM", "rabbitmq"), read: python(t, "read_rabbitmq.py")}
}

func sqsFIFO(t *testing.T) outside {
	return outside{url: brokerURL(t, "FERRY_TEST_SQS", "sqs") + "&fifo=true", read: python(t, "read_sqs.py"), few: true}
}

// TestRunKilledKafka and its like kill a run into a broker, -rounds times at each point. What is in the broker then is
// what the API has, in its order: once, or, where the broker knows no better, at least once.
func TestRunKilledKafka(t *testing.T)          { killRuns(t, kafka(t)) }
func TestRunKilledRedis(t *testing.T)          { killRuns(t, redis(t)) }
func TestRunKilledNATS(t *testing.T)           { killRuns(t, nats(t)) }
func TestRunKilledRabbitMQ(t *testing.T)       { killRuns(t, rabbitMQ(t)) }
func TestRunKilledRabbitMQStream(t *testing.T) { killRuns(t, rabbitMQStream(t)) }
func TestRunKilledSQS(t *testing.T)            { killRuns(t, sqsFIFO(t)) }

func killRuns(t *testing.T, o outside) {
	t.Parallel() // each has a broker of its own, and each point a topic
	for _, point := range []string{"fetched", "committing", "committed", "random"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			kills, pulls, doubled := 0, 0, 0
			dir, _ := o.folder(t, "")
			within := timeOf(t, point, dir)
			for kills < *rounds {
				dir, topic := o.folder(t, "")
				begin, before := time.Now(), kills
				for kills < *rounds && pullOnce(t, dir, point, within) {
					kills++
				}
				if kills == before { // the whole pull was over before its moment came, so it takes less by now
					within = time.Since(begin)
				}
				if pullOnce(t, dir, "", 0) {
					t.Fatal("killed although nobody did")
				}
				doubled += o.verify(t, dir, topic)
				pulls++
			}
			set, n := o.set()
			t.Logf("%d kills over %d pulls of %d %s: none missing, %d doubled, order kept", kills, pulls, n, set, doubled)
		})
	}
}

// TestZombieKafka is TestZombie where the broker's transactions are the fence.
func TestZombieKafka(t *testing.T) { outlive(t, kafka(t)) }

// TestZombieRedis is TestZombie where a script of the broker is the fence.
func TestZombieRedis(t *testing.T) { outlive(t, redis(t)) }

func outlive(t *testing.T, o outside) {
	slow, topic := o.folder(t, "10/s")
	heir := newFolder(t, o.config(topic, ""))
	zombieAndHeir(t, slow, heir)
	if doubled := o.verify(t, heir, topic); doubled > 0 {
		t.Errorf("%d records are doubled", doubled)
	}
}

// folder makes a data folder for a pull into a topic that nobody has used.
func (o outside) folder(t *testing.T, rate string) (dir, topic string) {
	t.Helper()
	topic = fmt.Sprintf("crash-%08x", rand.Uint32())
	return newFolder(t, o.config(topic, rate)), topic
}

func (o outside) config(topic, rate string) string {
	config := fmt.Sprintf("queue: %q\n", o.url) + ordersConfig + "    topic: " + topic + "\n"
	if o.few {
		config = strings.NewReplacer("/v1/orders", "/v1/users", "records: 250", "records: 30").Replace(config)
	}
	if rate != "" {
		config = strings.Replace(config, "key: .id", "key: .id\n      rate: "+rate, 1)
	}
	return config
}

// set is what is pulled, and how much of it there is.
func (o outside) set() (name string, n int) {
	if o.few {
		return "users", orders / 10
	}
	return "orders", orders
}

// verify compares the topic with what the simulated API has, and tells how many records are there more than once. A
// further pull has nothing new.
func (o outside) verify(t *testing.T, dir, topic string) (doubled int) {
	t.Helper()
	var firsts []stored
	seen := make(map[string]bool, orders)
	for _, r := range o.read(t, o.url, topic) {
		if seen[r.ID] {
			doubled++
			continue
		}
		seen[r.ID] = true
		firsts = append(firsts, r)
	}
	if doubled > 0 && !o.doubles {
		t.Fatalf("%d records are there twice", doubled)
	}
	set, n := o.set()
	sameAsAPI(t, firsts, set, n)
	nothingNew(t, dir)
	return doubled
}

// readKafka reads what is committed with kcat.
func readKafka(t *testing.T, url, topic string) []stored {
	t.Helper()
	out := client(t, "kcat", "-C", "-b", hosts(url), "-t", topic, "-o", "beginning", "-e", "-q", "-J",
		"-X", "isolation.level=read_committed")
	type message struct {
		Payload string
		Headers []string // name, value, name, value
	}
	var all []stored
	for _, m := range values[message](t, out) {
		r := stored{Data: json.RawMessage(m.Payload)}
		for i := 0; i+1 < len(m.Headers); i += 2 {
			if m.Headers[i] == "ferry-id" {
				r.ID = m.Headers[i+1]
			}
		}
		all = append(all, r)
	}
	return all
}

// readRedis reads the stream with redis-cli.
func readRedis(t *testing.T, url, topic string) []stored {
	t.Helper()
	host, port, _ := strings.Cut(hosts(url), ":")
	var entries [][2]json.RawMessage // id and fields
	if err := json.Unmarshal(client(t, "redis-cli", "-h", host, "-p", port, "--json", "XRANGE", topic, "-", "+"), &entries); err != nil {
		t.Fatalf("redis-cli: %v", err)
	}
	all := make([]stored, len(entries))
	for i, entry := range entries {
		var fields []string
		if err := json.Unmarshal(entry[1], &fields); err != nil {
			t.Fatalf("redis-cli: entry %s: %v", entry[0], err)
		}
		for k := 0; k+1 < len(fields); k += 2 {
			switch fields[k] {
			case "ferry-id":
				all[i].ID = fields[k+1]
			case "data":
				all[i].Data = json.RawMessage(fields[k+1])
			}
		}
	}
	return all
}

// python reads with a script of test/interop.
func python(t *testing.T, script string) func(t *testing.T, url, topic string) []stored {
	t.Helper()
	interpreter := os.Getenv("FERRY_TEST_PYTHON")
	if interpreter == "" {
		t.Skip(`FERRY_TEST_PYTHON is not set: scripts/brokers clients; eval "$(scripts/brokers env)"`)
	}
	return func(t *testing.T, url, topic string) []stored {
		t.Helper()
		var all []stored
		for _, line := range values[struct{ ID, Data string }](t, client(t, interpreter, "-B", "../interop/"+script, url, topic)) {
			all = append(all, stored{ID: line.ID, Data: json.RawMessage(line.Data)})
		}
		return all
	}
}

// client runs a program and gives what it wrote to stdout.
func client(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: scripts/brokers clients", name)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.WaitDelay = time.Second
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, args, err, &talk)
	}
	return out
}

// values decodes JSON values, one after the other.
func values[T any](t *testing.T, out []byte) []T {
	t.Helper()
	var all []T
	for in := json.NewDecoder(bytes.NewReader(out)); ; {
		var v T
		if err := in.Decode(&v); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("value %d: %v", len(all)+1, err)
		}
		all = append(all, v)
	}
}

// hosts of a queue URL without a login.
func hosts(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	rest, _, _ = strings.Cut(rest, "?")
	return rest
}
