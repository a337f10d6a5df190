package servicebusqueue

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/queue/servicebusqueue/servicebustest"
	"ferry/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a namespace of the test's own.
func serve(t testing.TB, o servicebustest.Options) *servicebustest.Server {
	t.Helper()
	s, err := servicebustest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func parse(t testing.TB, u string) Config {
	t.Helper()
	c, err := ParseURL(config.URL(u))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t testing.TB, c Config) *Queue {
	t.Helper()
	q, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return q
}

// within bounds what a test waits for.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func rec(id string) record.Record { return record.Record{ID: id, Data: []byte(`"` + id + `"`)} }

func recs(ids ...string) []record.Record {
	var all []record.Record
	for _, id := range ids {
		all = append(all, rec(id))
	}
	return all
}

const redelivery = 400 * time.Millisecond

// lacks is what Service Bus cannot do by its nature.
var lacks = queuetest.Lacks{
	Kept:  true,
	Stats: true, // where a queue ends cannot be asked for
}

func conformance(t *testing.T, s *servicebustest.Server, c Config, lacks queuetest.Lacks) {
	c.Create, c.Redelivery, c.patience = true, redelivery, 100*time.Millisecond
	soon := redelivery
	if c.Session != byNone && c.Session != "" {
		// The lock is the session's, so that it runs on while another record of it is received: see TestSessionLock.
		c.Redelivery, soon = 30*time.Second, 0
	}
	store := queuetest.NewCursors()
	h := queuetest.Harness{
		Open:       func(t testing.TB) queue.Queue { return queue.WithCursors(open(t, c), store) },
		Redelivery: soon,
		Lacks:      lacks,
	}
	if s != nil {
		h.Restart = func(t testing.TB) {
			s.Stop()
			if err := s.Resume(); err != nil {
				t.Fatal(err)
			}
		}
	}
	queuetest.Run(t, h)
}

func TestConformance(t *testing.T) {
	t.Parallel() // it mostly waits
	s := serve(t, servicebustest.Options{})
	conformance(t, s, parse(t, s.ConnectionString()), lacks)
}

// TestPremium: the same with the premium tier's larger messages.
func TestPremium(t *testing.T) {
	t.Parallel() // it mostly waits
	s := serve(t, servicebustest.Options{Tier: "Premium", MaxMessage: 1 << 20})
	conformance(t, s, parse(t, s.ConnectionString()), lacks)
}

func TestSessions(t *testing.T) {
	t.Parallel() // it mostly waits
	lacks := lacks
	lacks.Browse = true // only session by session
	lacks.Order = true  // between two receives the SDK hands back what comes, and that comes again behind what came after it
	lacks.Travel = true // the lock is the session's, and so the link's
	s := serve(t, servicebustest.Options{})
	conformance(t, s, parse(t, s.ConnectionString()+"?session=pipeline"), lacks)
}

// TestOutside is the suite against a server outside of this process.
func TestOutside(t *testing.T) {
	u := os.Getenv("FERRY_TEST_SERVICEBUS")
	if u == "" {
		t.Skip(`FERRY_TEST_SERVICEBUS is not set: start the server with scripts/brokers up servicebus; eval "$(scripts/brokers env)"`)
	}
	conformance(t, nil, parse(t, u), lacks)
}

// age makes a stored cursor older than it is: its first line says when it was written.
func age(c *queuetest.Cursors, key string, by time.Duration) {
	c.Edit(key, func(value []byte) []byte {
		line, rest, _ := strings.Cut(string(value), "\n")
		words := strings.Fields(line)
		millis, err := strconv.ParseInt(words[len(words)-1], 10, 64)
		if err != nil {
			panic(err)
		}
		words[len(words)-1] = strconv.FormatInt(millis-by.Milliseconds(), 10)
		return []byte(strings.Join(words, " ") + "\n" + rest)
	})
}
