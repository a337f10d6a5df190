package console

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	for path, contentType := range map[string]string{
		"/":                 "text/html; charset=utf-8",
		"/console/app.js":   "text/javascript; charset=utf-8",
		"/console/app.css":  "text/css; charset=utf-8",
		"/console/icon.svg": "image/svg+xml",
	} {
		w := httptest.NewRecorder()
		Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || w.Header().Get("Content-Type") != contentType || w.Body.Len() == 0 {
			t.Errorf("GET %s = %d %v", path, w.Code, w.Header())
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("GET %s has the policy %q", path, csp)
		}
		again := httptest.NewRequest("GET", path, nil)
		again.Header.Set("If-None-Match", w.Header().Get("ETag"))
		if w = httptest.NewRecorder(); true {
			Handler().ServeHTTP(w, again)
		}
		if w.Code != 304 {
			t.Errorf("GET %s again = %d, want 304", path, w.Code)
		}
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest("GET", "/console/page/index.html", nil))
	if w.Code != 404 {
		t.Errorf("GET of what is not there = %d", w.Code)
	}
}

// TestEnterUsesTheKey: Enter in a form presses its first button that submits, which must not be the one that cancels.
func TestEnterUsesTheKey(t *testing.T) {
	html, err := page.ReadFile("page/index.html")
	if err != nil {
		t.Fatal(err)
	}
	_, form, _ := strings.Cut(string(html), `<form method="dialog">`)
	for _, button := range regexp.MustCompile(`<button[^>]*>`).FindAllString(form, -1) {
		if strings.Contains(button, `type="button"`) {
			continue
		}
		if !strings.Contains(button, `value="ok"`) {
			t.Errorf("Enter presses %s", button)
		}
		return
	}
	t.Error("the form has no button that submits")
}

// TestNothingFromElsewhere: the page asks no other host, and every file it names is served.
func TestNothingFromElsewhere(t *testing.T) {
	foreign := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9-]+\.[a-z]`)
	local := regexp.MustCompile(`(?:src|href)="(/console/[^"]+)"`)
	for _, name := range []string{"index.html", "app.js", "app.css", "icon.svg"} {
		b, err := page.ReadFile("page/" + name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "http://www.w3.org/2000/svg", "") // a name, not an address
		if found := foreign.FindString(text); found != "" {
			t.Errorf("%s names %s", name, found)
		}
		if strings.Contains(text, "innerHTML") || strings.Contains(text, " style=") || strings.Contains(text, "onclick=\"") {
			t.Errorf("%s has HTML from text, or what its policy forbids", name)
		}
		for _, m := range local.FindAllStringSubmatch(text, -1) {
			w := httptest.NewRecorder()
			Handler().ServeHTTP(w, httptest.NewRequest("GET", m[1], nil))
			if w.Code != 200 {
				t.Errorf("%s names %s, which is %d", name, m[1], w.Code)
			}
		}
	}
}
