{{/* What the injector adds to a pod, for clusters whose API server adds it itself. `tollgate inject file` is the measure: the chart's
tests compare the two. */}}

{{- define "tollgate.pod.base" -}}
image: {{ include "tollgate.image" .root | quote }}
imagePullPolicy: {{ .root.Values.sidecar.image.pullPolicy }}
command: [tollgate]
terminationMessagePolicy: FallbackToLogsOnError
resources: {{ toJson .resources }}
securityContext:
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  runAsNonRoot: {{ ne 0 (int .user) }}
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    {{- if .admin }}
    add: [NET_ADMIN]
    {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tollgate.pod.flags" -}}
- --uid
- "15000"
{{- range include "tollgate.exempt" . | fromJsonArray }}
- --exempt-uid
- {{ int . | quote }}
{{- end }}
{{- with .Values.capture.ports }}
- --proxy-port
- {{ int .proxy | quote }}
- --transparent-port
- {{ int .transparent | quote }}
- --dns-port
- {{ int .dns | quote }}
{{- end }}
{{- end -}}

{{- define "tollgate.pod.fence" -}}
name: tollgate-fence
args:
  - fence
  - apply
  {{- include "tollgate.pod.flags" . | nindent 2 }}
{{ include "tollgate.pod.base" (dict "root" . "user" 0 "admin" true "resources" .Values.sidecar.initResources) }}
{{- end -}}

{{- define "tollgate.pod.check" -}}
name: tollgate-fence-check
args:
  - fence
  - check
  {{- include "tollgate.pod.flags" . | nindent 2 }}
  - --report
  - /run/tollgate/fence/report.json
volumeMounts:
  - {name: tollgate-fence, mountPath: /run/tollgate/fence}
{{ include "tollgate.pod.base" (dict "root" . "user" 15001 "resources" .Values.sidecar.initResources) }}
{{- end -}}

{{- define "tollgate.pod.probe" -}}
httpGet: {path: {{ .path }}, port: {{ .port }}}
periodSeconds: {{ .period }}
timeoutSeconds: 2
failureThreshold: {{ .failures }}
{{- end -}}

{{- define "tollgate.pod.sidecar" -}}
{{- $v := .Values -}}
{{- $fenced := ne $v.capture.mode "proxy" -}}
{{- $spiffe := or $v.sidecar.identity.spiffe.csiDriver $v.sidecar.identity.spiffe.hostPath -}}
{{- $port := int $v.capture.ports.health -}}
name: tollgate
args: [run, --config, /etc/tollgate/config/config.yaml]
restartPolicy: Always
ports:
  - {name: tollgate-health, containerPort: {{ $port }}, protocol: TCP}
startupProbe:
  {{- include "tollgate.pod.probe" (dict "path" "/startupz" "port" $port "period" 1 "failures" 120) | nindent 2 }}
readinessProbe:
  {{- include "tollgate.pod.probe" (dict "path" "/readyz" "port" $port "period" 5 "failures" 2) | nindent 2 }}
livenessProbe:
  {{- include "tollgate.pod.probe" (dict "path" "/livez" "port" $port "period" 10 "failures" 6) | nindent 2 }}
env:
  {{- range $name, $path := dict "TOLLGATE_POD_NAME" "metadata.name" "TOLLGATE_POD_NAMESPACE" "metadata.namespace" "TOLLGATE_POD_UID" "metadata.uid" "TOLLGATE_SERVICE_ACCOUNT" "spec.serviceAccountName" "TOLLGATE_NODE_NAME" "spec.nodeName" }}
  - {name: {{ $name }}, valueFrom: {fieldRef: {fieldPath: {{ $path }}}}}
  {{- end }}
  - {name: TOLLGATE_POD_LABELS, value: "cel:variables.labels"}
  {{- if or (include "tollgate.webhook" .) (and $v.admissionPolicies.enabled (has "Deny" $v.admissionPolicies.validationActions) (ne $v.agents.privileges "lower")) }}
  # The admission policies let no pod in that has one. Without this variable the sidecar trusts no fence.
  - {name: TOLLGATE_POD_WEAKNESSES, value: "[]"}
  {{- end }}
  - {name: TOLLGATE_TRUST_DOMAIN, value: {{ $v.sidecar.identity.trustDomain | quote }}}
  - {name: TOLLGATE_CAPTURE, value: {{ $v.capture.mode }}}
  # Only where the chart placed a NetworkPolicy does the namespace's ConfigMap say so.
  - {name: TOLLGATE_NETWORK_POLICY, valueFrom: {configMapKeyRef: {name: tollgate-config, key: network-policy, optional: true}}}
  {{- if $fenced }}
  - {name: TOLLGATE_FENCE_REPORT, value: /run/tollgate/fence/report.json}
  {{- end }}
  {{- range $name, $port := $v.capture.ports }}
  - {name: TOLLGATE_{{ upper $name }}_PORT, value: {{ int $port | quote }}}
  {{- end }}
  - {name: TOLLGATE_LOG, value: {{ $v.sidecar.log | quote }}}
  - {name: TOLLGATE_ADMIN, value: /run/tollgate/admin/admin.sock}
  {{- if $v.agents.tasks }}
  - {name: TOLLGATE_TASK, value: "cel:variables.task"}
  {{- end }}
  {{- if $v.agents.orchestrators }}
  - {name: TOLLGATE_ADMIN_USER, value: "cel:variables.orchestratorUser"}
  {{- end }}
  {{- if $spiffe }}
  - {name: SPIFFE_ENDPOINT_SOCKET, value: "unix:///run/spiffe/{{ $v.sidecar.identity.spiffe.socket }}"}
  {{- end }}
  {{- range $name, $value := $v.sidecar.env }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
volumeMounts:
  - {name: tollgate-config, mountPath: /etc/tollgate/config, readOnly: true}
  - {name: tollgate-ca-key, mountPath: /run/tollgate/ca}
  - {name: tollgate-admin, mountPath: /run/tollgate/admin}
  - {name: tollgate-ca, mountPath: /etc/tollgate/trust}
  - {name: tollgate-audit, mountPath: /var/log/tollgate}
  - {name: tollgate-policy, mountPath: /etc/tollgate/policy, readOnly: true}
  {{- if $fenced }}
  - {name: tollgate-fence, mountPath: /run/tollgate/fence, readOnly: true}
  {{- end }}
  {{- if $v.sidecar.identity.token.enabled }}
  - {name: tollgate-identity, mountPath: /var/run/secrets/tollgate.dev/identity, readOnly: true}
  {{- end }}
  {{- if $spiffe }}
  - {name: tollgate-spiffe, mountPath: /run/spiffe, readOnly: true}
  {{- end }}
  {{- range $v.sidecar.secrets }}
  - {name: tollgate-secret-{{ .name }}, mountPath: /etc/tollgate/secrets/{{ .name }}, readOnly: true}
  {{- end }}
  {{- range $v.sidecar.configMaps }}
  - {name: tollgate-files-{{ .name }}, mountPath: /etc/tollgate/files/{{ .name }}, readOnly: true}
  {{- end }}
{{ include "tollgate.pod.base" (dict "root" . "user" 15000 "resources" $v.sidecar.resources) }}
{{- end -}}

{{- define "tollgate.pod.volumes" -}}
{{- $v := .Values -}}
- name: tollgate-config
  configMap: {name: tollgate-config}
- name: tollgate-ca-key
  emptyDir: {medium: Memory, sizeLimit: 8Mi}
- name: tollgate-admin
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: tollgate-ca
  emptyDir: {sizeLimit: 16Mi}
- name: tollgate-audit
  emptyDir: {sizeLimit: {{ $v.sidecar.auditSize }}}
- name: tollgate-policy
  configMap: {name: {{ include "tollgate.policyName" . }}}
{{- if ne $v.capture.mode "proxy" }}
- name: tollgate-fence
  emptyDir: {sizeLimit: 1Mi}
{{- end }}
{{- with $v.sidecar.identity.token }}
{{- if .enabled }}
- name: tollgate-identity
  projected:
    sources:
      - serviceAccountToken: {audience: {{ .audience | quote }}, expirationSeconds: {{ include "tollgate.seconds" .expiration }}, path: token}
{{- end }}
{{- end }}
{{- with $v.sidecar.identity.spiffe }}
{{- if .csiDriver }}
- name: tollgate-spiffe
  csi: {driver: {{ .csiDriver | quote }}, readOnly: true}
{{- else if .hostPath }}
- name: tollgate-spiffe
  hostPath: {path: {{ .hostPath | quote }}, type: Directory}
{{- end }}
{{- end }}
{{- range $v.sidecar.secrets }}
- name: tollgate-secret-{{ .name }}
  secret: {secretName: {{ default .name .secretName }}, optional: {{ default false .optional }}}
{{- end }}
{{- range $v.sidecar.configMaps }}
- name: tollgate-files-{{ .name }}
  configMap: {name: {{ default .name .configMap }}, optional: {{ default false .optional }}}
{{- end }}
{{- end -}}

{{/* A length of time as `90s`, `30m`, `1h30m` or `2d`, in seconds. */}}
{{- define "tollgate.seconds" -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+[smhd]" (toString .) -1 -}}
{{- $number := int (regexFind "[0-9]+" .) -}}
{{- $unit := regexFind "[smhd]" . -}}
{{- $seconds = add $seconds (mul $number (get (dict "s" 1 "m" 60 "h" 3600 "d" 86400) $unit)) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{/* The variables by which an agent's clients trust the sidecar and, in mode proxy, find it. */}}
{{- define "tollgate.pod.variables" -}}
{{- $v := .Values -}}
{{- range list "SSL_CERT_FILE" "CURL_CA_BUNDLE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" "GIT_SSL_CAINFO" "NODE_EXTRA_CA_CERTS" "DENO_CERT" "CARGO_HTTP_CAINFO" "PIP_CERT" "npm_config_cafile" "HTTPLIB2_CA_CERTS" "NIX_SSL_CERT_FILE" "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE" }}
{{ . }}: /etc/tollgate/trust/ca.pem
{{- end }}
{{- $java := "-Djavax.net.ssl.trustStore=/etc/tollgate/trust/truststore.jks -Djavax.net.ssl.trustStoreType=JKS -Djavax.net.ssl.trustStorePassword=changeit" }}
{{- if eq $v.capture.mode "proxy" }}
{{- $port := int $v.capture.ports.proxy }}
{{- range list "http_proxy" "HTTP_PROXY" "https_proxy" "HTTPS_PROXY" "all_proxy" "ALL_PROXY" }}
{{ . }}: http://127.0.0.1:{{ $port }}
{{- end }}
NODE_USE_ENV_PROXY: "1"
{{- range list "no_proxy" "NO_PROXY" }}
{{ . }}: {{ join "," $v.agents.noProxy | quote }}
{{- end }}
{{- $direct := list }}
{{- range $v.agents.noProxy }}{{ $direct = append $direct (ternary "[::1]" . (eq . "::1")) }}{{ end }}
{{- $java = printf "%s -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=%d -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=%d -Dhttp.nonProxyHosts=%s" $java $port $port (join "|" $direct) }}
{{- end }}
JAVA_TOOL_OPTIONS: {{ $java | quote }}
{{- end -}}

{{/* A value in CEL: (dict "value" anything "type" the type of objects, such as Object.spec.volumes). Lists and maps of Kubernetes' CEL
hold values of one type, so objects are made by their type. A text that begins with `cel:` is CEL already. */}}
{{- define "tollgate.cel" -}}
{{- $type := .type -}}
{{- $value := .value -}}
{{- if kindIs "map" $value -}}
{{- if has (splitList "." $type | last) (list "requests" "limits" "labels" "annotations") -}}
{ {{- range $index, $key := keys $value | sortAlpha }}{{ if $index }}, {{ end }}{{ toJson $key }}: {{ include "tollgate.cel" (dict "value" (index $value $key) "type" $type) }}{{ end -}} }
{{- else -}}
{{ $type }}{ {{- range $index, $key := keys $value | sortAlpha }}{{ if $index }}, {{ end }}{{ $key }}: {{ include "tollgate.cel" (dict "value" (index $value $key) "type" (printf "%s.%s" $type $key)) }}{{ end -}} }
{{- end -}}
{{- else if kindIs "slice" $value -}}
[ {{- range $index, $one := $value }}{{ if $index }}, {{ end }}{{ include "tollgate.cel" (dict "value" $one "type" $type) }}{{ end -}} ]
{{- else if kindIs "string" $value -}}
{{- if hasPrefix "cel:" $value }}{{ trimPrefix "cel:" $value }}{{ else }}{{ $value | toJson | replace "\\u003c" "<" | replace "\\u003e" ">" | replace "\\u0026" "&" }}{{ end -}}
{{- else if kindIs "float64" $value -}}
{{ int64 $value }}
{{- else -}}
{{ toJson $value }}
{{- end -}}
{{- end -}}
