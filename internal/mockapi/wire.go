package mockapi

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func decimal(n int) string { return strconv.Itoa(n) }

// sleep waits, or returns false when the client has gone or the server stops.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// preempted applies the faults that stand before the answer, and tells whether they took its place.
func (a *answer) preempted() bool {
	if f, ok := a.faults.find(Latency); ok {
		wait := f.Wait
		if wait == 0 {
			wait = time.Second
		}
		if !sleep(a.r.Context(), wait) {
			a.broken = true
			return true
		}
	}
	if _, ok := a.faults.find(Revoke); ok {
		a.s.tokens.revoke()
	}
	if f, ok := a.faults.find(HugeHeader); ok {
		a.header.Set("X-Huge", strings.Repeat("h", or(f.Size, 1<<20)))
	}
	f, ok := a.faults.find(Hangup, Status, HTML, Empty, Redirect)
	if !ok {
		return false
	}
	a.route = a.r.URL.Path
	a.broken = true
	switch f.Kind {
	case Hangup:
		a.takeOver(func(*net.TCPConn, *bufio.Writer) {})
	case Status:
		status := or(f.Status, http.StatusInternalServerError)
		if f.RetryAfter != "" {
			a.header.Set("Retry-After", a.s.retryAfter(f.RetryAfter))
		}
		a.fail(status, strings.ToLower(http.StatusText(status))+", as asked for by a fault")
	case HTML:
		a.write(or(f.Status, http.StatusOK), "text/html; charset=utf-8", []byte(errorPage))
	case Empty:
		a.write(or(f.Status, http.StatusOK), typeJSON, nil)
	case Redirect:
		a.header.Set("Location", redirectTo(a.r, f.To))
		a.write(or(f.Status, http.StatusFound), "", nil)
	}
	return true
}

const errorPage = "<!DOCTYPE html>\n<html><head><title>Maintenance</title></head>\n" +
	"<body><h1>We will be back soon</h1><p>The service is being updated.</p></body></html>\n"

// retryAfter gives the header's value: date:DURATION becomes an HTTP date, the rest stays as it is.
func (s *Server) retryAfter(text string) string {
	if wait, ok := strings.CutPrefix(text, "date:"); ok {
		if d, err := time.ParseDuration(wait); err == nil {
			return s.opt.Now().Add(d).UTC().Format(http.TimeFormat)
		}
	}
	return text
}

// redirectTo gives the Location for a redirect's parameter. But for self, the fault is left out of the new address.
func redirectTo(r *http.Request, to string) string {
	if to == "self" {
		return r.URL.RequestURI()
	}
	if strings.HasPrefix(to, "/") || strings.Contains(to, "://") && strings.Count(to, "/") > 2 {
		return to
	}
	values := r.URL.Query()
	values.Del("fault")
	u := url.URL{Scheme: "http", Host: otherHost(r.Host, to), Path: r.URL.Path, RawQuery: values.Encode()}
	return u.String()
}

// otherHost is the host in to, or when that is empty another name of this server: another origin all the same.
func otherHost(host, to string) string {
	if to != "" {
		_, after, found := strings.Cut(to, "://")
		if !found {
			after = to
		}
		host, _, _ = strings.Cut(after, "/")
		return host
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return "localhost"
	}
	if name == "localhost" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return net.JoinHostPort("localhost", port)
}

// damaged applies the faults of the body, and tells whether it has sent the answer. But for a trickle, what it sends is
// nothing that a client may accept.
func (a *answer) damaged(contentType string, b []byte, served func(times int)) bool {
	f, ok := a.faults.find(Reset, Cut, CutLength, CutChunked, WrongLength, InvalidJSON, Trickle, Stall, Bomb, ContentType)
	if !ok {
		return false
	}
	if f.Kind == Trickle {
		a.trickle(contentType, b, f, served)
		return true
	}
	a.broken = true
	a.count()
	cut := len(b) / 2
	if f.Bytes != nil {
		cut = min(*f.Bytes, len(b))
	}
	switch f.Kind {
	case ContentType:
		contentType = f.As
		if contentType == "" {
			contentType = "text/html; charset=utf-8"
		}
		a.write(http.StatusOK, contentType, a.packed(b))
	case InvalidJSON:
		a.write(http.StatusOK, contentType, bytes.TrimRight(b, "]}\n"))
	case Bomb:
		a.bomb(contentType, b, int64(or(f.Size, 2<<30)))
	case Stall:
		a.header.Set("Content-Type", contentType)
		a.header.Set("Content-Length", decimal(len(b)))
		if _, err := a.w.Write(b[:cut]); err == nil {
			_ = http.NewResponseController(a.w).Flush()
			<-a.r.Context().Done()
		}
	case WrongLength:
		a.raw(f.Kind, contentType, b, cut)
	default:
		a.raw(f.Kind, contentType, b[:cut], len(b))
	}
	return true
}

// trickle sends the body a few bytes at a time.
func (a *answer) trickle(contentType string, b []byte, f Fault, served func(times int)) {
	step, wait := 1, f.Wait
	if f.Bytes != nil {
		step = max(*f.Bytes, 1)
	}
	if wait == 0 {
		wait = 10 * time.Millisecond
	}
	a.header.Set("Content-Type", contentType)
	a.header.Set("Content-Length", decimal(len(b)))
	control := http.NewResponseController(a.w)
	for len(b) > 0 {
		n := min(step, len(b))
		if n == len(b) {
			a.count()
			a.served(1, served)
		}
		_, err := a.w.Write(b[:n])
		err = errors.Join(err, control.Flush())
		if b = b[n:]; err != nil || len(b) > 0 && !sleep(a.r.Context(), wait) {
			if a.broken = true; len(b) == 0 {
				a.served(-1, served)
			}
			return
		}
	}
}

// raw writes an answer by hand, breaks its framing and closes the connection.
func (a *answer) raw(kind Kind, contentType string, b []byte, length int) {
	a.takeOver(func(conn *net.TCPConn, w *bufio.Writer) {
		fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\n", contentType)
		_ = a.header.Write(w)
		switch kind {
		case Cut:
			fmt.Fprintf(w, "Connection: close\r\n\r\n%s", b)
		case CutChunked:
			fmt.Fprintf(w, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(b), b)
		default:
			fmt.Fprintf(w, "Content-Length: %d\r\n\r\n%s", length, b)
		}
		_ = w.Flush()
		if kind == Reset {
			sleep(a.r.Context(), resetDelay)
			_ = conn.SetLinger(0) // makes Close send RST instead of FIN
		}
	})
}

// resetDelay lets the client read what came before the reset, which could otherwise overtake it.
const resetDelay = 20 * time.Millisecond

// takeOver takes the connection from net/http, hands it to f and closes it.
func (a *answer) takeOver(f func(*net.TCPConn, *bufio.Writer)) {
	a.count()
	a.s.taken.Add(1)
	defer a.s.taken.Done()
	conn, buffered, err := http.NewResponseController(a.w).Hijack()
	if err != nil {
		a.fail(http.StatusInternalServerError, "this fault needs a connection of HTTP/1.1")
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		tcp = &net.TCPConn{} // its methods return errors
	}
	f(tcp, buffered.Writer)
}

// bomb sends the body as gzip, blown up to size bytes by spaces behind its first byte, where JSON allows them. A piece
// of 1 MiB is compressed once and repeated, which deflate allows at its sync points (RFC 1951; Z_SYNC_FLUSH).
func (a *answer) bomb(contentType string, b []byte, size int64) {
	spaces := bytes.Repeat([]byte{' '}, 1<<20)
	pack := func(piece []byte) []byte {
		var out bytes.Buffer
		w, _ := flate.NewWriter(&out, flate.BestCompression) // the level is a valid one
		_, _ = w.Write(piece)                                // a bytes.Buffer takes everything
		_ = w.Flush()
		return out.Bytes()
	}
	a.header.Set("Content-Type", contentType)
	a.header.Set("Content-Encoding", "gzip")
	crc, total := uint32(0), uint32(0)
	failed := false
	send := func(piece, packed []byte) {
		crc = crc32.Update(crc, crc32.IEEETable, piece)
		total += uint32(len(piece)) // modulo 2^32, as RFC 1952 has it
		_, err := a.w.Write(packed)
		failed = failed || err != nil
	}
	_, _ = io.WriteString(a.w, "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff")
	split := min(1, len(b))
	send(b[:split], pack(b[:split]))
	packed := pack(spaces)
	for left := size; left > 0 && !failed && a.r.Context().Err() == nil; left -= int64(len(spaces)) {
		send(spaces, packed)
	}
	send(b[split:], pack(b[split:]))
	end := []byte{0x03, 0x00} // an empty last block
	end = binary.LittleEndian.AppendUint32(end, crc)
	end = binary.LittleEndian.AppendUint32(end, total)
	_, _ = a.w.Write(end)
}
