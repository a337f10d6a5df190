package cloud

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/dynblock"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	ctyyaml "github.com/zclconf/go-cty-yaml"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// evaluated is a folder of Terraform files with values for its variables.
type evaluated struct {
	ctx       *hcl.EvalContext
	resources map[string]*hclsyntax.Body
}

// evaluate computes the locals. What resources export is what exports say, by name, or else some text.
func evaluate(t *testing.T, dir string, variables map[string]cty.Value, exports map[string]string) evaluated {
	t.Helper()
	e := evaluated{ctx: &hcl.EvalContext{Functions: functions(), Variables: map[string]cty.Value{}}, resources: map[string]*hclsyntax.Body{}}
	locals := map[string]hcl.Expression{}
	given := map[string]cty.Value{}
	exported := map[string]map[string]map[string]cty.Value{}
	for _, body := range parse(t, dir) {
		for _, b := range body.Blocks {
			switch b.Type {
			case "resource":
				e.resources[strings.Join(b.Labels, ".")] = b.Body
			case "locals":
				for name, a := range b.Body.Attributes {
					locals[name] = a.Expr
				}
			case "variable":
				name := b.Labels[0]
				value, ok := variables[name]
				if a := b.Body.Attributes["default"]; !ok && a != nil {
					value, _ = a.Expr.Value(nil)
					ok = true
				}
				if !ok {
					value = cty.StringVal("a " + name)
				}
				given[name] = value
			}
		}
		for _, parts := range reads(t, body) {
			if len(parts) < 3 || !strings.Contains(parts[0], "_") {
				continue
			}
			if exported[parts[0]] == nil {
				exported[parts[0]] = map[string]map[string]cty.Value{}
			}
			if exported[parts[0]][parts[1]] == nil {
				exported[parts[0]][parts[1]] = map[string]cty.Value{}
			}
			text, ok := exports[strings.Join(parts[:3], ".")]
			if !ok {
				text = "some-" + parts[2]
			}
			exported[parts[0]][parts[1]][parts[2]] = cty.StringVal(text)
		}
	}
	e.ctx.Variables["var"] = cty.ObjectVal(given)
	for kind, names := range exported {
		objects := map[string]cty.Value{}
		for name, attributes := range names {
			objects[name] = cty.ObjectVal(attributes)
		}
		e.ctx.Variables[kind] = cty.ObjectVal(objects)
	}
	// A local is computed once those that it names are.
	known := map[string]cty.Value{}
	for len(known) < len(locals) {
		before := len(known)
		for name, expr := range locals {
			_, done := known[name]
			if done || slices.ContainsFunc(expr.Variables(), func(v hcl.Traversal) bool {
				if v.RootName() != "local" {
					return false
				}
				_, there := known[v[1].(hcl.TraverseAttr).Name]
				return !there
			}) {
				continue
			}
			value, diags := expr.Value(e.ctx)
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			known[name] = value
			e.ctx.Variables["local"] = cty.ObjectVal(known)
		}
		if len(known) == before {
			t.Fatalf("of %d locals only %d can be computed", len(locals), before)
		}
	}
	return e
}

func (e evaluated) local(name string) cty.Value { return e.ctx.Variables["local"].GetAttr(name) }

func (e evaluated) names(t *testing.T, local string) []string {
	t.Helper()
	var all []string
	for _, v := range e.local(local).AsValueSlice() {
		all = append(all, v.AsString())
	}
	slices.Sort(all)
	return all
}

// functions are those of Terraform's that the files use.
func functions() map[string]function.Function {
	text := []function.Parameter{{Name: "value", Type: cty.String}}
	return map[string]function.Function{
		"can": tryfunc.CanFunc, "concat": stdlib.ConcatFunc, "contains": stdlib.ContainsFunc, "format": stdlib.FormatFunc,
		"jsonencode": stdlib.JSONEncodeFunc, "keys": stdlib.KeysFunc, "lower": stdlib.LowerFunc, "merge": stdlib.MergeFunc,
		"replace": stdlib.ReplaceFunc, "setunion": stdlib.SetUnionFunc, "toset": stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)),
		"try": tryfunc.TryFunc, "upper": stdlib.UpperFunc, "yamldecode": ctyyaml.YAMLDecodeFunc,
		"file": function.New(&function.Spec{
			Params: text, Type: function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				b, err := os.ReadFile(args[0].AsString())
				return cty.StringVal(string(b)), err
			},
		}),
		"nonsensitive": function.New(&function.Spec{
			Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType}},
			Type:   func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
			Impl:   func(args []cty.Value, _ cty.Type) (cty.Value, error) { return args[0], nil },
		}),
	}
}

const upstreamKey = "FERRY_PIPELINES_ORDERS_SOURCE_AUTH_BEARER"

// TestContainer: ferry itself takes the variables that a container gets from Terraform, and its topics' queues are made
// under the names that it looks for.
func TestContainer(t *testing.T) {
	bin := ferry(t)
	variables := map[string]cty.Value{
		"config":  cty.StringVal("testdata/ferry.yaml"),
		"region":  cty.StringVal("eu-west-1"),
		"api_key": cty.StringVal("a-key-of-more-than-16-characters"),
		"secrets": cty.MapVal(map[string]cty.Value{upstreamKey: cty.StringVal("upstream's key")}),
		"session": cty.StringVal("key"),
	}
	for _, tt := range []struct {
		name         string
		exports      map[string]string
		container    func(*testing.T, evaluated) (plain, secret map[string]string)
		topics, dead []string
		queue, state string
	}{
		{
			name: "aws", container: fargate,
			exports: map[string]string{
				"aws_db_instance.state.endpoint": "db.example.com:5432", "aws_db_instance.state.username": "ferry",
				"aws_db_instance.state.db_name": "ferry", "random_password.database.result": "pw",
			},
			topics: []string{"process", "shop-orders"}, dead: []string{"process-dead", "shop-orders-dead"},
			queue: "sqs://eu-west-1", state: "@db.example.com:5432/ferry?sslmode=require",
		},
		{
			name: "azure", container: containerApp,
			exports: map[string]string{
				"azurerm_servicebus_namespace.ferry.name": "ns", "azurerm_postgresql_flexible_server.state.fqdn": "db.example.com",
				"azurerm_postgresql_flexible_server.state.administrator_login": "ferry",
				"azurerm_postgresql_flexible_server_database.state.name":       "ferry", "random_password.database.result": "pw",
			},
			topics: []string{"process", "shop.orders"}, dead: []string{"process.dead", "shop.orders.dead"},
			queue: "azservicebus://ns.servicebus.windows.net?duplicate_detection=10m", state: "@db.example.com/ferry?sslmode=require",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := evaluate(t, filepath.Join("../../deploy", tt.name), variables, tt.exports)
			if topics, dead := e.names(t, "topics"), e.names(t, "dead"); !slices.Equal(topics, tt.topics) || !slices.Equal(dead, tt.dead) {
				t.Errorf("queues for %q and %q", topics, dead)
			}
			plain, secret := tt.container(t, e)
			if want := []string{"FERRY_API_KEY", upstreamKey, "FERRY_STATE"}; !slices.Equal(slices.Sorted(maps.Keys(secret)), want) {
				t.Errorf("secrets %v, want %v", slices.Sorted(maps.Keys(secret)), want)
			}
			for name, value := range plain {
				for other, hidden := range secret {
					if strings.Contains(value, hidden) || name == other {
						t.Errorf("%s shows the secret %s", name, other)
					}
				}
			}
			cmd := exec.Command(bin, "check", "--show")
			cmd.Dir = t.TempDir()
			cmd.Env = []string{"FERRY_LISTEN=0.0.0.0:8080", "FERRY_DATA=/data"} // as the image says
			for _, all := range []map[string]string{plain, secret} {
				for name, value := range all {
					cmd.Env = append(cmd.Env, name+"="+value)
				}
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("ferry check: %v\n%s\n%q", err, out, cmd.Env)
			}
			for _, want := range []string{
				"env: prod", "queue: " + tt.queue, tt.state, "topic: shop.orders", "every: 5m", `where: .total > 0`, "rate: 10/s", "drain_delay: 10s",
			} {
				if !strings.Contains(string(out), want) {
					t.Errorf("the configuration lacks %q:\n%s", want, out)
				}
			}
			if strings.Contains(string(out), "warning") {
				t.Errorf("ferry check warns:\n%s", out)
			}
		})
	}
}

// fargate is what the task definition gives its container.
func fargate(t *testing.T, e evaluated) (plain, secret map[string]string) {
	t.Helper()
	v, diags := e.resources["aws_ecs_task_definition.ferry"].Attributes["container_definitions"].Expr.Value(e.ctx)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var containers []struct {
		Environment []struct{ Name, Value string }
		Secrets     []struct{ Name, ValueFrom string }
	}
	if err := json.Unmarshal([]byte(v.AsString()), &containers); err != nil || len(containers) != 1 {
		t.Fatalf("%v: %s", err, v.AsString())
	}
	// What lies in Secrets Manager is local.secrets as JSON; valueFrom names a key of it (arn:KEY:STAGE:VERSION).
	kept := e.local("secrets").AsValueMap()
	plain, secret = map[string]string{}, map[string]string{}
	for _, v := range containers[0].Environment {
		plain[v.Name] = v.Value
	}
	for _, s := range containers[0].Secrets {
		key := strings.Split(strings.TrimPrefix(s.ValueFrom, "some-arn:"), ":")
		if len(key) != 3 || key[0] != s.Name || key[2] != "some-version_id" {
			t.Errorf("%s comes from %s", s.Name, s.ValueFrom)
		}
		value, ok := kept[key[0]]
		if !ok {
			t.Fatalf("%s comes from %s, which is not kept", s.Name, s.ValueFrom)
		}
		secret[s.Name] = value.AsString()
	}
	return plain, secret
}

// containerApp is what the container app gives its container.
func containerApp(t *testing.T, e evaluated) (plain, secret map[string]string) {
	t.Helper()
	app := dynblock.Expand(e.resources["azurerm_container_app.ferry"], e.ctx)
	kept := map[string]string{}
	for _, b := range blocks(t, app, "secret") {
		kept[attribute(t, e, b, "name")] = attribute(t, e, b, "value")
	}
	plain, secret = map[string]string{}, map[string]string{}
	container := blocks(t, blocks(t, app, "template")[0], "container")[0]
	for _, b := range blocks(t, container, "env") {
		name, from := attribute(t, e, b, "name"), attribute(t, e, b, "secret_name")
		if from == "" {
			plain[name] = attribute(t, e, b, "value")
			continue
		}
		value, ok := kept[from]
		if !ok {
			t.Fatalf("%s comes from the secret %s, which is not kept", name, from)
		}
		secret[name] = value
	}
	return plain, secret
}

func blocks(t *testing.T, body hcl.Body, kind string) []hcl.Body {
	t.Helper()
	content, _, diags := body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: kind}}})
	if diags.HasErrors() || len(content.Blocks) == 0 {
		t.Fatalf("%d blocks %s: %v", len(content.Blocks), kind, diags)
	}
	var all []hcl.Body
	for _, b := range content.Blocks {
		all = append(all, b.Body)
	}
	return all
}

// attribute is its text; "" without it.
func attribute(t *testing.T, e evaluated, body hcl.Body, name string) string {
	t.Helper()
	content, _, diags := body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: name}}})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	a := content.Attributes[name]
	if a == nil {
		return ""
	}
	v, diags := a.Expr.Value(e.ctx)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return v.AsString()
}
