package config

import (
	"encoding"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestTypedValues(t *testing.T) {
	duration := func(d time.Duration) any { d2 := Duration(d); return &d2 }
	size := func(n int64) any { b := Bytes(n); return &b }
	rate := func(n float64, per time.Duration) any { return &Rate{n, per} }
	tests := []struct {
		text  string
		want  any    // what it means
		again string // how it prints; "" for as typed
	}{
		{"250ms", duration(250 * time.Millisecond), ""},
		{"30s", duration(30 * time.Second), ""},
		{"90s", duration(90 * time.Second), "1m30s"},
		{"5m", duration(5 * time.Minute), ""},
		{"6h", duration(6 * time.Hour), ""},
		{"24h", duration(24 * time.Hour), "1d"},
		{"7d", duration(7 * 24 * time.Hour), ""},
		{"1d12h", duration(36 * time.Hour), ""},
		{"1h0m5s", duration(time.Hour + 5*time.Second), ""},
		{"0", duration(0), "0s"},
		{"512", size(512), ""},
		{"64KiB", size(64 << 10), ""},
		{"8MiB", size(8 << 20), ""},
		{"8 MiB", size(8 << 20), "8MiB"},
		{"1.5GiB", size(3 << 29), "1536MiB"},
		{"4GiB", size(4 << 30), ""},
		{"1TiB", size(1 << 40), ""},
		{"3KB", size(3000), ""},
		{"5MB", size(5e6), ""},
		{"7B", size(7), "7"},
		{"0", size(0), ""},
		{"10/s", rate(10, time.Second), ""},
		{"600 / m", rate(600, time.Minute), "600/m"},
		{"0.5/h", rate(0.5, time.Hour), ""},
		{"5000/d", rate(5000, 24*time.Hour), ""},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got := reflect.New(reflect.TypeOf(tt.want).Elem())
			if err := got.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(tt.text)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Interface(), tt.want) {
				t.Errorf("got %v, want %v", got.Elem(), tt.want)
			}
			again, err := got.Interface().(encoding.TextMarshaler).MarshalText()
			if want := tt.again; err != nil || want == "" && string(again) != tt.text || want != "" && string(again) != want {
				t.Errorf("prints as %s, %v", again, err)
			}
		})
	}
}

func TestTypedValuesRefused(t *testing.T) {
	tests := []struct {
		v    encoding.TextUnmarshaler
		text string
	}{
		{new(Duration), ""},
		{new(Duration), "5"},
		{new(Duration), "5 m"},
		{new(Duration), "-5s"},
		{new(Duration), "d"},
		{new(Duration), "1.5d"},
		{new(Duration), "-1d"},
		{new(Duration), "65535d2000000h"},
		{new(Duration), "99999999999h"},
		{new(Duration), "1d-1h"},
		{new(Duration), "1d1d"},
		{new(Bytes), ""},
		{new(Bytes), "MiB"},
		{new(Bytes), "-1"},
		{new(Bytes), "1e30"},
		{new(Bytes), "0x10"},
		{new(Bytes), "inf"},
		{new(Bytes), "NaN"},
		{new(Bytes), "5mb"},
		{new(Bytes), "9223372036854775807TiB"},
		{new(Rate), "10"},
		{new(Rate), "/s"},
		{new(Rate), "0/s"},
		{new(Rate), "-1/s"},
		{new(Rate), "1/w"},
		{new(Rate), "inf/s"},
		{new(Rate), "NaN/s"},
		{new(Rate), "1e10/s"},
	}
	for _, tt := range tests {
		if err := tt.v.UnmarshalText([]byte(tt.text)); err == nil {
			t.Errorf("%T takes %q as %v", tt.v, tt.text, tt.v)
		}
	}
}

// TestTagsAreSound catches a default, bound or example that its own key would refuse.
func TestTagsAreSound(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(t2 reflect.Type)
	walk = func(typ reflect.Type) {
		typ = deref(typ)
		switch shapeOf(typ) {
		case mapShape, listShape:
			walk(typ.Elem())
			return
		case unknownShape:
			t.Errorf("%s has no shape", typ)
			return
		case structShape, unionShape:
		default:
			return
		}
		if seen[typ] {
			return
		}
		seen[typ] = true
		for _, f := range fieldsOf(typ) {
			for _, text := range []string{f.def, f.min, f.max, f.example} {
				if text == "" || strings.Contains(text, "${") {
					continue
				}
				d := &decoder{problems: &problems{}, files: new([]string)}
				n := valueOf(text, f.typ, place{}, d.problems)
				with := f
				if text != f.def && text != f.example {
					with = field{}
				}
				d.value(n, reflect.New(f.typ).Elem(), with, typ.Name()+"."+f.key)
				if err := d.err(); err != nil {
					t.Errorf("%s.%s: %q: %v", typ.Name(), f.key, text, err)
				}
			}
			walk(f.typ)
		}
	}
	walk(configType)
}

func TestSuggest(t *testing.T) {
	keys := []string{"retries", "retry_max", "rate", "on", "timeout", "timeouts"}
	for word, want := range map[string]string{
		"retires": "retries", "retry-max": "retry_max", "RetryMax": "retry_max", "rat": "rate", "timout": "timeout",
		"no": "on", "zzz": "", "": "", "retry": "", "tiemouts": "timeouts",
	} {
		if got := Suggest(word, keys); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", word, got, want)
		}
	}
}
