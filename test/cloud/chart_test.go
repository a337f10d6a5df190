// Package cloud renders the chart of deploy/helm and decodes what comes out strictly, as Kubernetes' own types, and reads
// the Terraform files of deploy/aws and deploy/azure. It is a
// module of its own: what it needs is no part of ferry.
package cloud

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	strict "sigs.k8s.io/yaml"
)

const chartDir = "../../deploy/helm/ferry"

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render gives the objects of a release called r, by kind and name.
func render(t *testing.T, values map[string]any) (map[string]any, error) {
	t.Helper()
	c := load(t)
	vals, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "r", Namespace: "n", IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, vals)
	if err != nil {
		return nil, err
	}
	objects := make(map[string]any)
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for name, content := range files {
		if strings.HasSuffix(name, "NOTES.txt") || strings.HasSuffix(name, ".tpl") {
			continue
		}
		r := yaml.NewYAMLOrJSONDecoder(strings.NewReader(content), 4096)
		for {
			var raw runtime.RawExtension
			if err := r.Decode(&raw); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", name, err, content)
			}
			if len(bytes.TrimSpace(raw.Raw)) == 0 || string(raw.Raw) == "null" {
				continue
			}
			var meta struct {
				Kind     string
				Metadata struct{ Name string }
			}
			if err := json.Unmarshal(raw.Raw, &meta); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			key := meta.Kind + "/" + meta.Metadata.Name
			if objects[key] != nil {
				return nil, fmt.Errorf("%s is there twice", key)
			}
			switch meta.Kind {
			case "ServiceMonitor":
				var m serviceMonitor
				if err := strict.UnmarshalStrict(raw.Raw, &m); err != nil {
					return nil, fmt.Errorf("%s: %w", key, err)
				}
				objects[key] = &m
			case "ScaledObject":
				var s scaledObject
				if err := strict.UnmarshalStrict(raw.Raw, &s); err != nil {
					return nil, fmt.Errorf("%s: %w", key, err)
				}
				objects[key] = &s
			default:
				o, _, err := decoder.Decode(raw.Raw, nil, nil)
				if err != nil {
					return nil, fmt.Errorf("%s: %w\n%s", key, err, raw.Raw)
				}
				objects[key] = o
			}
		}
	}
	return objects, nil
}

// What the chart uses of the types of Prometheus' operator (monitoring.coreos.com/v1) and of KEDA (keda.sh/v1alpha1).
type meta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
}

type serviceMonitor struct {
	meta
	Spec struct {
		Selector struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"selector"`
		Endpoints []struct {
			Port, Path, Interval string
			Authorization        *struct {
				Type        string
				Credentials corev1.SecretKeySelector
			}
		} `json:"endpoints"`
	} `json:"spec"`
}

type scaledObject struct {
	meta
	Spec struct {
		ScaleTargetRef struct {
			APIVersion string `json:"apiVersion"`
			Kind, Name string
		} `json:"scaleTargetRef"`
		MinReplicaCount, MaxReplicaCount int
		Triggers                         []struct {
			Type     string            `json:"type"`
			Metadata map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

func values(t *testing.T, text string) map[string]any {
	t.Helper()
	v, err := chartutil.ReadValues([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var cases = map[string]string{
	"default": "",
	"five, with everything on": `
replicas: 5
secretEnv: [keys, more]
clusterSecret: mine
queue: {options: max_bytes=20GiB&max_age=30d}
persistence: {size: 100Gi, storageClass: fast}
ingress: {enabled: true, className: nginx, host: ferry.example.com, tlsSecret: tls, annotations: {a: b}}
serviceMonitor: {enabled: true, labels: {release: prometheus}, keySecret: {name: keys, key: FERRY_API_KEY}}
networkPolicy: {from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]}
serviceAccount: {annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/ferry"}}
image: {repository: registry.example.com/ferry, tag: "1.2.3", pullSecrets: [pull]}
tolerations: [{key: a, operator: Exists}]
nodeSelector: {kubernetes.io/arch: amd64}
affinity: {nodeAffinity: {}}
spread: DoNotSchedule
extraEnv: [{name: A, value: b}]
podAnnotations: {x: "1"}
files: {order.json: '{"type": "object"}'}
`,
	"Kafka and PostgreSQL": `
mode: deployment
replicas: 4
queue: {url: "kafka://kafka:9092"}
secretEnv: [keys]
state: {url: "postgres://ferry@db/ferry"}
keda: {enabled: true, prometheus: "http://prometheus:9090", lagSeconds: 600}
serviceMonitor: {enabled: true}
`,
	"Azure, by workload identity": `
mode: deployment
queue: {url: "azservicebus://ns.servicebus.windows.net"}
secretEnv: [keys]
serviceAccount: {name: ferry, annotations: {azure.workload.identity/client-id: "1"}}
podLabels: {azure.workload.identity/use: "true"}
networkPolicy: {enabled: false}
podDisruptionBudget: {enabled: false}
`,
}

func TestChart(t *testing.T) {
	bin := ferry(t)
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			v := values(t, text)
			objects, err := render(t, v)
			if err != nil {
				t.Fatal(err)
			}
			var pod corev1.PodTemplateSpec
			var selector map[string]string
			if v["mode"] == "deployment" {
				d := objects["Deployment/r"].(*appsv1.Deployment)
				pod, selector = d.Spec.Template, d.Spec.Selector.MatchLabels
				if keda := v["keda"] != nil; keda != (d.Spec.Replicas == nil) {
					t.Errorf("replicas %v beside KEDA %v", d.Spec.Replicas, keda)
				}
			} else {
				s := objects["StatefulSet/r"].(*appsv1.StatefulSet)
				pod, selector = s.Spec.Template, s.Spec.Selector.MatchLabels
				if s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement || objects["Service/"+s.Spec.ServiceName] == nil {
					t.Errorf("policy %s, headless service %q", s.Spec.PodManagementPolicy, s.Spec.ServiceName)
				}
			}
			checkPod(t, pod, objects)
			for key, o := range objects {
				var picks labels.Selector
				switch o := o.(type) {
				case *corev1.Service:
					picks = labels.SelectorFromSet(o.Spec.Selector)
					for _, p := range o.Spec.Ports {
						if !hasPort(pod, p.TargetPort.String()) {
							t.Errorf("%s: no container has the port %s", key, p.TargetPort.String())
						}
					}
				case *policyv1.PodDisruptionBudget:
					picks = labels.SelectorFromSet(o.Spec.Selector.MatchLabels)
				case *netv1.NetworkPolicy:
					picks = labels.SelectorFromSet(o.Spec.PodSelector.MatchLabels)
					for _, rule := range o.Spec.Ingress {
						for _, p := range rule.Ports {
							if !hasPort(pod, p.Port.String()) {
								t.Errorf("%s: no container has the port %s", key, p.Port.String())
							}
						}
					}
				case *scaledObject:
					if objects[o.Spec.ScaleTargetRef.Kind+"/"+o.Spec.ScaleTargetRef.Name] == nil || len(o.Spec.Triggers) != 2 {
						t.Errorf("%s scales %+v by %d triggers", key, o.Spec.ScaleTargetRef, len(o.Spec.Triggers))
					}
					for _, trigger := range o.Spec.Triggers {
						checkMetrics(t, trigger.Metadata["query"])
					}
				case *serviceMonitor:
					picks = labels.SelectorFromSet(o.Spec.Selector.MatchLabels)
					if len(o.Spec.Endpoints) != 1 || o.Spec.Endpoints[0].Path != "/metrics" {
						t.Errorf("%s: endpoints %+v", key, o.Spec.Endpoints)
					}
				}
				if picks != nil && (picks.Empty() || !picks.Matches(labels.Set(pod.Labels))) {
					t.Errorf("%s selects %s, the pods have %v", key, picks, pod.Labels)
				}
			}
			if !labels.SelectorFromSet(selector).Matches(labels.Set(pod.Labels)) {
				t.Errorf("the workload selects %v, its pods have %v", selector, pod.Labels)
			}
			checkConfig(t, bin, pod, objects["ConfigMap/r"].(*corev1.ConfigMap))
		})
	}
}

// checkMetrics: the metrics of a query are in the table of docs/operations.md, which another test holds to the registry.
func checkMetrics(t *testing.T, query string) {
	t.Helper()
	table, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`ferry_\w+`).FindAllString(query, -1)
	for _, name := range names {
		if !bytes.Contains(table, []byte("| `"+name+"` |")) {
			t.Errorf("there is no metric %s: %s", name, query)
		}
	}
	if len(names) == 0 {
		t.Errorf("no metric of ferry's in %q", query)
	}
}

func hasPort(pod corev1.PodTemplateSpec, name string) bool {
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == name {
				return true
			}
		}
	}
	return false
}

func checkPod(t *testing.T, pod corev1.PodTemplateSpec, objects map[string]any) {
	t.Helper()
	c := pod.Spec.Containers[0]
	if len(pod.Spec.Containers) != 1 || c.Image == "" || strings.HasSuffix(c.Image, ":") {
		t.Errorf("%d containers, image %q", len(pod.Spec.Containers), c.Image)
	}
	s := c.SecurityContext
	if p := pod.Spec.SecurityContext; !*p.RunAsNonRoot || *p.RunAsUser == 0 || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation ||
		len(s.Capabilities.Drop) != 1 || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("not locked down: %+v %+v", p, s)
	}
	for _, s := range pod.Spec.TopologySpreadConstraints {
		// Kubernetes refuses the one without the other.
		if s.MinDomains != nil && s.WhenUnsatisfiable != corev1.DoNotSchedule || !labels.SelectorFromSet(s.LabelSelector.MatchLabels).Matches(labels.Set(pod.Labels)) {
			t.Errorf("spread: %+v", s)
		}
	}
	if len(pod.Spec.TopologySpreadConstraints) != 2 {
		t.Errorf("%d rules to spread by", len(pod.Spec.TopologySpreadConstraints))
	}
	if links := pod.Spec.EnableServiceLinks; links == nil || *links {
		t.Error("Kubernetes would set variables such as FERRY_PORT")
	}
	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if probe == nil || !hasPort(pod, probe.HTTPGet.Port.String()) {
			t.Errorf("%s probe: %+v", name, probe)
		}
	}
	if c.LivenessProbe.HTTPGet.Path != "/livez" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Error("the probes ask for the wrong things")
	}
	if grace := *pod.Spec.TerminationGracePeriodSeconds; grace != 5+25+30 {
		t.Errorf("termination grace %d s, want drain_delay + grace + 30", grace)
	}
	volumes := make(map[string]bool)
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] && (m.Name != "data" || objects["StatefulSet/r"] == nil) {
			t.Errorf("no volume %s", m.Name)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && e.ValueFrom.SecretKeyRef.Name == "r-cluster" {
			secret, ok := objects["Secret/r-cluster"].(*corev1.Secret)
			if !ok || len(secret.Data[e.ValueFrom.SecretKeyRef.Key]) < 16 {
				t.Errorf("%s comes from a secret that there is not", e.Name)
			}
		}
	}
}

// ferry builds the real binary.
func ferry(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "ferry")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/ferry")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build ferry: %v\n%s", err, out)
	}
	return bin
}

// checkConfig lets ferry itself judge the configuration and the environment that a pod gets, as the first pod.
func checkConfig(t *testing.T, bin string, pod corev1.PodTemplateSpec, config *corev1.ConfigMap) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range config.Data {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(bin, "check", "-c", filepath.Join(dir, "ferry.yaml"))
	cmd.Dir = dir
	for _, e := range pod.Spec.Containers[0].Env {
		value := e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			value = "r-0"
		}
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			value = "a-secret-of-more-than 16 characters"
		}
		cmd.Env = append(cmd.Env, e.Name+"="+value)
	}
	cmd.Env = append(cmd.Env, "FERRY_API_KEY=a-key-of-more-than-16-characters")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("ferry check: %v\n%s\n%q", err, out, cmd.Env)
	}
}

func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct{ values, want string }{
		"a misspelt value":        {"replicsa: 3", "replicsa"},
		"a misspelt inner value":  {"image: {tagg: x}", "tagg"},
		"no such mode":            {"mode: daemon", "mode"},
		"two members":             {"replicas: 2", "at least 3 replicas"},
		"no state":                {"mode: deployment\nqueue: {url: x}", "needs state.url"},
		"no queue":                {"mode: deployment\nstate: {url: x}", "needs queue.url"},
		"KEDA with a cluster":     {"keda: {enabled: true, prometheus: x}", "keda scales a Deployment"},
		"KEDA without Prometheus": {"mode: deployment\nsecretEnv: [a]\nkeda: {enabled: true}", "keda.prometheus"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := render(t, values(t, tt.values)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %q", err, tt.want)
			}
		})
	}
}

// A field that Kubernetes does not know is an error of this test, not something that it would pass over.
func TestStrict(t *testing.T) {
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	_, _, err := decoder.Decode([]byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"porst":[]}}`), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "porst") {
		t.Errorf("err = %v", err)
	}
}
