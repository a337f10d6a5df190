package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ferry/internal/config"
)

// TestNoSecretIsPrinted prints a configuration whose secrets are all hunter2 in every way that Go knows (invariant 8).
func TestNoSecretIsPrinted(t *testing.T) {
	c := parse(t, `
queue: nats://user:hunter2@h1,h2/?token=hunter2
state: nats://hunter2@h1
trace: {endpoint: "https://user:hunter2@h1"}
auth: {keys: [{name: a, key: hunter2hunter2hunter2}]}
pipelines:
  a: {source: {get: "https://a", headers: {Cookie: hunter2, X: hunter2}, query: {api_key: hunter2, accessToken: hunter2, page: 5}, auth: {bearer: hunter2}}}
  b: {source: {post: "https://a", body: {x: hunter2}, auth: {basic: {user: u, password: hunter2}}}}
  c: {source: {post: "https://a", body: x=hunter2, auth: {api_key: {value: hunter2, query: k}}}}
  d: {source: {get: "https://a", auth: {oauth2: {token_url: "https://a", client_id: a, client_secret: hunter2, params: {password: hunter2}}}}}
`)
	texts := map[string]string{}
	values := map[string]any{"config": c, "value": *c}
	for name, p := range c.Pipelines {
		values[name] = p
		values[name+".source"] = p.Source
		values[name+".auth"] = p.Source.Auth
		values[name+".query"] = p.Source.Query
		values[name+".headers"] = p.Source.Headers
		if !p.Source.Body.IsZero() {
			values[name+".body"] = p.Source.Body
		}
	}
	values["secret"], values["queue"], values["state"] = config.Secret("hunter2"), c.Queue, c.State
	for name, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T", "%10v", "%c"} {
			texts[name+" "+verb] = fmt.Sprintf(verb, v)
		}
		asJSON, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		asYAML, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		texts[name+" json"], texts[name+" yaml"] = string(asJSON), string(asYAML)
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		texts[name+" slog"] = log.String()
	}
	shown, err := c.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	texts["redacted"] = string(shown)
	asJSON, err := json.Marshal(c.RedactedTree())
	if err != nil {
		t.Fatal(err)
	}
	texts["redacted json"] = string(asJSON)
	for how, text := range texts {
		// %x of a text, %c and %d of its bytes.
		for _, secret := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%d", []byte("hunter2")), "104 117 110"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows a secret: %s", how, text)
			}
		}
		if text == "" {
			t.Errorf("%s shows nothing", how)
		}
	}
	if !strings.Contains(texts["redacted"], "api_key: \"[secret]\"") || !strings.Contains(texts["redacted"], "page: \"5\"") {
		t.Errorf("redacted:\n%s", shown)
	}
}

func TestAddressesHideTheirSecrets(t *testing.T) {
	c := parse(t, `
pipelines:
  a: {source: {base: "https://a", get: "/v1?api_key=hunter2&page=5"}}
  b: {source: {post: "https://a/v1?token=hunter2", auth: {oauth2: {token_url: "https://a?sig=hunter2", client_id: a, client_secret: hunter2}}}}
`)
	shown, err := c.Redacted()
	if err != nil || strings.Contains(string(shown), "hunter2") {
		t.Errorf("%v, shown:\n%s", err, shown)
	}
	if got := c.Pipelines["a"].Source.Address(); got != "https://a/v1?api_key=[secret]&page=5" {
		t.Errorf("address %s", got)
	}
	if len(c.Warnings) == 0 || strings.Contains(fmt.Sprint(c.Warnings), "hunter2") {
		t.Errorf("warnings %q", c.Warnings)
	}
}

func TestURLsHideTheirLogin(t *testing.T) {
	for text, want := range map[string]string{
		"embedded:":                       "embedded:",
		"embedded:?listen=127.0.0.1:4222": "embedded:?listen=127.0.0.1:4222",
		"nats://h1,h2":                    "nats://h1,h2",
		"kafkas://$ConnectionString:Endpoint=sb://n/;SharedAccessKey=a+/b==@n:9093": "kafkas://$ConnectionString:[secret]@n:9093",
		"Endpoint=sb://n.example.net/;SharedAccessKeyName=ops;SharedAccessKey=aGk=": "Endpoint=sb://n.example.net/;SharedAccessKeyName=[secret];SharedAccessKey=[secret]",
		"nats://u:p@h1:4222/x?a=1":             "nats://u:[secret]@h1:4222/x?a=1",
		"nats://token@h1":                      "nats://[secret]@h1",
		"nats://u:p@h1,u:q@h2":                 "nats://u:[secret]@h2",
		"nats://u:p,q@h2":                      "nats://u:[secret]@h2",
		"redis://:p@h":                         "redis://:[secret]@h",
		"redis://:p/q@h":                       "redis://:[secret]@h",
		"redis://u:p#q@h/1":                    "redis://u:[secret]@h/1",
		"amqp://u:p%40q@h":                     "amqp://u:[secret]@h",
		"u:p@h":                                "u:[secret]@h",
		"https://h/@me":                        "https://h/@me",
		"https://h?sig=x&se=y&X-Amz-Token=z#f": "https://h?sig=[secret]&se=y&X-Amz-Token=[secret]#f",
		"https://h?accessKey=x&page=2":         "https://h?accessKey=[secret]&page=2",
		"":                                     "",
	} {
		if got := config.URL(text).String(); got != want {
			t.Errorf("%s prints as %s, want %s", text, got, want)
		}
	}
}

// TestRedactedTreeIsTheSame: JSON made of the tree says what the YAML says.
func TestRedactedTreeIsTheSame(t *testing.T) {
	src, err := os.ReadFile("testdata/every_form.yml")
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, string(src), everyVariable...)
	shown, err := c.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	fromYAML, err := yaml.YAMLToJSON(shown)
	if err != nil {
		t.Fatal(err)
	}
	fromTree, err := json.Marshal(c.RedactedTree())
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := errors.Join(json.Unmarshal(fromYAML, &want), json.Unmarshal(fromTree, &got)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the tree differs from the YAML (-yaml +tree):\n%s", diff)
	}
}

// TestRedactedLoadsAgain prints a configuration without secrets and reads it back.
func TestRedactedLoadsAgain(t *testing.T) {
	src, err := os.ReadFile("testdata/every_form.yml")
	if err != nil {
		t.Fatal(err)
	}
	first := parse(t, string(src), everyVariable...)
	shown, err := first.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	// What is secret reads back as the word in its place, which is too short for a key.
	const word = "[secret-0123456789]"
	again := parse(t, strings.ReplaceAll(string(shown), "[secret]", word))
	hide := func(c *config.Config) {
		for i := range c.Auth.Keys {
			c.Auth.Keys[i].Key = word
		}
		for name, p := range c.Pipelines {
			for header := range p.Source.Headers {
				p.Source.Headers[header] = word
			}
			if !p.Source.Body.IsZero() {
				p.Source.Body = config.Body{Text: word}
			}
			if k := p.Source.Auth.APIKey; k != nil {
				k.Value = word
			}
			if o := p.Source.Auth.OAuth2; o != nil {
				o.ClientSecret = word
			}
			c.Pipelines[name] = p
		}
	}
	first.Defaults = config.Defaults{} // part of every pipeline by then
	first.Log.LevelSet = true          // it is written out
	hide(first)
	again.Defaults = config.Defaults{}
	if diff := cmp.Diff(first, again, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("read back as something else (-first +again):\n%s", diff)
	}
}
