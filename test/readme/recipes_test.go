package readme

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ferry/internal/app"
	"ferry/internal/config"
	"ferry/internal/record"
	"ferry/internal/source"
)

// TestRecipes reads through every source of docs/recipes.md, from a server that pages as the API it is for.
func TestRecipes(t *testing.T) {
	const name = "docs/recipes.md"
	blocks, err := blocksOf(read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, b := range blocks {
		api, ok := strings.CutPrefix(b.what, "api ")
		if !ok {
			t.Errorf("%s:%d: a block that no test reads", name, b.line)
			continue
		}
		shown[api] = true
		t.Run(api, func(t *testing.T) {
			answer, ok := thirdParties[api]
			if !ok {
				t.Fatalf("%s:%d: there is no server like %s here", name, b.line, api)
			}
			server := httptest.NewServer(answer)
			defer server.Close()
			records, pages := readRecipe(t, b.text, server)
			if len(records) != entries || pages < 3 || pages > 4 { // 4 where an empty one is the end
				t.Errorf("%d records of %d pages, want %d of 3 or 4", len(records), pages, entries)
			}
			for i, r := range records {
				if want := strconv.Itoa(i + 1); r.Key != want {
					t.Fatalf("record %d has the key %s, want %s", i, r.Key, want)
				}
			}
		})
	}
	for api := range thirdParties {
		if !shown[api] {
			t.Errorf("%s shows nothing for %s", name, api)
		}
	}
}

// readRecipe reads all pages of a source that is turned to the server.
func readRecipe(t *testing.T, text string, server *httptest.Server) (records []record.Record, pages int) {
	t.Helper()
	file := "pipelines:\n  recipe:\n    source:\n      " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ") + "\n"
	environ := []string{"FERRY_PIPELINES_RECIPE_SOURCE_BASE=" + server.URL}
	for _, name := range []string{
		"STRIPE_KEY", "GITHUB_TOKEN", "SLACK_TOKEN", "HUBSPOT_TOKEN", "NOTION_TOKEN", "NOTION_DATABASE", "ELASTIC_PASSWORD", "TENANT",
		"CLIENT_ID", "CLIENT_SECRET", "INSTANCE", "SALESFORCE_TOKEN", "SITE", "JIRA_USER", "JIRA_TOKEN",
	} {
		environ = append(environ, name+"=x"+strings.ToLower(name))
	}
	path := filepath.Join(t.TempDir(), "ferry.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := app.LoadConfig(config.Options{File: path, Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	c := cfg.Pipelines["recipe"].Source
	if c.Auth.OAuth2 != nil {
		c.Auth.OAuth2.TokenURL = server.URL + "/token"
	}
	s, err := source.New(c, source.Options{Pipeline: "recipe"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var at record.Cursor
	for end := false; !end; pages++ {
		if pages > 10 {
			t.Fatal("there is no end")
		}
		for part, err := range s.Read(t.Context(), at) {
			if err != nil {
				t.Fatal(err)
			}
			if part.Warning != "" || part.Bad != nil {
				t.Errorf("page %d: warning %q, bad %v", pages, part.Warning, part.Bad)
			}
			records = append(records, part.Records...)
			at, end = part.After(len(part.Records)), part.End
		}
	}
	return records, pages
}

const (
	entries  = 25
	pageSize = 10
)

// thirdParties page as the APIs of their names do.
var thirdParties = map[string]http.HandlerFunc{
	"stripe": func(w http.ResponseWriter, r *http.Request) {
		from, _ := strconv.Atoi(r.URL.Query().Get("starting_after"))
		page, more := slice(from)
		send(w, map[string]any{"object": "list", "data": page, "has_more": more})
	},
	"github": func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(cmp.Or(r.URL.Query().Get("page"), "1"))
		page, more := slice((n - 1) * pageSize)
		if more {
			q := r.URL.Query()
			q.Set("page", strconv.Itoa(n+1))
			w.Header().Set("Link", fmt.Sprintf(`<http://%s%s?%s>; rel="next", <http://%s%s?page=3>; rel="last"`, r.Host, r.URL.Path, q.Encode(), r.Host, r.URL.Path))
		}
		send(w, page)
	},
	"slack": func(w http.ResponseWriter, r *http.Request) {
		page, next := tokens(r.URL.Query().Get("cursor"))
		send(w, map[string]any{"ok": true, "members": page, "response_metadata": map[string]any{"next_cursor": next}})
	},
	"hubspot": func(w http.ResponseWriter, r *http.Request) {
		page, next := tokens(r.URL.Query().Get("after"))
		answer := map[string]any{"results": page}
		if next != "" {
			answer["paging"] = map[string]any{"next": map[string]any{"after": next, "link": "?after=" + next}}
		}
		send(w, answer)
	},
	"notion": func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Start string `json:"start_cursor"`
			Size  int    `json:"page_size"`
		}
		if !take(w, r, &body) || body.Size != pageSize {
			return
		}
		page, next := tokens(body.Start)
		answer := map[string]any{"object": "list", "results": page, "has_more": next != "", "next_cursor": nil}
		if next != "" {
			answer["next_cursor"] = next
		}
		send(w, answer)
	},
	"graphql": func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Query     string
			Variables struct {
				N     int
				After string
			}
		}
		if !take(w, r, &body) || body.Query == "" || body.Variables.N != pageSize {
			return
		}
		page, next := tokens(body.Variables.After)
		info := map[string]any{"endCursor": cmp.Or(next, "end"), "hasNextPage": next != ""}
		send(w, map[string]any{"data": map[string]any{"orders": map[string]any{"nodes": page, "pageInfo": info}}})
	},
	"elasticsearch": func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			After []int `json:"search_after"`
		}
		if !take(w, r, &body) {
			return
		}
		from := 0
		if len(body.After) == 2 {
			from = body.After[1]
		}
		page, _ := slice(from)
		hits := make([]any, len(page))
		for i, e := range page {
			hits[i] = map[string]any{"_id": e["id"], "_source": e, "sort": []any{1700000000, e["n"]}}
		}
		send(w, map[string]any{"took": 1, "timed_out": false, "hits": map[string]any{"total": map[string]any{"value": entries, "relation": "eq"}, "hits": hits}})
	},
	"graph": func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			send(w, map[string]any{"access_token": "t", "token_type": "Bearer", "expires_in": 3600})
			return
		}
		if r.Header.Get("Authorization") != "Bearer t" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		page, next := tokens(r.URL.Query().Get("$skiptoken"))
		answer := map[string]any{"@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users", "value": page}
		if next != "" {
			answer["@odata.nextLink"] = "http://" + r.Host + r.URL.Path + "?$skiptoken=" + next
		}
		send(w, answer)
	},
	"salesforce": func(w http.ResponseWriter, r *http.Request) {
		_, at, _ := strings.Cut(r.URL.Path, "/query/01g-")
		page, next := tokens(at)
		answer := map[string]any{"totalSize": entries, "done": next == "", "records": page}
		if next != "" {
			answer["nextRecordsUrl"] = "/services/data/v62.0/query/01g-" + next
		}
		send(w, answer)
	},
	"jira": func(w http.ResponseWriter, r *http.Request) {
		from, _ := strconv.Atoi(r.URL.Query().Get("startAt"))
		page, _ := slice(from)
		send(w, map[string]any{"startAt": from, "maxResults": pageSize, "total": entries, "issues": page})
	},
	"wordpress": func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("page"))
		page, _ := slice((n - 1) * pageSize)
		if len(page) == 0 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("X-WP-Total", strconv.Itoa(entries))
		w.Header().Set("X-WP-TotalPages", "3")
		send(w, page)
	},
}

// slice is a page of the entries behind the first few, and whether there are more.
func slice(from int) (page []map[string]any, more bool) {
	page = []map[string]any{}
	for i := from; i < min(from+pageSize, entries); i++ {
		id := strconv.Itoa(i + 1)
		page = append(page, map[string]any{
			"id": id, "Id": id, "key": id, "number": i + 1, "n": i + 1,
			"updated_at": time.Unix(1700000000+int64(i), 0).UTC().Format(time.RFC3339),
		})
	}
	return page, from+pageSize < entries
}

// tokens pages by a token that is opaque to the caller, "" at the end.
func tokens(token string) (page []map[string]any, next string) {
	known := []string{"", "dGVu=", "dHdlbnR5=", ""}
	at := slices.Index(known, token)
	if at < 0 {
		return nil, ""
	}
	page, _ = slice(at * pageSize)
	return page, known[at+1]
}

func take(w http.ResponseWriter, r *http.Request, body any) bool {
	if err := json.NewDecoder(r.Body).Decode(body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return false
	}
	return true
}

func send(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // a client that is gone is the test's to notice
}
