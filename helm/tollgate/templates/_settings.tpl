{{/* The files that our program reads: the injector's and the sidecar's. */}}

{{- define "tollgate.injectConfig" -}}
{{- $v := .Values -}}
{{- $sidecar := $v.sidecar -}}
{{- $secrets := list -}}
{{- range $sidecar.secrets -}}
{{- $secrets = append $secrets (dict "name" .name "secret" (default .name .secretName) "optional" (default false .optional)) -}}
{{- end -}}
{{- $configMaps := list -}}
{{- range $sidecar.configMaps -}}
{{- $configMaps = append $configMaps (dict "name" .name "config_map" (default .name .configMap) "optional" (default false .optional)) -}}
{{- end -}}
image: {{ include "tollgate.image" . | quote }}
image_pull_policy: {{ $sidecar.image.pullPolicy }}
image_pull_secrets: {{ toJson (default list $v.imagePullSecrets) }}
capture: {{ $v.capture.mode }}
native: {{ toString $sidecar.native }}
cluster_version: {{ .Capabilities.KubeVersion.Version | quote }}
ports: {{ toJson $v.capture.ports }}
trust_domain: {{ $sidecar.identity.trustDomain }}
exempt_uids: {{ toJson (default list $v.capture.exemptUids) }}
exempt_namespaces: {{ list "kube-system" "kube-node-lease" .Release.Namespace | uniq | toJson }}
skip:
  windows: true
  opted_out: {{ $v.agents.optOut }}
permit:
  host_paths: {{ toJson (default list $v.agents.hostPaths) }}
  csi_drivers: {{ toJson (default list $v.agents.csiDrivers) }}
  tasks: {{ $v.agents.tasks }}
  orchestrators: {{ $v.agents.orchestrators }}
agent:
  privileges: {{ $v.agents.privileges }}
  service_account_token: {{ $v.agents.serviceAccountToken }}
  no_proxy: {{ toJson $v.agents.noProxy }}
sidecar:
  config: tollgate-config
  policy: {{ include "tollgate.policyName" . }}
  log: {{ $sidecar.log | quote }}
  resources: {{ toJson $sidecar.resources }}
  init_resources: {{ toJson $sidecar.initResources }}
  audit_size: {{ $sidecar.auditSize | quote }}
  env: {{ toJson $sidecar.env }}
  secrets: {{ toJson $secrets }}
  config_maps: {{ toJson $configMaps }}
identity:
  {{- with $sidecar.identity.token }}
  {{- if .enabled }}
  token: {audience: {{ .audience | quote }}, expiration: {{ .expiration }}}
  {{- else }}
  token: null
  {{- end }}
  {{- end }}
  {{- with $sidecar.identity.spiffe }}
  {{- if .csiDriver }}
  spiffe: {csi: {{ .csiDriver | quote }}}
  {{- else if .hostPath }}
  spiffe: {host_path: {{ .hostPath | quote }}}
  {{- else }}
  spiffe: null
  {{- end }}
  spiffe_socket: {{ .socket | quote }}
  {{- end }}
meshes: {{ toJson (default list $v.agents.meshes) }}
serve:
  listen: "[::]:15443"
  health: "[::]:15020"
  certificate: /etc/tollgate/webhook/tls.crt
  key: /etc/tollgate/webhook/tls.key
{{- end -}}

{{/* The sidecar's configuration in one namespace: (dict "root" $ "namespace" one of .Values.namespaces). */}}
{{- define "tollgate.sidecarConfig" -}}
{{- $v := .root.Values -}}
{{- $n := .namespace -}}
{{- $any := ternary "[::]" "0.0.0.0" $v.capture.ipv6 -}}
{{- $listen := dict "proxy" "127.0.0.1:${TOLLGATE_PROXY_PORT}" "health" (printf "%s:${TOLLGATE_HEALTH_PORT}" $any) -}}
{{- if ne $v.capture.mode "proxy" -}}
{{- $_ := set $listen "transparent" "127.0.0.1:${TOLLGATE_TRANSPARENT_PORT}" -}}
{{- $_ := set $listen "dns" "127.0.0.1:${TOLLGATE_DNS_PORT}" -}}
{{- end -}}
{{- /* The id is what must be proven; where nothing proves it, it is taken as it is. */ -}}
{{- $identity := dict "kind" (include "tollgate.identityKind" .root) "id" "spiffe://${TOLLGATE_TRUST_DOMAIN}/ns/${TOLLGATE_POD_NAMESPACE}/sa/${TOLLGATE_SERVICE_ACCOUNT}" -}}
{{- $authority := dict "dir" "/run/tollgate/ca" "trust_bundle" "/etc/tollgate/trust/ca.pem" "java_trust_store" "/etc/tollgate/trust/truststore.jks" -}}
{{- $config := dict
    "agent" (dict "identity" $identity)
    "listen" $listen
    "tls" (dict "authority" $authority)
    "destinations" (mergeOverwrite (deepCopy $v.destinations) (deepCopy (default dict $n.destinations)))
    "credentials" (mergeOverwrite (deepCopy $v.credentials) (deepCopy (default dict $n.credentials)))
    "policy" (dict "paths" (list "/etc/tollgate/policy"))
    "audit" (dict "file" "/var/log/tollgate/audit.jsonl" "rotate" (dict "bytes" "200MiB" "keep" 3)) -}}
{{- with $v.telemetry.otlp }}
{{- if .endpoint }}{{- $_ := set $config "telemetry" (dict "otlp" (dict "endpoint" .endpoint "protocol" .protocol)) }}{{- end }}
{{- end -}}
{{- $config = mergeOverwrite $config (deepCopy $v.sidecar.config) (deepCopy (default dict $n.config)) -}}
{{- /* Merging passes over null, by which a file of records is refused, and Helm itself takes it out of the values. */ -}}
{{- range list $v.sidecar.config (default dict $n.config) -}}
{{- if hasKey . "audit" -}}
{{- if or (not .audit) (and (hasKey .audit "file") (not .audit.file)) }}{{- $_ := unset $config "audit" }}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $key := keys $config | sortAlpha -}}
{{- if empty (index $config $key) }}{{- $_ := unset $config $key }}{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
