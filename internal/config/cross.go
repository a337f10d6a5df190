package config

import (
	"cmp"
	"crypto/subtle"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// minKey is the least length of an API key: 16 characters of base64 are 96 bits.
const minKey = 16

// cross checks what no single key can tell. The tree gives the places.
func (d *decoder) cross(c *Config, root *node) {
	d.crossAuth(c, root)
	for _, name := range slices.Sorted(maps.Keys(c.Pipelines)) {
		e := root.child("pipelines").get(name)
		path := "pipelines." + name
		if !pipelineName.MatchString(name) {
			d.add(e.at, "pipelines", "use up to 64 letters, digits, _ and -", "%q is not a pipeline's name", crop(name))
		}
		p := c.Pipelines[name]
		if p.Every != 0 && p.Cron != "" {
			d.add(e.value.place("cron"), path, "keep one of them", "every and cron are set at once")
		}
		if p.Source.Push {
			for _, key := range []string{"every", "cron"} {
				if e.value.has(key) {
					d.add(e.value.place(key), path, "leave it out: records are carried when they are pushed", "%s has nothing to run: with source.push, nothing is read", key)
				}
			}
		}
		if e.value.kind == mapping && e.value.has("source") {
			d.crossSource(p.Source, e.value.child("source"), path+".source")
		}
	}
}

// place is where a key of a mapping was typed, or the mapping itself.
func (n *node) place(key string) place {
	if e := n.get(key); e != nil {
		return e.at
	}
	return n.at
}

func (d *decoder) crossAuth(c *Config, root *node) {
	keys := root.child("auth").child("keys")
	at := func(i int) place {
		if keys != nil && i < len(keys.items) {
			return keys.items[i].at
		}
		return place{src: &source{name: "FERRY_API_KEY"}}
	}
	for i, k := range c.Auth.Keys {
		path := fmt.Sprintf("auth.keys[%d]", i)
		if n := len([]rune(k.Key.Reveal())); n < minKey && n > 0 {
			d.add(at(i), path, "make one with: openssl rand -base64 24", "the key has %d characters, and needs at least %d", n, minKey)
		}
		if strings.ContainsFunc(k.Key.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
			d.add(at(i), path, "make one with: openssl rand -base64 24", "the key holds a space or a character that is not ASCII")
		}
		for _, other := range c.Auth.Keys[:i] {
			if k.Name != "" && other.Name == k.Name {
				d.add(at(i), path, "give each key a name of its own", "the name %q comes twice", crop(k.Name))
				break
			}
			if k.Key != "" && subtle.ConstantTimeCompare([]byte(k.Key), []byte(other.Key)) == 1 {
				d.add(at(i), path, "make one with: openssl rand -base64 24", "the key is the same as that of %q", crop(other.Name))
				break
			}
		}
	}
	if c.Env == "prod" && !isLoopback(c.Listen) && len(c.Auth.Keys) == 0 && !c.Auth.None {
		d.add(root.valuePlace("listen"), "listen",
			"set the variable FERRY_API_KEY or auth: {keys: [{name: ops, key: \"${OPS_KEY}\"}]}, or say auth: none to let anybody call",
			"in prod, %q can be reached from other machines, and nothing guards it", crop(c.Listen))
	}
}

// valuePlace is where a key's value was typed; the place of what was typed least far away, where it was not.
func (n *node) valuePlace(key string) place {
	if value := n.child(key); value != nil {
		return value.at
	}
	return n.at
}

// isHeaderValue refuses what would break out of a header or be lost on the way.
func isHeaderValue(text string) bool {
	return httpguts.ValidHeaderFieldValue(text) && strings.TrimSpace(text) == text
}

func (d *decoder) crossSource(s Source, n *node, path string) {
	switch {
	case s.Push:
		d.crossPush(n, path)
		return
	case !n.has("get") && !n.has("post"):
		d.add(n.at, path, "for example get: /v1/orders; or push: true, when records are only sent to ferry", "neither get nor post is set")
	case s.Get == "" && s.Post == "":
		for _, key := range []string{"get", "post"} {
			if value := n.child(key); value != nil && value.kind == scalar && value.text == "" {
				d.add(value.at, path, "write / for the base itself", "%s is empty", key)
			}
		}
	case s.Get != "" && s.Post != "":
		d.add(n.place("post"), path, "keep one of them", "get and post are set at once")
	case s.Get != "" && !s.Body.IsZero():
		d.add(n.place("body"), path, "say post instead of get, or leave the body out", "a body goes with post only")
	default:
		d.crossAddress(s, n, path)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		at := n.child("headers").place(name)
		if !httpguts.ValidHeaderFieldName(name) {
			d.add(at, path+".headers", "use letters, digits and -", "%q is not a header's name", crop(name))
		} else if !isHeaderValue(s.Headers[name].Reveal()) {
			d.add(at, path+".headers", "a line break at its end, perhaps?", "the value of %s holds a character that no header can carry", name)
		}
	}
	for _, status := range slices.Sorted(maps.Keys(s.On)) {
		if status < 100 || status > 599 {
			key := fmt.Sprint(status)
			d.add(n.child("on").place(key), path+".on", "", "%d is not an HTTP status (100 to 599)", status)
		}
	}
	if k := s.Auth.APIKey; k != nil {
		count := 0
		for _, where := range []string{k.Header, k.Query, k.Cookie} {
			if where != "" {
				count++
			}
		}
		if count != 1 {
			d.add(n.child("auth").place("api_key"), path+".auth.api_key", "for example header: X-API-Key", "wants exactly one of header, query, cookie")
		}
	}
	d.crossPaging(s, n, path)
}

// crossPush refuses what says how to read, where nothing is read.
func (d *decoder) crossPush(n *node, path string) {
	for _, e := range n.entries {
		if asksOnly(e.key) && e.value.kind != null && slices.Contains(keysOf(sourceType), e.key) {
			d.add(e.at, path, "leave it out, or push", "%s is about reading, and with push nothing is read", e.key)
		}
	}
}

// asksOnly tells whether a key of a source has to do with reading alone, and not with records that are pushed.
func asksOnly(key string) bool {
	switch key {
	case "push", "format", "key", "limits":
		return false
	}
	return true
}

func (d *decoder) crossAddress(s Source, n *node, path string) {
	key := "get"
	if s.Post != "" {
		key = "post"
	}
	address := cmp.Or(s.Get, s.Post)
	if err := refuseLogin(address); err != nil {
		d.add(n.place(key), path, "move it to auth: {basic: {user: …, password: …}}", "%s %s", key, err)
		return
	}
	lower := strings.ToLower(address)
	whole := strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://")
	if u, err := url.Parse(address); err != nil || whole && u.Host == "" || !whole && u.Scheme != "" {
		d.add(n.place(key), path, "write a path such as /v1/orders, or a whole http or https address", "%s is not an address", key)
		return
	}
	if !whole && s.Base == "" {
		d.add(n.place(key), path, "set base, for example base: https://api.example.com", "%s is only a path, and there is no base", key)
	}
}

// crossPaging checks the keys whose meaning hangs on one another.
func (d *decoder) crossPaging(s Source, n *node, path string) {
	body := func(into string, n *node, path, key string) {
		if strings.HasPrefix(into, "body.") && s.Post == "" && s.Get != "" {
			d.add(n.place(key), path, "say query.NAME or header.NAME, or post instead of get", "%s is in the body, which goes with post only", key)
		}
	}
	pairs := func(n *node, path, size, into string, number int, place string) {
		switch {
		case number != 0 && place == "":
			d.add(n.place(size), path, fmt.Sprintf("add %s: query.%s, or leave %s out", into, size, size), "%s has nowhere to go", size)
		case number == 0 && place != "":
			d.add(n.place(into), path, fmt.Sprintf("add %s: 100", size), "%s is set without %s", into, size)
		}
	}
	if inc := s.Incremental; inc != nil {
		body(inc.Into, n.child("incremental"), path+".incremental", "into")
	}
	paginate, path := n.child("paginate"), path+".paginate"
	if p := s.Paginate.Cursor; p != nil {
		body(p.Into, paginate.child("cursor"), path+".cursor", "into")
	}
	if p := s.Paginate.Page; p != nil {
		n, path := paginate.child("page"), path+".page"
		body(p.Into, n, path, "into")
		body(p.SizeInto, n, path, "size_into")
		pairs(n, path, "size", "size_into", p.Size, p.SizeInto)
	}
	if p := s.Paginate.Offset; p != nil {
		n, path := paginate.child("offset"), path+".offset"
		body(p.Into, n, path, "into")
		body(p.LimitInto, n, path, "limit_into")
		pairs(n, path, "limit", "limit_into", p.Limit, p.LimitInto)
	}
}
