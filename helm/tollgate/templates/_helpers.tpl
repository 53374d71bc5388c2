{{/* Names, labels, images. */}}

{{- define "tollgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "tollgate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "tollgate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tollgate.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tollgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "tollgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tollgate
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What selects the pods of one component: (dict "root" $ "component" "injector"). */}}
{{- define "tollgate.selector" -}}
app.kubernetes.io/name: {{ include "tollgate.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "tollgate.image" -}}
{{- $image := .Values.sidecar.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "tollgate.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* A container that PodSecurity's restricted profile lets in. */}}
{{- define "tollgate.restricted" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Whether there is an injector: unless the API server injects by itself. */}}
{{- define "tollgate.webhook" -}}
{{- if not .Values.mutatingAdmissionPolicy.enabled }}true{{ end -}}
{{- end -}}

{{/* Whether the sidecar is a native one, as the injector decides it too. */}}
{{- define "tollgate.native" -}}
{{- $native := toString .Values.sidecar.native -}}
{{- if or (eq $native "true") (and (eq $native "auto") (semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version)) }}true{{ end -}}
{{- end -}}

{{/* What proves the agents' identity. */}}
{{- define "tollgate.identityKind" -}}
{{- with .Values.sidecar.identity -}}
{{- if .kind }}{{ .kind }}{{ else if or .spiffe.csiDriver .spiffe.hostPath }}spiffe{{ else if .token.enabled }}kubernetes{{ else }}static{{ end -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that never get a sidecar: there is none to break in them, and agents are not at home there. */}}
{{- define "tollgate.namespaceSelector" -}}
{{- $selector := deepCopy .Values.injector.namespaceSelector -}}
{{- $never := dict "key" "kubernetes.io/metadata.name" "operator" "NotIn" "values" (list "kube-system" "kube-node-lease" .Release.Namespace | uniq) -}}
{{- $_ := set $selector "matchExpressions" (append (default list $selector.matchExpressions) $never) -}}
{{- toYaml $selector -}}
{{- end -}}

{{/* Which version of the API holds validating admission policies. Where none does, nothing would refuse what breaks the fence,
and that is for the reader of the values to decide. */}}
{{- define "tollgate.validatingVersion" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}
admissionregistration.k8s.io/v1
{{- else if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1beta1/ValidatingAdmissionPolicy" -}}
admissionregistration.k8s.io/v1beta1
{{- else -}}
{{- fail (printf "admissionPolicies.enabled: Kubernetes %s has no ValidatingAdmissionPolicy (1.30 has, 1.28 and 1.29 where the v1beta1 API is switched on). Set it to false and know that nothing but the injector then refuses pods that would break the fence" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}

{{- define "tollgate.mutatingVersion" -}}
{{- if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
admissionregistration.k8s.io/v1
{{- else if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy" -}}
admissionregistration.k8s.io/v1beta1
{{- else -}}
{{- fail (printf "mutatingAdmissionPolicy.enabled: Kubernetes %s has no MutatingAdmissionPolicy (1.36 has, 1.34 and 1.35 where the v1beta1 API is switched on). Set it to false: then the injector does it" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}

{{/* The name of the ConfigMap with policy, in each namespace of agents. The chart's own is there without any policy too, so that the
first one reaches pods that run. */}}
{{- define "tollgate.policyName" -}}
{{- default "tollgate-policy" .Values.policy.configMap -}}
{{- end -}}

{{/* How privileged a pod must be able to be in the namespaces of agents. */}}
{{- define "tollgate.podSecurity" -}}
{{- if eq .Values.capture.mode "init" }}privileged{{ else }}restricted{{ end -}}
{{- end -}}

{{/* What can't be said in the schema, because it needs two values at once. */}}
{{- define "tollgate.check" -}}
{{- $names := list -}}
{{- range .Values.namespaces -}}
{{- if has .name (list "kube-system" "kube-node-lease" $.Release.Namespace) -}}
{{- fail (printf "namespaces: %s never gets sidecars; agents need a namespace of their own" .name) -}}
{{- end -}}
{{- if has .name $names }}{{ fail (printf "namespaces: %s stands there twice" .name) }}{{ end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $ports := .Values.capture.ports -}}
{{- if ne 4 (len (list $ports.proxy $ports.transparent $ports.dns $ports.health | uniq)) -}}
{{- fail "capture.ports: each must be another one" -}}
{{- end -}}
{{- if and .Values.policy.configMap .Values.policy.inline -}}
{{- fail "policy: give either inline or configMap" -}}
{{- end -}}
{{- range $path, $given := dict "policy.bundles" .Values.policy.bundles "state.redis.url" .Values.state.redis.url -}}
{{- if $given }}{{ fail (printf "%s: version %s of the sidecar does not serve it and would not start" $path $.Chart.AppVersion) }}{{ end -}}
{{- end -}}
{{- if and .Values.sidecar.identity.spiffe.csiDriver .Values.sidecar.identity.spiffe.hostPath -}}
{{- fail "sidecar.identity.spiffe: give either csiDriver or hostPath" -}}
{{- end -}}
{{- with .Values.sidecar.identity -}}
{{- if and (eq .kind "spiffe") (not (or .spiffe.csiDriver .spiffe.hostPath)) -}}
{{- fail "sidecar.identity.kind: spiffe needs spiffe.csiDriver or spiffe.hostPath" -}}
{{- end -}}
{{- if and (eq .kind "kubernetes") (not .token.enabled) -}}
{{- fail "sidecar.identity.kind: kubernetes needs token.enabled" -}}
{{- end -}}
{{- $socket := printf "%s/" (trimSuffix "/" .spiffe.hostPath) -}}
{{- range $.Values.agents.hostPaths -}}
{{- $path := printf "%s/" (trimSuffix "/" .) -}}
{{- if and (ne $socket "/") (or (hasPrefix $path $socket) (hasPrefix $socket $path)) -}}
{{- fail (printf "agents.hostPaths: %s leads to the Workload API of sidecar.identity.spiffe.hostPath, which gives out the sidecar's identity" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.agents.orchestrators .Values.mutatingAdmissionPolicy.enabled -}}
{{- fail "mutatingAdmissionPolicy.enabled: it gives no container the socket at which tasks are opened. Use the injector, or no agents.orchestrators" -}}
{{- end -}}
{{- if and (eq .Values.capture.mode "init") .Values.mutatingAdmissionPolicy.enabled .Values.agents.meshes -}}
{{- fail "mutatingAdmissionPolicy.enabled: it can't tell a mesh's containers from the agent's. Use the injector, or no agents.meshes" -}}
{{- end -}}
{{- range $name, $value := .Values.sidecar.env -}}
{{- if hasPrefix "TOLLGATE_" $name }}{{ fail (printf "sidecar.env: %s is the sidecar's own" $name) }}{{ end -}}
{{- end -}}
{{- end -}}
