package source

import (
	"bytes"
	"errors"
	"hash"
	"io"
	"unicode/utf8"

	"ferry/internal/jsonscan"
)

const (
	firstWindow = 32 << 10 // bytes to begin with when nothing is known of the body's size
	partBytes   = 1 << 20  // records of this size make a part
	partRecords = 16 << 10 // and so many, however small
)

// errShort: the body ends where more was needed.
var errShort = errors.New("the body ends in the middle of its JSON")

// span is a record within the window; start < 0 means oddities[end] of the splitter. The places of key and incremental
// field in it begin at sought[found], unless found < 0.
type span struct{ start, end, found int }

// window is the stretch of a body that is in memory. Records that have been found stay in it until they are handed over
// as a part; then the part owns the buffer, and the window goes on in a new one.
type window struct {
	src    io.Reader // nil when all of the body is here
	buf    []byte
	pos    int   // up to here buf has been read
	base   int64 // bytes of the body before buf[0]
	eof    bool
	shared bool   // a part that was handed over lies in buf
	spans  []span // records found and not handed over
	sought []jsonscan.Span
	inside bool // some of them lie in buf
	hand   func() error
	read   func(err error) error // explains an error of src
	passed int64                 // bytes that were passed over
	sum    hash.Hash             // of them
}

// fill reads n bytes more, fewer only at the end of the body, and errShort when that has been reached before. It may move
// the buffer: positions but pos, and slices, are good only until then.
func (w *window) fill(n int) error {
	if w.eof {
		return errShort
	}
	for idle := 0; n > 0 && !w.eof; {
		if len(w.buf) == cap(w.buf) {
			if err := w.room(); err != nil {
				return err
			}
		}
		m, err := w.src.Read(w.buf[len(w.buf):cap(w.buf)])
		w.buf = w.buf[:len(w.buf)+m]
		n -= m
		switch {
		case err == io.EOF:
			w.eof = true
		case err != nil:
			return w.read(err)
		case m > 0:
			idle = 0
		default:
			if idle++; idle > 100 {
				return w.read(io.ErrNoProgress)
			}
		}
	}
	return nil
}

// more reads as much again as lies behind pos, so that looking again at what is there costs no more than twice in all.
func (w *window) more() error { return w.fill(max(1, len(w.buf)-w.pos)) }

// room makes room behind buf: by handing over the records in it, by forgetting what has been read, or by growing.
func (w *window) room() error {
	size := cap(w.buf)
	if w.inside && size >= partBytes && w.hand != nil {
		if err := w.hand(); err != nil {
			return err
		}
	}
	keep := w.pos
	if w.inside {
		keep = 0
	}
	need := len(w.buf) - keep
	if !w.inside && !w.shared && keep >= size/2 && size > 0 {
		copy(w.buf, w.buf[keep:])
		w.buf = w.buf[:need]
	} else {
		grown := make([]byte, need, max(2*need, min(2*size, partBytes), firstWindow))
		copy(grown, w.buf[keep:])
		w.buf, w.shared = grown, false
	}
	w.pos -= keep
	w.base += int64(keep)
	return nil
}

// space goes to the next byte that is not white space, or to the end of the body.
func (w *window) space() error {
	for {
		if w.pos = jsonscan.SkipSpace(w.buf, w.pos); w.pos < len(w.buf) || w.eof {
			return nil
		}
		if err := w.fill(1); err != nil {
			return err
		}
	}
}

// next goes to the next byte that is not white space.
func (w *window) next() (byte, error) {
	if err := w.space(); err != nil {
		return 0, err
	}
	if w.pos == len(w.buf) {
		return 0, errShort
	}
	return w.buf[w.pos], nil
}

// kind goes to the next value and tells its kind.
func (w *window) kind() (jsonscan.Kind, error) {
	c, err := w.next()
	return jsonscan.KindOf(c), err
}

// enter, member and leave are those of jsonscan, on the body; enter is called at the bracket. What they have stepped over
// is left behind at once: white space may go on for any length (invariant 7).
func (w *window) enter() (empty bool, err error) {
	closing := w.buf[w.pos] + 2 // ']' is '[' + 2, '}' is '{' + 2
	w.pos++
	c, err := w.next()
	if empty = err == nil && c == closing; empty {
		w.pos++
	}
	return empty, err
}

func (w *window) member(limit int64) (key []byte, err error) {
	for {
		key, next, err := jsonscan.Member(w.buf, w.pos)
		if !errors.Is(err, jsonscan.ErrIncomplete) {
			if err == nil {
				w.pos = next
			}
			return key, err
		}
		if int64(len(w.buf)-w.pos) > limit {
			return nil, errTooLarge
		}
		if err := w.more(); err != nil {
			return nil, err
		}
	}
}

func (w *window) leave(closing byte) (more bool, err error) {
	next, more, err := jsonscan.Leave(w.buf, w.pos, closing)
	if err == nil {
		w.pos = next
		return more, nil
	}
	if !errors.Is(err, jsonscan.ErrIncomplete) {
		return false, err
	}
	switch c, err := w.next(); {
	case err != nil:
		return false, err
	case c != ',':
		return w.leave(closing)
	}
	w.pos++
	_, err = w.next()
	return err == nil, err
}

var errTooLarge = errors.New("too large")

// value gets the value at pos, which begins there, into the window as a whole and returns its end. Errors beside those
// of reading: errTooLarge, errShort, jsonscan.ErrDepth, *jsonscan.SyntaxError.
func (w *window) value(limit int64, depth int) (end int, err error) {
	return w.seek(limit, depth, jsonscan.Skip)
}

// seek is value by a function that goes over the value as jsonscan.Skip does. It looks at limit bytes and one more, though
// more may have arrived, and so comes to the same end however the body arrives (invariant 3): what is wrong with a value
// only behind that makes it too large.
func (w *window) seek(limit int64, depth int, over func(b []byte, i, depth int) (int, error)) (end int, err error) {
	for {
		b, beyond := w.buf, int64(len(w.buf)-w.pos) > limit
		if beyond {
			b = b[:w.pos+int(limit)+1]
		}
		end, err := over(b, w.pos, depth)
		switch {
		case err == nil && int64(end-w.pos) > limit:
			return 0, errTooLarge
		case err == nil && end == len(w.buf) && !w.eof && !isContainer(w.buf[w.pos]):
			// It may go on: 12 and 123 look the same so far.
			if err := w.fill(1); err != nil {
				return 0, err
			}
		case errors.Is(err, jsonscan.ErrIncomplete):
			if beyond {
				return 0, errTooLarge
			}
			if err := w.more(); err != nil {
				return 0, err
			}
		case err != nil && !beyond && !w.eof && cutsCharacter(err, len(b)):
			if err := w.fill(1); err != nil {
				return 0, err
			}
		default:
			return end, err
		}
	}
}

// cutsCharacter says whether the character that a syntax error tells of may go on behind end.
func cutsCharacter(err error, end int) bool {
	var syntax *jsonscan.SyntaxError
	return errors.As(err, &syntax) && syntax.Offset+utf8.UTFMax > end
}

const deepest = 10_000

// skipped notes that the n bytes at pos are passed over.
func (w *window) skipped(n int) {
	_, _ = w.sum.Write(w.buf[w.pos : w.pos+n]) // never fails
	w.pos += n
	w.passed += int64(n)
}

// pass goes over the value at pos without holding it, and so without knowing that it is valid: only that its strings end
// and hold no control characters, and its brackets fit. lines: it ends with its line at the latest, whatever is wrong with
// it, or it would take the lines behind it along.
func (w *window) pass(lines bool) error {
	v := passing{first: true, lines: lines}
	for {
		n, done, err := v.over(w.buf[w.pos:])
		w.skipped(n)
		switch {
		case err != nil && lines:
			return w.line()
		case done || err != nil:
			return err
		}
		if err := w.fill(1); err != nil {
			return err
		}
		if w.eof && w.pos == len(w.buf) && v.complete() {
			return nil
		}
	}
}

// passing is the state of passing over a value.
type passing struct {
	closing           []byte // brackets that are open
	inString, escaped bool
	first             bool
	lines             bool // no value goes over the end of a line
}

// complete says whether a number or word may end here.
func (v *passing) complete() bool { return len(v.closing) == 0 && !v.inString }

// over goes on in b, and says how far, and whether the value ends there.
func (v *passing) over(b []byte) (n int, done bool, err error) {
	for i, c := range b {
		first := v.first
		v.first = false
		switch {
		case c < ' ' && (v.inString || v.lines && c == '\n' && !v.complete()):
			return i, false, failf(KindContent, "the body is not valid JSON: in a record that is passed over, a string has a control character")
		case v.escaped:
			v.escaped = false
		case v.inString:
			v.escaped = c == '\\'
			if c == '"' {
				v.inString = false
				if v.complete() {
					return i + 1, true, nil
				}
			}
		case c == '"':
			v.inString = true
		case c == '{' || c == '[':
			if len(v.closing) == deepest {
				return i, false, failf(KindLimit, "a record is nested deeper than %d", deepest)
			}
			v.closing = append(v.closing, c+2)
		case c == '}' || c == ']':
			if len(v.closing) == 0 { // of what the value stands in
				return i, true, nil
			}
			if v.closing[len(v.closing)-1] != c {
				return i, false, failf(KindContent, "the body is not valid JSON: in a record that is passed over, brackets do not fit")
			}
			if v.closing = v.closing[:len(v.closing)-1]; v.complete() {
				return i + 1, true, nil
			}
		case len(v.closing) == 0 && !first && (c == ',' || c <= ' '):
			return i, true, nil
		}
	}
	return len(b), false, nil
}

// line goes behind the end of the present line. errShort: the body ends before it.
func (w *window) line() error {
	for {
		if n := bytes.IndexByte(w.buf[w.pos:], '\n'); n >= 0 {
			w.skipped(n + 1)
			return nil
		}
		w.skipped(len(w.buf) - w.pos)
		if err := w.fill(1); err != nil {
			return err
		}
	}
}
