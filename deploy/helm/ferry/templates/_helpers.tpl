{{- define "ferry.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "ferry.labels" -}}
{{ include "ferry.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "ferry.selector" -}}
app.kubernetes.io/name: ferry
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ferry.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "ferry.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "ferry.clusterSecret" -}}
{{ .Values.clusterSecret | default (printf "%s-cluster" (include "ferry.name" .)) }}
{{- end }}

{{/* The members of the cluster: the first three pods, under the names that the headless service gives them. */}}
{{- define "ferry.members" -}}
{{- $name := include "ferry.name" . -}}
{{- range $i := until 3 }}{{ if $i }},{{ end }}{{ $name }}-{{ $i }}.{{ $name }}-members:6222{{ end -}}
{{- end }}

{{/* A duration such as 5s or 1m30s in whole seconds. */}}
{{- define "ferry.seconds" -}}
{{- $s := 0 -}}
{{- range regexFindAll "[0-9]+[hms]" . -1 -}}
{{- $n := . | trimSuffix "h" | trimSuffix "m" | trimSuffix "s" | int -}}
{{- if hasSuffix "h" . }}{{ $s = add $s (mul $n 3600) }}{{ else if hasSuffix "m" . }}{{ $s = add $s (mul $n 60) }}{{ else }}{{ $s = add $s $n }}{{ end -}}
{{- end -}}
{{ $s }}
{{- end }}

{{/* drain_delay and grace as configured, and 30 s to close. */}}
{{- define "ferry.gracePeriod" -}}
{{- $server := .Values.config.server | default dict -}}
{{ add (include "ferry.seconds" ($server.drain_delay | default "0s")) (include "ferry.seconds" ($server.grace | default "25s")) 30 }}
{{- end }}

{{- define "ferry.pod" -}}
metadata:
  labels:
    {{- include "ferry.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # A changed configuration is a new pod: ferry serve reads it once.
    checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "ferry.serviceAccount" . }}
  # With workload identity the platform mounts a token of its own kind; the cluster's API is not asked for anything.
  automountServiceAccountToken: false
  # Otherwise Kubernetes describes a Service called ferry in variables such as FERRY_PORT, which look like ferry's own.
  enableServiceLinks: false
  # readyz turns red, drain_delay, grace: ferry does by itself what a preStop hook would do, and knows when it is over.
  terminationGracePeriodSeconds: {{ include "ferry.gracePeriod" . }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  topologySpreadConstraints:
    {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ $key }}
      {{- if and (eq $key "kubernetes.io/hostname") (eq $.Values.spread "DoNotSchedule") }}
      whenUnsatisfiable: DoNotSchedule
      {{- if eq $.Values.mode "cluster" }}
      minDomains: 3
      {{- end }}
      {{- else }}
      whenUnsatisfiable: ScheduleAnyway
      {{- end }}
      labelSelector:
        matchLabels:
          {{- include "ferry.selector" $ | nindent 10 }}
    {{- end }}
  containers:
    - name: ferry
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/ferry/ferry.yaml]
      env:
        - name: FERRY_ENV
          value: {{ .Values.env }}
        - name: FERRY_LISTEN
          value: "0.0.0.0:8080"
        - name: FERRY_DATA
          value: /data
        - name: FERRY_LOG_FORMAT
          value: json
        - name: FERRY_INSTANCE
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- if eq .Values.mode "cluster" }}
        - name: FERRY_QUEUE
          value: "embedded:?cluster={{ include "ferry.members" . }}{{ with .Values.queue.options }}&{{ . }}{{ end }}"
        - name: FERRY_STATE
          value: "embedded:"
        - name: FERRY_CLUSTER_SECRET
          valueFrom: {secretKeyRef: {name: {{ include "ferry.clusterSecret" . }}, key: FERRY_CLUSTER_SECRET}}
        {{- else }}
        {{- with .Values.queue.url }}
        - name: FERRY_QUEUE
          value: {{ . | quote }}
        {{- end }}
        {{- with .Values.state.url }}
        - name: FERRY_STATE
          value: {{ . | quote }}
        {{- end }}
        {{- end }}
        {{- with .Values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- with .Values.secretEnv }}
      envFrom:
        {{- range . }}
        - secretRef: {name: {{ . }}}
        {{- end }}
      {{- end }}
      ports:
        - {name: http, containerPort: 8080}
        {{- if eq .Values.mode "cluster" }}
        - {name: members, containerPort: 6222}
        {{- end }}
      # A member of a cluster waits for the others before it listens: five minutes, as ferry itself does.
      startupProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 2
        failureThreshold: 150
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 2
        timeoutSeconds: 3
        failureThreshold: 2
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: config, mountPath: /etc/ferry, readOnly: true}
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: config
      configMap: {name: {{ include "ferry.name" . }}}
    - name: tmp
      emptyDir: {}
    {{- if ne .Values.mode "cluster" }}
    - name: data
      emptyDir: {}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
