{{/*
How things are called. Most helpers take a component: a dict of `root` (the chart's context), `name` (as in the
names of objects) and `values` (its block of values).
*/}}

{{- define "syncline.chart" -}}
{{ include "syncline.short" (default .Chart.Name .Values.nameOverride) }}
{{- end }}

{{- define "syncline.fullname" -}}
{{- $chart := include "syncline.chart" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trimSuffix "-" }}
{{- else if contains $chart .Release.Name -}}
{{ include "syncline.short" .Release.Name }}
{{- else -}}
{{ include "syncline.short" (printf "%s-%s" .Release.Name $chart) }}
{{- end }}
{{- end }}

{{/* At most 40 characters, as names of objects end in more. What is cut ends in a digest: two long names stay two. */}}
{{- define "syncline.short" -}}
{{- if gt (len .) 40 -}}
{{ trunc 33 . | trimSuffix "-" }}-{{ sha256sum . | trunc 6 }}
{{- else -}}
{{ trimSuffix "-" . }}
{{- end }}
{{- end }}

{{- define "syncline.name" -}}
{{ include "syncline.fullname" .root }}-{{ .name }}
{{- end }}

{{- define "syncline.releaseSelector" -}}
app.kubernetes.io/name: {{ include "syncline.chart" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "syncline.selector" -}}
{{ include "syncline.releaseSelector" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "syncline.releaseLabels" -}}
{{- $chart := printf "%s-%s" .Chart.Name .Chart.Version -}}
{{- $versions := dict "app.kubernetes.io/version" .Chart.AppVersion "helm.sh/chart" $chart -}}
{{ include "syncline.releaseSelector" . }}
{{ include "syncline.over" (dict "all" $versions "own" (include "syncline.plainLabels" . | fromYaml)) }}
{{- end }}

{{/* Labels of every object and pod beside the selector's. No label may stand twice: the more special one wins. */}}
{{- define "syncline.plainLabels" -}}
{{- $own := dict "app.kubernetes.io/part-of" "syncline" "app.kubernetes.io/managed-by" .Release.Service -}}
{{ include "syncline.over" (dict "all" $own "own" .Values.commonLabels) }}
{{- end }}

{{/* Labels of pods have no versions, as a new version of the chart alone must not restart what holds GPUs. */}}
{{- define "syncline.podLabels" -}}
{{- $plain := include "syncline.plainLabels" .root | fromYaml -}}
{{ include "syncline.selector" . }}
{{ include "syncline.over" (dict "all" $plain "own" .values.podLabels) }}
{{- end }}

{{- define "syncline.labels" -}}
{{ include "syncline.releaseLabels" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* Name, namespace and labels of an object of a component; `labels` are further ones. */}}
{{- define "syncline.metadata" -}}
name: {{ include "syncline.name" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "syncline.over" (dict "all" (include "syncline.labels" . | fromYaml) "own" .labels) | nindent 2 }}
{{- end }}

{{/* The same of a component's Deployment or StatefulSet; `annotations` come before those of the values. */}}
{{- define "syncline.workloadMetadata" -}}
{{- include "syncline.metadata" . }}
{{- $own := .annotations | default dict }}
{{- if or $own .values.annotations }}
annotations:
  {{- include "syncline.over" (dict "all" .values.annotations "own" $own) | nindent 2 }}
{{- end }}
{{- end }}

{{- define "syncline.serviceAccountName" -}}
{{- with .values.serviceAccount -}}
{{ .name | default (ternary (include "syncline.name" $) "default" .create) }}
{{- end }}
{{- end }}

{{/* The newer version of an API where the cluster offers it; `helm template` offers all, and knows its version alone. */}}
{{- define "syncline.api" -}}
{{- $capabilities := .root.Capabilities -}}
{{- $there := and ($capabilities.APIVersions.Has .newer) (semverCompare .since $capabilities.KubeVersion.Version) -}}
{{ ternary .newer .older $there }}
{{- end }}

{{- define "syncline.image" -}}
{{- $image := .root.Values.image -}}
{{ .values.image | default (printf "%s/%s:%s" $image.repository .name (default .root.Chart.AppVersion $image.tag)) }}
{{- end }}

{{- define "syncline.tokenSecret" -}}
{{ .Values.auth.existingSecret | default (printf "%s-auth" (include "syncline.fullname" .)) }}
{{- end }}

{{- define "syncline.tokenKey" -}}
{{ ternary .Values.auth.existingSecretKey "token" (ne .Values.auth.existingSecret "") }}
{{- end }}

{{- define "syncline.redisSecret" -}}
{{ .Values.redis.auth.existingSecret | default (printf "%s-redis" (include "syncline.fullname" .)) }}
{{- end }}

{{- define "syncline.redisSecretKey" -}}
{{ ternary .Values.redis.auth.existingSecretKey "password" (ne .Values.redis.auth.existingSecret "") }}
{{- end }}

{{- define "syncline.redisIsExternal" -}}
{{ if or .Values.redis.external.url .Values.redis.external.existingSecret }}true{{ end }}
{{- end }}

{{/* Port of an external Redis: the given one, else that of the URL, which is 6379 where it names none. */}}
{{- define "syncline.redisPort" -}}
{{- with .Values.redis.external -}}
{{ .port | default (include "syncline.urlPort" .url) | default 6379 }}
{{- end }}
{{- end }}

{{/* Port of the object store: the given one, else that of the endpoint, else that of its scheme. AWS speaks TLS. */}}
{{- define "syncline.s3Port" -}}
{{- with .Values.s3 -}}
{{ .port | default (include "syncline.urlPort" .endpoint) | default (ternary 80 443 (hasPrefix "http://" .endpoint)) }}
{{- end }}
{{- end }}

{{/* Port that a URL names, or nothing. */}}
{{- define "syncline.urlPort" -}}
{{ regexFind "^[a-z]+://[^/?#]+" . | regexFind ":[0-9]+$" | trimPrefix ":" }}
{{- end }}

{{/* What chooses the number of generators, in words; empty where that is `kubectl scale`. */}}
{{- define "syncline.autoscaler" -}}
{{- $kind := .Values.inference.autoscaling.kind -}}
{{- if ne $kind "none" -}}
{{ ternary "HorizontalPodAutoscaler" "ScaledObject" (eq $kind "hpa") }} {{ include "syncline.fullname" . }}-inference
{{- end }}
{{- end }}

{{- define "syncline.claim" -}}
{{- $storage := index .root.Values.storage .volume -}}
{{ $storage.existingClaim | default (printf "%s-%s" (include "syncline.fullname" .root) .volume) }}
{{- end }}

{{/* Whether a volume of `storage` has no claim: it is in an object store, or (records) lies with the runs. */}}
{{- define "syncline.unclaimed" -}}
{{- if eq .volume "records" -}}
{{ if not .root.Values.storage.runs.url }}true{{ end }}
{{- else -}}
{{ if (index .root.Values.storage .volume).url }}true{{ end }}
{{- end -}}
{{- end }}

{{/* Whether a component talks to the object store: `s3` are the volumes of `storage` that it reads or writes. */}}
{{- define "syncline.usesS3" -}}
{{- range .s3 -}}
{{ if (index $.root.Values.storage .).url }}true{{ end }}
{{- end -}}
{{- end }}

{{/* Whether credentials for the object store may come from the addresses at which AWS hands out those of roles. */}}
{{- define "syncline.asksForRole" -}}
{{ if and (include "syncline.usesS3" .) (not .root.Values.s3.existingSecret) (not .root.Values.s3.endpoint) }}true{{ end }}
{{- end }}

{{/* Whether a component talks to the hub: those with `hub: true`, where the installation opens it. */}}
{{- define "syncline.usesHub" -}}
{{ if and .hub .root.Values.hub.prefixes }}true{{ end }}
{{- end }}

{{/* A secret's value: the given one, else the one that the cluster has, else a new one. */}}
{{- define "syncline.keptSecret" -}}
{{- $there := (lookup "v1" "Secret" .root.Release.Namespace .secret) | default dict -}}
{{- if .given -}}
{{ .given | b64enc }}
{{- else if hasKey ($there.data | default dict) .key -}}
{{ index $there.data .key }}
{{- else -}}
{{ randAlphaNum 40 | b64enc }}
{{- end }}
{{- end }}
