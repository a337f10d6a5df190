package api

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"ferry/internal/console"
)

// TestAssetsAreWhatTheirReadmeSays: the files are the packages' own, and their addresses carry the packages' versions.
func TestAssetsAreWhatTheirReadmeSays(t *testing.T) {
	h := newHandler(t, &fake{}, Options{})
	readme := readAsset(t, "assets/README.md")
	checked := 0
	for line := range strings.SplitSeq(readme, "\n") {
		cell := strings.Split(line, "|")
		if len(cell) < 5 || !strings.Contains(cell[1], ".gz`") {
			continue
		}
		checked++
		file := strings.TrimSuffix(strings.Trim(cell[1], " `"), ".gz")
		folder, name, _ := strings.Cut(file, "/")
		path := map[string]string{"swagger-ui": swaggerUIPath, "redoc": redocPath}[folder]
		if version := cell[2][strings.LastIndex(strings.TrimSpace(cell[2]), " ")+2:]; !strings.HasSuffix(strings.TrimSuffix(path, "/"), "-"+strings.TrimSpace(version)) {
			t.Errorf("%s is served at %s, but is of version %s", file, path, version)
		}
		for _, accept := range []string{"", "br, gzip;q=0"} {
			w := do(h, "GET", path+name, "", "Accept-Encoding: "+accept)
			sum := sha256.Sum256(w.Body.Bytes())
			if got := hex.EncodeToString(sum[:]); w.Code != 200 || got != strings.Trim(cell[4], " `") || w.Header().Get("Content-Encoding") != "" {
				t.Errorf("%s for Accept-Encoding %q = %d with the digest %s", path+name, accept, w.Code, got)
			}
		}
		w := do(h, "GET", path+name, "", "Accept-Encoding: gzip, deflate, br")
		b, err := inflate(w.Body.Bytes())
		sum := sha256.Sum256(b)
		if err != nil || w.Header().Get("Content-Encoding") != "gzip" || hex.EncodeToString(sum[:]) != strings.Trim(cell[4], " `") {
			t.Errorf("%s compressed: %v %v", path+name, err, w.Header())
		}
		if got := w.Header().Get("Cache-Control"); got != "public, max-age=31536000, immutable" || w.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s: Cache-Control %q, Vary %q", path+name, got, w.Header().Get("Vary"))
		}
	}
	if checked != 3 {
		t.Errorf("%d assets checked, want 3", checked)
	}
}

func readAsset(t *testing.T, name string) string {
	t.Helper()
	b, err := assets.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPages(t *testing.T) {
	h := newHandler(t, &fake{}, Options{Console: console.Handler()})
	for path, policy := range map[string]string{"/docs": docsPolicy, "/redoc": redocPolicy, "/": "default-src 'none'; script-src 'self'; style-src 'self';"} {
		w := do(h, "GET", path, "")
		if w.Code != 200 || w.Header().Get("Content-Type") != "text/html; charset=utf-8" || !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), policy) {
			t.Errorf("GET %s = %d %v", path, w.Code, w.Header())
		}
		if csp := w.Header().Get("Content-Security-Policy"); strings.Contains(csp, "http") || strings.Contains(csp, "script-src 'self' '") {
			t.Errorf("GET %s lets scripts or others in: %s", path, csp)
		}
		// Every file that the page names is there.
		for rest := w.Body.String(); ; {
			_, after, found := strings.Cut(rest, `="/`)
			if !found {
				break
			}
			file, more, _ := strings.Cut(after, `"`)
			if rest = more; path == "/" && file == "metrics" {
				continue // this handler was given none
			}
			if w := do(h, "GET", "/"+file, ""); w.Code != 200 {
				t.Errorf("GET %s names /%s, which is %d", path, file, w.Code)
			}
		}
	}
	w := do(h, "GET", "/openapi.json", "")
	if got := do(h, "GET", "/openapi.json", "", "If-None-Match: "+w.Header().Get("ETag")).Code; got != 304 {
		t.Errorf("the document again = %d, want 304", got)
	}
	if w := do(newHandler(t, &fake{}, Options{}), "GET", "/", ""); w.Code != 404 || problemIn(t, w).Code() != CodeNoRoute {
		t.Errorf("without a console / = %d", w.Code)
	}
}

func TestTakesGzip(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "gzip": true, "GZIP": true, "br": false, "*": true, "identity": false, "br;q=1.0, gzip;q=0.8": true,
		"gzip;q=0": false, "gzip; q=0.000": false, "gzip ; q=0.001": true, "x-gzip": false,
	} {
		if got := takesGzip(accept); got != want {
			t.Errorf("takesGzip(%q) = %v", accept, got)
		}
	}
}
