package source

import (
	"bufio"
	"compress/flate"
	"compress/zlib"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// body reads an answer's body: unpacked, counted, and under the watch. Reading past a limit is an *Error of KindLimit.
type body struct {
	wire     wire
	unpacked io.Reader // wire itself, or what unpacks it
	gzip     *gzip.Reader
	read     int64 // bytes after unpacking
	most     int64
	packed   bool
}

// wire is the body as sent.
type wire struct {
	from  io.ReadCloser
	watch *watch
	read  int64
	most  int64
}

func (w *wire) Read(p []byte) (int, error) {
	w.watch.wait()
	n, err := w.from.Read(p)
	w.watch.rest()
	w.read += int64(n)
	if w.read > w.most {
		return 0, failf(KindLimit, "the body is larger than limits.wire (%d bytes)", w.most)
	}
	return n, err
}

// open prepares the body of resp. encoding errors are *Error.
func (b *body) open(s *Source, resp *http.Response, w *watch) error {
	b.wire = wire{from: resp.Body, watch: w, most: int64(s.cfg.Limits.Wire)}
	b.most = int64(s.cfg.Limits.Inflated)
	b.unpacked = &b.wire
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(resp.Header["Content-Encoding"], ",")))
	switch encoding {
	case "", "identity":
		return nil
	case "gzip", "x-gzip":
		b.unpacked = &lazy{open: func() (io.Reader, error) {
			z, _ := s.unpackers.Get().(*gzip.Reader)
			if z == nil {
				z = new(gzip.Reader)
			}
			if err := z.Reset(&b.wire); err != nil {
				return nil, err
			}
			b.gzip = z
			return z, nil
		}}
	case "deflate":
		// RFC 9110 says zlib; some servers send it without zlib's header.
		b.unpacked = &lazy{open: func() (io.Reader, error) {
			in := bufio.NewReaderSize(&b.wire, 32<<10)
			head, err := in.Peek(2)
			if err != nil {
				return nil, err
			}
			if head[0]&0x0f == 8 && (uint(head[0])<<8|uint(head[1]))%31 == 0 {
				return zlib.NewReader(in)
			}
			return flate.NewReader(in), nil
		}}
	default:
		return failf(KindContent, "the body is packed as %q, which was not asked for; only gzip and deflate are understood", s.secrets.sample([]byte(encoding), 40))
	}
	b.packed = true
	return nil
}

// Read reads what the body stands for. io.EOF comes only where the body ends as its framing says: a body shorter than
// its Content-Length, without its last chunk, or in the middle of its packing is io.ErrUnexpectedEOF.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.unpacked.Read(p)
	b.read += int64(n)
	if b.read > b.most {
		return 0, failf(KindLimit, "the body is larger than limits.inflated (%d bytes)", b.most)
	}
	return n, err
}

// close gives back what reading took.
func (b *body) close(s *Source) {
	if b.gzip != nil {
		s.unpackers.Put(b.gzip)
		b.gzip = nil
	}
}

// lazy opens its reader at the first read, so that the reading is under the body's watch.
type lazy struct {
	open func() (io.Reader, error)
	r    io.Reader
}

func (l *lazy) Read(p []byte) (int, error) {
	if l.r == nil {
		r, err := l.open()
		if err != nil {
			return 0, err
		}
		l.r = r
	}
	return l.r.Read(p)
}
