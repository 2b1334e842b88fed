{{/* What a schema cannot see, mostly two sources of one thing, or none: refused, with what to write instead. */}}
{{- define "syncline.checks" -}}
{{- range $volume, $storage := .Values.storage }}
{{- if and $storage.url (or $storage.existingClaim $storage.storageClass) }}
{{- fail (printf "storage.%s has both a URL and a claim: leave storage.%s.existingClaim and storage.%s.storageClass empty to use the object store, or storage.%s.url to use the claim" $volume $volume $volume $volume) }}
{{- end }}
{{- if and (ne $volume "records") (not $storage.url) (not $storage.existingClaim) (not $storage.storageClass) }}
{{- fail (printf "storage.%s has neither a claim nor a class: set storage.%s.existingClaim to a claim of yours, storage.%s.storageClass to a class whose volumes serve several pods at once, or storage.%s.url to a URL of an object store" $volume $volume $volume $volume) }}
{{- end }}
{{- if and $storage.existingClaim $storage.storageClass }}
{{- fail (printf "storage.%s has both a claim and a class: set storage.%s.existingClaim to use a claim of yours, or storage.%s.storageClass to get a new one" $volume $volume $volume) }}
{{- end }}
{{- end }}
{{- if and (include "syncline.unclaimed" (dict "root" $ "volume" "records")) (or .Values.storage.records.existingClaim .Values.storage.records.storageClass) }}
{{- fail "storage.records is for the coordinator alone, where runs are in an object store, and storage.runs has a claim: set storage.runs.url, or leave storage.records alone" }}
{{- end }}
{{- if and (or .Values.s3.endpoint .Values.s3.existingSecret) (not (include "syncline.usesS3" (dict "root" $ "s3" (list "models" "data" "runs")))) }}
{{- fail "s3 names an object store, but nothing lies there: set storage.models.url, storage.data.url or storage.runs.url" }}
{{- end }}
{{- if and .Values.quickstart.enabled (or .Values.storage.models.url .Values.storage.data.url) }}
{{- fail "quickstart.enabled copies files into claims, and storage has a URL instead: set quickstart.enabled to false, and copy services/local/quickstart to the object store" }}
{{- end }}
{{- with .Values.redis }}
{{- if and .auth.password .auth.existingSecret }}
{{- fail "the Redis password has two sources: set redis.auth.password or redis.auth.existingSecret, not both" }}
{{- end }}
{{- if and .external.url .external.existingSecret }}
{{- fail "the external Redis has two sources: set redis.external.url or redis.external.existingSecret, not both" }}
{{- end }}
{{- if and (include "syncline.redisIsExternal" $) (or .auth.password .auth.existingSecret) }}
{{- fail "redis.auth is for the Redis of this chart, and redis.external takes its place: put the password into the URL that redis.external.existingSecret holds, and leave redis.auth alone" }}
{{- end }}
{{- if and .external.url (regexMatch "@" .external.url) }}
{{- fail "redis.external.url holds a password, which everybody who may see the pods could read: put the URL into a secret and name it in redis.external.existingSecret" }}
{{- end }}
{{- if and .persistence.existingClaim .persistence.storageClass }}
{{- fail "redis.persistence has both a claim and a class: set existingClaim to use a claim of yours, or storageClass to get a new one" }}
{{- end }}
{{- end }}
{{- if and .Values.auth.token .Values.auth.existingSecret }}
{{- fail "the REST token has two sources: set auth.token or auth.existingSecret, not both" }}
{{- end }}
{{- range $name := list "inference" "judge" "rewardModel" }}
{{- $values := index $.Values $name }}
{{- if gt (int $values.tensorParallelism) (max 1 (int $values.gpu.count)) }}
{{- fail (printf "%s.tensorParallelism is %d, but a pod has %d GPUs: set %s.gpu.count to at least as many" $name (int $values.tensorParallelism) (int $values.gpu.count) $name) }}
{{- end }}
{{- if and (hasKey $values "model") $values.enabled $.Values.storage.models.url }}
{{- fail (printf "%s.enabled serves a folder, and storage.models has a URL instead of a claim: set storage.models.existingClaim, or %s.enabled to false and name a server of yours in the run spec" $name $name) }}
{{- end }}
{{- if and (hasKey $values "model") $values.enabled (not $values.model) }}
{{- fail (printf "%s.enabled is true, but there is no model: set %s.model to a folder below the claim of storage.models" $name $name) }}
{{- end }}
{{- end }}
{{- with .Values.inference.autoscaling }}
{{- if and (ne .kind "none") (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail "inference.autoscaling.minReplicas is above maxReplicas: set it to at most as many" }}
{{- end }}
{{- if and (eq .kind "keda") (not .prometheusAddress) }}
{{- fail "inference.autoscaling.kind is keda, which asks Prometheus: set inference.autoscaling.prometheusAddress, as in http://prometheus.monitoring:9090" }}
{{- end }}
{{- end }}
{{- if and .Values.coordinator.ingress.enabled (not .Values.coordinator.ingress.host) }}
{{- fail "coordinator.ingress.enabled is true, but there is no host: set coordinator.ingress.host" }}
{{- end }}
{{- if and .Values.coordinator.httpRoute.enabled (not .Values.coordinator.httpRoute.parentRefs) }}
{{- fail "coordinator.httpRoute.enabled is true, but there is no gateway: set coordinator.httpRoute.parentRefs" }}
{{- end }}
{{- if and (gt (int .Values.learner.ranksPerNode) 1) (gt (int .Values.learner.gpu.count) 0) (gt (int .Values.learner.ranksPerNode) (int .Values.learner.gpu.count)) }}
{{- fail "learner.ranksPerNode is above learner.gpu.count, and a rank has a GPU of its own: set it to 0 to have one for each" }}
{{- end }}
{{- end }}
