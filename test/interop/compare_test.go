package interop

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// compareRecords: every record once and in order, with its key, its headers and its data byte for byte.
func compareRecords(t *testing.T, got, want []line) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d records were read, want %d", len(got), len(want))
	}
	seen := make(map[string]bool, len(got))
	for i := range min(len(got), len(want)) {
		g, w := got[i], want[i]
		if seen[g.ID] {
			t.Fatalf("record %s is there twice", g.ID)
		}
		seen[g.ID] = true
		if g.Headers["ferry-run"] == "" {
			t.Errorf("record %d has no header ferry-run", i)
		}
		g.Headers, w.Headers = shared(g.Headers), shared(w.Headers)
		if diff := cmp.Diff(w, g); diff != "" {
			t.Fatalf("record %d differs (-ferry +client):\n%s", i, diff)
		}
	}
}

// shared leaves out what differs from run to run, and what carries the key, which is compared by itself. Any
// other header stays, and is a difference when ferry does not name it too.
func shared(headers map[string]string) map[string]string {
	out := make(map[string]string, len(headers))
	for name, value := range headers {
		if name != "ferry-run" && name != "ferry-key" && name != "traceparent" {
			out[name] = value
		}
	}
	return out
}

// compareEvents: the same as CloudEvents, by the SDK of the reader's language where that knows the binding, otherwise
// by the headers of the binding, or, where none is published, by the event around the data.
func compareEvents(t *testing.T, got, want []line) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d events were read, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		e := eventOf(t, &got[i])
		if e.Data == nil {
			t.Fatalf("event %d has no data", i)
		}
		var g, w any
		if err := json.Unmarshal(e.Data, &g); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		if err := json.Unmarshal([]byte(want[i].Data), &w); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w, g); diff != "" {
			t.Fatalf("the data of event %d differ (-ferry +client):\n%s", i, diff)
		}
		e.Data = nil
		expected := event{
			ID: want[i].ID, Source: "/shop", Type: "com.example.order", Subject: want[i].Key, SpecVersion: "1.0",
			DataContentType: "application/json",
		}
		if diff := cmp.Diff(expected, e); diff != "" {
			t.Fatalf("event %d differs (-ferry +client):\n%s", i, diff)
		}
	}
}

func eventOf(t *testing.T, r *line) event {
	t.Helper()
	if r.Event != nil {
		return *r.Event
	}
	for _, prefix := range []string{"ce_", "ce-", "cloudEvents:"} {
		if r.Headers[prefix+"specversion"] == "" {
			continue
		}
		at := func(name string) string { return r.Headers[prefix+name] }
		return event{
			ID: at("id"), Source: at("source"), Type: at("type"), Subject: at("subject"), SpecVersion: at("specversion"),
			DataContentType: r.Headers["content-type"], Data: json.RawMessage(r.Data),
		}
	}
	if kind := r.Headers["content-type"]; !strings.HasPrefix(kind, "application/cloudevents+json") {
		t.Fatalf("record %s is no event: headers %v", r.ID, r.Headers)
	}
	var e event
	if err := json.Unmarshal([]byte(r.Data), &e); err != nil {
		t.Fatalf("record %s: %v", r.ID, err)
	}
	return e
}
