package queuetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// FaultHarness tells RunFaults how to reach a queue over a network that it breaks.
type FaultHarness struct {
	// Open connects through the network; RunFaults closes the queue. Waits that are short for a test (a client's
	// timeouts of a second or two) make it quicker, and harder on the queue.
	Open func(t testing.TB, n *Network) queue.Queue
	// Direct connects to the same broker without the network, to read back.
	Direct func(t testing.TB) queue.Queue
	// Stop ends the broker in order, Kill without warning; Start returns when it can be used again, with its data, under
	// its old address. Nil Stop or Kill: not tested.
	Stop, Kill, Start func(t testing.TB)
	// Tier is what the queue promises.
	Tier queue.Tier
	// Outage is how long the broker is out of reach. Default: the environment's FERRY_TEST_OUTAGE (CI: 60s), or 3 s.
	Outage time.Duration
	// Unordered is true for a broker that promises no order, OrderByKey for one that promises it to records of one key.
	Unordered, OrderByKey bool
	// Lacks as in Harness; with Browse, records are read back by Receive and Ack.
	Lacks Lacks

	patience time.Duration // how long to try beyond the outage; default 3 min
}

// RunFaults carries records through each fault, trying again as the engine does, and reads them back: none is lost;
// none is doubled by commits of the tiers ExactlyOnce and Deduplicated, nor by publishing in the tier Deduplicated; what
// is doubled elsewhere has the same id; order is kept, as far as it is promised. The log says the counts.
func RunFaults(t *testing.T, h FaultHarness) {
	t.Run("network", func(t *testing.T) { // one group, so that it has ended when RunFaults returns
		for _, c := range networkFaults {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel() // each breaks a network of its own, and mostly waits
				runFault(t, c, h)
			})
		}
	})
	t.Run("broker", func(t *testing.T) {
		for _, c := range brokerFaults {
			t.Run(c.name, func(t *testing.T) { runFault(t, c, h) })
		}
	})
}

func runFault(t testing.TB, c faultCase, h FaultHarness) {
	if h.Outage == 0 {
		h.Outage = 3 * time.Second
		if text := os.Getenv("FERRY_TEST_OUTAGE"); text != "" {
			d, err := time.ParseDuration(text)
			if err != nil {
				t.Fatalf("FERRY_TEST_OUTAGE: %v", err)
			}
			h.Outage = d
		}
	}
	if h.patience == 0 {
		h.patience = 3 * time.Minute
	}
	n := NewNetwork(t)
	s := &suite{TB: t, h: Harness{Open: h.Direct, Lacks: h.Lacks}}
	through := &suite{TB: t, h: Harness{Open: func(t testing.TB) queue.Queue { return h.Open(t, n) }}}
	f := &faults{suite: s, h: h, net: n, name: c.name, topic: name("faults")}
	f.q = through.open()
	if tier := f.q.Info().Tier; tier != h.Tier {
		t.Fatalf("the queue's tier is %s, want %s", tier, h.Tier)
	}
	c.run(f)
}

type faultCase struct {
	name string
	run  func(f *faults)
}

var networkFaults = []faultCase{
	{"acknowledgements of commits are lost", func(f *faults) { f.carry(f.committing(), f.loseAnswers) }},
	{"acknowledgements of publishing are lost", func(f *faults) { f.carry(f.publishing(), f.loseAnswers) }},
	{"connections are reset in the middle of a commit", func(f *faults) { f.carry(f.committing(), f.reset) }},
	{"connections are reset in the middle of publishing", func(f *faults) { f.carry(f.publishing(), f.reset) }},
	{"the broker is slow", func(f *faults) { f.carry(f.committing(), f.slow) }},
	{"the broker is out of reach for a while", func(f *faults) { f.carry(f.committing(), f.once(f.outage)) }},
}

var brokerFaults = []faultCase{
	{"the broker is stopped and started", func(f *faults) { f.carry(f.committing(), f.once(f.restart(f.h.Stop))) }},
	{"the broker is killed and restarted", func(f *faults) { f.carry(f.committing(), f.once(f.restart(f.h.Kill))) }},
	{"the broker is killed and restarted while publishing", func(f *faults) { f.carry(f.publishing(), f.once(f.restart(f.h.Kill))) }},
}

const (
	faultRecords = 3000
	// faultKeys is how many keys they have: each comes often enough for its order to be seen.
	faultKeys = 50
	// disturbances is how often a fault comes that can come again.
	disturbances = 10
	// oneTry bounds one try, as the engine's commit timeout does.
	oneTry = 10 * time.Second
)

// faults is one case at work.
type faults struct {
	*suite   // of the queue that reads back
	h        FaultHarness
	net      *Network
	q        queue.Queue // through the network
	name     string
	topic    string
	commits  bool            // the case is about commits
	typical  time.Duration   // what a write takes undisturbed
	tries    int             // that failed
	measured []time.Duration // undisturbed writes
	steps    chan int        // a batch that is about to be written
}

// write makes one batch durable; it is tried again until it is.
type write func(ctx context.Context, batch []record.Record, last int) error

// committing gives a write that commits batch and cursor.
func (f *faults) committing() write {
	f.commits = true
	w := f.writer(f.q, "p", f.topic)
	return func(ctx context.Context, batch []record.Record, last int) error {
		return w.Commit(ctx, queue.Batch{Records: batch}, record.Cursor(fmt.Sprint(last)))
	}
}

// publishing gives a write that goes on behind the part that is known to be durable.
func (f *faults) publishing() write {
	at, done := 0, 0
	return func(ctx context.Context, batch []record.Record, last int) error {
		if last != at {
			at, done = last, 0
		}
		err := f.q.Publish(ctx, f.topic, batch[done:])
		var part *queue.PartError
		if errors.As(err, &part) {
			done += part.Done
		}
		return err
	}
}

// carry writes all records while disturb breaks something, reads them back and judges.
func (f *faults) carry(w write, disturb func(i int)) {
	size := 100
	if most := f.q.Info().Limits.CommitRecords; most > 0 {
		size = min(size, most)
	}
	records := make([]record.Record, faultRecords)
	for i := range records {
		records[i] = f.rec(i)
	}
	batches := slices.Collect(slices.Chunk(records, size))
	ctx, cancel := context.WithTimeout(context.Background(), f.h.patience+2*f.h.Outage)
	defer cancel()

	every := max(len(batches)/disturbances, 1)
	quiet := min(4, every) // batches before the first fault, to know how long one takes
	failure := make(chan error, 1)
	f.steps = make(chan int)
	go func() {
		defer close(f.steps)
		last := 0
		for i, batch := range batches {
			select {
			case f.steps <- i:
			case <-ctx.Done(): // it takes too long, or nobody looks on any more
				failure <- fmt.Errorf("batch %d: %w", i, context.Cause(ctx))
				return
			}
			last += len(batch)
			begin := time.Now()
			if err := f.patiently(ctx, func(ctx context.Context) error { return w(ctx, batch, last) }); err != nil {
				failure <- fmt.Errorf("batch %d: %w", i, err)
				return
			}
			if i < quiet {
				f.measured = append(f.measured, time.Since(begin))
			}
		}
		failure <- nil
	}()
	for i := range f.steps {
		if i < quiet {
			continue
		}
		f.typical = slices.Min(f.measured)
		if i%every == 0 {
			disturb(i / every)
		}
	}
	f.net.Heal()
	f.must(<-failure)
	if f.net.links.Load() == 0 {
		f.Fatal("the queue does not connect through the network")
	}
	f.judge()
}

// rec is the i-th record.
func (f *faults) rec(i int) record.Record {
	r := rec(f.topic, i)
	r.Key = fmt.Sprintf("key-%d", i%faultKeys)
	return r
}

// patiently tries again as the engine does.
func (f *faults) patiently(ctx context.Context, write func(ctx context.Context) error) error {
	policy := retry.Policy{Retries: -1, Base: 20 * time.Millisecond, Max: time.Second}
	return retry.Do(ctx, policy, func(context.Context) error {
		try, cancel := context.WithTimeout(context.WithoutCancel(ctx), oneTry)
		defer cancel()
		err := write(try)
		if err != nil {
			f.tries++
		}
		if refused := (*queue.BatchError)(nil); errors.Is(err, queue.ErrFenced) || errors.As(err, &refused) {
			return retry.Permanent(err)
		}
		return err
	})
}

// wait lets time pass: the faults come at moments of their own.
func (f *faults) wait(d time.Duration) {
	f.must(retry.Sleep(context.Background(), d))
}

// someMoment waits until a moment within the write under way, any step of its way to and fro.
func (f *faults) someMoment() { f.wait(rand.N(f.typical + f.typical/4 + 1)) }

func (f *faults) loseAnswers(int) {
	f.someMoment()
	f.net.LoseAnswers()
	f.wait(150 * time.Millisecond)
	f.net.Heal()
}

func (f *faults) reset(i int) {
	if i%2 == 0 {
		f.someMoment()
		f.net.Cut()
		return
	}
	f.net.LimitUp(1 + rand.IntN(20_000)) // of a batch of some 15 kB
	f.wait(150 * time.Millisecond)
	f.net.Heal()
}

func (f *faults) slow(i int) {
	if i == disturbances/2 {
		f.net.Slow(1200 * time.Millisecond) // longer than some wait for
		f.wait(2 * time.Second)
		f.net.Heal()
		return
	}
	f.net.Slow(40 * time.Millisecond) // until the next one
}

// once makes a fault that comes once and lasts, while the writing goes on.
func (f *faults) once(disturb func()) func(int) {
	return func(i int) {
		if i != disturbances/3 {
			return
		}
		over := make(chan struct{})
		var writing sync.WaitGroup
		writing.Go(func() {
			for {
				select {
				case <-f.steps:
					f.wait(max(f.typical, 10*time.Millisecond)) // not all before the fault is there
				case <-over:
					return
				}
			}
		})
		disturb()
		close(over)
		writing.Wait()
	}
}

func (f *faults) outage() {
	f.someMoment()
	f.net.Down()
	f.wait(f.h.Outage / 2)
	if err := f.q.Ping(f.ctx()); err == nil {
		f.Error("ping succeeds while the broker is out of reach")
	}
	f.wait(f.h.Outage / 2)
	f.net.Up()
	f.wantPing()
}

func (f *faults) restart(end func(t testing.TB)) func() {
	if end == nil {
		f.Skip("the harness cannot stop this broker (Stop and Kill are nil)")
	}
	return func() {
		f.someMoment()
		end(f.TB)
		f.h.Start(f.TB)
		f.wantPing()
	}
}

// wantPing waits until the queue has found its broker again.
func (f *faults) wantPing() {
	var err error
	for end := time.Now().Add(f.h.patience / 3); time.Now().Before(end); f.wait(50 * time.Millisecond) {
		if err = f.q.Ping(f.ctx()); err == nil {
			return
		}
	}
	f.Errorf("ping still fails long after the broker is back: %v", err)
}

// judge reads the topic back without the network, and compares.
func (f *faults) judge() {
	direct := f.open()
	if f.commits {
		f.wantCursor(direct, "p", f.topic, fmt.Sprint(faultRecords))
	}
	place := make(map[string]int, faultRecords)
	for i := range faultRecords {
		place[f.rec(i).ID] = i
	}
	var read, doubled, late int
	seen := make(map[string]bool, faultRecords)
	next := map[string]int{} // by key; all records are of one where the order of all is promised
	take := func(r record.Record) {
		read++
		i, ours := place[r.ID]
		switch {
		case !ours:
			f.Errorf("record %q was never written", r.ID)
			return
		case seen[r.ID]:
			doubled++
			return
		}
		f.same(r, f.rec(i), fmt.Sprintf("record %d", i))
		seen[r.ID] = true
		key := ""
		if f.h.OrderByKey {
			key = r.Key
		}
		if i < next[key] {
			late++
		}
		next[key] = max(next[key], i+1)
	}
	// Reading may lag behind what is confirmed, and what a broken connection had taken comes again only later.
	for end := time.Now().Add(min(40*time.Second, f.h.patience/3)); ; f.wait(50 * time.Millisecond) {
		if !f.h.Lacks.Browse {
			read, doubled, late = 0, 0, 0
			clear(seen)
			clear(next)
		}
		got := f.all(direct, f.topic)
		for _, r := range got {
			take(r)
		}
		whole := len(seen) == faultRecords && (len(got) == 0 || !f.h.Lacks.Browse)
		if whole || time.Now().After(end) {
			break
		}
	}
	lost := faultRecords - len(seen)
	f.Logf("faults: %s: read %d, lost %d, doubled %d, out of order %d; %d tries failed", f.name, read, lost, doubled, late, f.tries)
	if lost > 0 {
		f.Errorf("%d of %d records are lost", lost, faultRecords)
	}
	if allowed := f.h.Tier == queue.AtLeastOnce || f.h.Tier == queue.ExactlyOnce && !f.commits; doubled > 0 && !allowed {
		f.Errorf("%d records are doubled in a queue of the tier %s", doubled, f.h.Tier)
	}
	if late > 0 && !f.h.Unordered {
		f.Errorf("%d records came before an earlier one of their pipeline, or of their key", late)
	}
}
