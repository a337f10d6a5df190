package telemetry

import (
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	"ferry/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDebug(t *testing.T) {
	if s, err := Debug(config.Debug{}); s != nil || err != nil {
		t.Errorf("Debug without an address = %v, %v", s, err)
	}
	for _, addr := range []string{"0.0.0.0:6060", ":6060", "192.0.2.1:6060", "example.com:6060", "6060", "[::]:6060"} {
		if s, err := Debug(config.Debug{Listen: addr}); err == nil {
			t.Errorf("Debug(%s) = %v, want an error", addr, s)
		}
	}
	for _, addr := range []string{"127.0.0.1:6060", "localhost:0", "[::1]:6060"} {
		s, err := Debug(config.Debug{Listen: addr})
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/heap": 200, "/debug/pprof/cmdline": 200, "/": 404, "/metrics": 404} {
			w := httptest.NewRecorder()
			s.Handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != want {
				t.Errorf("%s%s = %d, want %d", addr, path, w.Code, want)
			}
		}
	}
}
