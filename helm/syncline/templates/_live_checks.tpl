{{/*
What Kubernetes would not change in what is there, which would leave a release half upgraded. The size of a claim may grow
where its class allows it, which only the API server can tell.
*/}}
{{- define "syncline.liveChecks" -}}
{{- include "syncline.liveNames" . }}
{{- $namespace := .Release.Namespace }}
{{- range $volume, $storage := .Values.storage }}
{{- if not (or $storage.existingClaim (include "syncline.unclaimed" (dict "root" $ "volume" $volume))) }}
{{- $claim := include "syncline.claim" (dict "root" $ "volume" $volume) }}
{{- with (lookup "v1" "PersistentVolumeClaim" $namespace $claim).spec }}
{{- $there := printf "the claim %s, which is there already," $claim }}
{{- $class := .storageClassName | default "none" }}
{{- if and $storage.storageClass (ne $storage.storageClass $class) }}
{{- fail (printf "storage.%s.storageClass is %s, but %s has %s, and no claim changes its class: set it back, or name a claim of yours in storage.%s.existingClaim instead" $volume $storage.storageClass $there $class $volume) }}
{{- end }}
{{- if ne (sortAlpha $storage.accessModes | join ", ") (sortAlpha .accessModes | join ", ") }}
{{- fail (printf "storage.%s.accessModes is [%s], but %s has [%s], and no claim changes its modes: set it back, or name a claim of yours in storage.%s.existingClaim instead of a class" $volume (join ", " $storage.accessModes) $there (join ", " .accessModes) $volume) }}
{{- end }}
{{- $size := .resources.requests.storage }}
{{- if lt (include "syncline.bytes" $storage.size | float64) (include "syncline.bytes" $size | float64) }}
{{- fail (printf "storage.%s.size is %v, but %s has %s, and no claim shrinks: set storage.%s.size to %s, or more" $volume $storage.size $there $size $volume $size) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if not (include "syncline.redisIsExternal" .) }}
{{- $name := printf "%s-redis" (include "syncline.fullname" .) }}
{{- with .Values.redis.persistence }}
{{- $wanted := "no claim of its own" }}
{{- if and .enabled (not .existingClaim) }}
{{- $wanted = include "syncline.claimInWords" (dict "size" .size "class" .storageClass) }}
{{- end }}
{{- $bytes := include "syncline.bytes" .size }}
{{- $size := .size }}
{{- with (lookup "apps/v1" "StatefulSet" $namespace $name).spec }}
{{- $there := "no claim of its own" }}
{{- range .volumeClaimTemplates }}
{{- $same := eq (include "syncline.bytes" .spec.resources.requests.storage) $bytes }}
{{- $there = include "syncline.claimInWords" (dict "size" (ternary $size .spec.resources.requests.storage $same) "class" .spec.storageClassName) }}
{{- end }}
{{- if ne $wanted $there }}
{{- fail (printf "redis.persistence asks for %s, but the StatefulSet %s was made with %s, and none changes that: set redis.persistence back, or delete that StatefulSet first with `kubectl -n %s delete statefulset %s`, which keeps its claim" $wanted $name $there $namespace $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
An upgrade under another name would make everything anew, and empty, beside claims and secrets that are kept. The
coordinator, of which each release has one, tells the name; that of this chart under an alias is another one's.
*/}}
{{- define "syncline.liveNames" -}}
{{- if .Release.IsUpgrade }}
{{- $name := printf "%s-coordinator" (include "syncline.fullname" .) }}
{{- $there := lookup "apps/v1" "Deployment" .Release.Namespace $name }}
{{- $others := list }}
{{- if $there }}
{{- $others = list $there }}
{{- else }}
{{- $others = (lookup "apps/v1" "Deployment" .Release.Namespace "").items | default list }}
{{- end }}
{{- range $others }}
{{- $labels := .metadata.labels | default dict }}
{{- $ours := and (eq (dig "app.kubernetes.io/instance" "" $labels) $.Release.Name) (eq (dig "app.kubernetes.io/component" "" $labels) "coordinator") }}
{{- $chart := regexMatch (printf "^%s-[0-9]" $.Chart.Name) (dig "helm.sh/chart" "" $labels) }}
{{- $label := dig "app.kubernetes.io/name" "" $labels }}
{{- if and $ours $chart (or (ne .metadata.name $name) (ne $label (include "syncline.chart" $))) }}
{{- fail (printf "the objects of %s were installed as %s, and would now be %s, without the claims, the secrets and the runs of the old ones: leave nameOverride and fullnameOverride as they were, or set nameOverride to %s and fullnameOverride to %s" $.Release.Name (include "syncline.liveName" (dict "name" .metadata.name "label" $label)) (include "syncline.liveName" (dict "name" $name "label" (include "syncline.chart" $))) $label (trimSuffix "-coordinator" .metadata.name)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "syncline.liveName" -}}
{{ trimSuffix "-coordinator" .name }}-* (app.kubernetes.io/name: {{ .label }})
{{- end }}

{{- define "syncline.claimInWords" -}}
a claim of {{ .size }} of {{ with .class }}the class {{ . }}{{ else }}the default class{{ end }}
{{- end }}

{{/* A quantity as a number: the cluster may write it in another way than the values do. */}}
{{- define "syncline.bytes" -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- $units = merge $units (dict "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0) -}}
{{- $unit := regexFind "(m|k|Ki|[MGTPE]i?)$" (toString .) -}}
{{ mulf (toString . | trimSuffix $unit | float64) (get $units $unit | default 1.0) }}
{{- end }}
