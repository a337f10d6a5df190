package source

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"ferry/internal/config"
)

// BenchmarkFetch is the hot path of /process, with the server in the same process: half of what it counts is the
// server's. BenchmarkRoundTrip beside it does the same with a bare transport, for comparison.
func BenchmarkFetch(b *testing.B) {
	s := open(b, config.Source{Base: serve(b, reply(jsonType, `{"id":1,"name":"Sample Data","value":42}`)), Get: "/v1/data"}, Options{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			part, err := s.Fetch(b.Context())
			if err != nil || len(part.Records) != 1 {
				b.Error(len(part.Records), err)
				return
			}
		}
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	url := serve(b, reply(jsonType, `{"id":1,"name":"Sample Data","value":42}`))
	tr := &http.Transport{MaxIdleConnsPerHost: 1024}
	defer tr.CloseIdleConnections()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var buf [256]byte
		for pb.Next() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
			if err != nil {
				b.Error(err)
				return
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			for err == nil {
				_, err = resp.Body.Read(buf[:])
			}
			resp.Body.Close()
		}
	})
}

// BenchmarkRead reads pages of 1,000 records of 870 bytes, by key, as a run does.
func BenchmarkRead(b *testing.B) {
	var page strings.Builder
	page.WriteString(`{"data":[`)
	for i := range 1000 {
		if i > 0 {
			page.WriteByte(',')
		}
		fmt.Fprintf(&page, `{"id":%07d,"number":"A-%07d","status":"open","updated_at":"2024-01-01T00:00:%02dZ","customer":{"id":%d,"email":"c%d@example.com"},"pad":"%0715d"}`, 1000000+i, i, i%60, i, i, i)
	}
	page.WriteString(`],"meta":{"next":"x","total":1000000}}`)
	url := serve(b, reply(jsonType, page.String()))
	for name, cfg := range map[string]config.Source{
		"key":         {},
		"incremental": {Incremental: inc(config.Incremental{Field: ".updated_at"})},
	} {
		b.Run(name, func(b *testing.B) {
			cfg.Base, cfg.Records, cfg.Key = url, ".data[]", ".id"
			cfg.Paginate = config.Paginate{Cursor: &config.CursorPaging{From: ".meta.next", Into: "query.after"}}
			s := open(b, cfg, Options{})
			b.ReportAllocs()
			b.SetBytes(int64(page.Len()))
			for b.Loop() {
				for part, err := range s.Read(b.Context(), nil) {
					if err != nil || len(part.Records) != 1000 {
						b.Fatal(len(part.Records), err)
					}
				}
			}
			b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkSplit finds and names the records of the same page without a network.
func BenchmarkSplit(b *testing.B) {
	s := open(b, config.Source{Base: "http://localhost", Key: ".id"}, Options{})
	body := []byte("[" + strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"id":1234567,"pad":"%0846d"},`, 1), 1000), ",") + "]")
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if part, err := s.Split(jsonType, body); err != nil || len(part.Records) != 1000 {
			b.Fatal(err)
		}
	}
}
