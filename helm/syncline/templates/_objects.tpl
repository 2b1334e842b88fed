{{/* The objects that every component has beside its workload. */}}

{{- define "syncline.serviceAccount" -}}
{{- $account := .values.serviceAccount -}}
{{- if $account.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- $name := dict "name" (include "syncline.serviceAccountName" .) }}
  {{- toYaml (merge $name (include "syncline.metadata" . | fromYaml)) | nindent 2 }}
  {{- with $account.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/*
Seconds until a rollout that makes no progress counts as failed: an old pod may drain, a new one has 10 minutes for its
image, and then its start. Kubernetes' own 10 minutes are fewer than a large judge takes to load.
*/}}
{{- define "syncline.progressDeadline" -}}
{{ add .values.drainSeconds 600 .values.startupSeconds }}
{{- end }}

{{- define "syncline.podDisruptionBudget" -}}
{{- if .values.podDisruptionBudget.enabled -}}
apiVersion: {{ include "syncline.api" (dict "root" .root "newer" "policy/v1" "older" "policy/v1beta1" "since" ">=1.21-0") }}
kind: PodDisruptionBudget
metadata:
  {{- include "syncline.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  {{- if semverCompare ">=1.27-0" .root.Capabilities.KubeVersion.Version }}
  unhealthyPodEvictionPolicy: AlwaysAllow # a pod that does not work must not block the draining of its node
  {{- end }}
  selector:
    matchLabels:
      {{- include "syncline.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* A service without an address of its own: its pods are found through Redis, its names give torchrun and Prometheus theirs. */}}
{{- define "syncline.headlessService" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "syncline.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "syncline.selector" . | nindent 4 }}
  ports:
    - name: grpc
      port: 50051
      protocol: TCP
      targetPort: grpc
    - name: metrics
      port: 9090
      protocol: TCP
      targetPort: metrics
{{- end }}

{{/*
A network policy: edges are written as `ingress` and `egress` lists of {component, port}; no port is every port. Those
with `redis: true` may reach Redis, and ask for names; `s3` and `hub` are as in "syncline.usesS3" and "syncline.usesHub".
*/}}
{{- define "syncline.networkPolicy" -}}
{{- if .root.Values.networkPolicy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "syncline.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "syncline.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- with include "syncline.ingressRules" . | trim }}
  ingress:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with include "syncline.egressRules" . | trim }}
  egress:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "syncline.ingressRules" }}
{{- range .ingress }}
- from:
    {{- include "syncline.peer" (dict "root" $.root "name" .component) | nindent 4 }}
  {{- with .port }}
  ports: [{port: {{ . }}, protocol: TCP}]
  {{- end }}
{{- end }}
{{- with .values.networkPolicy.ingressFrom }}
- from:
    {{- toYaml . | nindent 4 }}
  ports: [{port: {{ $.port }}, protocol: TCP}]
{{- end }}
{{- if .metricsPort }}
{{- with .root.Values.networkPolicy.metricsFrom }}
- from:
    {{- toYaml . | nindent 4 }}
  ports: [{port: {{ $.metricsPort }}, protocol: TCP}]
{{- end }}
{{- end }}
{{- end }}

{{- define "syncline.egressRules" }}
{{- $network := .root.Values.networkPolicy }}
{{- range .egress }}
- to:
    {{- include "syncline.peer" (dict "root" $.root "name" .component) | nindent 4 }}
  {{- with .port }}
  ports: [{port: {{ . }}, protocol: TCP}]
  {{- end }}
{{- end }}
{{- if .redis }}
{{- if include "syncline.redisIsExternal" .root }}
{{- with .root.Values.redis.external }}
- ports: [{port: {{ include "syncline.redisPort" $.root }}, protocol: TCP}]
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- else }}
- to:
    {{- include "syncline.peer" (dict "root" .root "name" "redis") | nindent 4 }}
  ports: [{port: 6379, protocol: TCP}]
{{- end }}
- ports:
    {{- range $network.dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with $network.dnsTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- if .usesKubernetesApi }}
- ports:
    {{- range $network.kubernetesApiPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with $network.kubernetesApiTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- if include "syncline.usesS3" . }}
- ports: [{port: {{ include "syncline.s3Port" .root }}, protocol: TCP}]
  {{- with .root.Values.s3.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- if include "syncline.asksForRole" . }}
- ports: [{port: 80, protocol: TCP}]
  to: # EKS Pod Identity, and the role of a node
    - ipBlock: {cidr: 169.254.170.23/32}
    - ipBlock: {cidr: 169.254.169.254/32}
    - ipBlock: {cidr: "fd00:ec2::23/128"}
    - ipBlock: {cidr: "fd00:ec2::254/128"}
{{- end }}
{{- if include "syncline.usesHub" . }}
- ports: [{port: 443, protocol: TCP}]
  {{- with .root.Values.hub.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- with .values.networkPolicy.egress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "syncline.peer" -}}
- podSelector:
    matchLabels:
      {{- include "syncline.selector" . | nindent 6 }}
{{- end }}
