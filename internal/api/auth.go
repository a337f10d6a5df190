package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"ferry/internal/config"
)

// role is what a caller may do. Each includes those before it.
type role int

const (
	roleOpen  role = iota // no key needed
	roleRead              // look
	roleRun               // also start runs, publish, take records
	roleAdmin             // also steer: pause, cursor, dead letters
)

func (r role) String() string { return [...]string{"open", "read", "run", "admin"}[r] }

func parseRole(s string) (role, error) {
	for r := roleRead; r <= roleAdmin; r++ {
		if r.String() == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("role %q is none of read, run, admin", s)
}

// keyring knows the API keys by their digests. Nil lets everybody do everything.
type keyring struct{ holders []holder }

type holder struct {
	name   string
	role   role
	digest [sha256.Size]byte
}

func newKeyring(auth config.Auth) (*keyring, error) {
	if len(auth.Keys) == 0 {
		return nil, nil
	}
	if auth.None {
		return nil, errors.New("read auth: it says none and has keys; say one of them")
	}
	k := &keyring{}
	for i, key := range auth.Keys {
		if key.Key == "" {
			return nil, fmt.Errorf("read auth.keys[%d] (%s): the key is empty", i, key.Name)
		}
		role, err := parseRole(key.Role)
		if err != nil {
			return nil, fmt.Errorf("read auth.keys[%d] (%s): %w", i, key.Name, err)
		}
		k.holders = append(k.holders, holder{key.Name, role, sha256.Sum256([]byte(key.Key.Reveal()))})
	}
	return k, nil
}

// holder finds who holds the key that the request carries, or nil. Every key is compared, in constant time, over
// digests of equal length: neither the key's length nor how much of it was right shows in the time taken.
func (k *keyring) holder(r *http.Request) *holder {
	presented := presentedKey(r.Header)
	if presented == "" {
		return nil
	}
	digest := sha256.Sum256([]byte(presented))
	found := -1
	for i := range k.holders {
		same := subtle.ConstantTimeCompare(digest[:], k.holders[i].digest[:])
		found = subtle.ConstantTimeSelect(same, i, found)
	}
	if found < 0 {
		return nil
	}
	return &k.holders[found]
}

// presentedKey reads the key from one of the two headers. A key in the address is never taken: addresses end up in
// logs and histories.
func presentedKey(h http.Header) string {
	if key := h.Get("X-Api-Key"); key != "" {
		return key
	}
	scheme, token, ok := strings.Cut(h.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// authorize returns nil when the request may call an operation that needs the role, and names the caller.
func (h *Handler) authorize(w http.ResponseWriter, r *http.Request, x *exchange, need role) *Problem {
	if h.keys == nil || need == roleOpen {
		return nil
	}
	who := h.keys.holder(r)
	if who == nil {
		// RFC 9110, 11.6.1 and RFC 6750, 3: the scheme to use, and whether what was sent is the trouble.
		challenge, detail := `Bearer realm="ferry"`, "This needs an API key of the role "+need.String()+" or above."
		if presentedKey(r.Header) != "" {
			challenge, detail = challenge+`, error="invalid_token"`, "The API key that was sent is not one of this service's."
		}
		w.Header().Set("WWW-Authenticate", challenge)
		return newProblem(CodeUnauthorized, detail)
	}
	x.caller = who.name
	if who.role < need {
		return newProblem(CodeForbidden, fmt.Sprintf("The key %q has the role %s; this needs %s.", who.name, who.role, need))
	}
	return nil
}
