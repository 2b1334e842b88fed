{{/* What each container is told. `syncline.env` and what it stands on are in _pod.tpl. */}}

{{/*
All variables of a container: the chart's `own` ones, with those of `env` of the component's values in the place of
their namesakes, as later ones may refer to them; then the rest of `env`. A name must not stand twice: Helm 4 installs
no such pod, and Helm 3 cannot upgrade it.
*/}}
{{- define "syncline.environment" -}}
{{- $given := dict }}
{{- range .c.values.env }}{{ $_ := set $given .name . }}{{ end }}
{{- $all := list }}
{{- $names := list }}
{{- range fromYamlArray .own }}
{{- $all = append $all (get $given .name | default .) }}
{{- $names = append $names .name }}
{{- end }}
{{- range .c.values.env }}
{{- if not (has .name $names) }}{{ $all = append $all . }}{{ end }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{- define "syncline.env.coordinator" -}}
{{- $root := .root }}
{{- $coordinator := .values }}
{{- include "syncline.env" . }}
- name: SYNCLINE_REST_BIND
  value: "[::]:8080"
- name: SYNCLINE_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "syncline.tokenSecret" $root }}
      key: {{ include "syncline.tokenKey" $root }}
{{- $storage := $root.Values.storage }}
{{- with compact (concat (list $storage.models.url $storage.data.url) $root.Values.hub.prefixes) }}
- name: SYNCLINE_REMOTE_PREFIXES
  value: {{ join "," . | quote }}
{{- end }}
{{- with $storage.runs.url }}
- name: SYNCLINE_CHECKPOINT_STORE
  value: {{ . }}
{{- end }}
- name: SYNCLINE_LOAD_DEADLINE_S
  value: {{ $coordinator.loadDeadlineSeconds | quote }}
{{- if $coordinator.kubernetesAccess }}
- name: SYNCLINE_KUBERNETES_NAMESPACE
  value: {{ $root.Release.Namespace }}
- name: SYNCLINE_KUBERNETES_SELECTOR
  value: app.kubernetes.io/name={{ include "syncline.chart" $root }},app.kubernetes.io/instance={{ $root.Release.Name }}
- name: SYNCLINE_KUBERNETES_STATEFULSET
  value: {{ include "syncline.fullname" $root }}-inference
{{- with include "syncline.autoscaler" $root }}
- name: SYNCLINE_KUBERNETES_AUTOSCALER
  value: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "syncline.env.inference" -}}
{{- $inference := .values }}
{{- $options := deepCopy $inference.engineOptions }}
{{- if eq $inference.engine "vllm" }}
{{- $gpus := max 1 (int $inference.gpu.count) }}
{{- $own := dict "tensor_parallel_size" $gpus "load_timeout_s" .root.Values.coordinator.loadDeadlineSeconds }}
{{- $options = merge $options $own }}
{{- end }}
{{- include "syncline.env" . }}
{{ include "syncline.grpcEnv" . }}
- name: SYNCLINE_ENGINE
  value: {{ $inference.engine }}
- name: SYNCLINE_ENGINE_OPTIONS
  value: {{ toJson $options | quote }}
{{- end }}

{{- define "syncline.env.learner" -}}
{{- include "syncline.env" . }}
{{ include "syncline.grpcEnv" . }}
- name: SYNCLINE_MICRO_BATCH_TOKENS
  value: {{ .values.microBatchTokens | quote }}
- name: SYNCLINE_DEVICE
  value: {{ ternary "cuda" "cpu" (gt (int .values.gpu.count) 0) }}
{{- end }}

{{- define "syncline.env.reward" -}}
{{- include "syncline.env" . }}
{{ include "syncline.grpcEnv" . }}
- name: SYNCLINE_VERIFIER_WORKERS
  value: {{ .values.verifierWorkers | quote }}
{{- range .values.keys }}
- name: SYNCLINE_KEY_{{ .name | upper | replace "-" "_" }}
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .existingSecretKey }}
{{- end }}
{{- end }}

{{- define "syncline.env.redis" -}}
- name: REDISCLI_AUTH
  valueFrom:
    secretKeyRef:
      name: {{ include "syncline.redisSecret" .root }}
      key: {{ include "syncline.redisSecretKey" .root }}
{{- end }}

{{- define "syncline.env.modelServer" -}}
- name: HOME # caches of vLLM, Triton and torch
  value: /tmp
{{ include "syncline.userEnv" . }}
- name: HF_HUB_OFFLINE
  value: "1"
- name: VLLM_NO_USAGE_STATS
  value: "1"
{{- with .values.existingSecret }}
- name: VLLM_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.values.existingSecretKey }}
{{- end }}
{{- end }}

{{/* torch asks for the user's name, and no image has one for the user ids that OpenShift makes up. */}}
{{- define "syncline.userEnv" -}}
- name: USER
  value: syncline
- name: LOGNAME
  value: syncline
{{- end }}
