package source

import "strings"

// nextLink returns the target of the first link with the relation "next" (RFC 8288), or "". Links with another context
// (anchor) are left aside. What is malformed ends the reading of its line; unread is such a rest that may name a next one.
func nextLink(lines []string) (target, unread string) {
	for _, line := range lines {
		for {
			l, rest, ok := parseLink(line)
			if !ok {
				if strings.Contains(strings.ToLower(line), "next") {
					unread = strings.TrimSpace(line)
				}
				break
			}
			if l.next && !l.anchored {
				return l.target, ""
			}
			line = rest
		}
	}
	return "", unread
}

type link struct {
	target         string
	next, anchored bool
}

// parseLink reads the first link of a Link header's value and returns what follows its comma.
func parseLink(s string) (l link, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t,")
	if !strings.HasPrefix(s, "<") {
		return link{}, "", false
	}
	end := strings.IndexByte(s, '>')
	if end < 0 {
		return link{}, "", false
	}
	l.target = strings.TrimSpace(s[1:end])
	s = s[end+1:]
	related := false
	for {
		s = strings.TrimLeft(s, " \t")
		switch {
		case s == "":
			return l, "", true
		case s[0] == ',':
			return l, s[1:], true
		case s[0] != ';':
			return link{}, "", false
		}
		s = strings.TrimLeft(s[1:], " \t")
		var name, value string
		n := strings.IndexAny(s, "=;,")
		if n < 0 {
			n = len(s)
		}
		name, s = strings.ToLower(strings.TrimSpace(s[:n])), s[n:]
		if strings.HasPrefix(s, "=") {
			if value, s, ok = parseValue(strings.TrimLeft(s[1:], " \t")); !ok {
				return link{}, "", false
			}
		}
		switch name {
		case "rel":
			if related { // only the first counts (RFC 8288, 3.3)
				continue
			}
			related = true
			for rel := range strings.FieldsSeq(strings.Trim(value, "'")) { // which some write for quotation marks
				l.next = l.next || strings.EqualFold(rel, "next")
			}
		case "anchor":
			l.anchored = value != ""
		}
	}
}

// parseValue reads a token or a quoted string.
func parseValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		n := strings.IndexAny(s, ";,")
		if n < 0 {
			n = len(s)
		}
		return strings.TrimSpace(s[:n]), s[n:], true
	}
	var out strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return out.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		out.WriteByte(s[i])
	}
	return "", "", false
}
