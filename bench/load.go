//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// load sends GET path over conns keep-alive connections for the time given, each connection one request at a time, and
// checks that every answer has the status 200 and contains want. It is written on bare TCP so that on two cores most of
// the work is the server's.
type load struct {
	addr, path string
	conns      int
	time       time.Duration
	want       string
}

type loadResult struct {
	requests int
	took     time.Duration
	p50, p99 time.Duration
}

func (r loadResult) perSecond() float64 { return float64(r.requests) / r.took.Seconds() }

func (l load) run() (loadResult, error) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		all  []time.Duration
		fail error
	)
	start := time.Now()
	end := start.Add(l.time)
	for range l.conns {
		wg.Go(func() {
			took, err := l.connection(end)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil && fail == nil {
				fail = err
			}
		})
	}
	wg.Wait()
	if fail != nil {
		return loadResult{}, fail
	}
	if len(all) == 0 {
		return loadResult{}, fmt.Errorf("load %s: no request was answered", l.path)
	}
	took := time.Since(start)
	slices.Sort(all)
	return loadResult{requests: len(all), took: took, p50: all[len(all)/2], p99: all[len(all)*99/100]}, nil
}

func (l load) connection(end time.Time) ([]time.Duration, error) {
	conn, err := net.Dial("tcp", l.addr)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	defer conn.Close()
	request := []byte("GET " + l.path + " HTTP/1.1\r\nHost: " + l.addr + "\r\n\r\n")
	in := bufio.NewReaderSize(conn, 16<<10)
	var took []time.Duration
	body := make([]byte, 64<<10)
	for time.Now().Before(end) {
		start := time.Now()
		if _, err := conn.Write(request); err != nil {
			return took, fmt.Errorf("load: send: %w", err)
		}
		n, status, err := readAnswer(in, body)
		if err != nil {
			return took, fmt.Errorf("load: read answer: %w", err)
		}
		if status != 200 || !bytes.Contains(body[:n], []byte(l.want)) {
			return took, fmt.Errorf("load: GET %s answered %d %s", l.path, status, body[:n])
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

// readAnswer reads one answer with a Content-Length.
func readAnswer(in *bufio.Reader, body []byte) (n, status int, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, 0, err
	}
	if len(line) < 12 {
		return 0, 0, fmt.Errorf("status line %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, fmt.Errorf("status line %q", line)
	}
	n = -1
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return 0, 0, err
		}
		if len(line) <= 2 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("content-length")) {
			if n, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, 0, fmt.Errorf("content length %q", value)
			}
		}
	}
	if n < 0 || n > len(body) {
		return 0, 0, fmt.Errorf("content length %d", n)
	}
	for at := 0; at < n; {
		k, err := in.Read(body[at:n])
		if err != nil {
			return 0, 0, err
		}
		at += k
	}
	return n, status, nil
}
