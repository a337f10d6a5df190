package api

import (
	"net/http"
	"strings"
	"testing"
)

// FuzzHeaders feeds what callers write into headers to everything that reads them.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{"", `"a"`, `"`, "gzip;q=0", "Bearer x", "bearer  ", "localhost:80", "[::1]:x", "127.0.0.1.", strings.Repeat("a", 300), "ä\x00"} {
		f.Add(s)
	}
	h := newHandler(f, &fake{}, Options{Listen: "127.0.0.1:0"})
	f.Fuzz(func(t *testing.T, s string) {
		if key, p := idempotencyKey([]string{s}); p == nil && (key == "" || len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' })) {
			t.Errorf("Idempotency-Key %q was taken as %q", s, key)
		}
		if id := h.requestID(s); id == "" || len(id) > 64 || strings.ContainsAny(id, " \"\n\r\x00") {
			t.Errorf("X-Request-Id %q became %q", s, id)
		}
		if key := presentedKey(http.Header{"Authorization": {s}}); strings.TrimSpace(key) != key {
			t.Errorf("Authorization %q gave the key %q", s, key)
		}
		if h.origins.local(s) && !strings.Contains(strings.ToLower(s), "localhost") && !strings.Contains(s, "127.") && !strings.Contains(s, ":") {
			t.Errorf("Host %q is taken for this machine", s)
		}
		takesGzip(s)
	})
}
