{{/* What a schema cannot see, mostly two sources of one thing, or none: refused, with what to write instead. */}}
{{- define "syncline.checks" -}}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" (include "syncline.chart" .)) }}
{{- fail (printf "nameOverride is %s, which is no name in Kubernetes: take lower-case letters, digits and hyphens" .Values.nameOverride) }}
{{- end }}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" (include "syncline.fullname" .)) }}
{{- fail (printf "objects would be called %s-coordinator, which is no name of a service: set fullnameOverride to lower-case letters, digits and hyphens, a letter first" (include "syncline.fullname" .)) }}
{{- end }}
{{- range $volume, $storage := .Values.storage }}
{{- if and $storage.url (or $storage.existingClaim $storage.storageClass) }}
{{- fail (printf "storage.%s has both a URL and a claim: leave storage.%s.existingClaim and storage.%s.storageClass empty to use the object store, or storage.%s.url to use the claim" $volume $volume $volume $volume) }}
{{- end }}
{{- if and (ne $volume "records") (not $storage.url) (not $storage.existingClaim) (not $storage.storageClass) }}
{{- fail (printf "storage.%s has neither a claim nor a class: set storage.%s.existingClaim to a claim of yours, storage.%s.storageClass to a class whose volumes serve several pods at once, or storage.%s.url to a URL of an object store" $volume $volume $volume $volume) }}
{{- end }}
{{- if not (include "syncline.isBelow" $storage.subPath) }}
{{- fail (printf "storage.%s.subPath is %s, and must lie in the claim: write it without a slash before it and without .., as in teams/rl" $volume $storage.subPath) }}
{{- end }}
{{- if and $storage.existingClaim $storage.storageClass }}
{{- fail (printf "storage.%s has both a claim and a class: set storage.%s.existingClaim to use a claim of yours, or storage.%s.storageClass to get a new one" $volume $volume $volume) }}
{{- end }}
{{- end }}
{{- if and (include "syncline.unclaimed" (dict "root" $ "volume" "records")) (or .Values.storage.records.existingClaim .Values.storage.records.storageClass) }}
{{- fail "storage.records is for the coordinator alone, where runs are in an object store, and storage.runs has a claim: set storage.runs.url, or leave storage.records alone" }}
{{- end }}
{{- if and (or .Values.s3.endpoint .Values.s3.existingSecret .Values.s3.region .Values.s3.port .Values.s3.to) (not (include "syncline.usesS3" (dict "root" $ "s3" (list "models" "data" "runs")))) }}
{{- fail "s3 names an object store, but nothing lies there: set storage.models.url, storage.data.url or storage.runs.url" }}
{{- end }}
{{- if not (regexMatch "^(https?://[^/]+.*)?$" .Values.s3.endpoint) }}
{{- fail (printf "s3.endpoint is %s, which does not say how to speak to it: write a URL, as in http://minio.storage:9000 or https://s3.example.com" .Values.s3.endpoint) }}
{{- end }}
{{- if and (or .Values.hub.existingSecret .Values.hub.to) (not .Values.hub.prefixes) }}
{{- fail "hub says how to reach the hub, but nothing there is open: set hub.prefixes to what run specs may name, as in [hf://org]" }}
{{- end }}
{{- if and .Values.quickstart.enabled (or .Values.storage.models.url .Values.storage.data.url) }}
{{- fail "quickstart.enabled copies files into claims, and storage has a URL instead: set quickstart.enabled to false, and copy services/local/quickstart to the object store" }}
{{- end }}
{{- with .Values.redis }}
{{- /* What may be a secret is looked at here, as the schema's messages hold the value. */}}
{{- if not (regexMatch "^[A-Za-z0-9._~-]*$" .auth.password) }}
{{- fail "redis.auth.password has characters that end a URL: take letters, digits and ._~- only" }}
{{- end }}
{{- if not (regexMatch "^(rediss?://.+)?$" .external.url) }}
{{- fail "redis.external.url is no URL of Redis: write redis:// or rediss://, a host, a port and a database, as in redis://redis.example.com:6379/1" }}
{{- end }}
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
{{- if and (or .external.port .external.to) (not (include "syncline.redisIsExternal" $)) }}
{{- fail "redis.external says where a Redis of yours is, but not that there is one: set redis.external.url or redis.external.existingSecret" }}
{{- end }}
{{- if and .external.existingSecret (not .external.port) }}
{{- fail "redis.external.existingSecret hides the port from the network policies: set redis.external.port to that of its URL" }}
{{- end }}
{{- if and (not .persistence.enabled) (or .persistence.existingClaim .persistence.storageClass) }}
{{- fail "redis.persistence.enabled is false, so its claim would be taken by nobody: set it to true, or leave existingClaim and storageClass empty" }}
{{- end }}
{{- if and .persistence.existingClaim .persistence.storageClass }}
{{- fail "redis.persistence has both a claim and a class: set existingClaim to use a claim of yours, or storageClass to get a new one" }}
{{- end }}
{{- end }}
{{- if regexMatch "\\s" .Values.auth.token }}
{{- fail "auth.token has white space, which no client can send: take letters, digits and ._~-, as `openssl rand -hex 20` makes them, and look for a line break at the end" }}
{{- end }}
{{- if and .Values.auth.token .Values.auth.existingSecret }}
{{- fail "the REST token has two sources: set auth.token or auth.existingSecret, not both" }}
{{- end }}
{{- range $name := list "coordinator" "inference" "reward" "learner" "redis" "judge" "rewardModel" }}
{{- $names := list }}
{{- range (index $.Values $name).env }}{{ $names = append $names .name }}{{ end }}
{{- if ne (len $names) (len (uniq $names)) }}
{{- fail (printf "%s.env names a variable twice, which no cluster takes: keep one of them" $name) }}
{{- end }}
{{- end }}
{{- $labels := dict "commonLabels" .Values.commonLabels }}
{{- range $name := list "coordinator" "inference" "reward" "learner" "redis" "judge" "rewardModel" }}
{{- $_ := set $labels (printf "%s.podLabels" $name) (index $.Values $name).podLabels }}
{{- end }}
{{- range $value, $given := $labels }}
{{- range $label := list "name" "instance" "component" }}
{{- if hasKey $given (printf "app.kubernetes.io/%s" $label) }}
{{- fail (printf "%s sets app.kubernetes.io/%s, by which services and policies find the pods: give your label another name" $value $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name := list "inference" "learner" "judge" "rewardModel" }}
{{- $gpu := (index $.Values $name).gpu }}
{{- if and (contains "/mig-" $gpu.resourceName) (gt (int $gpu.count) 1) }}
{{- fail (printf "%s.gpu asks for %d MIG slices, and slices cannot work together: set %s.gpu.count to 1, or take whole GPUs" $name (int $gpu.count) $name) }}
{{- end }}
{{- end }}
{{- range $name := list "judge" "rewardModel" }}
{{- $values := index $.Values $name }}
{{- if gt (int $values.tensorParallelism) (max 1 (int $values.gpu.count)) }}
{{- fail (printf "%s.tensorParallelism is %d, but a pod has %d GPUs: set %s.gpu.count to at least as many" $name (int $values.tensorParallelism) (int $values.gpu.count) $name) }}
{{- end }}
{{- if and $values.tensorParallelism (mod (max 1 (int $values.gpu.count)) (int $values.tensorParallelism)) }}
{{- fail (printf "%s.tensorParallelism is %d, and does not divide the %d GPUs of a pod: set %s.tensorParallelism to 0 to take them all" $name (int $values.tensorParallelism) (int $values.gpu.count) $name) }}
{{- end }}
{{- if and $values.enabled $.Values.storage.models.url }}
{{- fail (printf "%s.enabled serves a folder, and storage.models has a URL instead of a claim: set storage.models.existingClaim, or %s.enabled to false and name a server of yours in the run spec" $name $name) }}
{{- end }}
{{- if and $values.enabled (not $values.model) }}
{{- fail (printf "%s.enabled is true, but there is no model: set %s.model to a folder below the claim of storage.models" $name $name) }}
{{- end }}
{{- if not (include "syncline.isBelow" $values.model) }}
{{- fail (printf "%s.model is %s, and must be a folder below the claim of storage.models: write what comes after /models/, without .., as in judge-70b" $name $values.model) }}
{{- end }}
{{- end }}
{{- with .Values.inference }}
{{- if and (eq .engine "transformers") (gt (int .gpu.count) 1) }}
{{- fail "inference.engine is transformers, which works on one GPU: set inference.gpu.count to 1 and inference.replicas to more, or inference.engine to vllm" }}
{{- end }}
{{- if hasKey .engineOptions "tensor_parallel_size" }}
{{- fail "inference.engineOptions sets tensor_parallel_size, and an engine is spread over all GPUs of its pod: set inference.gpu.count" }}
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
{{- with .Values.coordinator.service }}
{{- if and .externalTrafficPolicy (eq .type "ClusterIP") }}
{{- fail "coordinator.service.externalTrafficPolicy is about clients outside of the cluster, and its type is ClusterIP: set coordinator.service.type to LoadBalancer or NodePort" }}
{{- end }}
{{- if and .nodePort (eq .type "ClusterIP") }}
{{- fail "coordinator.service.nodePort is a port of the nodes, and its type is ClusterIP: set coordinator.service.type to NodePort or LoadBalancer" }}
{{- end }}
{{- if and (or .loadBalancerClass .loadBalancerSourceRanges) (ne .type "LoadBalancer") }}
{{- fail (printf "coordinator.service describes a load balancer, and its type is %s: set coordinator.service.type to LoadBalancer" .type) }}
{{- end }}
{{- end }}
{{- include "syncline.networkChecks" . }}
{{- include "syncline.resourceChecks" . }}
{{- include "syncline.liveChecks" . }}
{{- if and .Values.coordinator.ingress.enabled (not .Values.coordinator.ingress.host) }}
{{- fail "coordinator.ingress.enabled is true, but there is no host: set coordinator.ingress.host" }}
{{- end }}
{{- range append .Values.coordinator.httpRoute.hostnames .Values.coordinator.ingress.host }}
{{- if regexMatch "[:/]" . }}
{{- fail (printf "coordinator.ingress.host and httpRoute.hostnames are names alone, and %s is more: leave out scheme, port and path, as in rl.example.com" .) }}
{{- end }}
{{- end }}
{{- if and .Values.coordinator.httpRoute.enabled (not .Values.coordinator.httpRoute.parentRefs) }}
{{- fail "coordinator.httpRoute.enabled is true, but there is no gateway: set coordinator.httpRoute.parentRefs" }}
{{- end }}
{{- if and (gt (int .Values.learner.ranksPerNode) 1) (gt (int .Values.learner.gpu.count) 0) (gt (int .Values.learner.ranksPerNode) (int .Values.learner.gpu.count)) }}
{{- fail "learner.ranksPerNode is above learner.gpu.count, and a rank has a GPU of its own: set it to 0 to have one for each" }}
{{- end }}
{{- end }}

{{/* Whether a path is one below a folder, or empty. */}}
{{- define "syncline.isBelow" -}}
{{ if not (or (hasPrefix "/" .) (has ".." (splitList "/" .))) }}true{{ end }}
{{- end }}

{{/* What no cluster takes, or what would be killed at work. What has no limit is not compared. */}}
{{- define "syncline.resourceChecks" -}}
{{- range $name := list "coordinator" "inference" "reward" "learner" "redis" "judge" "rewardModel" }}
{{- $values := index $.Values $name }}
{{- $limits := $values.resources.limits | default dict }}
{{- $requests := $values.resources.requests | default dict }}
{{- range $kind, $limit := $limits }}
{{- if and (hasKey $requests $kind) (include "syncline.exceeds" (list (get $requests $kind) $limit)) }}
{{- fail (printf "%s.resources.requests.%s is %v, above the limit of %v, and no cluster takes such a pod: set %s.resources.limits.%s to at least as much" $name $kind (get $requests $kind) $limit $name $kind) }}
{{- end }}
{{- end }}
{{- $limit := get $limits "memory" }}
{{- with $limit }}
{{- if and $values.sharedMemory (include "syncline.exceeds" (list $values.sharedMemory $limit)) }}
{{- fail (printf "%s.sharedMemory is %v, which counts as memory of the pod, and %s.resources.limits.memory is %v: set that to more, or %s.sharedMemory to less" $name $values.sharedMemory $name $limit $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.reward }}
{{- $least := printf "%dMi" (mul .verifierWorkers 1536) }}
{{- $limit := get (.resources.limits | default dict) "memory" }}
{{- $own := list }}
{{- range .env }}{{ $own = append $own .name }}{{ end }}
{{- if and $limit (not (has "SYNCLINE_CHECK_MEMORY_MB" $own)) (include "syncline.exceeds" (list $least $limit)) }}
{{- fail (printf "reward.verifierWorkers is %d, and each takes 1.5 GiB, but reward.resources.limits.memory is %v: set that to %s or more, or reward.verifierWorkers to fewer" (int .verifierWorkers) $limit $least) }}
{{- end }}
{{- end }}
{{- with .Values.redis }}
{{- $limit := get (.resources.limits | default dict) "memory" }}
{{- $units := dict "k" "k" "m" "M" "g" "G" "kb" "Ki" "mb" "Mi" "gb" "Gi" }}
{{- $unit := lower .maxMemory | regexFind "[a-z]*$" }}
{{- $data := printf "%s%s" (lower .maxMemory | trimSuffix $unit) (get $units $unit) }}
{{- if and $limit (not (include "syncline.redisIsExternal" $)) (include "syncline.exceeds" (list $data $limit)) }}
{{- fail (printf "redis.maxMemory is %s, above redis.resources.limits.memory, which is %v: set redis.maxMemory to three quarters of the limit, or less" .maxMemory $limit) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether the first of two quantities is above the second. */}}
{{- define "syncline.exceeds" -}}
{{ if gt (include "syncline.bytes" (first .) | float64) (include "syncline.bytes" (last .) | float64) }}true{{ end }}
{{- end }}

{{/* What is asked to be reached from outside, and is then closed by a network policy. */}}
{{- define "syncline.networkChecks" -}}
{{- if .Values.networkPolicy.enabled }}
{{- with .Values.coordinator }}
{{- $open := list }}
{{- if .ingress.enabled }}{{ $open = append $open "ingress.enabled is true" }}{{ end }}
{{- if .httpRoute.enabled }}{{ $open = append $open "httpRoute.enabled is true" }}{{ end }}
{{- if ne .service.type "ClusterIP" }}{{ $open = append $open (printf "service.type is %s" .service.type) }}{{ end }}
{{- if and $open (not .networkPolicy.ingressFrom) }}
{{- fail (printf "coordinator.%s, but the network policy lets nobody in: set coordinator.networkPolicy.ingressFrom to who comes, as in [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}] or, for clients outside of the cluster, [{ipBlock: {cidr: 10.0.0.0/8}}], and then coordinator.service.externalTrafficPolicy to Local, as a service hides their addresses otherwise" (first $open)) }}
{{- end }}
{{- end }}
{{- $scraped := list }}
{{- if .Values.monitoring.serviceMonitor.enabled }}{{ $scraped = append $scraped "monitoring.serviceMonitor.enabled is true" }}{{ end }}
{{- if .Values.monitoring.alerts.enabled }}{{ $scraped = append $scraped "monitoring.alerts.enabled is true" }}{{ end }}
{{- if ne .Values.inference.autoscaling.kind "none" }}{{ $scraped = append $scraped (printf "inference.autoscaling.kind is %s" .Values.inference.autoscaling.kind) }}{{ end }}
{{- if and $scraped (not .Values.networkPolicy.metricsFrom) }}
{{- fail (printf "%s, but the network policy lets nobody scrape metrics: set networkPolicy.metricsFrom to where Prometheus is, as in [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]" (first $scraped)) }}
{{- end }}
{{- end }}
{{- end }}
