{{/* What admission policies have in common: what they are about, and under which conditions. */}}

{{/* The users that pass the fence: the sidecar's first, then the others by number, as the injector lists them. */}}
{{- define "tollgate.uids" -}}
{{- concat (list 15000) (include "tollgate.exempt" . | fromJsonArray) | toJson -}}
{{- end -}}

{{/* Those others. */}}
{{- define "tollgate.exempt" -}}
{{- $padded := list -}}
{{- range .Values.agents.meshes }}{{- $padded = append $padded (printf "%010d" (ternary 1337 2102 (eq .kind "istio"))) }}{{- end -}}
{{- range .Values.capture.exemptUids }}{{- $padded = append $padded (printf "%010d" (int .)) }}{{- end -}}
{{- $uids := list -}}
{{- range $padded | uniq | sortAlpha }}{{- $uids = append $uids (regexReplaceAll "^0+(.)" . "${1}" | int) }}{{- end -}}
{{- $uids | toJson -}}
{{- end -}}

{{/* The fence that the node is asked for, as the pod's annotation has it. */}}
{{- define "tollgate.fence" -}}
{{- $ports := .Values.capture.ports -}}
{{- dict "uid" 15000 "exempt" (include "tollgate.exempt" . | fromJsonArray) "proxy" (int $ports.proxy) "transparent" (int $ports.transparent) "dns" (int $ports.dns) "health" (int $ports.health) | toJson -}}
{{- end -}}

{{- define "tollgate.userVariables" -}}
- name: user
  expression: 'has(object.spec.securityContext) && has(object.spec.securityContext.runAsUser) ? object.spec.securityContext.runAsUser : -1'
- name: nonRoot
  expression: 'has(object.spec.securityContext) && has(object.spec.securityContext.runAsNonRoot) && object.spec.securityContext.runAsNonRoot'
{{- end -}}

{{/* The head of a policy: (dict "root" $ "name" its last part). */}}
{{- define "tollgate.policyHead" -}}
apiVersion: {{ include "tollgate.validatingVersion" .root }}
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ include "tollgate.fullname" .root }}-{{ .name }}
  labels:
    {{- include "tollgate.labels" .root | nindent 4 }}
{{- end -}}

{{/* Its binding, likewise. */}}
{{- define "tollgate.policyBinding" -}}
apiVersion: {{ include "tollgate.validatingVersion" .root }}
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "tollgate.fullname" .root }}-{{ .name }}
  labels:
    {{- include "tollgate.labels" .root | nindent 4 }}
spec:
  policyName: {{ include "tollgate.fullname" .root }}-{{ .name }}
  validationActions: {{ toJson .root.Values.admissionPolicies.validationActions }}
{{- end -}}

{{/* What a policy on the namespaces with agents is about: (dict "root" $ "rules" YAML). */}}
{{- define "tollgate.constraints" -}}
failurePolicy: Fail
matchConstraints:
  matchPolicy: Equivalent
  namespaceSelector:
    {{- include "tollgate.namespaceSelector" .root | nindent 4 }}
  resourceRules:
    {{- .rules | nindent 4 }}
{{- end -}}

{{/* Objects of the core group: (dict "operations" list "resources" list). */}}
{{- define "tollgate.rule" -}}
- apiGroups: [""]
  apiVersions: [v1]
  operations: {{ toJson .operations }}
  resources: {{ toJson .resources }}
  scope: Namespaced
{{- end -}}

{{- define "tollgate.podRules" -}}
{{- include "tollgate.rule" (dict "operations" . "resources" (list "pods")) -}}
{{- end -}}

{{/* Whoever updates labels or finalizers of a pod that is older than the policies must be able to: otherwise it could not even
be deleted. */}}
{{- define "tollgate.changedCondition" -}}
- name: made-or-its-containers-changed
  expression: request.operation == "CREATE" || object.spec != oldObject.spec
{{- end -}}

{{/* A pod for Windows is refused by the kubelet of any other node. */}}
{{- define "tollgate.cel.linux" -}}
(!has(object.spec.os) || object.spec.os.name != "windows")
&& (!has(object.spec.nodeSelector)
  || !("kubernetes.io/os" in object.spec.nodeSelector)
  || object.spec.nodeSelector["kubernetes.io/os"] != "windows")
{{- end -}}

{{- define "tollgate.cel.optedIn" -}}
!has(object.metadata.annotations)
|| !("tollgate.dev/inject" in object.metadata.annotations)
|| !(object.metadata.annotations["tollgate.dev/inject"] in ["false", "disabled"])
{{- end -}}

{{- define "tollgate.podConditions" -}}
{{ include "tollgate.changedCondition" . }}
- name: not-windows
  expression: {{ include "tollgate.cel.linux" . | include "tollgate.line" }}
{{- if .Values.agents.optOut }}
- name: not-opted-out
  expression: {{ include "tollgate.cel.optedIn" . | include "tollgate.line" }}
{{- end }}
{{- end -}}

{{- define "tollgate.podVariables" -}}
- name: inits
  expression: 'has(object.spec.initContainers) ? object.spec.initContainers : []'
- name: containers
  expression: object.spec.containers + variables.inits
- name: agents
  expression: {{ printf "variables.containers.filter(c, !(c.name in %s) && !(%s))" (include "tollgate.ourNames" .) (include "tollgate.cel.mesh" .) | include "tollgate.line" }}
- name: foreign
  expression: {{ printf "variables.containers.filter(c, !(c.name in %s))" (include "tollgate.ourNames" .) | include "tollgate.line" }}
{{- if .Values.agents.orchestrators }}
- name: orchestrator
  expression: {{ `has(object.metadata.annotations) && "tollgate.dev/orchestrator" in object.metadata.annotations ? object.metadata.annotations["tollgate.dev/orchestrator"] : ""` | include "tollgate.line" }}
{{- end }}
{{- end -}}

{{/* Our containers, as YAML. */}}
{{- define "tollgate.ours" -}}
{{- if eq .Values.capture.mode "init" }}
- {{ include "tollgate.pod.fence" . | fromYaml | toJson }}
{{- end }}
- {{ include "tollgate.pod.sidecar" . | fromYaml | toJson }}
{{- if ne .Values.capture.mode "proxy" }}
- {{ include "tollgate.pod.check" . | fromYaml | toJson }}
{{- end }}
{{- end -}}

{{- define "tollgate.volumeNames" -}}
{{- $names := list -}}
{{- range include "tollgate.pod.volumes" . | fromYamlArray }}{{ $names = append $names .name }}{{ end -}}
{{- toJson $names -}}
{{- end -}}
