// Package console is the page that people see at /: pipelines, what they do, and what became of their runs. It is made
// of three embedded files and talks only to the HTTP API of the address it came from.
package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"
)

//go:embed page
var page embed.FS

// policy lets the page load its own files, ask its own API, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the page at / and its files below /console/. It needs no key: what the page shows, it asks the API
// for with the key that the person gives it.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", file("page/index.html", "text/html; charset=utf-8"))
	mux.HandleFunc("GET /console/app.js", file("page/app.js", "text/javascript; charset=utf-8"))
	mux.HandleFunc("GET /console/app.css", file("page/app.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /console/icon.svg", file("page/icon.svg", "image/svg+xml"))
	return mux
}

func file(name, contentType string) http.HandlerFunc {
	content, err := page.ReadFile(name)
	if err != nil {
		panic("console: " + err.Error()) // the binary was built without its own files
	}
	sum := sha256.Sum256(content)
	etag := strconv.Quote(hex.EncodeToString(sum[:12]))
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}
