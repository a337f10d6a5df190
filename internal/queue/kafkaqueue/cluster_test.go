package kafkaqueue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// TestZombie: a writer stands still in the middle of its commit, all records sent. Another takes over and commits the
// same records. When the first wakes up it is told that it is fenced, and nothing of its commit is to be seen, by this
// adapter or by another program.
func TestZombie(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		other, topic := open(t, c), topicName(t)
		asleep, wake := make(chan struct{}), make(chan struct{})
		commits := 0
		c.beforeEnd = func() {
			if commits++; commits == 3 { // after the claim and the first commit
				close(asleep)
				<-wake
			}
		}
		q := open(t, c)
		old := writerOf(t, q, "p", topic)
		if err := old.Commit(t.Context(), queue.Batch{Records: records("p", 0, 10)}, record.Cursor("a")); err != nil {
			t.Fatal(err)
		}
		zombie := make(chan error, 1)
		go func() {
			zombie <- old.Commit(t.Context(), queue.Batch{Records: records("p", 10, 10)}, record.Cursor("b"))
		}()
		<-asleep
		young := writerOf(t, other, "p", topic)
		if string(young.Cursor()) != "a" {
			t.Fatalf("the next writer begins at %q, want a", young.Cursor())
		}
		if err := young.Commit(t.Context(), queue.Batch{Records: records("p", 10, 10)}, record.Cursor("b")); err != nil {
			t.Fatal(err)
		}
		close(wake)
		if err := <-zombie; !errors.Is(err, queue.ErrFenced) {
			t.Fatalf("the zombie's commit: %v, want ErrFenced", err)
		}
		for range 2 {
			if err := old.Commit(t.Context(), queue.Batch{Records: records("p", 10, 10)}, record.Cursor("b")); !errors.Is(err, queue.ErrFenced) {
				t.Fatalf("commit of the zombie: %v, want ErrFenced", err)
			}
		}
		if err := young.Commit(t.Context(), queue.Batch{Records: records("p", 20, 1)}, record.Cursor("c")); err != nil {
			t.Fatalf("the zombie has disturbed its successor: %v", err)
		}
		want := records("p", 0, 21)
		holds(t, q, topic, want)
		if got := kcat(t, c.Brokers[0], topic, "read_committed"); got != nil && strings.Join(got, " ") != ids(want) {
			t.Fatalf("kcat reads\n%s, want\n%s", strings.Join(got, " "), ids(want))
		}
		if got := kcat(t, c.Brokers[0], topic, "read_uncommitted"); got != nil && len(got) != 31 {
			t.Fatalf("kcat reads %d records that were committed or not, want 31: the zombie's were sent", len(got))
		}
	})
}

func ids(all []record.Record) string {
	var b []string
	for i := range all {
		b = append(b, all[i].ID)
	}
	return strings.Join(b, " ")
}

// kcat reads a topic with another client, and gives the ids; nil where it is not installed.
func kcat(t *testing.T, broker, topic, isolation string) []string {
	t.Helper()
	if _, err := exec.LookPath("kcat"); err != nil {
		t.Log("kcat is not installed; scripts/debian kcat installs it")
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "kcat", "-C", "-q", "-J", "-e", "-o", "beginning", "-b", broker, "-t", topic, "-X", "isolation.level="+isolation).Output()
	if err != nil {
		t.Fatalf("kcat: %v", err)
	}
	got := []string{}
	for line := range bytes.Lines(out) {
		var m struct {
			Headers []string `json:"headers"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("kcat: %v in %s", err, line)
		}
		for i := 0; i+1 < len(m.Headers); i += 2 {
			if m.Headers[i] == record.HeaderID {
				got = append(got, m.Headers[i+1])
			}
		}
	}
	return got
}

// TestBrokerRestart: the broker is killed again and again under writers and publishers. Commits are there once, what
// was published at least once, and nothing is lost.
func TestBrokerRestart(t *testing.T) {
	c := realConfig(t)
	underFire(t, c, 1, func(int) { restart(t)(t) })
}

// TestFailover: of three brokers one is killed under load and comes back, in turn.
func TestFailover(t *testing.T) {
	c := parse(t, environment(t, "FERRY_TEST_KAFKA3"))
	underFire(t, c, 2, func(round int) {
		node := fmt.Sprintf("kafka3-%d", round%3+1)
		brokers(t, "kill", node)
		<-time.After(2 * time.Second) // the others go on without it
		brokers(t, "start", node)
	})
}

// TestTooFewReplicas: with one of three brokers gone a topic that needs all of them confirms nothing, the queue says
// why, keeps nothing, and goes on by itself once the broker is back.
func TestTooFewReplicas(t *testing.T) {
	c := parse(t, environment(t, "FERRY_TEST_KAFKA3"))
	c.Replication, c.MinInSync, c.Timeout = 3, 3, 3*time.Second
	c.Prefix = "t" + strings.ToLower(token()) // a cursor topic of its own, which needs all three as well
	q, topic := open(t, c), topicName(t)
	w := writerOf(t, q, "p", topic)
	if err := q.Publish(t.Context(), topic, records("p", 0, 1)); err != nil {
		t.Fatal(err)
	}
	brokers(t, "kill", "kafka3-3")
	want := "of its 3 replicas in sync and needs 3 (min.insync.replicas)"
	for end := time.Now().Add(30 * time.Second); ; {
		if err := q.Ping(t.Context()); errors.Is(err, queue.ErrUnavailable) && strings.Contains(err.Error(), want) {
			break
		} else if time.Now().After(end) {
			t.Fatalf("ping with two of three brokers: %v", err)
		}
		<-time.After(50 * time.Millisecond)
	}
	for what, err := range map[string]error{
		"publish": q.Publish(t.Context(), topic, records("unknown", 0, 10)),
		"commit":  w.Commit(t.Context(), queue.Batch{Records: records("p", 11, 10)}, record.Cursor("a")),
	} {
		if !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s with two of three brokers: %v, want %q", what, err, want)
		}
	}
	nothingKept(t, q)
	brokers(t, "start", "kafka3-3")
	if err := eventually(t, func() error { return q.Ping(t.Context()) }); err != nil {
		t.Fatal(err)
	}
	if err := eventually(t, func() error {
		return w.Commit(t.Context(), queue.Batch{Records: records("p", 1, 10)}, record.Cursor("a"))
	}); err != nil {
		t.Fatal(err)
	}
	// A broker that notices only after it has appended that replicas are missing says so: the outcome of the publish is
	// unknown, and nobody has asked again. What was committed is there once.
	got, err := q.Browse(t.Context(), topic, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	unknown := make(map[string]bool)
	for _, r := range records("unknown", 0, 10) {
		unknown[r.ID] = true
	}
	got = slices.DeleteFunc(got, func(s queue.Stored) bool {
		mine := unknown[s.ID]
		delete(unknown, s.ID) // once, not twice
		return mine
	})
	confirmed := records("p", 0, 11)
	if !slices.EqualFunc(got, confirmed, func(s queue.Stored, r record.Record) bool { return s.ID == r.ID }) {
		t.Fatalf("%s holds %d records that were not of the publish, want the 11 confirmed ones in order", topic, len(got))
	}
}

// underFire commits and publishes while strike does what it does, and then counts.
func underFire(t *testing.T, c Config, rounds int, strike func(round int)) {
	q, topic := open(t, c), topicName(t)
	published := topic + "-published"
	w := writerOf(t, q, "p", topic)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var committed, confirmed int
	var failures atomic.Int32
	var errs [2]error
	wg.Go(func() {
		for ; ; committed += 7 {
			select {
			case <-stop:
				return
			default:
			}
			batch := queue.Batch{Records: records("p", committed, 7)}
			for end := time.Now().Add(3 * time.Minute); ; {
				err := w.Commit(t.Context(), batch, record.Cursor(fmt.Sprint(committed+7)))
				if err == nil {
					break
				}
				failures.Add(1)
				if !errors.Is(err, queue.ErrUnavailable) || time.Now().After(end) {
					errs[0] = fmt.Errorf("commit: %w", err)
					return
				}
			}
		}
	})
	wg.Go(func() {
		for ; ; confirmed++ {
			select {
			case <-stop:
				return
			default:
			}
			for end := time.Now().Add(3 * time.Minute); ; {
				err := q.Publish(t.Context(), published, records("p", confirmed, 1))
				if err == nil {
					break
				}
				failures.Add(1)
				if !errors.Is(err, queue.ErrUnavailable) || time.Now().After(end) {
					errs[1] = fmt.Errorf("publish: %w", err)
					return
				}
			}
		}
	})
	for round := range rounds {
		<-time.After(time.Second) // under load
		strike(round)
	}
	close(stop)
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	sound := open(t, c)
	if got, err := sound.Cursor(t.Context(), "p", topic); err != nil || string(got) != fmt.Sprint(committed) {
		t.Fatalf("cursor %q, %v, want %d", got, err, committed)
	}
	holds(t, sound, topic, records("p", 0, committed))
	next, doubled := 0, 0
	for from := int64(0); ; {
		got, err := sound.Browse(t.Context(), published, from, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			break
		}
		for i := range got {
			switch want := records("p", next, 1)[0].ID; {
			case got[i].ID == want:
				next++
			case next > 0 && got[i].ID == records("p", next-1, 1)[0].ID:
				doubled++
			default:
				t.Fatalf("record %s where number %d should be", got[i].Data, next)
			}
		}
		from = got[len(got)-1].Position + 1
	}
	if next != confirmed {
		t.Fatalf("%d records published, %d confirmed", next, confirmed)
	}
	t.Logf("%d records committed, each once; %d published, %d of them twice; %d calls failed meanwhile", committed, confirmed, doubled, failures.Load())
}
