{{/* CEL about what of ours is in a pod: each container (`c`) and volume (`v`) is what it is rendered as, to the letter. The fragments
about containers take (dict "root" $ "container" it "native" whether it is a native sidecar). */}}

{{- define "tollgate.cel.runs" -}}
{{- $container := .container -}}
has(c.command)
&& c.command == ["tollgate"]
&& has(c.args)
&& c.args == {{ toRawJson $container.args }}
&& {{ include "tollgate.cel.restarts" . }}
&& {{ include "tollgate.cel.hooks" . }}
&& !has(c.workingDir)
&& !has(c.volumeDevices)
&& (!has(c.terminationMessagePath) || c.terminationMessagePath == "/dev/termination-log")
&& (!has(c.ports) || c.ports.all(p, !has(p.hostPort)))
{{- range $probe := list "startupProbe" "readinessProbe" "livenessProbe" }}
{{- with index $container $probe }}
&& has(c.{{ $probe }})
&& has(c.{{ $probe }}.httpGet)
&& c.{{ $probe }}.httpGet.path == {{ toJson .httpGet.path }}
&& c.{{ $probe }}.httpGet.port == {{ int .httpGet.port }}
&& !has(c.{{ $probe }}.httpGet.host)
{{- else }}
&& !has(c.{{ $probe }})
{{- end }}
{{- end }}
{{- end -}}

{{- define "tollgate.cel.restarts" -}}
!has(c.restartPolicyRules)
&& {{ if and (eq .container.name "tollgate") .native }}has(c.restartPolicy) && c.restartPolicy == "Always"{{ else }}!has(c.restartPolicy){{ end }}
{{- end -}}

{{/* Only the older form has hooks. */}}
{{- define "tollgate.cel.hooks" -}}
{{- if and (eq .container.name "tollgate") (not .native) -}}
has(c.lifecycle)
&& has(c.lifecycle.postStart)
&& has(c.lifecycle.postStart.exec)
&& c.lifecycle.postStart.exec.command == {{ list "tollgate" "inject" "wait" "--health-port" (printf "%d" (int .root.Values.capture.ports.health)) | toJson }}
&& has(c.lifecycle.preStop)
&& has(c.lifecycle.preStop.exec)
&& size(c.lifecycle.preStop.exec.command) > 3
&& c.lifecycle.preStop.exec.command[0] == "tollgate"
&& c.lifecycle.preStop.exec.command[1] == "inject"
&& c.lifecycle.preStop.exec.command[2] == "wait"
{{- else -}}
!has(c.lifecycle)
{{- end -}}
{{- end -}}

{{- define "tollgate.cel.told" -}}
{{- $env := default list .container.env -}}
!has(c.envFrom)
&& (has(c.env) ? size(c.env) : 0) == {{ len $env }}
{{- range $env }}
&& c.env.exists(e, e.name == {{ toJson .name }} && {{ include "tollgate.cel.variable" . }})
{{- end }}
{{- end -}}

{{/* What an annotation says, as the kubelet, which expands `$(NAME)` in variables, would leave it. */}}
{{- define "tollgate.cel.task" -}}
has(object.metadata.annotations) && "tollgate.dev/task" in object.metadata.annotations
  ? object.metadata.annotations["tollgate.dev/task"].replace("$", "$$")
  : ""
{{- end -}}

{{/* A variable (`e`) as it is rendered. Labels, weaknesses, the task and who opens tasks are the pod's own. */}}
{{- define "tollgate.cel.variable" -}}
{{- if and .valueFrom .valueFrom.fieldRef -}}
has(e.valueFrom)
&& has(e.valueFrom.fieldRef)
&& e.valueFrom.fieldRef.fieldPath == {{ toJson .valueFrom.fieldRef.fieldPath }}
{{- else if .valueFrom -}}
{{- $from := .valueFrom.configMapKeyRef -}}
has(e.valueFrom)
&& has(e.valueFrom.configMapKeyRef)
&& e.valueFrom.configMapKeyRef.name == {{ toJson $from.name }}
&& e.valueFrom.configMapKeyRef.key == {{ toJson $from.key }}
{{- else if eq .name "TOLLGATE_POD_LABELS" -}}
has(e.value)
&& e.value.startsWith("{")
&& e.value.endsWith("}")
&& !e.value.contains("\\")
&& size(e.value) == size(variables.labels.join(",")) + 2
&& variables.labels.all(l, e.value.contains(l))
{{- else if eq .name "TOLLGATE_TASK" -}}
!has(e.valueFrom)
&& (has(e.value) ? e.value : "") == variables.task
{{- else if eq .name "TOLLGATE_ADMIN_USER" -}}
!has(e.valueFrom)
&& (has(e.value) ? e.value : "") == variables.orchestratorUser
{{- else if eq .name "TOLLGATE_POD_WEAKNESSES" -}}
has(e.value)
&& (e.value == "[]" ? variables.fenced : e.value.startsWith("[\""))
{{- else -}}
!has(e.valueFrom)
&& (has(e.value) ? e.value : "") == {{ toRawJson .value }}
{{- end -}}
{{- end -}}

{{/* The API server itself adds the service account's token, where the pod has one. */}}
{{- define "tollgate.cel.mounted" -}}
{{- $paths := list "/var/run/secrets/kubernetes.io/serviceaccount" -}}
{{- range .container.volumeMounts }}{{ $paths = append $paths .mountPath }}{{ end -}}
(!has(c.volumeMounts)
  || c.volumeMounts.all(m,
    m.mountPath in {{ toRawJson $paths }}
    && !has(m.subPath)
    && !has(m.subPathExpr)
    && (!has(m.mountPropagation) || m.mountPropagation == "None")))
{{- range .container.volumeMounts }}
&& has(c.volumeMounts)
&& c.volumeMounts.exists(m,
  m.mountPath == {{ toJson .mountPath }}
  && m.name == {{ toJson .name }}
  && {{ if .readOnly }}has(m.readOnly) && m.readOnly{{ else }}(!has(m.readOnly) || !m.readOnly){{ end }})
{{- end }}
{{- end -}}

{{- define "tollgate.cel.secured" -}}
{{- $context := .container.securityContext -}}
has(c.securityContext)
&& has(c.securityContext.runAsUser)
&& c.securityContext.runAsUser == {{ int $context.runAsUser }}
&& has(c.securityContext.runAsGroup)
&& c.securityContext.runAsGroup == {{ int $context.runAsGroup }}
&& has(c.securityContext.allowPrivilegeEscalation)
&& !c.securityContext.allowPrivilegeEscalation
&& has(c.securityContext.readOnlyRootFilesystem)
&& c.securityContext.readOnlyRootFilesystem
&& {{ include "tollgate.cel.unmasked" . }}
&& has(c.securityContext.capabilities)
&& has(c.securityContext.capabilities.drop)
&& c.securityContext.capabilities.drop == ["ALL"]
{{- with $context.capabilities.add }}
&& has(c.securityContext.capabilities.add)
&& c.securityContext.capabilities.add == {{ toJson . }}
{{- else }}
&& !has(c.securityContext.capabilities.add)
{{- end }}
&& has(c.securityContext.seccompProfile)
&& c.securityContext.seccompProfile.type == "RuntimeDefault"
{{- range list "seLinuxOptions" "appArmorProfile" "windowsOptions" }}
&& !has(c.securityContext.{{ . }})
{{- end }}
{{- end -}}

{{/* A volume (`v`) as it is rendered. */}}
{{- define "tollgate.cel.volume" -}}
v.name == {{ toJson .name }}
{{ if .emptyDir -}}
&& has(v.emptyDir)
&& (has(v.emptyDir.medium) ? v.emptyDir.medium : "") == {{ default "" .emptyDir.medium | toJson }}
{{- else if .configMap -}}
&& has(v.configMap)
&& v.configMap.name == {{ toJson .configMap.name }}
&& !has(v.configMap.items)
&& (has(v.configMap.optional) && v.configMap.optional) == {{ default false .configMap.optional }}
{{- else if .secret -}}
&& has(v.secret)
&& v.secret.secretName == {{ toJson .secret.secretName }}
&& !has(v.secret.items)
&& (has(v.secret.optional) && v.secret.optional) == {{ default false .secret.optional }}
{{- else if .projected -}}
{{- $token := (first .projected.sources).serviceAccountToken -}}
&& has(v.projected)
&& size(v.projected.sources) == 1
&& v.projected.sources.all(s,
  has(s.serviceAccountToken)
  && has(s.serviceAccountToken.audience)
  && s.serviceAccountToken.audience == {{ toJson $token.audience }}
  && s.serviceAccountToken.path == {{ toJson $token.path }})
{{- else if .csi -}}
&& has(v.csi)
&& v.csi.driver == {{ toJson .csi.driver }}
&& !has(v.csi.volumeAttributes)
&& !has(v.csi.nodePublishSecretRef)
{{- else if .hostPath -}}
&& has(v.hostPath)
&& v.hostPath.path == {{ toJson .hostPath.path }}
{{- else -}}
{{ fail (printf "volume %s: nothing says what it must be" .name) }}
{{- end }}
{{- end -}}

{{/* The first init containers that are no mesh's. */}}
{{- define "tollgate.cel.order" -}}
size(variables.first) >= {{ len . }}
{{- range $place, $name := . }}
&& variables.first[{{ $place }}] == "{{ $name }}"
{{- end }}
{{- end -}}

{{/* Names of ours stand where ours are, and nowhere else: (dict "first" names of init containers "native" whether ours are all there). */}}
{{- define "tollgate.cel.inPlace" -}}
variables.inits.all(c,
  c.name in {{ toJson .first }}
  || !(c.name == "tollgate" || c.name.startsWith("tollgate-")))
&& object.spec.containers.all(c,
  {{ if not .native }}c.name == "tollgate" || {{ end }}(c.name != "tollgate" && !c.name.startsWith("tollgate-")))
{{- end -}}

{{/* The pod's labels, but for ours, as the parts of a JSON object. */}}
{{- define "tollgate.cel.labels" -}}
has(object.metadata.labels)
  ? object.metadata.labels
    .map(k, k)
    .filter(k, !k.startsWith("tollgate.dev/"))
    .map(k, "\"" + k + "\":\"" + object.metadata.labels[k] + "\"")
  : []
{{- end -}}

{{/* The annotation asks for a fence of these parts, in any order, and of no others. */}}
{{- define "tollgate.cel.asksFor" -}}
"tollgate.dev/fence" in object.metadata.annotations
&& size(object.metadata.annotations["tollgate.dev/fence"]) == {{ add 2 (len (join "," .)) }}
&& {{ toRawJson . }}.all(p, object.metadata.annotations["tollgate.dev/fence"].contains(p))
{{- end -}}
