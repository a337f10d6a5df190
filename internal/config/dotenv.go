package config

import "strings"

// A variable is a value of the environment and where it comes from.
type variable struct {
	text string
	at   place
}

// variables by name.
type variables map[string]variable

// lookup is the way of os.LookupEnv.
func (v variables) lookup(name string) (string, bool) {
	one, ok := v[name]
	return one.text, ok
}

// add takes over what os.Environ gives.
func (v variables) add(environ []string) {
	for _, pair := range environ {
		if name, text, ok := strings.Cut(pair, "="); ok && name != "" {
			v[name] = variable{text, place{src: &source{name: name}}}
		}
	}
}

// addFile reads the form of .env files: NAME=value a line, comments after #, an optional "export", values bare, in
// single quotes (as they are) or in double quotes (with \n, \t, \", \\ and \$). References are not expanded.
func (v variables) addFile(name, text string, p *problems) {
	src := &source{name: name}
	for i, line := range strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n") {
		at := place{src: src, line: i + 1, col: 1}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key = strings.TrimSpace(strings.TrimPrefix(key, "export "))
		if !ok || !isVariable(key) {
			p.add(at, "", "write NAME=value", "this line sets no variable")
			continue
		}
		value, problem := unquote(strings.TrimSpace(value))
		if problem != "" {
			p.add(at, "", "", "%s: %s", key, problem)
			continue
		}
		v[key] = variable{value, at}
	}
}

var unescape = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\"`, `"`, `\\`, `\`, `\$`, `$`)

func unquote(value string) (text, problem string) {
	if value == "" || value[0] != '"' && value[0] != '\'' {
		if strings.HasPrefix(value, "#") {
			return "", ""
		}
		for _, comment := range []string{" #", "\t#"} {
			value, _, _ = strings.Cut(value, comment)
		}
		return strings.TrimSpace(value), ""
	}
	quote, end := value[0], -1
	for i := 1; i < len(value) && end < 0; i++ {
		switch {
		case value[i] == '\\' && quote == '"':
			i++
		case value[i] == quote:
			end = i
		}
	}
	if end < 0 {
		return "", "the quote is not closed on the same line"
	}
	if rest := strings.TrimSpace(value[end+1:]); rest != "" && rest[0] != '#' {
		return "", "there is text after the closing quote"
	}
	if text = value[1:end]; quote == '"' {
		text = unescape.Replace(text)
	}
	return text, ""
}
