package queuetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
)

func commitWritesAll(s *suite) {
	q, topic := s.open(), name("commit")
	w := s.writer(q, "p", topic)
	if len(w.Cursor()) != 0 {
		s.Fatalf("cursor of a new pipeline is %q", w.Cursor())
	}
	want, dead := recs(topic, 0, 30), recs("dead", 0, 3)
	s.must(w.Commit(s.ctx(), queue.Batch{Records: want[:20], Dead: dead[:2]}, record.Cursor("one")))
	if string(w.Cursor()) != "one" {
		s.Fatalf("the writer's cursor is %q after the commit of one", w.Cursor())
	}
	s.must(w.Commit(s.ctx(), queue.Batch{Records: want[20:]}, record.Cursor("two")))
	s.must(w.Commit(s.ctx(), queue.Batch{Dead: dead[2:]}, record.Cursor("three")))
	other := s.open()
	s.wantCursor(other, "p", topic, "three")
	s.must(w.Close(s.ctx()))
	if got := s.writer(other, "p", topic).Cursor(); string(got) != "three" {
		s.Fatalf("the next writer begins at %q, want three", got)
	}
	s.holds(other, queue.DeadTopic(topic), dead)
	s.holds(other, topic, want)
}

func emptyCommit(s *suite) {
	q, topic := s.open(), name("empty")
	w := s.writer(q, "p", topic)
	for _, c := range []string{"a", "b", "", "c"} {
		s.must(w.Commit(s.ctx(), queue.Batch{}, record.Cursor(c)))
		if string(w.Cursor()) != c {
			s.Fatalf("the writer's cursor is %q, want %q", w.Cursor(), c)
		}
		s.wantCursor(q, "p", topic, c)
	}
	s.count(q, topic, 0)
	s.count(q, queue.DeadTopic(topic), 0)
}

func cursorBytes(s *suite) {
	q, topic := s.open(), name("bytes")
	w := s.writer(q, "p", topic)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, c := range []string{string(all), "\n\n", strings.Repeat("z", 100_000)} {
		s.must(w.Commit(s.ctx(), queue.Batch{}, record.Cursor(c)))
		s.wantCursor(q, "p", topic, c)
		w = s.writer(q, "p", topic)
		if string(w.Cursor()) != c {
			s.Fatalf("the next writer begins at %.100q, want %.100q", w.Cursor(), c)
		}
	}
}

func commitsInOrder(s *suite) {
	q, topic := s.open(), name("order")
	w := s.writer(q, "p", topic)
	var want []record.Record
	for i := range 20 {
		batch := recs(topic, len(want), 1+i*7%40)
		want = append(want, batch...)
		s.must(w.Commit(s.ctx(), queue.Batch{Records: batch}, record.Cursor(fmt.Sprint(i))))
	}
	s.wantCursor(q, "p", topic, "19")
	s.holds(q, topic, want)
}

func fencing(s *suite) {
	q, other, topic := s.open(), s.open(), name("fence")
	old := s.writer(q, "p", topic)
	want := recs(topic, 0, 20)
	s.must(old.Commit(s.ctx(), queue.Batch{Records: want[:10]}, record.Cursor("one")))

	young := s.writer(other, "p", topic) // the claim alone fences
	if string(young.Cursor()) != "one" {
		s.Fatalf("the later writer begins at %q, want one", young.Cursor())
	}
	zombie := queue.Batch{Records: recs("zombie", 0, 12), Dead: recs("zombie", 12, 1)}
	for range 2 {
		s.wantErr(old.Commit(s.ctx(), zombie, record.Cursor("zombie")), queue.ErrFenced, "commit of the fenced writer")
	}
	s.wantErr(old.Commit(s.ctx(), queue.Batch{}, record.Cursor("zombie")), queue.ErrFenced, "empty commit of the fenced writer")
	s.wantCursor(q, "p", topic, "one")
	s.count(q, topic, 10)
	s.count(q, queue.DeadTopic(topic), 0)

	s.must(young.Commit(s.ctx(), queue.Batch{Records: want[10:]}, record.Cursor("two")))
	s.wantErr(old.Commit(s.ctx(), zombie, record.Cursor("zombie")), queue.ErrFenced, "commit of the fenced writer")
	s.wantCursor(other, "p", topic, "two")
	s.holds(q, topic, want)
}

// commit tries a commit again while the broker is unavailable, as the engine does: the outcome is unknown then.
func (s *suite) commit(w queue.Writer, b queue.Batch, next record.Cursor) error {
	for end := time.Now().Add(20 * time.Second); ; pause(20 * time.Millisecond) {
		err := w.Commit(s.ctx(), b, next)
		if !errors.Is(err, queue.ErrUnavailable) || time.Now().After(end) {
			return err
		}
	}
}

// zombies lets writers of one pipeline take over from each other all the time: what is committed is one chain, each
// commit beginning where the one before ended.
func zombies(s *suite) {
	a, b, topic := s.open(), s.open(), name("zombies")
	var mu sync.Mutex
	committed := map[string]bool{}
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for g := range errs {
		q := []queue.Queue{a, b}[g%2]
		wg.Go(func() {
			for range 6 {
				w, err := q.OpenWriter(s.ctx(), "p", topic)
				if err != nil {
					errs[g] = err
					return
				}
				for range 4 {
					from := len(w.Cursor()) // the cursor counts the records by its length
					err := s.commit(w, queue.Batch{Records: recs(topic, from, 3)}, record.Cursor(strings.Repeat("x", from+3)))
					if errors.Is(err, queue.ErrFenced) {
						break
					}
					if err != nil {
						errs[g] = err
						return
					}
					mu.Lock()
					committed[fmt.Sprint(from)] = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	s.must(errors.Join(errs...))
	c, err := a.Cursor(s.ctx(), "p", topic)
	s.must(err)
	if len(c) != 3*len(committed) || len(c) == 0 {
		s.Fatalf("the cursor stands at %d after %d commits of 3 records", len(c), len(committed))
	}
	if s.exactlyOnce(a) {
		s.holds(a, topic, recs(topic, 0, len(c)))
	}
}

func severalPipelines(s *suite) {
	q, topic := s.open(), name("several")
	w1, w2 := s.writer(q, "p1", topic), s.writer(q, "p2", topic)
	want := recs(topic, 0, 12)
	for i := range 4 {
		s.must(w1.Commit(s.ctx(), queue.Batch{Records: want[3*i : 3*i+2]}, record.Cursor(fmt.Sprint("a", i))))
		s.must(w2.Commit(s.ctx(), queue.Batch{Records: want[3*i+2 : 3*i+3]}, record.Cursor(fmt.Sprint("b", i))))
	}
	s.wantCursor(q, "p1", topic, "a3")
	s.wantCursor(q, "p2", topic, "b3")
	s.wantCursor(q, "p3", topic, "")
	elsewhere := name("elsewhere")
	s.must(s.writer(q, "p1", elsewhere).Commit(s.ctx(), queue.Batch{}, record.Cursor("far")))
	s.wantCursor(q, "p1", topic, "a3")
	s.must(w1.Commit(s.ctx(), queue.Batch{}, record.Cursor("a4"))) // not fenced by p1 of another topic
	s.holds(q, topic, want)
}

func oversizeCommit(s *suite) {
	q, topic := s.open(), name("refused")
	large := s.oversized(q)
	w := s.writer(q, "p", topic)
	good := recs(topic, 0, 12)
	s.must(w.Commit(s.ctx(), queue.Batch{Records: good[:1]}, record.Cursor("one")))
	batch := queue.Batch{Records: []record.Record{good[1], large, good[2]}, Dead: []record.Record{good[3], large}}
	s.wantTooLarge(w.Commit(s.ctx(), batch, record.Cursor("two")), 5, 1, 4)
	s.wantCursor(q, "p", topic, "one")
	if string(w.Cursor()) != "one" {
		s.Fatalf("the writer's cursor is %q after a refused commit, want one", w.Cursor())
	}
	s.count(q, topic, 1)
	s.count(q, queue.DeadTopic(topic), 0)
	// The caller takes them out and goes on.
	s.must(w.Commit(s.ctx(), queue.Batch{Records: good[1:3], Dead: good[3:4]}, record.Cursor("two")))
	s.holds(q, queue.DeadTopic(topic), good[3:4])
	s.holds(q, topic, good[:3])
}

func commitOverLimit(s *suite) {
	q, topic := s.open(), name("over")
	limit := q.Info().Limits.CommitRecords
	if limit == 0 || limit > 20_000 {
		s.Skip("no limit worth testing")
	}
	w := s.writer(q, "p", topic)
	if err := w.Commit(s.ctx(), queue.Batch{Records: recs(topic, 0, limit+1)}, record.Cursor("x")); err == nil || errors.Is(err, queue.ErrFenced) {
		s.Fatalf("a commit of %d records, over the limit of %d, gave %v", limit+1, limit, err)
	}
	s.wantCursor(q, "p", topic, "")
	s.count(q, topic, 0)
	s.must(w.Commit(s.ctx(), queue.Batch{Records: recs(topic, 0, 2)}, record.Cursor("y")))
	s.count(q, topic, 2)
}

func largestCommit(s *suite) {
	q, topic := s.open(), name("largest")
	l := q.Info().Limits
	n := min(l.CommitRecords, 10_000)
	if n == 0 {
		n = 2000
	}
	w := s.writer(q, "p", topic)
	want := recs(topic, 0, n)
	s.must(w.Commit(s.ctx(), queue.Batch{Records: want[:n-1], Dead: want[n-1:]}, record.Cursor("one")))
	if l.CommitBytes > 0 && l.CommitBytes <= 64<<20 {
		// As many bytes as a commit may hold.
		size := min(l.RecordBytes, l.CommitBytes/8) / 2
		if size == 0 {
			size = l.CommitBytes / 8
		}
		var batch []record.Record
		for bytes := 0; ; {
			r := rec(topic, n+len(batch))
			r.Data = []byte(`"` + strings.Repeat("b", size) + `"`)
			if bytes += r.Size(); bytes > l.CommitBytes || len(batch) == l.CommitRecords {
				break
			}
			batch = append(batch, r)
		}
		s.must(w.Commit(s.ctx(), queue.Batch{Records: batch}, record.Cursor("two")))
		want = append(want[:n-1:n-1], batch...)
	} else {
		want = want[:n-1]
	}
	s.holds(q, topic, want)
}

// interruptedCommit gives up on commits at every moment and repeats them: each is there once.
func interruptedCommit(s *suite) {
	q, topic := s.open(), name("interrupted")
	w := s.writer(q, "p", topic)
	var want []record.Record
	for i := range 40 {
		batch := queue.Batch{Records: recs(topic, len(want), 1+i%12)}
		want = append(want, batch.Records...)
		next := record.Cursor(fmt.Sprint(i))
		short, cancel := context.WithTimeout(s.ctx(), time.Duration(i*i)*4*time.Microsecond)
		err := w.Commit(short, batch, next)
		cancel()
		if errors.Is(err, queue.ErrFenced) {
			s.Fatalf("commit %d: the writer was fenced by itself: %v", i, err)
		}
		if err != nil {
			s.must(w.Commit(s.ctx(), batch, next))
		}
		if string(w.Cursor()) != string(next) {
			s.Fatalf("the writer's cursor is %q, want %q", w.Cursor(), next)
		}
	}
	s.wantCursor(q, "p", topic, "39")
	if s.exactlyOnce(q) {
		s.holds(q, topic, want)
	}
}
