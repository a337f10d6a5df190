package sqsqueue

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"pgregory.net/rapid"

	"ferry/internal/record"
)

// asEntry gives a packed record as the fake sees it.
func asEntry(r *record.Record) (message, fakeEntry) {
	m := pack(r)
	e := fakeEntry{MessageBody: m.body(r), MessageAttributes: make(map[string]fakeAttribute)}
	for name, v := range m.attributes {
		e.MessageAttributes[name] = fakeAttribute{*v.DataType, *v.StringValue}
	}
	return m, e
}

func backAgain(r *record.Record) record.Record {
	m := pack(r)
	body := m.body(r)
	return unpack(&types.Message{Body: &body, MessageAttributes: m.attributes})
}

// TestPack: what SQS would refuse goes another way, and everything comes back as it was.
func TestPack(t *testing.T) {
	many := make([]record.Header, 0, 20)
	for _, c := range "abcdefghijklmnopqrst" {
		many = append(many, record.Header{Name: "x-" + string(c), Value: string(c)})
	}
	for name, tt := range map[string]struct {
		record     record.Record
		encoding   string
		attributes []string
		aside      string
	}{
		"plain":             {record.Record{ID: "1", Key: "k", Data: []byte(`{"ä":"🚢\u0000\n"}`)}, "", []string{"ferry-id", "ferry-key"}, ""},
		"control character": {record.Record{ID: "1", Data: []byte("\"\x01\"")}, "base64", []string{"ferry-encoding", "ferry-id"}, ""},
		"noncharacter":      {record.Record{ID: "1", Data: []byte("\"\uffff\"")}, "base64", []string{"ferry-encoding", "ferry-id"}, ""},
		"no UTF-8":          {record.Record{ID: "1", Data: []byte("\"\xff\"")}, "base64", []string{"ferry-encoding", "ferry-id"}, ""},
		"cut off":           {record.Record{ID: "1", Data: []byte("\"\xf0\x9f\x9a")}, "base64", []string{"ferry-encoding", "ferry-id"}, ""},
		"nothing":           {record.Record{ID: "1"}, "empty", []string{"ferry-encoding", "ferry-id"}, ""},
		"no id":             {record.Record{Data: []byte("1")}, "", nil, ""},
		"odd id and key":    {record.Record{ID: "a\x00b", Key: "\x01", Data: []byte("1")}, "", []string{"ferry-headers"}, `{"ferry-id":"a\u0000b","ferry-key":"\u0001"}`},
		"odd headers": {
			record.Record{ID: "1", Data: []byte("1"), Headers: []record.Header{
				{Name: "empty", Value: ""},
				{Name: "aws.x", Value: "v"},
				{Name: "a..b", Value: "v"},
				{Name: "a b", Value: `"\`},
				{Name: "ok.x", Value: "é\t"},
				{Name: "bytes", Value: "\xff\xfe"},
				{Name: "ferry-encoding", Value: "base64"},
				{Name: "ferry-headers", Value: "{}"},
				{Name: "ship", Value: "🚢\x00"},
			}},
			"",
			[]string{"ferry-headers", "ferry-id", "ok.x"},
			`{"a b":"\"\\","a..b":"v","aws.x":"v","bytes":{"base64":"//4="},"empty":"","ferry-encoding":"base64","ferry-headers":"{}","ship":"\ud83d\udea2\u0000"}`,
		},
		"ten": {
			record.Record{ID: "1", Key: "k", Data: []byte("1"), Headers: many[:8]},
			"",
			[]string{"ferry-id", "ferry-key", "x-a", "x-b", "x-c", "x-d", "x-e", "x-f", "x-g", "x-h"},
			"",
		},
		"eleven": {
			record.Record{ID: "1", Key: "k", Data: []byte("1"), Headers: many[:9]},
			"",
			[]string{"ferry-headers", "ferry-id", "ferry-key", "x-a", "x-b", "x-c", "x-d", "x-e", "x-f", "x-g"},
			`{"x-h":"h","x-i":"i"}`,
		},
		"twenty, and an encoding": {
			record.Record{ID: "1", Key: "k", Data: []byte{0}, Headers: many},
			"base64",
			[]string{"ferry-encoding", "ferry-headers", "ferry-id", "ferry-key", "x-a", "x-b", "x-c", "x-d", "x-e", "x-f"},
			"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, e := asEntry(&tt.record)
			if f := e.check(&fakeQueue{}, 1<<20); f != nil {
				t.Errorf("SQS would refuse it: %+v", f)
			}
			if m.size != e.size() {
				t.Errorf("size %d, SQS counts %d", m.size, e.size())
			}
			if m.encoding != tt.encoding || m.encoding != e.MessageAttributes[attributeEncoding].StringValue {
				t.Errorf("encoding %q, want %q", m.encoding, tt.encoding)
			}
			if names := slices.Sorted(maps.Keys(m.attributes)); !slices.Equal(names, tt.attributes) {
				t.Errorf("attributes %q, want %q", names, tt.attributes)
			}
			if tt.aside != "" && e.MessageAttributes[attributeHeaders].StringValue != tt.aside {
				t.Errorf("aside\n%s, want\n%s", e.MessageAttributes[attributeHeaders].StringValue, tt.aside)
			}
			same(t, backAgain(&tt.record), tt.record)
		})
	}
}

func same(t rapid.TB, got, want record.Record) {
	t.Helper()
	headers := func(r record.Record) map[string]string {
		m := make(map[string]string)
		for _, h := range r.Headers {
			m[h.Name] = h.Value
		}
		return m
	}
	if got.ID != want.ID || got.Key != want.Key || !bytes.Equal(got.Data, want.Data) || !maps.Equal(headers(got), headers(want)) {
		t.Errorf("came back as %+q, was %+q", got, want)
	}
}

// TestAnyRecordComesBack: whatever a record holds, SQS takes it and gives it back.
func TestAnyRecordComesBack(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 20), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(t *rapid.T) {
		r := record.Record{ID: text.Draw(t, "id"), Key: text.Draw(t, "key"), Data: []byte(text.Draw(t, "data"))}
		for name, value := range rapid.MapOfN(rapid.StringMatching(`[a-z.\-_ é]{1,12}`), text, 0, 14).Draw(t, "headers") {
			r.Headers = append(r.Headers, record.Header{Name: name, Value: value})
		}
		m, e := asEntry(&r)
		e.MessageGroupId, e.MessageDeduplicationId = token(r.Key), dedupID(r.ID, rapid.IntRange(0, 2).Draw(t, "again"))
		if f := e.check(&fakeQueue{name: "x.fifo"}, 1<<20); f != nil {
			t.Errorf("SQS would refuse it: %+v of %+q", f, r)
		}
		if m.size != e.size() {
			t.Errorf("size %d, SQS counts %d", m.size, e.size())
		}
		same(t, backAgain(&r), r)
	})
}

// TestForeignMessages: what others wrote is shown as it is.
func TestForeignMessages(t *testing.T) {
	text := func(s string) types.MessageAttributeValue {
		kind := "String"
		return types.MessageAttributeValue{DataType: &kind, StringValue: &s}
	}
	body := "not base64 !"
	got := unpack(&types.Message{Body: &body, MessageAttributes: map[string]types.MessageAttributeValue{
		attributeEncoding: text("base64"), attributeHeaders: text(`{"a":1}`), "bytes": {BinaryValue: []byte{1, 2}},
	}})
	same(t, got, record.Record{Data: []byte(body), Headers: []record.Header{
		{Name: "bytes", Value: "\x01\x02"}, {Name: attributeEncoding, Value: "base64"}, {Name: attributeHeaders, Value: `{"a":1}`},
	}})
	same(t, unpack(&types.Message{}), record.Record{})
}

func TestTokens(t *testing.T) {
	for s, plain := range map[string]bool{
		"7b90992cb55580c0d8309ceff646f2a9#12": true, "!~": true, "a b": false, "ü": false, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false, "": false,
	} {
		if got := token(s); !isToken(got) || (got == s) != plain {
			t.Errorf("token of %q is %q", s, got)
		}
	}
	if a, b := dedupID("", 0), dedupID("", 0); a == b {
		t.Error("records without an id would be taken for each other")
	}
	if a, b := dedupID("x", 0), dedupID("x", 1); a != "x" || a == b {
		t.Errorf("%q and %q", a, b)
	}
}
