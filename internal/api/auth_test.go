package api

import (
	"net/http/httptest"
	"strings"
	"testing"

	"ferry/internal/config"
)

// TestRoles tries every operation of the document with every role: a new operation is tried without being named here,
// and one without a role is found.
func TestRoles(t *testing.T) {
	svc := &fake{}
	svc.subscribe = closedStream
	h := newHandler(t, svc, Options{Auth: keys()})
	for _, op := range documented(t) {
		if op.role == "" {
			t.Errorf("%s %s says no x-ferry-role", op.method, op.path)
			continue
		}
		need := roleOpen
		if op.role != "open" {
			var err error
			if need, err = parseRole(op.role); err != nil {
				t.Fatal(err)
			}
		}
		try := func(who string, allowed bool, want int, headers ...string) {
			before := len(svc.took())
			w := do(h, op.method, exampleTarget(op), exampleBody(op), headers...)
			refused := w.Code == 401 || w.Code == 403
			if refused == allowed || (refused && w.Code != want) {
				t.Errorf("%s %s (needs %s) as %s = %d: %s", op.method, op.path, op.role, who, w.Code, w.Body)
			}
			if !refused {
				return
			}
			problemIn(t, w)
			if len(svc.took()) != before {
				t.Errorf("%s %s as %s was refused, but called %v", op.method, op.path, who, svc.took()[before:])
			}
			if w.Code == 401 && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), `Bearer realm="ferry"`) {
				t.Errorf("%s %s as %s: WWW-Authenticate = %q", op.method, op.path, who, w.Header().Get("WWW-Authenticate"))
			}
			if w.Code == 403 && !strings.Contains(w.Body.String(), "needs "+op.role) {
				t.Errorf("%s %s as %s does not name the role: %s", op.method, op.path, who, w.Body)
			}
		}
		try("nobody", need == roleOpen, 401)
		try("a stranger", need == roleOpen, 401, "X-API-Key: no-such-key-at-all")
		for r := roleRead; r <= roleAdmin; r++ {
			try(r.String(), r >= need, 403, "X-API-Key: "+keyFor(r))
			try(r.String()+" by bearer", r >= need, 403, "Authorization: Bearer "+keyFor(r))
		}
	}
}

func TestKeyIsTakenFromHeadersOnly(t *testing.T) {
	h := newHandler(t, &fake{}, Options{Auth: keys()})
	tests := []struct {
		name, target, header string
		status               int
	}{
		{"X-API-Key", "/v1/topics", "X-API-Key: " + keyFor(roleRead), 200},
		{"bearer", "/v1/topics", "Authorization: Bearer " + keyFor(roleRead), 200},
		{"bearer in small letters", "/v1/topics", "Authorization: bearer " + keyFor(roleRead), 200},
		{"basic", "/v1/topics", "Authorization: Basic " + keyFor(roleRead), 401},
		{"no scheme", "/v1/topics", "Authorization: " + keyFor(roleRead), 401},
		{"query", "/v1/topics?api_key=" + keyFor(roleRead), "Accept: */*", 401},
		{"cookie", "/v1/topics", "Cookie: X-API-Key=" + keyFor(roleRead), 401},
		{"beginning of a key", "/v1/topics", "X-API-Key: " + keyFor(roleRead)[:10], 401},
		{"more than a key", "/v1/topics", "X-API-Key: " + keyFor(roleRead) + "x", 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if w := do(h, "GET", tt.target, "", tt.header); w.Code != tt.status {
				t.Errorf("status = %d, want %d: %s", w.Code, tt.status, w.Body)
			}
		})
	}
}

func TestBadKeyrings(t *testing.T) {
	for want, auth := range map[string]config.Auth{
		"says none and has keys": {None: true, Keys: keys().Keys},
		"the key is empty":       {Keys: []config.APIKey{{Name: "ops", Role: "admin"}}},
		`role "root" is none`:    {Keys: []config.APIKey{{Name: "ops", Key: "0123456789abcdef", Role: "root"}}},
	} {
		if _, err := New(&fake{}, Options{Auth: auth}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("err = %v, want %q", err, want)
		}
	}
}

func TestOrigins(t *testing.T) {
	local, public := Options{Listen: "127.0.0.1:8080"}, Options{Listen: "0.0.0.0:8080"}
	named := Options{Listen: "127.0.0.1:8080", Server: config.Server{PublicURL: "https://ferry.example.com"}}
	keyed := Options{Listen: "127.0.0.1:8080", Auth: keys()}
	const key = "X-API-Key: admin-0123456789abcdef"
	tests := []struct {
		name         string
		opt          Options
		method, path string
		host         string
		headers      []string
		refused      bool
	}{
		{"program", local, "POST", "/process", "localhost:8080", nil, false},
		{"own page", local, "POST", "/process", "localhost:8080", []string{"Sec-Fetch-Site: same-origin"}, false},
		{"page of another site", local, "POST", "/process", "localhost:8080", []string{"Sec-Fetch-Site: cross-site"}, true},
		{"page of the same site", local, "POST", "/process", "localhost:8080", []string{"Sec-Fetch-Site: same-site"}, true},
		{"old browser's page of another origin", public, "POST", "/process", "ferry.example.com", []string{"Origin: https://evil.example"}, true},
		{"old browser's own page", public, "POST", "/process", "ferry.example.com", []string{"Origin: https://ferry.example.com"}, false},
		{"reset from another site", public, "DELETE", "/v1/pipelines/orders/cursor", "x", []string{"Sec-Fetch-Site: cross-site"}, true},
		{"GET /process from another site", local, "GET", "/process", "localhost:8080", []string{"Sec-Fetch-Site: cross-site"}, true},
		{"GET /process typed into a browser", local, "GET", "/process", "localhost:8080", []string{"Sec-Fetch-Site: none"}, false},
		{"GET /process for a page of another origin, by an old browser", local, "GET", "/process", "localhost:8080", []string{"Origin: http://evil.example"}, true},
		{"GET /process for a page without an origin", local, "GET", "/process", "localhost:8080", []string{"Origin: null"}, true},
		{"GET /process by its own page", local, "GET", "/process", "localhost:8080", []string{"Origin: http://localhost:8080"}, false},
		{"a look from another site", local, "GET", "/v1/pipelines", "localhost:8080", []string{"Sec-Fetch-Site: cross-site"}, false},
		{"the page itself, linked from elsewhere", local, "GET", "/docs", "localhost:8080", []string{"Sec-Fetch-Site: cross-site"}, false},

		{"rebound name", local, "GET", "/v1/pipelines", "evil.example:8080", nil, true},
		{"rebound name on a page", local, "GET", "/docs", "evil.example", nil, true},
		{"name that ends like it", local, "GET", "/v1/pipelines", "notlocalhost:8080", nil, true},
		{"name that begins like it", local, "GET", "/v1/pipelines", "127.0.0.1.evil.example", nil, true},
		{"address", local, "GET", "/v1/pipelines", "127.0.0.1:8080", nil, false},
		{"address of the same machine", local, "GET", "/v1/pipelines", "127.8.7.6", nil, false},
		{"IPv6", local, "GET", "/v1/pipelines", "[::1]:8080", nil, false},
		{"IPv6 without port", local, "GET", "/v1/pipelines", "[::1]", nil, false},
		{"name below localhost", local, "GET", "/v1/pipelines", "ferry.localhost:8080", nil, false},
		{"capitals", local, "GET", "/v1/pipelines", "LocalHost.:8080", nil, false},
		{"public name", named, "GET", "/v1/pipelines", "ferry.example.com", nil, false},
		{"public name's page", named, "POST", "/process", "localhost:8080", []string{"Origin: https://ferry.example.com"}, false},
		{"another name with keys", keyed, "GET", "/v1/pipelines", "evil.example", []string{key}, false},
		{"another name, not on loopback", public, "GET", "/v1/pipelines", "any.example", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svc := &fake{}
			r := httptest.NewRequest(tt.method, tt.path, nil)
			r.Host = tt.host
			for _, line := range tt.headers {
				name, value, _ := strings.Cut(line, ": ")
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			newHandler(t, svc, tt.opt).ServeHTTP(w, r)
			if refused := w.Code == 403; refused != tt.refused {
				t.Fatalf("status = %d, refused should be %v: %s", w.Code, tt.refused, w.Body)
			}
			if !tt.refused {
				return
			}
			if p := problemIn(t, w); p.Code() != CodeOriginRefused {
				t.Errorf("code = %s", p.Code())
			}
			if calls := svc.took(); len(calls) > 0 {
				t.Errorf("was refused, but called %v", calls)
			}
		})
	}
}
