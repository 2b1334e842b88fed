{{/*
Probes. A component dict has `probe`: grpc, http (with `port`, `live` and `ready` paths) or exec (with `live` and `ready` commands).
Kubernetes knows gRPC probes from 1.24 on; before, the same question is asked by a command in the image.
*/}}
{{- define "syncline.probes" -}}
{{- $probes := .root.Values.probes }}
{{- if $probes.enabled }}
startupProbe:
  {{- include "syncline.question" (dict "c" . "about" "liveness") | trim | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: {{ $probes.liveness.timeoutSeconds }}
  failureThreshold: {{ div (add .values.startupSeconds 9) 10 }}
livenessProbe:
  {{- include "syncline.question" (dict "c" . "about" "liveness") | trim | nindent 2 }}
  {{- toYaml $probes.liveness | nindent 2 }}
readinessProbe:
  {{- include "syncline.question" (dict "c" . "about" "readiness") | trim | nindent 2 }}
  {{- toYaml $probes.readiness | nindent 2 }}
{{- end }}
{{- end }}

{{- define "syncline.question" -}}
{{- $probe := .c.probe }}
{{- $onlyFirstPod := .c.onlyFirstPod | default false }}
{{- if eq $probe.kind "exec" }}
exec:
  command: {{ ternary $probe.live $probe.ready (eq .about "liveness") | toJson }}
{{- else if eq $probe.kind "http" }}
httpGet:
  path: {{ ternary $probe.live $probe.ready (eq .about "liveness") }}
  port: {{ $probe.port }}
{{- else if $onlyFirstPod }}
exec:
  command:
    - sh
    - -c
    - case "$HOSTNAME" in *-0) exec python3 -m syncline.healthcheck {{ .about }};; esac
{{- else if semverCompare ">=1.24-0" .c.root.Capabilities.KubeVersion.Version }}
grpc:
  port: 50051
  {{- if eq .about "liveness" }}
  service: liveness
  {{- end }}
{{- else }}
exec:
  command: [python3, -m, syncline.healthcheck, {{ .about }}]
{{- end }}
{{- end }}
