package mockapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
)

// serveControl answers what steers the server itself. No fault concerns it.
func (s *Server) serveControl(a *answer, name string) {
	if err := a.readBody(); err != nil {
		a.fail(http.StatusBadRequest, err.Error())
		return
	}
	var err error
	switch a.r.Method + " " + name {
	case "GET ledger":
		a.json(http.StatusOK, s.Summary())
		return
	case "DELETE ledger":
		s.ledger.Reset()
	case "GET faults":
		a.json(http.StatusOK, s.faults.injected())
		return
	case "PUT faults":
		var faults []Fault
		if faults, err = parseFaults(a.body); err == nil {
			s.faults.replace(faults)
		}
	case "DELETE faults":
		s.ClearFaults()
	case "POST data":
		err = s.changeData(a.body)
	case "DELETE tokens":
		s.RevokeTokens()
	case "POST reset":
		s.Reset()
	default:
		a.fail(http.StatusNotFound, "no such control; GET / lists them")
		return
	}
	if err != nil {
		a.fail(http.StatusBadRequest, err.Error())
		return
	}
	a.write(http.StatusNoContent, "", nil)
}

// parseFaults reads a list of faults, each one a text or an object with the same keys.
func parseFaults(body []byte) ([]Fault, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf(`read faults: %w; it is a list such as ["503,path=/v1/,nth=2",{"kind":"latency","wait":"1s"}]`, err)
	}
	faults := make([]Fault, 0, len(list))
	for _, raw := range list {
		f, err := parseFaultJSON(raw)
		if err != nil {
			return nil, err
		}
		faults = append(faults, f)
	}
	return faults, nil
}

func parseFaultJSON(raw json.RawMessage) (Fault, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return ParseFault(text)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var members map[string]any
	if err := decoder.Decode(&members); err != nil {
		return Fault{}, fmt.Errorf("read fault %s: %w", raw, err)
	}
	var f Fault
	for key, value := range members {
		if err := f.set(key, fmt.Sprint(value)); err != nil {
			return f, fmt.Errorf("read fault %s: %w", raw, err)
		}
	}
	if err := f.check(); err != nil {
		return f, fmt.Errorf("read fault %s: %w", raw, err)
	}
	return f, nil
}

// changeData grows and touches a set: {"set":"orders","grow":10,"touch":[0,1]}.
func (s *Server) changeData(body []byte) error {
	var change struct {
		Set   string `json:"set"`
		Grow  int    `json:"grow"`
		Touch []int  `json:"touch"`
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&change); err != nil {
		return fmt.Errorf(`read change: %w; it looks like {"set":"orders","grow":10,"touch":[0,1]}`, err)
	}
	if !slices.ContainsFunc(s.sets, func(set *set) bool { return set.name == change.Set }) {
		return fmt.Errorf("there is no set %q: say orders, users or events", change.Set)
	}
	s.Grow(change.Set, change.Grow)
	s.Touch(change.Set, change.Touch...)
	return nil
}
