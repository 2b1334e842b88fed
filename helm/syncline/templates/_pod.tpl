{{/* What all pods share, by the same component dicts as in _names.tpl. */}}

{{- define "syncline.podMetadata" -}}
labels:
  {{- include "syncline.podLabels" . | nindent 2 }}
{{- with include "syncline.podAnnotations" . }}
annotations:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Annotations of the values, and what restarts a pod when something changes that it only reads at its start. `secrets` are
those given as values; eight digits of a digest tell a change, and are too few to guess a password by.
*/}}
{{- define "syncline.podAnnotations" -}}
{{- $own := dict }}
{{- with .configuration }}
{{- $_ := set $own "checksum/config" (toJson . | sha256sum) }}
{{- end }}
{{- with compact (.secrets | default list) }}
{{- $_ := set $own "checksum/secrets" (join "/" . | sha256sum | trunc 8) }}
{{- end }}
{{- if or $own .values.podAnnotations }}
{{- include "syncline.over" (dict "all" $own "own" .values.podAnnotations) }}
{{- end }}
{{- end }}

{{/*
Pod-level fields but for containers and volumes. After SIGTERM a pod has its drain time, then 15 seconds to close its
engine and leave; `preStopSeconds` come before SIGTERM.
*/}}
{{- define "syncline.podSpec" -}}
serviceAccountName: {{ include "syncline.serviceAccountName" . }}
automountServiceAccountToken: {{ .usesKubernetesApi | default false }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add .values.drainSeconds (.preStopSeconds | default 0) 15 }}
{{- include "syncline.podBasics" . }}
{{- with .values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with (.values.gpu | default dict).runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .values.topologySpread }}
{{- if .enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .topologyKey }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "syncline.selector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- with .values.initContainers }}
initContainers:
  {{- include "syncline.secured" (dict "c" $ "containers" .) | nindent 2 }}
{{- end }}
{{- end }}

{{- define "syncline.extraContainers" -}}
{{- with .values.extraContainers }}
{{- include "syncline.secured" (dict "c" $ "containers" .) }}
{{- end }}
{{- end }}

{{/* Containers of the values, with the chart's security where they bring none. */}}
{{- define "syncline.secured" -}}
{{- $ours := dict "securityContext" (include "syncline.containerSecurity" .c | fromYaml) }}
{{- $all := list }}
{{- range .containers }}
{{- $all = append $all (merge (deepCopy .) (ternary dict $ours (hasKey . "securityContext"))) }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{/* Who a pod is, and where it may run: also those of the quickstart's job. */}}
{{- define "syncline.podBasics" }}
securityContext:
  {{- include "syncline.over" (dict "all" .root.Values.podSecurityContext "own" .values.podSecurityContext) | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ .name }}{{ end }}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "syncline.containerSecurity" -}}
{{- $own := .values.containerSecurityContext }}
{{- include "syncline.over" (dict "all" .root.Values.containerSecurityContext "own" $own) }}
{{- end }}

{{/* A component's own fields over those of all; null leaves a field out. Sprig's mergeOverwrite would ignore a false. */}}
{{- define "syncline.over" -}}
{{- $fields := deepCopy .all }}
{{- range $name, $value := .own }}
{{- $_ := set $fields $name $value }}
{{- end }}
{{- range $name, $value := $fields }}
{{- if kindIs "invalid" $value }}{{ $_ := unset $fields $name }}{{ end }}
{{- end }}
{{- toYaml $fields }}
{{- end }}

{{/* Container-level fields but for command, ports, environment, probes and mounts. */}}
{{- define "syncline.container" -}}
image: {{ include "syncline.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError # so that `kubectl describe pod` shows why it ended
securityContext:
  {{- include "syncline.containerSecurity" . | nindent 2 }}
{{- $resources := deepCopy .values.resources }}
{{- with .values.gpu }}
{{- if gt (int .count) 0 }}
{{- /* Kubernetes asks for equal requests and limits of such resources, and sets the requests itself. */}}
{{- $_ := set $resources "limits" (merge (dict .resourceName (int .count)) ($resources.limits | default dict)) }}
{{- end }}
{{- end }}
{{- /* Server-side apply on older clusters takes quantities as strings alone. */}}
{{- range $kind := list "requests" "limits" }}
{{- range $name, $quantity := (get $resources $kind | default dict) }}
{{- $_ := set (get $resources $kind) $name (toString $quantity) }}
{{- end }}
{{- end }}
resources:
  {{- toYaml $resources | nindent 2 }}
{{- with .preStopSeconds }}
{{- /* Requests still come while the endpoint is being taken out of its service. */}}
lifecycle:
  preStop:
    exec:
      command: ["sleep", "{{ . }}"]
{{- end }}
{{- end }}

{{/* Environment of the four services. */}}
{{- define "syncline.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: SYNCLINE_MEMBER_ID
  value: $(POD_NAME)
- name: SYNCLINE_GRACE_S
  value: {{ .values.drainSeconds | quote }}
- name: SYNCLINE_LOG_LEVEL
  value: {{ .root.Values.logLevel }}
- name: SYNCLINE_RUN_ROOT
  value: /runs
- name: SYNCLINE_MODEL_ROOT
  value: /models
- name: SYNCLINE_DATA_ROOT
  value: /data
{{- include "syncline.remoteEnv" . }}
- name: HOME # caches, of transformers, vLLM, Triton and torch
  value: /tmp
{{ include "syncline.userEnv" . }}
{{- include "syncline.redisEnv" .root }}
{{- end }}

{{/* Object store and hub, for the components that talk to them; the others ask nobody. */}}
{{- define "syncline.remoteEnv" }}
{{- if include "syncline.usesHub" . }}
{{- with .root.Values.hub.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.root.Values.hub.existingSecretKey }}
{{- end }}
{{- else }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- if or (include "syncline.usesS3" .) (include "syncline.usesHub" .) }}
- name: SYNCLINE_CACHE_ROOT
  value: /cache
- name: HF_HOME
  value: /cache/hub
{{- end }}
{{- if include "syncline.usesS3" . }}
{{- with .root.Values.s3 }}
{{- with .endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . }}
{{- end }}
{{- with .region }}
- name: AWS_REGION
  value: {{ . }}
{{- end }}
{{- if .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .accessKeyIdKey }}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .secretAccessKeyKey }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "syncline.redisEnv" }}
{{- if .Values.redis.external.existingSecret }}
- name: SYNCLINE_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.external.existingSecret }}
      key: {{ .Values.redis.external.existingSecretKey }}
{{- else if .Values.redis.external.url }}
- name: SYNCLINE_REDIS_URL
  value: {{ .Values.redis.external.url | quote }}
{{- else }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "syncline.redisSecret" . }}
      key: {{ include "syncline.redisSecretKey" . }}
- name: SYNCLINE_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "syncline.fullname" . }}-redis:6379/0
{{- end }}
{{- end }}

{{/* ... and what those with a gRPC server have beside it. */}}
{{- define "syncline.grpcEnv" -}}
- name: SYNCLINE_BIND
  value: "[::]:50051"
- name: SYNCLINE_ADVERTISE
  value: $(POD_IP):50051
- name: SYNCLINE_METRICS_BIND
  value: "[::]:9090"
{{- end }}

{{- define "syncline.grpcPorts" -}}
- name: grpc
  containerPort: 50051
  protocol: TCP
- name: metrics
  containerPort: 9090
  protocol: TCP
{{- end }}

{{/* /tmp takes caches and temporary files, as the root file system is read-only. */}}
{{- define "syncline.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .values.sharedMemory }}
- name: shared-memory
  mountPath: /dev/shm
{{- end }}
{{- range $volume, $mode := .storage }}
{{- if not (include "syncline.unclaimed" (dict "root" $.root "volume" $volume)) }}
- name: {{ $volume }}
  mountPath: /{{ ternary "runs" $volume (eq $volume "records") }}
  readOnly: {{ eq $mode "read" }}
  {{- with (index $.root.Values.storage $volume).subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
{{- if or (include "syncline.usesS3" .) (include "syncline.usesHub" .) }}
- name: cache
  mountPath: /cache
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "syncline.volumes" -}}
- name: tmp
  emptyDir: {}
{{- with .values.sharedMemory }}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ . }}
{{- end }}
{{- range $volume, $mode := .storage }}
{{- if not (include "syncline.unclaimed" (dict "root" $.root "volume" $volume)) }}
- name: {{ $volume }}
  persistentVolumeClaim:
    claimName: {{ include "syncline.claim" (dict "root" $.root "volume" $volume) }}
{{- end }}
{{- end }}
{{- if or (include "syncline.usesS3" .) (include "syncline.usesHub" .) }}
- name: cache
  {{- if .values.cacheStorageClass }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: {{ .values.cacheStorageClass }}
        resources:
          requests:
            storage: {{ .values.cacheSize }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .values.cacheSize }}
  {{- end }}
{{- end }}
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
