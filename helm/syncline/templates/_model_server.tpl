{{/* vLLM's own server, as a judge or as a reward model. `arguments` are what makes the difference. */}}
{{- define "syncline.modelServer" -}}
{{- $values := .values }}
{{- $_ := set . "preStopSeconds" 5 }}
{{- $_ := set . "storage" (dict "models" "read") }}
{{- $_ := set . "probe" (dict "kind" "http" "port" "http" "live" "/health" "ready" "/health") }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "syncline.workloadMetadata" . | nindent 2 }}
spec:
  replicas: {{ $values.replicas }}
  progressDeadlineSeconds: {{ include "syncline.progressDeadline" . }}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}} # GPUs for one more are seldom free
  selector:
    matchLabels:
      {{- include "syncline.selector" . | nindent 6 }}
  template:
    metadata:
      {{- include "syncline.podMetadata" . | nindent 6 }}
    spec:
      {{- include "syncline.podSpec" . | nindent 6 }}
      containers:
        - name: {{ .name }}
          {{- include "syncline.container" . | nindent 10 }}
          command:
            - vllm
            - serve
            - /models/{{ $values.model }}
            - --served-model-name={{ $values.servedName }}
            - --port=8000
            - --tensor-parallel-size={{ default (max 1 (int $values.gpu.count)) (int $values.tensorParallelism) }}
            - --shutdown-timeout={{ $values.drainSeconds }}
            {{- range concat .arguments $values.extraArgs }}
            - {{ . | quote }}
            {{- end }}
          ports:
            - name: http
              containerPort: 8000
              protocol: TCP
          env:
            {{- include "syncline.environment" (dict "c" . "own" (include "syncline.env.modelServer" .)) | nindent 12 }}
          {{- with $values.envFrom }}
          envFrom:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- include "syncline.probes" . | trim | nindent 10 }}
          volumeMounts:
            {{- include "syncline.mounts" . | nindent 12 }}
        {{- include "syncline.extraContainers" . | nindent 8 }}
      volumes:
        {{- include "syncline.volumes" . | nindent 8 }}
{{- end }}

{{- define "syncline.modelService" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "syncline.metadata" . | nindent 2 }}
spec:
  selector:
    {{- include "syncline.selector" . | nindent 4 }}
  ports:
    - name: http
      port: 8000
      protocol: TCP
      targetPort: http
{{- end }}
