package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

const prefix = "FERRY_"

// reserved are FERRY_ variables that are no keys of the configuration: who a command talks to, which file is read,
// what the simulated API and the tests listen to. FERRY_API_KEY adds a key; see addKey.
func reserved(name string) bool {
	switch name {
	case "FERRY_API_KEY", "FERRY_SERVER", "FERRY_CONFIG":
		return true
	}
	return strings.HasPrefix(name, "FERRY_MOCK_") || strings.HasPrefix(name, "FERRY_TEST_")
}

// variableName is the variable of a key: FERRY_PIPELINES_ORDERS_SOURCE_BASE for pipelines.orders.source.base.
func variableName(keys ...string) string {
	return prefix + asVariable(strings.Join(keys, "_"))
}

func asVariable(key string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '.' {
			return '_'
		}
		return r
	}, strings.ToUpper(key))
}

// keysOfVariable finds the key that a variable's name (without FERRY_) means, and its type. Names of pipelines and
// parameters that are there already are preferred; others become lower case, as short as the rest allows.
func keysOfVariable(name string, t reflect.Type, n *node) ([]string, reflect.Type, bool) {
	t = deref(t)
	if name == "" {
		return nil, t, true
	}
	var candidates []string
	switch shapeOf(t) {
	case structShape, unionShape:
		candidates = keysOf(t)
	case mapShape:
		if n != nil {
			for _, e := range n.entries {
				candidates = append(candidates, e.key)
			}
		}
	default:
		return nil, nil, false
	}
	// The longest first: retry_max before a key retry.
	slices.SortStableFunc(candidates, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, key := range candidates {
		rest, ok := strings.CutPrefix(name, asVariable(key))
		if !ok || rest != "" && rest[0] != '_' || rest == "_" {
			continue
		}
		inner, _ := under(t, key)
		if keys, leaf, ok := keysOfVariable(strings.TrimPrefix(rest, "_"), inner, n.child(key)); ok {
			return append([]string{key}, keys...), leaf, true
		}
	}
	if shapeOf(t) != mapShape {
		return nil, nil, false
	}
	elem := t.Elem()
	if shapeOf(elem).isScalar() {
		key := strings.ToLower(name)
		if elem == secretType { // header names have hyphens
			key = strings.ReplaceAll(key, "_", "-")
		}
		return []string{key}, elem, true
	}
	for i, r := range name {
		if r != '_' || i == 0 || i == len(name)-1 {
			continue
		}
		if keys, leaf, ok := keysOfVariable(name[i+1:], elem, nil); ok {
			return append([]string{strings.ToLower(name[:i])}, keys...), leaf, true
		}
	}
	return []string{strings.ToLower(name)}, elem, !strings.Contains(name, "_")
}

// valueOf makes a tree of a variable's or a flag's text: a scalar as it is, everything else read as YAML (and so as
// JSON). The word null takes a value away, as it does in the file.
func valueOf(text string, t reflect.Type, at place, p *problems) *node {
	if text == "null" {
		return &node{kind: null, at: at}
	}
	s := shapeOf(t)
	if s.isScalar() || s == bodyShape && !strings.ContainsAny(text[:min(1, len(text))], "{[") {
		return &node{kind: scalar, text: text, plain: true, at: at}
	}
	return readYAML(text, at, false, p)
}

// applyVariables lays the environment over the tree and returns it with the warnings.
func applyVariables(root *node, vars variables, p *problems) (*node, []string) {
	root = applyShort(root, vars)
	type setting struct {
		keys []string
		leaf reflect.Type
		v    variable
	}
	var settings []setting
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok || reserved(name) || vars[name].text == "" {
			continue
		}
		keys, leaf, ok := keysOfVariable(rest, configType, root)
		if !ok || len(keys) == 0 {
			if !root.mentions(name) {
				unknown = append(unknown, name)
			}
			continue
		}
		settings = append(settings, setting{keys, leaf, vars[name]})
	}
	// What sets a whole comes before what sets a part of it.
	slices.SortStableFunc(settings, func(a, b setting) int { return cmp.Compare(len(a.keys), len(b.keys)) })
	for _, s := range settings {
		if value := valueOf(s.v.text, s.leaf, s.v.at, p); value != nil {
			root = merge(root, nest(s.keys, value), configType)
		}
	}
	var warnings []string
	for _, name := range unknown {
		warning := name + " is not a setting of ferry"
		if near := Suggest(name, variableNames(configType, root, nil)); near != "" {
			warning += "; did you mean " + near + "?"
		}
		warnings = append(warnings, warning)
	}
	return root, warnings
}

// applyShort lays API_URL and MESSAGE_QUEUE_URL over the tree, with which the environment alone is enough for one
// pipeline. A file that names such a variable itself has the last word on where it goes.
func applyShort(root *node, vars variables) *node {
	if v, ok := vars["MESSAGE_QUEUE_URL"]; ok && v.text != "" && !root.mentions("MESSAGE_QUEUE_URL") {
		root = merge(root, nest([]string{"queue"}, &node{kind: scalar, text: v.text, at: v.at}), configType)
	}
	v, ok := vars["API_URL"]
	pipelines, some := root.find("pipelines")
	if !ok || v.text == "" || root.mentions("API_URL") || some && len(pipelines.entries) > 0 && !pipelines.has("process") {
		return root
	}
	return merge(root, nest([]string{"pipelines", "process", "source"}, addressOf(v)), configType)
}

// addressOf splits a whole address into base, get and query. A login in it becomes auth: basic.
func addressOf(v variable) *node {
	out := &node{kind: mapping, at: v.at}
	set := func(n *node, key string, value *node) {
		n.entries = append(n.entries, entry{key: key, at: v.at, value: value})
	}
	text := func(s string) *node { return &node{kind: scalar, text: s, plain: true, at: v.at} }
	u, err := url.Parse(strings.TrimSpace(v.text))
	if err != nil || u.Host == "" {
		set(out, "base", text(strings.TrimSpace(v.text))) // "mock:", or the check says what is wrong
		set(out, "get", text("/"))
		return out
	}
	set(out, "base", text(u.Scheme+"://"+u.Host))
	query, err := url.ParseQuery(u.RawQuery)
	params := &node{kind: mapping, at: v.at}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if len(query[name]) > 1 {
			err = errors.New("a parameter comes twice")
		}
		set(params, name, text(query.Get(name)))
	}
	path := cmp.Or(u.EscapedPath(), "/")
	switch {
	case err != nil: // stays as it is where a mapping cannot hold it
		path += "?" + u.RawQuery
	case len(query) > 0:
		set(out, "query", params)
	}
	set(out, "get", text(path))
	if u.User != nil {
		password, _ := u.User.Password()
		basic := &node{kind: mapping, at: v.at}
		set(basic, "user", text(u.User.Username()))
		set(basic, "password", text(password))
		set(out, "auth", nest([]string{"basic"}, basic))
	}
	return out
}

// setFlags lays what flags say over the tree.
func setFlags(root *node, set map[string]string, p *problems) *node {
	for _, path := range slices.Sorted(maps.Keys(set)) {
		at := place{src: &source{name: "command line"}}
		keys := strings.Split(path, ".")
		t := configType
		for i, key := range keys {
			inner, ok := under(t, key)
			if !ok {
				p.add(at, strings.Join(keys[:i], "."), didYouMean(key, keysOf(deref(t))), "unknown key %q", crop(key))
				t = nil
				break
			}
			t = inner
		}
		if t == nil {
			continue
		}
		if value := valueOf(set[path], t, at, p); value != nil {
			root = merge(root, nest(keys, value), configType)
		}
	}
	return root
}

// variableNames lists the variables of all keys, for suggestions.
func variableNames(t reflect.Type, n *node, keys []string) []string {
	t = deref(t)
	var names []string
	if len(keys) > 0 {
		names = append(names, variableName(keys...))
	}
	down := func(key string, inner reflect.Type) {
		names = append(names, variableNames(inner, n.child(key), append(slices.Clip(keys), key))...)
	}
	switch shapeOf(t) {
	case structShape, unionShape:
		for _, f := range fieldsOf(t) {
			down(f.key, f.typ)
		}
	case mapShape:
		if n != nil {
			for _, e := range n.entries {
				down(e.key, t.Elem())
			}
		}
	}
	return names
}

func didYouMean(word string, candidates []string) string {
	if near := Suggest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return ""
}
