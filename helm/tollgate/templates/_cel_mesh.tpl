{{/* CEL about a mesh's containers: each has what its mesh needs, runs what its mesh runs, and nothing else. The injector asks the same. */}}

{{- define "tollgate.cel.meshKept" -}}
(!has(c.securityContext) || ({{ include "tollgate.cel.unmasked" . }}))
&& {{ include "tollgate.cel.meshRuns" . }}
&& {{ include "tollgate.cel.meshTold" . }}
&& {{ include "tollgate.cel.meshHooks" . }}
{{- range $probe := list "livenessProbe" "readinessProbe" "startupProbe" }}
&& (!has(c.{{ $probe }}) || !has(c.{{ $probe }}.exec))
{{- end }}
{{- end -}}

{{- define "tollgate.cel.meshRuns" -}}
(!has(c.command)
  || size(c.command) == 0
  || (c.name == "linkerd-network-validator" && c.command == ["/usr/lib/linkerd/linkerd2-network-validator"]))
{{- end -}}

{{/* Istio's images choose by the first argument what to run. */}}
{{- define "tollgate.cel.meshTold" -}}
(c.name in ["istio-init", "istio-validation"]
  ? has(c.args) && size(c.args) > 0 && c.args[0] == "istio-iptables"
  : c.name == "istio-proxy"
    ? has(c.args) && size(c.args) > 0 && c.args[0] == "proxy"
    : !has(c.args) || size(c.args) == 0 || c.args[0].startsWith("-"))
{{- end -}}

{{/* What follows `linkerd-await` would be a command to run after it, but for its flags. */}}
{{- define "tollgate.cel.meshHooks" -}}
(!has(c.lifecycle)
  || ((!has(c.lifecycle.postStart)
      || (has(c.lifecycle.postStart.exec)
        && has(c.lifecycle.postStart.exec.command)
        && (c.lifecycle.postStart.exec.command == ["pilot-agent", "wait"]
          || (size(c.lifecycle.postStart.exec.command) > 0
            && c.lifecycle.postStart.exec.command.all(w, w == "/usr/lib/linkerd/linkerd-await" || w.matches("^--[^=]+="))
            && c.lifecycle.postStart.exec.command[0] == "/usr/lib/linkerd/linkerd-await"
            && c.lifecycle.postStart.exec.command.exists_one(w, w == "/usr/lib/linkerd/linkerd-await")))))
    && (!has(c.lifecycle.preStop)
      || (has(c.lifecycle.preStop.exec)
        && has(c.lifecycle.preStop.exec.command)
        && ((size(c.lifecycle.preStop.exec.command) == 2 && c.lifecycle.preStop.exec.command[0] == "/bin/sleep")
          || c.lifecycle.preStop.exec.command == ["pilot-agent", "request", "POST", "drain"]
          || (size(c.lifecycle.preStop.exec.command) == 5
            && c.lifecycle.preStop.exec.command[0] == "pilot-agent"
            && c.lifecycle.preStop.exec.command[1] == "request"
            && c.lifecycle.preStop.exec.command[2].startsWith("--debug-port=")
            && c.lifecycle.preStop.exec.command[3] == "POST"
            && c.lifecycle.preStop.exec.command[4] == "drain"))))))
{{- end -}}

{{- define "tollgate.cel.meshCapabilities" -}}
!has(c.securityContext)
|| !has(c.securityContext.capabilities)
|| !has(c.securityContext.capabilities.add)
|| c.securityContext.capabilities.add.all(k,
  k in ["NET_ADMIN", "NET_RAW"]
  && variables.inits.exists(i, i.name == c.name && !has(i.restartPolicy)))
{{- end -}}
