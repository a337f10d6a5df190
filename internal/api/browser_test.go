package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/console"
)

// TestPagesInABrowser renders each page in headless Chromium: what it is for is on it, and no request goes anywhere but
// to this service. Chromium sends everything that is not for 127.0.0.1 to a proxy of the test, which counts.
func TestPagesInABrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser; left out by -short")
	}
	browser := findBrowser()
	if browser == "" {
		t.Skip("no chromium, chromium-browser, google-chrome or chrome in PATH")
	}
	h := newHandler(t, &fake{}, Options{Listen: "127.0.0.1:0", Version: "9.9.9", Console: console.Handler()})
	server := httptest.NewServer(h)
	defer server.Close()
	defer h.Stop()
	guarded := httptest.NewServer(newHandler(t, &fake{}, Options{Auth: keys(), Console: console.Handler()}))
	defer guarded.Close()
	late := &elsewhere{Service: &fake{}}
	behind := newHandler(t, late, Options{Console: console.Handler()})
	several := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			late.asked.Store(0)
		}
		behind.ServeHTTP(w, r)
	}))
	defer several.Close()
	defer behind.Stop()

	t.Run("a foreign request is seen", func(t *testing.T) {
		page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Write([]byte(`<p>hello</p><img src="http://foreign.example/a.png"><script src="https://foreign.example/b.js"></script>`))
		}))
		defer page.Close()
		_, foreign := render(t, browser, page.URL, 8*time.Second)
		for _, want := range []string{"foreign.example", "foreign.example:443"} {
			if !slices.Contains(foreign, want) {
				t.Errorf("requests seen: %v, want %s among them: otherwise the other tests prove nothing", foreign, want)
			}
		}
	})
	for address, want := range map[string][]string{
		server.URL + "/docs":  {"Start a run", "/v1/pipelines/{name}/runs", "9.9.9"},
		server.URL + "/redoc": {"Start a run", "Replay dead letters", "9.9.9"},
		server.URL + "/":      {"orders", "every 5m0s", "succeeded", "9,940", "9.9.9"},
		guarded.URL + "/":     {`<dialog id="ask" open`},
		several.URL + "/":     {"elsewhere"},
	} {
		t.Run(strings.TrimPrefix(address, "http://127.0.0.1:"), func(t *testing.T) {
			// The browser's clock runs ahead of a busy machine, so a page may need more of it until all has come.
			for budget := 8 * time.Second; ; budget *= 2 {
				dom, foreign := render(t, browser, address, budget)
				if len(foreign) > 0 {
					t.Fatalf("requests to elsewhere: %v", foreign)
				}
				missing := slices.DeleteFunc(slices.Clone(want), func(text string) bool { return strings.Contains(dom, text) })
				if len(missing) == 0 {
					return
				}
				if budget > time.Minute {
					t.Fatalf("%q are not on the page (%d bytes of DOM)", missing, len(dom))
				}
			}
		})
	}
}

// elsewhere is a service beside which another instance runs: its run is in the history from the third time it is asked
// for, and in no update.
type elsewhere struct {
	Service
	asked atomic.Int32
}

func (e *elsewhere) Runs(ctx context.Context, pipeline string, limit int) ([]Run, error) {
	runs, err := e.Service.Runs(ctx, pipeline, limit)
	if e.asked.Add(1) <= 2 {
		return nil, err
	}
	for i := range runs {
		runs[i].Pipeline = "elsewhere"
	}
	return runs, err
}

func findBrowser() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// chromiumsOwn are hosts that the browser itself asks, whatever the page; no page has reason to. Whole names, since
// pages do load things from other hosts of the same domains.
var chromiumsOwn = []string{
	"accounts.google.com", "android.clients.google.com", "clients2.google.com", "clientservices.googleapis.com",
	"content-autofill.googleapis.com", "optimizationguide-pa.googleapis.com", "safebrowsing.googleapis.com",
	"update.googleapis.com", "www.google.com", "redirector.gvt1.com", "edgedl.me.gvt1.com",
}

// render opens the address and returns the page's DOM once its scripts have run for the budget, which is time as the
// browser counts it, and every host that was asked for through the proxy.
func render(t *testing.T, browser, address string, budget time.Duration) (dom string, foreign []string) {
	t.Helper()
	var mu sync.Mutex
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(chromiumsOwn, strings.TrimSuffix(r.Host, ":443")) {
			mu.Lock()
			foreign = append(foreign, r.Host)
			mu.Unlock()
		}
		http.Error(w, "nothing leaves", http.StatusForbidden)
	}))
	defer proxy.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
		"--disable-domain-reliability", "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
		"--disable-extensions", "--no-first-run", "--no-default-browser-check", "--user-data-dir="+t.TempDir(), "--lang=en",
		"--proxy-server="+proxy.Listener.Addr().(*net.TCPAddr).String(), "--proxy-bypass-list=127.0.0.1",
		fmt.Sprint("--virtual-time-budget=", budget.Milliseconds()), "--dump-dom", address)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run %s: %v", browser, err)
	}
	mu.Lock()
	defer mu.Unlock()
	return string(out), slices.Clone(foreign)
}
