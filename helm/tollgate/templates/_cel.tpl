{{/* CEL about the containers (`c`) and volumes (`v`) that a pod brings itself. `agents` are its containers that are neither ours nor a
mesh's: by name and image, because a name alone is the pod's to choose. One clause stands on each line; `tollgate.line` joins them. */}}

{{/* Text on one line, and then as YAML has it. */}}
{{- define "tollgate.line" -}}
{{- regexReplaceAll "\\s+" . " " | trim | toRawJson -}}
{{- end -}}

{{/* Whether an image has this name, with a tag, a digest or neither. What follows a colon may be a registry's port. */}}
{{- define "tollgate.cel.image" -}}
c.image.matches({{ printf "^%s([:@][^/]*)?$" (regexQuoteMeta .) | toRawJson }})
{{- end -}}

{{- define "tollgate.ourNames" -}}["tollgate", "tollgate-fence", "tollgate-fence-check"]{{- end -}}

{{/* The names of a mesh's containers, by its kind. */}}
{{- define "tollgate.meshNames" -}}
{{- if eq . "istio" }}["istio-init", "istio-validation", "istio-proxy"]{{ else }}["linkerd-init", "linkerd-network-validator", "linkerd-proxy"]{{ end -}}
{{- end -}}

{{- define "tollgate.cel.mesh" -}}
{{- $all := list -}}
{{- range .Values.agents.meshes -}}
{{- $images := list -}}
{{- range .images }}{{- $images = append $images (include "tollgate.cel.image" .) }}{{- end -}}
{{- $all = append $all (printf "(c.name in %s && (%s))" (include "tollgate.meshNames" .kind) (join " || " $images)) -}}
{{- end -}}
{{- default "false" (join " || " $all) -}}
{{- end -}}

{{/* The containers that nobody enters: ours, and those of meshes, whose users pass the fence too. */}}
{{- define "tollgate.closedNames" -}}
{{- $names := include "tollgate.ourNames" . | fromJsonArray -}}
{{- range .Values.agents.meshes }}{{ $names = concat $names (include "tollgate.meshNames" .kind | fromJsonArray) }}{{ end -}}
{{- uniq $names | toJson -}}
{{- end -}}

{{- define "tollgate.cel.user" -}}
!has(c.securityContext)
|| !has(c.securityContext.runAsUser)
|| !(c.securityContext.runAsUser in {{ include "tollgate.uids" . }})
{{- end -}}

{{/* An image may name any user, the sidecar's as well. */}}
{{- define "tollgate.cel.known" -}}
variables.user != -1
|| (has(c.securityContext) && has(c.securityContext.runAsUser))
{{- end -}}

{{- define "tollgate.cel.unmasked" -}}
(!has(c.securityContext.privileged) || !c.securityContext.privileged)
&& (!has(c.securityContext.procMount) || c.securityContext.procMount == "Default")
{{- end -}}

{{- define "tollgate.cel.capabilities" -}}
!has(c.securityContext)
|| ({{ include "tollgate.cel.unmasked" . }}
  && (!has(c.securityContext.capabilities)
    || !has(c.securityContext.capabilities.add)
    || c.securityContext.capabilities.add.all(k, k in {{ default list .Values.admissionPolicies.allowedCapabilities | toJson }})))
{{- end -}}

{{/* Nothing of a container leads to a volume of ours, but for the certificates, and what else is said: (dict "but" CEL). */}}
{{- define "tollgate.cel.mounts" -}}
(!has(c.volumeMounts)
  || c.volumeMounts.all(m, !m.name.startsWith("tollgate-") || ((m.name == "tollgate-ca"{{ with .but }} || ({{ . }}){{ end }}) && has(m.readOnly) && m.readOnly)))
&& (!has(c.volumeDevices)
  || c.volumeDevices.all(d, !d.name.startsWith("tollgate-")))
&& (!has(c.env)
  || c.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.fileKeyRef) || !e.valueFrom.fileKeyRef.volumeName.startsWith("tollgate-")))
{{- end -}}

{{/* The user of a container of the pod's own, -1 where nobody wrote it down. */}}
{{- define "tollgate.cel.userOf" -}}
(has({{ . }}.securityContext) && has({{ . }}.securityContext.runAsUser) ? {{ . }}.securityContext.runAsUser : variables.user)
{{- end -}}

{{/* Who opens tasks is a container beside the agent's, and known by a user that no other has. */}}
{{- define "tollgate.cel.orchestrated" -}}
{{- $it := include "tollgate.cel.userOf" "o" -}}
{{- $other := include "tollgate.cel.userOf" "c" -}}
variables.orchestrator == ""
|| (object.spec.containers.exists_one(o, o.name == variables.orchestrator)
  && variables.agents.exists_one(o, o.name == variables.orchestrator)
  && object.spec.containers.exists(o, o.name != variables.orchestrator && variables.agents.exists(c, c.name == o.name))
  && variables.agents.filter(o, o.name == variables.orchestrator).all(o,
    {{ $it }} > 0
    && variables.agents.all(c, c.name == o.name || ({{ $other }} != -1 && {{ $other }} != {{ $it }}))))
{{- end -}}

{{/* That user, as a variable has it. */}}
{{- define "tollgate.cel.orchestratorUser" -}}
object.spec.containers.filter(c, c.name == variables.orchestrator).map(c, string({{ include "tollgate.cel.userOf" "c" }})).join("")
{{- end -}}

{{/* Secrets of the sidecar, as a list. */}}
{{- define "tollgate.secrets" -}}
{{- $names := list -}}
{{- range .Values.sidecar.secrets }}{{ $names = append $names (default .name .secretName) }}{{ end -}}
{{- uniq $names | toJson -}}
{{- end -}}

{{- define "tollgate.cel.secretless" -}}
{{- $secrets := include "tollgate.secrets" . -}}
(!has(c.env)
  || c.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.secretKeyRef) || !(e.valueFrom.secretKeyRef.name in {{ $secrets }})))
&& (!has(c.envFrom)
  || c.envFrom.all(e, !has(e.secretRef) || !(e.secretRef.name in {{ $secrets }})))
{{- end -}}

{{- define "tollgate.cel.secretlessVolumes" -}}
{{- $secrets := include "tollgate.secrets" . -}}
variables.volumes.all(v,
  (!has(v.secret) || !has(v.secret.secretName) || !(v.secret.secretName in {{ $secrets }}))
  && (!has(v.projected)
    || !has(v.projected.sources)
    || v.projected.sources.all(s, !has(s.secret) || !has(s.secret.name) || !(s.secret.name in {{ $secrets }}))))
{{- end -}}

{{/* Sources of projected volumes (`s`), which all must be such: (dict "is" CEL). */}}
{{- define "tollgate.cel.sources" -}}
(!has(v.projected) || !has(v.projected.sources) || v.projected.sources.all(s, {{ .is }}))
{{- end -}}

{{- define "tollgate.cel.otherAudience" -}}
!has(s.serviceAccountToken)
|| !has(s.serviceAccountToken.audience)
|| s.serviceAccountToken.audience != {{ toJson .Values.sidecar.identity.token.audience }}
{{- end -}}

{{/* What leads to the API server, by the audiences that clusters are made with. */}}
{{- define "tollgate.cel.apart" -}}
(!has(s.serviceAccountToken)
  || (has(s.serviceAccountToken.audience)
    && !(s.serviceAccountToken.audience in ["", "api", "kubernetes"])
    && !s.serviceAccountToken.audience.contains("kubernetes.default")))
&& (!has(s.podCertificate)
  || s.podCertificate.signerName != "kubernetes.io/kube-apiserver-client-pod")
{{- end -}}

{{/* A pod gets to the API server only if it asks to. What the API server put there itself is the injector's to take out. */}}
{{- define "tollgate.cel.withheld" -}}
(has(object.spec.automountServiceAccountToken) && object.spec.automountServiceAccountToken)
|| variables.volumes.all(v,
  (!has(object.spec.automountServiceAccountToken) && v.name.startsWith("kube-api-access-"))
  || {{ include "tollgate.cel.sources" (dict "is" (include "tollgate.cel.apart" .)) }})
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

{{/* Whether a container surely is not root, by what is written down. */}}
{{- define "tollgate.cel.notRoot" -}}
has(c.securityContext.runAsUser)
  ? c.securityContext.runAsUser != 0
  : (variables.user > 0
    || (variables.user == -1
      && (has(c.securityContext.runAsNonRoot) ? c.securityContext.runAsNonRoot : variables.nonRoot)))
{{- end -}}

{{- define "tollgate.cel.weakRoot" -}}
has(c.securityContext.capabilities)
&& has(c.securityContext.capabilities.drop)
&& (c.securityContext.capabilities.drop.exists(d, d.upperAscii() in ["ALL", "CAP_ALL"])
  || ["NET_RAW", "SETUID"].all(k, c.securityContext.capabilities.drop.exists(d, d.upperAscii() in [k, "CAP_" + k])))
{{- end -}}

{{/* An agent that may be root must not be able to become the sidecar's user or to send what the fence does not see; one that is
not must not be able to become root. Neither may gain what a file's owner has. */}}
{{- define "tollgate.cel.escalation" -}}
has(c.securityContext)
&& has(c.securityContext.allowPrivilegeEscalation)
&& !c.securityContext.allowPrivilegeEscalation
&& (({{ include "tollgate.cel.notRoot" . }})
  || ({{ include "tollgate.cel.weakRoot" . }}))
{{- end -}}

{{/* The paths that the injector permits too: each by itself, for what is below may be a link that leads out. */}}
{{- define "tollgate.cel.hostPaths" -}}
{{- $permitted := list -}}
{{- range .Values.agents.hostPaths }}{{ $path := trimSuffix "/" . }}{{ $permitted = concat $permitted (list $path (printf "%s/" $path)) }}{{ end -}}
variables.volumes.all(v, !has(v.hostPath) || v.hostPath.path in {{ toJson $permitted }})
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

{{/* The sidecar resolves names with the files that the kubelet writes by these. */}}
{{- define "tollgate.cel.names" -}}
(!has(object.spec.hostAliases) || size(object.spec.hostAliases) == 0)
&& (!has(object.spec.dnsPolicy) || object.spec.dnsPolicy != "None")
&& (!has(object.spec.dnsConfig)
  || !has(object.spec.dnsConfig.nameservers)
  || size(object.spec.dnsConfig.nameservers) == 0)
&& !has(object.spec.hostnameOverride)
{{- end -}}

{{- define "tollgate.cel.apartFromNode" -}}
(!has(object.spec.hostNetwork) || !object.spec.hostNetwork)
&& (!has(object.spec.hostPID) || !object.spec.hostPID)
&& (!has(object.spec.hostIPC) || !object.spec.hostIPC)
{{- end -}}
