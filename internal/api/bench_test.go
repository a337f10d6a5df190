package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

// quick is a Service whose Process costs nothing, so that what is measured is the API.
type quick struct{ *fake }

func (quick) Process(context.Context, string) (Processed, error) {
	return Processed{Data: json.RawMessage(`{"transformed_data":{"id":1,"name":"Sample Data","value":100},"status":"processed"}`)}, nil
}

// blank is a ResponseWriter that costs nothing.
type blank struct{ header http.Header }

func (b blank) Header() http.Header         { return b.header }
func (b blank) WriteHeader(int)             {}
func (b blank) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkProcess is what the API adds to a request of /process, without the network.
func BenchmarkProcess(b *testing.B) {
	for name, opt := range map[string]Options{"open": {}, "with key": {Auth: keys()}} {
		b.Run(name, func(b *testing.B) {
			h := newHandler(b, quick{&fake{}}, opt)
			r := httptest.NewRequest("GET", "/process", nil)
			r.Header.Set("X-Api-Key", keyFor(roleRun))
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(blank{http.Header{}}, r)
			}
		})
	}
}

// BenchmarkNew is the API's part of the start.
func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		newHandler(b, &fake{}, Options{})
	}
}
