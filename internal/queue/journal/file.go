package journal

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"ferry/internal/atomicfile"
	"ferry/internal/queue"
	"ferry/internal/record"
)

// A segment is one file of the journal, named by the position of its first record. Each record lies there as
//
//	length of what follows the checksum, 4 bytes | its CRC-32C, 4 bytes | position, flags, topic, id, key, headers, data
//
// with numbers as little-endian varints after the first eight bytes. The first record that does not read ends the
// segment: what comes after it was never confirmed, since records are confirmed in order, after their sync.
type segment struct {
	file  *os.File
	path  string
	size  int64
	first uint64 // position of its first record, or what that would be
	last  uint64 // position of its last record; the one before its first when it has none
}

// overhead is about what a record takes in the file beside its size.
const overhead = 32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const flagDead = 1

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x.journal", first))
}

// newSegment begins a file for the records from position first on. It is filled with zeros beforehand: overwriting
// them changes no metadata, so that a sync of the data is all that a write needs, and does not wait for what else the
// file system has to note down.
func newSegment(dir string, first uint64) (*segment, error) {
	path := segmentPath(dir, first)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < segmentBytes && err == nil; at += int64(len(zeros)) {
		_, err = f.WriteAt(zeros, at)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = atomicfile.SyncDir(dir)
	}
	if err != nil {
		// The file stays, empty: a kill may have left it here before, and then its name is all that tells the position.
		return nil, errors.Join(err, f.Truncate(0), f.Close())
	}
	return &segment{file: f, path: path, first: first, last: first - 1}, nil
}

// append writes and syncs. After an error that is not errUnsynced nothing of b is in the file.
func (s *segment) append(b []byte, last uint64) error {
	if _, err := s.file.WriteAt(b, s.size); err != nil {
		// What was written of b must not be read one day behind a record that is confirmed later.
		if cut := s.file.Truncate(s.size); cut != nil {
			return errors.Join(errUnsynced, err, cut)
		}
		return err
	}
	if err := syncData(s.file); err != nil {
		return errors.Join(errUnsynced, err)
	}
	s.size += int64(len(b))
	s.last = last
	return nil
}

// errUnsynced says that it is not known any more what the file holds.
var errUnsynced = errors.New("the journal could not be synced")

func (s *segment) close() error {
	if s == nil || s.file == nil {
		return nil
	}
	return s.file.Close()
}

// encode appends one record to b.
func encode(b []byte, it *item) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, it.position)
	flags := uint64(0)
	if it.dead {
		flags |= flagDead
	}
	b = binary.AppendUvarint(b, flags)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	r := &it.record
	text(it.topic)
	text(r.ID)
	text(r.Key)
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		text(h.Name)
		text(h.Value)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Data)))
	b = append(b, r.Data...)
	body := b[start+8:]
	binary.LittleEndian.PutUint32(b[start:], uint32(len(body)))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(body, castagnoli))
	return b
}

// decode reads what encode wrote after the checksum; ok tells that it was all of body.
func decode(body []byte) (it item, ok bool) {
	ok = true
	number := func() uint64 {
		n, w := binary.Uvarint(body)
		if w <= 0 {
			ok, body = false, nil
			return 0
		}
		body = body[w:]
		return n
	}
	bytes := func() []byte {
		n := number()
		if n > uint64(len(body)) {
			ok, body = false, nil
			return nil
		}
		v := body[:n:n]
		body = body[n:]
		return v
	}
	it.position = number()
	it.dead = number()&flagDead != 0
	it.topic, it.record.ID, it.record.Key = string(bytes()), string(bytes()), string(bytes())
	n := number()
	if n > uint64(len(body)) {
		ok, n = false, 0
	}
	for range n {
		it.record.Headers = append(it.record.Headers, record.Header{Name: string(bytes()), Value: string(bytes())})
	}
	it.record.Data = bytes()
	if !ok || len(body) > 0 {
		return item{}, false
	}
	it.size = it.record.Size() + overhead
	return it, true
}

// largest is a record's largest size in a file; what claims to be larger is torn.
const largest = 64 << 20

// readSegment hands every record of the file to f, as far as the file can be read.
func readSegment(file *os.File, f func(item)) error {
	in := bufio.NewReaderSize(file, 1<<20)
	for {
		var head [8]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return endOf(err)
		}
		n := binary.LittleEndian.Uint32(head[:])
		if n == 0 || n > largest {
			return nil
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(in, body); err != nil {
			return endOf(err)
		}
		if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return nil
		}
		it, ok := decode(body)
		if !ok {
			return nil
		}
		f(it)
	}
}

func endOf(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// recover reads the files that are there: what their topics do not have yet becomes pending. Writing goes on in a new
// file, which the first record makes.
func (q *Queue) recover(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(q.dir, "*.journal"))
	if err != nil {
		return err
	}
	slices.Sort(names) // the names are as long as each other, so this is the order of positions
	r := recovery{cursors: map[string]uint64{}}
	for _, name := range names {
		first := uint64(0)
		if _, err := fmt.Sscanf(strings.TrimSuffix(filepath.Base(name), ".journal"), "%x", &first); err != nil {
			return fmt.Errorf("%s is no file of a journal; move it away", name)
		}
		first = max(first, 1)
		s := &segment{path: name, first: first, last: first - 1}
		q.last = max(q.last, s.last)
		if err := q.readOld(ctx, s, &r); err != nil {
			return err
		}
		q.old = append(q.old, s)
	}
	if err := q.adopt(&r); err != nil {
		return err
	}
	q.recovered = q.last
	q.forget()
	return nil
}

// recovery is what reading the files has found out.
type recovery struct {
	cursors map[string]uint64 // of the topics that have records in the files
	passed  []item            // at or below their topic's cursor
}

// adopt sees to the topics whose cursor is above every position in the files, which no order of events leaves behind:
// something else than this journal has come to the disk or gone from it. Whether such a topic has the records is not
// known, and nothing may be lost, so they get new positions, above the cursor, in a file of their own. Once that is
// there, the cursor is below the last position, and tells again what is delivered.
func (q *Queue) adopt(r *recovery) error {
	top := q.last
	for _, cursor := range r.cursors {
		top = max(top, cursor)
	}
	if top == q.last {
		return nil
	}
	s := &segment{path: segmentPath(q.dir, top+1), first: top + 1}
	var b []byte
	for _, it := range r.passed {
		if r.cursors[it.topic] <= q.last {
			continue
		}
		top++
		it.position = top
		b = encode(b, &it)
		l := q.hold(it.topic, it.size)
		l.pending = append(l.pending, it)
	}
	if err := atomicfile.Write(s.path, b); err != nil {
		return err
	}
	q.last, s.last = top, top
	q.old = append(q.old, s)
	return nil
}

func (q *Queue) readOld(ctx context.Context, s *segment, r *recovery) error {
	file, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer file.Close()
	var failed error
	err = readSegment(file, func(it item) {
		done, ok := r.cursors[it.topic]
		if !ok && failed == nil {
			cursor, err := q.Queue.Cursor(ctx, q.pipeline, it.topic)
			if err != nil {
				failed = fmt.Errorf("read cursor of %s: %w", it.topic, err)
				return
			}
			done = position(cursor)
			r.cursors[it.topic] = done
		}
		s.last = max(s.last, it.position)
		q.last = max(q.last, it.position)
		if it.position <= done {
			r.passed = append(r.passed, it)
			return
		}
		l := q.hold(it.topic, it.size)
		l.pending = append(l.pending, it)
	})
	return errors.Join(err, failed)
}

// forget removes the full files of which every record is in its topic, also from among others: what a blocked topic has
// in one must not keep all that come after it. The lock is held, or nobody else is there yet.
func (q *Queue) forget() {
	newest := len(q.old) - 1
	kept := q.old[:0]
	for i, s := range q.old {
		// The newest file stays for its name, which tells where the numbering goes on, until there is another one.
		if i == newest && q.file == nil || q.needs(s) {
			kept = append(kept, s)
			continue
		}
		_ = os.Remove(s.path) // what stays is removed at the next Open
	}
	clear(q.old[len(kept):])
	q.old = kept
}

// needs tells whether a pending record lies in a file.
func (q *Queue) needs(s *segment) bool {
	for _, l := range q.lanes {
		at, _ := slices.BinarySearchFunc(l.pending, s.first, func(it item, p uint64) int { return cmp.Compare(it.position, p) })
		if at < len(l.pending) && l.pending[at].position <= s.last {
			return true
		}
	}
	return false
}

// write is the goroutine that makes calls durable: everything that waits, with one write and one sync.
func (q *Queue) write() {
	var b []byte
	for {
		select {
		case <-q.writeWork:
		case <-q.stopped.Done():
			return
		}
		q.mu.Lock()
		calls := q.waiting
		q.waiting = nil
		next, broken := q.last, q.broken
		first := next + 1
		q.writing = len(calls) > 0
		q.mu.Unlock()
		if len(calls) == 0 {
			continue
		}
		items := make([]item, 0, len(calls))
		b = b[:0]
		for _, c := range calls {
			topic, dead := base(c.topic)
			for i := range c.records {
				next++
				items = append(items, item{position: next, topic: topic, dead: dead, size: c.records[i].Size() + overhead, record: c.records[i]})
				b = encode(b, &items[len(items)-1])
			}
		}
		err := broken
		if err == nil {
			err = q.store(b, first, next)
		}
		q.mu.Lock()
		q.writing = false
		if err != nil {
			for _, c := range calls {
				topic, _ := base(c.topic)
				q.release(topic, c.size)
			}
			if errors.Is(err, errUnsynced) && q.broken == nil {
				q.broken = fmt.Errorf("%w: %w; restart ferry once the disk is well", queue.ErrUnavailable, err)
			}
			err = writeFailure(err)
		} else {
			q.last = max(q.last, next) // which may have been raised meanwhile
			for i := range items {
				l := q.lanes[items[i].topic] // made by the call
				l.pending = append(l.pending, items[i])
			}
		}
		q.changed()
		q.mu.Unlock()
		poke(q.drainWork)
		for _, c := range calls {
			c.done <- err
		}
		if cap(b) > 4<<20 {
			b = nil
		}
	}
}

// store writes to the present file, or to a new one when that is full.
func (q *Queue) store(b []byte, first, last uint64) error {
	if q.file != nil && (q.file.size == 0 || q.file.size+int64(len(b)) <= segmentBytes) {
		return q.file.append(b, last)
	}
	full := q.file // only this goroutine changes it
	s, err := newSegment(q.dir, first)
	if err != nil {
		return err
	}
	q.mu.Lock()
	q.file = s
	// A kill before a file's first record leaves it with the name that is next. It is this file now, and must not go.
	q.old = slices.DeleteFunc(q.old, func(o *segment) bool { return o.path == s.path })
	if full != nil {
		q.old = append(q.old, full)
	}
	q.forget()
	q.mu.Unlock()
	if err := full.close(); err != nil {
		return err
	}
	return s.append(b, last)
}

func writeFailure(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: write journal: %w", queue.ErrFull, err)
	}
	return fmt.Errorf("%w: write journal: %w", queue.ErrUnavailable, err)
}
