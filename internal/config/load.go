package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// FileName is what Load looks for when no file is named.
const FileName = "ferry.yaml"

// Options say where Load looks.
type Options struct {
	// File is the configuration file. Empty: ferry.yaml in Dir if there is one, otherwise the environment alone.
	File string
	// Dir is the folder of ferry.yaml, .env and config/, which errors name without it. Empty: the working directory.
	Dir string
	// Environ holds the process's variables as os.Environ gives them. Nil: none.
	Environ []string
	// Set holds what flags say, by dotted key: "listen", "pipelines.orders.every". It goes before everything else.
	Set map[string]string
	// Checks are run on the values of keys tagged `check:"NAME"`, so that this package needs no other: jq, jqpath,
	// cron, queue, state, schema (whose value is the file's path). An error with a method Offset() int puts the caret
	// on that byte of the value.
	Checks map[string]func(value string) error
	// Profile is the default of the key env. Empty: dev.
	Profile string
}

// Load reads the configuration, fills in defaults and checks it. The layers, each over the one before it: defaults,
// the file, config/dev.env or config/prod.env (as env says), .env, the environment, flags. What is wrong comes back
// all at once as Errors; a file that cannot be read as an error that wraps the system's.
func Load(o Options) (*Config, error) {
	name, file := o.File, o.File
	if name == "" {
		name, file = FileName, filepath.Join(o.Dir, FileName)
	}
	src, err := readRegular(file)
	switch {
	case err == nil:
	case o.File == "" && errors.Is(err, fs.ErrNotExist):
		l := &loader{Options: o, dir: o.Dir} // no file
		return l.load(nil)
	default:
		return nil, fmt.Errorf("load configuration: %w", err)
	}
	l := &loader{Options: o, dir: filepath.Dir(file), files: []string{file}}
	l.File = name
	return l.load(&source{name: name, lines: strings.Split(string(src), "\n"), expand: true})
}

// Parse is Load for a file whose text is already there, such as a built-in one. name stands for it in errors. The
// files in Dir (.env, config/, schemas) are read only when Dir is set.
func Parse(src []byte, name string, o Options) (*Config, error) {
	l := &loader{Options: o, dir: o.Dir, alone: o.Dir == ""}
	return l.load(&source{name: name, lines: strings.Split(string(src), "\n"), expand: true})
}

// A loader carries one call of Load.
type loader struct {
	Options
	problems
	dir   string // what paths in the file are relative to
	alone bool   // read no files in Dir
	files []string
	vars  variables
}

func (l *loader) load(src *source) (*Config, error) {
	root := &node{kind: mapping, at: place{src: &source{name: "environment"}}}
	if src != nil {
		at := place{src: src}
		if tree := readYAML(strings.Join(src.lines, "\n"), at, true, &l.problems); tree != nil && tree.kind != null {
			root = tree
			root.hideLogins()
		}
		if len(l.list) == 0 && root.kind != mapping {
			l.add(root.at, "", "begin with a key, for example listen: 127.0.0.1:8080", "wants a mapping, got %s", root.kind)
		}
		if root.kind != mapping {
			root = &node{kind: mapping, at: at}
		}
	}
	l.readVariables(root)
	if len(l.list) > 0 {
		return nil, l.err() // what follows would only be confused by it
	}
	root, warnings := applyVariables(root, l.vars, &l.problems)
	root = setFlags(root, l.Set, &l.problems)
	if l.Profile != "" && !root.has("env") {
		root = merge(root, nest([]string{"env"}, &node{kind: scalar, text: l.Profile, plain: true}), configType)
	}
	mergeDefaults(root, &l.problems)

	d := &decoder{problems: &l.problems, expander: l.expander(), checks: l.Checks, dir: l.dir, files: &l.files}
	c := &Config{}
	d.fields(root, reflect.ValueOf(c).Elem(), "")
	warnings = append(warnings, l.complete(c)...)
	d.cross(c, root)
	if err := l.err(); err != nil {
		return nil, err
	}
	_, c.Log.LevelSet = root.find("log", "level")
	c.Warnings = warnings
	c.File = l.File
	slices.Sort(l.files)
	c.Files = slices.Compact(l.files)
	return c, nil
}

func (l *loader) expander() expander {
	return expander{lookup: l.vars.lookup, dir: l.dir, files: &l.files}
}

// readVariables collects the environment, .env and config/<env>.env, the weakest first.
func (l *loader) readVariables(root *node) {
	own, dotenv := variables{}, variables{}
	own.add(l.Environ)
	l.readDotenv(dotenv, ".env")
	l.vars = maps.Clone(dotenv)
	maps.Copy(l.vars, own)
	if name := l.env(root); name == "dev" || name == "prod" {
		l.vars = variables{}
		l.readDotenv(l.vars, filepath.Join("config", name+".env"))
		maps.Copy(l.vars, dotenv)
		maps.Copy(l.vars, own)
	}
}

// env says which of config/dev.env and config/prod.env is read, before the key env can be decoded.
func (l *loader) env(root *node) string {
	if env := cmp.Or(l.Set["env"], l.vars["FERRY_ENV"].text); env != "" {
		return env
	}
	if n, ok := root.find("env"); ok && n.kind == scalar {
		x := l.expander()
		env, _, _ := x.expand(n.text) // an error in it comes up when the key is decoded
		return env
	}
	return cmp.Or(l.Profile, "dev")
}

func (l *loader) readDotenv(v variables, name string) {
	if l.alone {
		return
	}
	file := filepath.Join(l.Dir, name)
	text, err := readRegular(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		l.add(place{src: &source{name: name}}, "", "", "%v", err)
		return
	}
	l.files = append(l.files, file)
	v.addFile(name, string(text), &l.problems)
}

// complete fills in what follows from other keys, and says what a person should know.
func (l *loader) complete(c *Config) (warnings []string) {
	key := Secret(l.vars["FERRY_API_KEY"].text)
	known := slices.ContainsFunc(c.Auth.Keys, func(k APIKey) bool { return k.Key == key }) // and keeps its name and role
	if key != "" && !known && !c.Auth.None {
		c.Auth.Keys = append(c.Auth.Keys, APIKey{Name: "env", Key: key, Role: "admin"})
	}
	for name, p := range c.Pipelines {
		p.Topic = cmp.Or(p.Topic, name)
		p.Event.Source = cmp.Or(p.Event.Source, "/pipelines/"+name)
		p.Event.Type = cmp.Or(p.Event.Type, "ferry.record")
		p.Source.Timeouts.Headers = cmp.Or(p.Source.Timeouts.Headers, p.Source.Timeout)
		p.Source.Timeouts.Idle = cmp.Or(p.Source.Timeouts.Idle, p.Source.Timeout)
		if login := p.Source.Auth.OAuth2; login != nil {
			login.TokenURL = underBase(login.TokenURL, p.Source)
		}
		c.Pipelines[name] = p
	}
	if c.Auth.None && l.vars["FERRY_API_KEY"].text != "" {
		c.Callers = append(c.Callers, "FERRY_API_KEY guards nothing: the configuration says auth: none")
	}
	if c.Env == "dev" && !isLoopback(c.Listen) && len(c.Auth.Keys) == 0 && !c.Auth.None {
		c.Callers = append(c.Callers, fmt.Sprintf("other machines can reach %s, and anybody may call: set FERRY_API_KEY, or say auth: none", c.Listen))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Pipelines)) {
		s := c.Pipelines[name].Source
		if address := cmp.Or(s.Get, s.Post); hideQuery(address) != address {
			warnings = append(warnings, fmt.Sprintf("pipelines.%s.source: the address seems to hold a secret (%s), which would show up in logs: put it under auth: {api_key: …}", name, hideQuery(address)))
		}
	}
	if len(c.Pipelines) == 0 {
		warnings = append(warnings, "there are no pipelines: write some into "+FileName+", or set API_URL")
	}
	if _, err := os.Stat(filepath.Join(l.Dir, "ferry.yml")); err == nil && l.File == "" && !l.alone {
		warnings = append(warnings, "ferry.yml is not read: call it "+FileName)
	}
	return warnings
}

// underBase makes a whole address of a path that begins at the source's base. Under "mock:" it stays a path: whoever
// starts the simulated API knows where it listens.
func underBase(address string, s Source) string {
	if !strings.HasPrefix(address, "/") {
		return address
	}
	base, err := url.Parse(s.Base)
	if err != nil || base.Host == "" {
		if base, err = url.Parse(cmp.Or(s.Get, s.Post)); err != nil || base.Host == "" {
			return address
		}
	}
	return base.Scheme + "://" + base.Host + address
}
