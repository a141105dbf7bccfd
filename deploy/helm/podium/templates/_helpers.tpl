{{/* The name of the release, followed by that of the chart unless it contains it. */}}
{{- define "podium.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "podium.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "podium.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "podium.selectorLabels" -}}
app.kubernetes.io/name: {{ include "podium.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "podium.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "podium.selectorLabels" . }}
{{- end }}

{{- define "podium.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "podium.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Pods with a GPU use the CUDA image, others the CPU image. */}}
{{- define "podium.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{- $device := ternary "cuda" "cpu" (gt (int .Values.gpu.count) 0) -}}
{{ .Values.image.repository }}:{{ default (printf "%s-%s" .Chart.AppVersion $device) .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "podium.keysSecret" -}}
{{- default (printf "%s-keys" (include "podium.fullname" .)) .Values.auth.existingSecret }}
{{- end }}

{{- define "podium.cacheClaim" -}}
{{- default (printf "%s-models" (include "podium.fullname" .)) .Values.modelCache.persistence.existingClaim }}
{{- end }}

{{/* "true" if the model is from the hub: owner/name, not a path and not podium-mini. */}}
{{- define "podium.usesHub" -}}
{{- if regexMatch "^[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*$" (dig "model" "source" "podium-mini" .Values.config) -}}
true
{{- end -}}
{{- end }}

{{/* CPU, memory and GPUs of one replica. */}}
{{- define "podium.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if and (not $resources) (eq (dig "model" "source" "podium-mini" .Values.config) "podium-mini") -}}
{{- $requests := dict "cpu" "1" "memory" "512Mi" -}}
{{- $resources = dict "requests" $requests "limits" (dict "memory" "2Gi") -}}
{{- end -}}
{{- if gt (int .Values.gpu.count) 0 -}}
{{- $gpu := dict .Values.gpu.resource (int .Values.gpu.count) -}}
{{- $resources = mergeOverwrite $resources (dict "limits" $gpu) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{/*
Seconds between SIGTERM and SIGKILL: the server's two settings, and a margin of 10 s. The server
needs up to 2 s of the margin for the last bytes of responses; an earlier kill would truncate them.
*/}}
{{- define "podium.gracePeriod" -}}
{{- $delay := dig "server" "drain_delay_seconds" 0 .Values.config | int -}}
{{- $finish := dig "server" "shutdown_seconds" 30 .Values.config | int -}}
{{ add $delay $finish 10 }}
{{- end }}

{{/*
podium.toml. Helm's numbers are floats, which the server rejects, so they become integers. JSON
strings are valid TOML.
*/}}
{{- define "podium.toml" -}}
{{- range $section, $keys := .Values.config }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{- if kindIs "map" $value }}
{{- range $field, $inner := $value }}
{{- include "podium.tomlLine" (dict "key" (printf "%s.%s" $key $field) "value" $inner) }}
{{- end }}
{{- else }}
{{- include "podium.tomlLine" (dict "key" $key "value" $value) }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}

{{- define "podium.tomlLine" }}
{{- if kindIs "string" .value }}
{{ .key }} = {{ .value | toJson }}
{{- else if kindIs "bool" .value }}
{{ .key }} = {{ .value }}
{{- else if kindIs "slice" .value }}
{{ .key }} = [
{{- range $index, $table := .value }}
{{- if $index }}, {{ end }}{ {{- $comma := "" }}
{{- range $name, $item := $table }}{{ $comma }} {{ $name }} = {{ $item | toJson }}{{ $comma = "," }}{{ end }} }
{{- end }}]
{{- else if not (kindIs "invalid" .value) }}
{{ .key }} = {{ if eq (floor .value) (float64 .value) }}{{ .value | int64 }}{{ else }}{{ .value }}{{ end }}
{{- end }}
{{- end }}

{{/* Rejects combinations of values that a schema cannot express. */}}
{{- define "podium.check" -}}
{{- $cache := .Values.modelCache.persistence -}}
{{- $many := or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) -}}
{{- if and $cache.enabled (not $cache.existingClaim) $many (not (has "ReadWriteMany" $cache.accessModes)) (not (has "ReadOnlyMany" $cache.accessModes)) -}}
{{- fail "modelCache.persistence.accessModes: several replicas share the claim, so it needs ReadWriteMany; add that, set replicaCount to 1, or modelCache.persistence.enabled to false" -}}
{{- end -}}
{{- if and .Values.auth.enabled (not .Values.auth.existingSecret) (not .Values.auth.keys) -}}
{{- fail "auth.enabled is true without keys; set auth.existingSecret to a Secret, or auth.keys to a list of keys" -}}
{{- end -}}
{{- if and .Values.auth.existingSecret .Values.auth.keys -}}
{{- fail "auth.existingSecret and auth.keys are both set; remove one" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas (%d) is greater than autoscaling.maxReplicas (%d)" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if dig "server" "listen" "" .Values.config -}}
{{- fail "config.server.listen: the chart sets it; use containerPort and listenAddress" -}}
{{- end -}}
{{- if dig "auth" "keys_file" "" .Values.config -}}
{{- fail "config.auth.keys_file: the chart sets it; use auth.enabled with auth.existingSecret" -}}
{{- end -}}
{{- if dig "model" "cache" "" .Values.config -}}
{{- fail "config.model.cache: the chart sets it; use modelCache" -}}
{{- end -}}
{{- end }}
