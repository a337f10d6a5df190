package config

import "reflect"

// merge lays one tree over another and leaves both as they are. Mappings with known keys, and maps, are merged key
// by key; everything else is replaced. A null takes a value away.
func merge(base, over *node, t reflect.Type) *node {
	switch {
	case over == nil:
		return base
	case base == nil || base.kind != mapping || over.kind != mapping:
		return over
	}
	t = deref(t)
	switch shapeOf(t) {
	case structShape, mapShape:
	case unionShape:
		if len(over.entries) != 1 || base.get(over.entries[0].key) == nil {
			return over // another choice takes the place of the whole
		}
	default:
		return over
	}
	out := &node{kind: mapping, at: over.at}
	was, is := base.index(), over.index()
	for _, e := range base.entries {
		if is[e.key] != nil || t == sourceType && displaced(e.key, over) {
			continue
		}
		out.entries = append(out.entries, e)
	}
	for _, e := range over.entries {
		if inner, ok := under(t, e.key); ok {
			e.value = merge(was[e.key], e.value, inner)
		}
		out.entries = append(out.entries, e)
	}
	return out
}

// displaced tells whether a source's key gives way to what is laid over: get, post and push are one choice, a body
// belongs to post, and nothing that is about reading to push.
func displaced(key string, over *node) bool {
	if push := over.child("push"); push != nil && push.text == "true" {
		return asksOnly(key)
	}
	switch key {
	case "push":
		return over.has("get") || over.has("post")
	case "get":
		return over.has("post")
	case "post", "body":
		return over.has("get")
	}
	return false
}

// maxMerged bounds what the defaults may grow to when every pipeline gets them, as aliases would be bounded.
const maxMerged = 1 << 20

// mergeDefaults lays every pipeline's source over defaults.source.
func mergeDefaults(root *node, p *problems) {
	defaults, ok := root.find("defaults", "source")
	pipelines, some := root.find("pipelines")
	if !ok || !some {
		return
	}
	if defaults.size()*len(pipelines.entries) > maxMerged {
		p.add(defaults.at, "defaults.source", "", "is too much for so many pipelines")
		return
	}
	for _, p := range pipelines.entries {
		switch own := p.value.get("source"); {
		case p.value.kind != mapping:
		case own == nil:
			p.value.entries = append(p.value.entries, entry{key: "source", at: p.at, value: defaults})
		case own.value.kind == null:
			own.value = defaults
		default:
			own.value = merge(defaults, own.value, sourceType)
		}
	}
}
