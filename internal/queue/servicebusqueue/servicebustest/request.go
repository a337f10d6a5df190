package servicebustest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// request is a message to a node that answers (AMQP management, working draft 9, as Service Bus has it).
type request struct {
	id         any
	replyTo    string
	properties pairs
	value      any
}

func parseRequest(b []byte) (request, error) {
	all, err := sections(b)
	if err != nil {
		return request{}, err
	}
	var r request
	for _, s := range all {
		switch s.kind {
		case sectionProperties:
			p, _ := s.value.(list)
			r.id, r.replyTo = fields(p).at(0), fields(p).text(4)
		case sectionApplication:
			r.properties, _ = s.value.(pairs)
		case sectionValue:
			r.value = s.value
		}
	}
	return r, nil
}

// reply answers on the client's receiving link at the same node.
func (l *link) reply(r request, code int32, description string, value any) {
	for _, other := range l.s.links {
		if other.receives || other.node != l.node || (r.replyTo != "" && other.replyTo != r.replyTo) {
			continue
		}
		b := encode(nil, described{uint64(sectionProperties), list{nil, nil, nil, nil, nil, r.id}})
		b = encode(b, described{uint64(sectionApplication), pairs{{"status-code", code}, {"status-description", description}}})
		b = encode(b, described{uint64(sectionValue), value})
		other.replies = append(other.replies, b)
		other.pump()
		return
	}
}

// putToken takes a token for an entity: a shared access signature, or the one bearer token that the server knows.
func (c *conn) putToken(l *link, body []byte) {
	r, err := parseRequest(body)
	if err != nil || text(r.properties.get("operation")) != "put-token" {
		l.reply(r, 400, "put-token is what $cbs knows", nil)
		return
	}
	audience, token := text(r.properties.get("name")), text(r.value)
	var key *Key
	switch {
	// Whatever the type says: Microsoft's SDK for Python calls a signature jwt, and the service takes it.
	case strings.HasPrefix(token, "SharedAccessSignature "):
		key = c.s.signature(token)
	case text(r.properties.get("type")) == "jwt" && c.s.options.Token != "" && token == c.s.options.Token:
		key = &Key{Rights: Send | Listen | Manage}
	}
	if key == nil {
		l.reply(r, 401, "InvalidSignature: The token has an invalid signature.", nil)
		return
	}
	u, err := url.Parse(audience)
	if err != nil {
		l.reply(r, 400, "the audience is not an address", nil)
		return
	}
	c.claims[strings.Trim(u.Path, "/")] = key
	l.reply(r, 202, "Accepted", nil)
}

// may tells whether a token for the entity, or for what it is part of, gives one of the rights.
func (c *conn) may(address string, right Rights) bool {
	for path, key := range c.claims {
		part := path == "" || path == address || strings.HasPrefix(address, path+"/") || path == address+managementSuffix
		if part && key.Rights&right != 0 {
			return true
		}
	}
	return false
}

// signature checks `SharedAccessSignature sr=…&sig=…&se=…&skn=…` and gives the key that has made it, or nil.
func (s *Server) signature(token string) *Key {
	query := strings.TrimPrefix(token, "SharedAccessSignature ")
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil
	}
	// What is signed is the resource as the token has it, in the escapes that the client has chosen.
	var resource string
	for part := range strings.SplitSeq(query, "&") {
		if sr, ok := strings.CutPrefix(part, "sr="); ok {
			resource = sr
		}
	}
	key := s.key(values.Get("skn"))
	expiry, err := strconv.ParseInt(values.Get("se"), 10, 64)
	if key == nil || err != nil || time.Unix(expiry, 0).Before(time.Now()) {
		return nil
	}
	mac := hmac.New(sha256.New, []byte(key.Secret))
	mac.Write([]byte(resource + "\n" + values.Get("se")))
	if !hmac.Equal([]byte(base64.StdEncoding.EncodeToString(mac.Sum(nil))), []byte(values.Get("sig"))) {
		return nil
	}
	return key
}
