{{/* The prefix of the names of all objects, so that two releases can live in one namespace. */}}
{{- define "lonja.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "lonja" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-lonja" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The labels by which a selector finds the pods of a role. Takes a dict of root (the
     chart's context) and role. */}}
{{- define "lonja.selector" -}}
app.kubernetes.io/name: lonja
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{/* The labels of each object of a role. Takes a dict of root and role. */}}
{{- define "lonja.labels" -}}
{{ include "lonja.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: lonja
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The labels of each pod of a role. They do not change with the chart's version, since another
     version must not restart a pod that is the same otherwise. Takes a dict of root and role. */}}
{{- define "lonja.podLabels" -}}
{{ include "lonja.selector" . }}
app.kubernetes.io/part-of: lonja
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "lonja.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The roles that keep state, which serve gRPC. */}}
{{- define "lonja.grpcRoles" -}}registry catalog audit{{- end -}}
{{/* The roles that call the roles that keep state. */}}
{{- define "lonja.callers" -}}gateway{{ if .Values.console.enabled }} console{{ end }}{{- end -}}
{{/* All roles. */}}
{{- define "lonja.roles" -}}{{ include "lonja.callers" . }} {{ include "lonja.grpcRoles" . }} datetime{{- end -}}

{{/* The security context of a pod that the restricted profile of pod security asks for. */}}
{{- define "lonja.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{/* The security context of a container that the restricted profile of pod security asks for. */}}
{{- define "lonja.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The name of the secret with the passwords of Redis; empty if there are none. */}}
{{- define "lonja.redisSecret" -}}
{{- if .Values.redis.enabled -}}
{{- .Values.redis.existingSecret | default (printf "%s-redis" (include "lonja.fullname" .)) -}}
{{- else -}}
{{- .Values.externalRedis.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* The URL of a role's store, into which Kubernetes puts the password from the environment. Takes
     a dict of root and role. */}}
{{- define "lonja.store" -}}
{{- $values := .root.Values -}}
{{- $external := $values.externalRedis -}}
{{- $user := .role -}}
{{- if and (not $values.redis.enabled) $external.username -}}{{- $user = $external.username -}}{{- end -}}
{{- $host := printf "%s-redis-primary:6379" (include "lonja.fullname" .root) -}}
{{- if not $values.redis.enabled -}}
{{- $host = printf "%s:%v" (required "externalRedis.host is needed where redis.enabled is false" $external.host) $external.port -}}
{{- end -}}
{{- $scheme := ternary "redis+cluster" "redis" (and (not $values.redis.enabled) $external.cluster) -}}
{{- if include "lonja.redisSecret" .root -}}
{{ $scheme }}://{{ $user }}:$(LONJA_REDIS_PASSWORD)@{{ $host }}
{{- else -}}
{{ $scheme }}://{{ $host }}
{{- end -}}
{{- end -}}

{{/* The OTLP endpoint that traces are sent to; empty if no traces are sent. */}}
{{- define "lonja.otlp" -}}
{{- if .Values.tracing.endpoint -}}{{ .Values.tracing.endpoint }}
{{- else if .Values.jaeger.enabled -}}http://{{ include "lonja.fullname" . }}-jaeger:4317
{{- end -}}
{{- end -}}

{{/* The name of a role's port for peers or browsers. Takes the role. */}}
{{- define "lonja.port" -}}
{{- get (dict "gateway" "peers" "datetime" "soap" "console" "page") . -}}
{{- end -}}

{{/* The roles that have a certificate. */}}
{{- define "lonja.tlsRoles" -}}{{ include "lonja.callers" . }} {{ include "lonja.grpcRoles" . }}{{- end -}}

{{/* The name of the secret with a role's certificate. Takes a dict of root and role. */}}
{{- define "lonja.tlsSecret" -}}
{{- if .root.Values.tls.certManager.enabled -}}
{{- printf "%s-%s-tls" (include "lonja.fullname" .root) .role -}}
{{- else -}}
{{- required (printf "tls.existingSecrets.%s is needed without cert-manager" .role) (index .root.Values.tls.existingSecrets .role) -}}
{{- end -}}
{{- end -}}
