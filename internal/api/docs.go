package api

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"text/template"
)

//go:embed assets
var assets embed.FS

// The versions are part of the assets' addresses, so that browsers may keep them for good.
const (
	swaggerUIPath = "/docs/swagger-ui-5.35.0/"
	redocPath     = "/redoc/redoc-2.5.4/"
)

// What the pages may load: their own files. Redoc and Swagger UI write styles into the page, and Redoc searches in a
// worker that it makes from a blob.
const (
	docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
		"font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	redocPolicy = docsPolicy + "; worker-src blob:"
)

// registerPages serves the console and the two documentation pages, wholly from the binary.
func (h *Handler) registerPages() {
	if c := h.opt.Console; c != nil {
		h.open("GET /{$}", "/", c.ServeHTTP)
		h.open("GET /console/", "/console/", c.ServeHTTP)
	}
	for _, p := range []struct{ at, page, script, policy string }{
		{"/docs", "assets/docs.html", "assets/docs.js", docsPolicy},
		{"/redoc", "assets/redoc.html", "assets/redoc.js", redocPolicy},
	} {
		h.serveText("GET "+p.at, p.at, "text/html; charset=utf-8", func() ([]byte, error) { return fillPage(p.page) },
			"Content-Security-Policy", p.policy, "Referrer-Policy", "no-referrer")
		h.serveText("GET "+p.at+"/start.js", p.at+"/*", "text/javascript; charset=utf-8", func() ([]byte, error) { return assets.ReadFile(p.script) })
	}
	h.open("GET "+swaggerUIPath+"{file}", "/docs/*", asset("assets/swagger-ui"))
	h.open("GET "+redocPath+"{file}", "/redoc/*", asset("assets/redoc"))
}

func fillPage(name string) ([]byte, error) {
	t, err := template.ParseFS(assets, name)
	if err != nil {
		return nil, fmt.Errorf("read embedded %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, struct{ SwaggerUI, Redoc string }{swaggerUIPath, redocPath}); err != nil {
		return nil, fmt.Errorf("fill embedded %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// asset serves a folder's files. They lie compressed in the binary and are sent so; a client that does not take gzip
// gets them inflated.
func asset(folder string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := folder + "/" + r.PathValue("file") // embed refuses names with .. in them
		content, err := assets.ReadFile(name)
		compressed := false
		if err != nil {
			content, err = assets.ReadFile(name + ".gz")
			compressed = true
		}
		if err != nil {
			newProblem(CodeNoRoute, "There is no such file.").write(w, exchangeOf(r.Context()))
			return
		}
		header := w.Header()
		header.Set("Content-Type", assetType(name))
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
		header.Set("Vary", "Accept-Encoding")
		switch {
		case !compressed:
		case takesGzip(r.Header.Get("Accept-Encoding")):
			header.Set("Content-Encoding", "gzip")
		default:
			if content, err = inflate(content); err != nil {
				panic(fmt.Sprintf("inflate embedded %s: %v", name, err)) // the binary was built with a broken file
			}
		}
		if r.Method == http.MethodHead {
			return
		}
		w.Write(content)
	}
}

func inflate(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func assetType(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".png":
		return "image/png"
	}
	return "text/plain; charset=utf-8"
}

// takesGzip reads Accept-Encoding (RFC 9110, 12.5.3): gzip or * without a quality of zero.
func takesGzip(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		coding, params, _ := strings.Cut(part, ";")
		coding = strings.TrimSpace(coding)
		if coding != "*" && !strings.EqualFold(coding, "gzip") {
			continue
		}
		q, ok := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(params), " ", ""), "q=")
		return !ok || strings.Trim(q, "0.") != ""
	}
	return false
}
