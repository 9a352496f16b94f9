{{/* The beginning of every name. One release serves a cluster, so it is not the release's. */}}
{{- define "tensorpool.name" -}}
tensorpool
{{- end }}

{{- define "tensorpool.labels" -}}
{{ include "tensorpool.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "tensorpool.selector" -}}
app.kubernetes.io/name: tensorpool
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tensorpool.operator.serviceAccount" -}}
tensorpool-operator
{{- end }}

{{- define "tensorpool.nodeDriver.serviceAccount" -}}
tensorpool-node-driver
{{- end }}

{{/* An image of the Dockerfile: dict "root" $ "name" TARGET */}}
{{- define "tensorpool.image" -}}
{{- $image := .root.Values.image -}}
{{- $version := .root.Chart.AppVersion -}}
{{- if and (regexMatch "^v?[0-9]+[.][0-9]+[.][0-9]+$" $image.tag) (regexMatch "^[0-9]+[.][0-9]+[.][0-9]+$" $version) -}}
{{- if semverCompare (printf "<%s" $version) $image.tag -}}
{{- fail (printf "image.tag: %s is older than this chart, which is for programs of version %s and gives them what older ones do not know; leave image.tag empty" $image.tag $version) -}}
{{- end -}}
{{- end -}}
image: {{ printf "%s/%s:%s" $image.repository .name (default .root.Chart.AppVersion $image.tag) | quote }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end }}

{{- define "tensorpool.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A size such as 512Mi or 8Gi in MiB. */}}
{{- define "tensorpool.mebibytes" -}}
{{- if hasSuffix "Gi" . -}}
{{- trimSuffix "Gi" . | int64 | mul 1024 -}}
{{- else -}}
{{- trimSuffix "Mi" . | int64 -}}
{{- end -}}
{{- end }}

{{/* What a container may have that needs nothing of the system: dict "group" GID, or nothing. */}}
{{- define "tensorpool.unprivileged" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: {{ .group | default 65532 }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}
