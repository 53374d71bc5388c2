{{/* CEL fragments. `agents` are the containers of a pod that are neither ours nor a mesh's: by name and image, because a
name alone is the pod's to choose. */}}
{{/* An image as the platform names it: at a boundary, as the injector sees it too. */}}
{{- define "tollgate.cel.image" -}}
{{- if hasSuffix "/" . -}}
c.image.startsWith({{ toJson . }})
{{- else -}}
c.image == {{ toJson . }} || c.image.startsWith({{ printf "%s/" . | toJson }}) || c.image.startsWith({{ printf "%s:" . | toJson }}) || c.image.startsWith({{ printf "%s@" . | toJson }})
{{- end -}}
{{- end -}}

{{- define "tollgate.cel.mesh" -}}
{{- $all := list -}}
{{- range .Values.agents.meshes -}}
{{- $names := ternary (list "istio-init" "istio-validation" "istio-proxy") (list "linkerd-init" "linkerd-network-validator" "linkerd-proxy") (eq .kind "istio") -}}
{{- $images := list -}}
{{- range .images }}{{- $images = append $images (include "tollgate.cel.image" .) }}{{- end -}}
{{- $all = append $all (printf "(c.name in %s && (%s))" (toJson $names) (join " || " $images)) -}}
{{- end -}}
{{- default "false" (join " || " $all) -}}
{{- end -}}

{{/* The sidecar's user first, then the others by number, as the injector lists them. */}}
{{- define "tollgate.cel.uids" -}}
{{- $others := list -}}
{{- range .Values.agents.meshes }}{{- $others = append $others (printf "%010d" (ternary 1337 2102 (eq .kind "istio"))) }}{{- end -}}
{{- range .Values.capture.exemptUids }}{{- $others = append $others (printf "%010d" (int .)) }}{{- end -}}
{{- $uids := list 15000 -}}
{{- range $others | uniq | sortAlpha }}{{- $uids = append $uids (regexReplaceAll "^0+(.)" . "${1}" | int) }}{{- end -}}
{{- $uids | toJson -}}
{{- end -}}

{{- define "tollgate.cel.ours" -}}["tollgate", "tollgate-fence", "tollgate-fence-check"]{{- end -}}

{{/* What one container (`c`) of an agent must be: (dict "root" $). */}}
{{- define "tollgate.cel.user" -}}
!has(c.securityContext) || !has(c.securityContext.runAsUser) || !(c.securityContext.runAsUser in {{ include "tollgate.cel.uids" . }})
{{- end -}}

{{/* An image may name any user, the sidecar's as well. */}}
{{- define "tollgate.cel.known" -}}
variables.user != -1 || (has(c.securityContext) && has(c.securityContext.runAsUser))
{{- end -}}

{{- define "tollgate.cel.unmasked" -}}
(!has(c.securityContext.privileged) || !c.securityContext.privileged) && (!has(c.securityContext.procMount) || c.securityContext.procMount == "Default")
{{- end -}}
{{- define "tollgate.cel.capabilities" -}}
!has(c.securityContext) || ({{ include "tollgate.cel.unmasked" . }} && (!has(c.securityContext.capabilities) || !has(c.securityContext.capabilities.add) || c.securityContext.capabilities.add.all(k, k in {{ default list .Values.admissionPolicies.allowedCapabilities | toJson }})))
{{- end -}}

{{/* Nothing of a container leads to a volume of ours, but for the certificates. */}}
{{- define "tollgate.cel.mounts" -}}
(!has(c.volumeMounts) || c.volumeMounts.all(m, !m.name.startsWith("tollgate-") || (m.name == "tollgate-ca" && has(m.readOnly) && m.readOnly))) && (!has(c.volumeDevices) || c.volumeDevices.all(d, !d.name.startsWith("tollgate-"))) && (!has(c.env) || c.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.fileKeyRef) || !e.valueFrom.fileKeyRef.volumeName.startsWith("tollgate-")))
{{- end -}}

{{/* Secrets of the sidecar, as a list. */}}
{{- define "tollgate.cel.secrets" -}}
{{- $names := list -}}
{{- range .Values.sidecar.secrets }}{{ $names = append $names (default .name .secretName) }}{{ end -}}
{{- uniq $names | toJson -}}
{{- end -}}
{{- define "tollgate.cel.secretless" -}}
{{- $secrets := include "tollgate.cel.secrets" . -}}
(!has(c.env) || c.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.secretKeyRef) || !(e.valueFrom.secretKeyRef.name in {{ $secrets }}))) && (!has(c.envFrom) || c.envFrom.all(e, !has(e.secretRef) || !(e.secretRef.name in {{ $secrets }})))
{{- end -}}

{{/* The kubelet would call from the node, where no fence is. */}}
{{- define "tollgate.cel.hostless" -}}
{{- $all := list -}}
{{- range $probe := list "livenessProbe" "readinessProbe" "startupProbe" "lifecycle.postStart" "lifecycle.preStop" -}}
{{- $has := ternary (printf "!has(c.lifecycle) || !has(c.%s)" $probe) (printf "!has(c.%s)" $probe) (hasPrefix "lifecycle" $probe) -}}
{{- range $kind := list "httpGet" "tcpSocket" -}}
{{- $all = append $all (printf "(%s || !has(c.%s.%s) || !has(c.%s.%s.host))" $has $probe $kind $probe $kind) -}}
{{- end -}}
{{- end -}}
{{- join " && " $all -}}
{{- end -}}

{{/* An agent that may be root must not be able to become the sidecar's user or to send what the fence does not see; one that is
not must not be able to become root. Neither may gain what a file's owner has. */}}
{{- define "tollgate.cel.escalation" -}}
has(c.securityContext) && has(c.securityContext.allowPrivilegeEscalation) && !c.securityContext.allowPrivilegeEscalation && ((has(c.securityContext.runAsUser) ? c.securityContext.runAsUser != 0 : (variables.user > 0 || (variables.user == -1 && (has(c.securityContext.runAsNonRoot) ? c.securityContext.runAsNonRoot : variables.nonRoot)))) || (has(c.securityContext.capabilities) && has(c.securityContext.capabilities.drop) && (c.securityContext.capabilities.drop.exists(d, d.upperAscii() in ["ALL", "CAP_ALL"]) || ["NET_RAW", "SETUID"].all(k, c.securityContext.capabilities.drop.exists(d, d.upperAscii() in [k, "CAP_" + k])))))
{{- end -}}

{{/* A mesh's container has what its mesh needs and nothing that would make it another one. */}}
{{- define "tollgate.cel.meshKept" -}}
{{- $all := list "(!has(c.command) || c.command == [\"/usr/lib/linkerd/linkerd2-network-validator\"])" "(!has(c.lifecycle) || !has(c.lifecycle.preStop))" "(!has(c.lifecycle) || !has(c.lifecycle.postStart) || (has(c.lifecycle.postStart.exec) && (c.lifecycle.postStart.exec.command == [\"pilot-agent\", \"wait\"] || (size(c.lifecycle.postStart.exec.command) > 0 && c.lifecycle.postStart.exec.command[0] == \"/usr/lib/linkerd/linkerd-await\"))))" -}}
{{- range $probe := list "livenessProbe" "readinessProbe" "startupProbe" -}}
{{- $all = append $all (printf "(!has(c.%s) || !has(c.%s.exec))" $probe $probe) -}}
{{- end -}}
{{- join " && " $all -}}
{{- end -}}

{{/* What of ours (`c`) must be as it is rendered: (dict "root" $ "container" it "native" whether it is a native sidecar). */}}
{{- define "tollgate.cel.runs" -}}
{{- $container := .container -}}
{{- $hooks := "!has(c.lifecycle)" -}}
{{- $restart := "!has(c.restartPolicy)" -}}
{{- if eq $container.name "tollgate" -}}
{{- if .native -}}
{{- $restart = "has(c.restartPolicy) && c.restartPolicy == \"Always\"" -}}
{{- else -}}
{{- $wait := list "tollgate" "inject" "wait" "--health-port" (printf "%d" (int .root.Values.capture.ports.health)) -}}
{{- $hooks = printf "has(c.lifecycle) && has(c.lifecycle.postStart) && has(c.lifecycle.postStart.exec) && c.lifecycle.postStart.exec.command == %s && has(c.lifecycle.preStop) && has(c.lifecycle.preStop.exec) && size(c.lifecycle.preStop.exec.command) > 3 && c.lifecycle.preStop.exec.command[0] == \"tollgate\" && c.lifecycle.preStop.exec.command[1] == \"inject\" && c.lifecycle.preStop.exec.command[2] == \"wait\"" (toJson $wait) -}}
{{- end -}}
{{- end -}}
has(c.command) && c.command == ["tollgate"] && has(c.args) && c.args == {{ toRawJson $container.args }} && {{ $restart }} && {{ $hooks }} && !has(c.workingDir) && !has(c.volumeDevices) && (!has(c.terminationMessagePath) || c.terminationMessagePath == "/dev/termination-log") && (!has(c.ports) || c.ports.all(p, !has(p.hostPort)))
{{- range $probe := list "startupProbe" "readinessProbe" "livenessProbe" -}}
{{- with index $container $probe }} && has(c.{{ $probe }}) && has(c.{{ $probe }}.httpGet) && c.{{ $probe }}.httpGet.path == {{ toJson .httpGet.path }} && c.{{ $probe }}.httpGet.port == {{ int .httpGet.port }} && !has(c.{{ $probe }}.httpGet.host){{ else }} && !has(c.{{ $probe }}){{ end -}}
{{- end -}}
{{- end -}}

{{- define "tollgate.cel.told" -}}
{{- $env := default list .container.env -}}
!has(c.envFrom) && (has(c.env) ? size(c.env) : 0) == {{ len $env }}
{{- range $env }} && c.env.exists(e, e.name == {{ toJson .name }} && {{ if .valueFrom }}has(e.valueFrom) && has(e.valueFrom.fieldRef) && e.valueFrom.fieldRef.fieldPath == {{ toJson .valueFrom.fieldRef.fieldPath }}{{ else if eq .name "TOLLGATE_POD_LABELS" }}has(e.value) && e.value.startsWith("{") && e.value.endsWith("}") && !e.value.contains("\\") && size(e.value) == size(variables.labels.join(",")) + 2 && variables.labels.all(l, e.value.contains(l)){{ else if eq .name "TOLLGATE_POD_WEAKNESSES" }}has(e.value) && (e.value == "[]" ? variables.fenced : e.value.startsWith("[\"")){{ else }}!has(e.valueFrom) && (has(e.value) ? e.value : "") == {{ toRawJson .value }}{{ end }}){{ end -}}
{{- end -}}

{{/* The API server itself adds the service account's token, where the pod has one. */}}
{{- define "tollgate.cel.mounted" -}}
{{- $paths := list "/var/run/secrets/kubernetes.io/serviceaccount" -}}
{{- range .container.volumeMounts }}{{ $paths = append $paths .mountPath }}{{ end -}}
(!has(c.volumeMounts) || c.volumeMounts.all(m, m.mountPath in {{ toRawJson $paths }} && !has(m.subPath) && !has(m.subPathExpr) && (!has(m.mountPropagation) || m.mountPropagation == "None")))
{{- range .container.volumeMounts }} && has(c.volumeMounts) && c.volumeMounts.exists(m, m.mountPath == {{ toJson .mountPath }} && m.name == {{ toJson .name }} && {{ if .readOnly }}has(m.readOnly) && m.readOnly{{ else }}(!has(m.readOnly) || !m.readOnly){{ end }}){{ end -}}
{{- end -}}

{{- define "tollgate.cel.secured" -}}
{{- $context := .container.securityContext -}}
has(c.securityContext) && has(c.securityContext.runAsUser) && c.securityContext.runAsUser == {{ int $context.runAsUser }} && has(c.securityContext.runAsGroup) && c.securityContext.runAsGroup == {{ int $context.runAsGroup }} && has(c.securityContext.allowPrivilegeEscalation) && !c.securityContext.allowPrivilegeEscalation && has(c.securityContext.readOnlyRootFilesystem) && c.securityContext.readOnlyRootFilesystem && {{ include "tollgate.cel.unmasked" . }} && has(c.securityContext.capabilities) && has(c.securityContext.capabilities.drop) && c.securityContext.capabilities.drop == ["ALL"] && {{ with $context.capabilities.add }}has(c.securityContext.capabilities.add) && c.securityContext.capabilities.add == {{ toJson . }}{{ else }}!has(c.securityContext.capabilities.add){{ end }} && has(c.securityContext.seccompProfile) && c.securityContext.seccompProfile.type == "RuntimeDefault"
{{- end -}}

{{/* A volume (`v`) as it is rendered. */}}
{{- define "tollgate.cel.volume" -}}
v.name == {{ toJson .name }} && {{ if .emptyDir -}}
has(v.emptyDir) && (has(v.emptyDir.medium) ? v.emptyDir.medium : "") == {{ default "" .emptyDir.medium | toJson }}
{{- else if .configMap -}}
has(v.configMap) && v.configMap.name == {{ toJson .configMap.name }} && !has(v.configMap.items) && (has(v.configMap.optional) && v.configMap.optional) == {{ default false .configMap.optional }}
{{- else if .secret -}}
has(v.secret) && v.secret.secretName == {{ toJson .secret.secretName }} && !has(v.secret.items) && (has(v.secret.optional) && v.secret.optional) == {{ default false .secret.optional }}
{{- else if .projected -}}
{{- $token := (first .projected.sources).serviceAccountToken -}}
has(v.projected) && size(v.projected.sources) == 1 && v.projected.sources.all(s, has(s.serviceAccountToken) && has(s.serviceAccountToken.audience) && s.serviceAccountToken.audience == {{ toJson $token.audience }} && s.serviceAccountToken.path == {{ toJson $token.path }})
{{- else if .csi -}}
has(v.csi) && v.csi.driver == {{ toJson .csi.driver }} && !has(v.csi.volumeAttributes) && !has(v.csi.nodePublishSecretRef)
{{- else if .hostPath -}}
has(v.hostPath) && v.hostPath.path == {{ toJson .hostPath.path }}
{{- else -}}
{{ fail (printf "volume %s: nothing says what it must be" .name) }}
{{- end -}}
{{- end -}}

{{- define "tollgate.userVariables" -}}
- name: user
  expression: 'has(object.spec.securityContext) && has(object.spec.securityContext.runAsUser) ? object.spec.securityContext.runAsUser : -1'
- name: nonRoot
  expression: 'has(object.spec.securityContext) && has(object.spec.securityContext.runAsNonRoot) && object.spec.securityContext.runAsNonRoot'
{{- end -}}

{{/* The head of a policy on the namespaces with agents: (dict "root" $ "rules" YAML). */}}
{{- define "tollgate.constraints" -}}
failurePolicy: Fail
matchConstraints:
  matchPolicy: Equivalent
  namespaceSelector:
    {{- include "tollgate.namespaceSelector" .root | nindent 4 }}
  resourceRules:
    {{- .rules | nindent 4 }}
{{- end -}}

{{- define "tollgate.podRules" -}}
- apiGroups: [""]
  apiVersions: [v1]
  operations: {{ toJson . }}
  resources: [pods]
  scope: Namespaced
{{- end -}}

{{/* Whoever updates labels or finalizers of a pod that is older than the policies must be able to: otherwise it could not even
be deleted. A pod for Windows is refused by the kubelet of any other node. */}}
{{- define "tollgate.podConditions" -}}
- name: made-or-its-containers-changed
  expression: request.operation == "CREATE" || object.spec != oldObject.spec
- name: not-windows
  expression: '(!has(object.spec.os) || object.spec.os.name != "windows") && (!has(object.spec.nodeSelector) || !("kubernetes.io/os" in object.spec.nodeSelector) || object.spec.nodeSelector["kubernetes.io/os"] != "windows")'
{{- if .Values.agents.optOut }}
- name: not-opted-out
  expression: '!has(object.metadata.annotations) || !("tollgate.dev/inject" in object.metadata.annotations) || !(object.metadata.annotations["tollgate.dev/inject"] in ["false", "disabled"])'
{{- end }}
{{- end -}}

{{- define "tollgate.podVariables" -}}
- name: inits
  expression: 'has(object.spec.initContainers) ? object.spec.initContainers : []'
- name: containers
  expression: object.spec.containers + variables.inits
- name: agents
  expression: {{ printf "variables.containers.filter(c, !(c.name in %s) && !(%s))" (include "tollgate.cel.ours" .) (include "tollgate.cel.mesh" .) | toRawJson }}
- name: foreign
  expression: {{ printf "variables.containers.filter(c, !(c.name in %s))" (include "tollgate.cel.ours" .) | toRawJson }}
{{- end -}}

{{- define "tollgate.cel.order" -}}
{{- range $place, $name := . }} && variables.first[{{ $place }}] == "{{ $name }}"{{ end -}}
{{- end -}}

{{- define "tollgate.ephemeralRules" -}}
- apiGroups: [""]
  apiVersions: [v1]
  operations: [UPDATE]
  resources: [pods/ephemeralcontainers]
  scope: Namespaced
{{- end -}}

{{- define "tollgate.execRules" -}}
- apiGroups: [""]
  apiVersions: [v1]
  operations: [CONNECT]
  resources: [pods/exec, pods/attach]
  scope: Namespaced
{{- end -}}

{{/* Directories of the node, as the injector permits them: whole steps of a path, and no way up. */}}
{{- define "tollgate.cel.hostPaths" -}}
{{- $permitted := list -}}
{{- range .Values.agents.hostPaths -}}
{{- $path := trimSuffix "/" . -}}
{{- $permitted = append $permitted (printf "v.hostPath.path == %s || v.hostPath.path.startsWith(%s)" (toJson $path) (printf "%s/" $path | toJson)) -}}
{{- end -}}
variables.volumes.all(v, !has(v.hostPath){{ with $permitted }} || (!v.hostPath.path.split("/").exists(p, p == "..") && ({{ join " || " . }})){{ end }})
{{- end -}}

{{/* Only what lies in the cluster or on the node: the kinds of PodSecurity's restricted profile, and the directories that are
asked about above. */}}
{{- define "tollgate.cel.local" -}}
{{- $local := list -}}
{{- range list "configMap" "downwardAPI" "emptyDir" "ephemeral" "hostPath" "image" "persistentVolumeClaim" "projected" "secret" -}}
{{- $local = append $local (printf "has(v.%s)" .) -}}
{{- end -}}
{{- $local = append $local (printf "(has(v.csi) && v.csi.driver in %s)" (toJson (default list .Values.agents.csiDrivers))) -}}
{{- join " || " $local -}}
{{- end -}}
