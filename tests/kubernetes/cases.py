"""What the chart is tried with: pods, ways to break out of them, and wrong values."""

import copy
import json

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container(name="agent", **more):
    return {"name": name, "image": "registry.example/agent:1", "securityContext": copy.deepcopy(RESTRICTED), **more}


def pod(*containers, metadata=None, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": "agents", **(metadata or {})},
        "spec": {"containers": list(containers) or [container()], **spec},
    }


# Each is let in by the validating policies once it has its sidecar. The first one is the shortest.
PODS = {
    "restricted": pod(metadata={"finalizers": ["example.org/wait"]}),
    "labels and annotations": pod(metadata={"labels": {"app": "triage", "app.kubernetes.io/part-of": "a_b.c"}, "annotations": {"a": "b"}}),
    "init containers": pod(container(), initContainers=[container("migrate"), container("warm", restartPolicy="Always")]),
    "several containers with volumes": pod(
        container("a", volumeMounts=[{"name": "work", "mountPath": "/work"}]),
        container("b", volumeMounts=[{"name": "work", "mountPath": "/work", "readOnly": True}]),
        volumes=[{"name": "work", "emptyDir": {}}],
    ),
    "a variable that is set": pod(container(env=[{"name": "SSL_CERT_FILE", "value": "/own.pem"}, {"name": "OTHER", "value": "$(SSL_CERT_FILE)"}])),
    "a job's": pod(restartPolicy="Never", imagePullSecrets=[{"name": "own"}]),
    "a task": pod(metadata={"annotations": {"tollgate.dev/task": '{purpose: "saving $5, or \\\\", max_effect: read, ttl: 8h}'}}),
}


# Pods that only an injector makes safe, or that stay weak and say so: by whom they are not refused.
WEAK = {
    "nothing said": pod({"name": "agent", "image": "registry.example/agent:1"}),
    "a user that the image names": pod({"name": "agent", "image": "registry.example/agent:1", "securityContext": {k: v for k, v in RESTRICTED.items() if k != "runAsUser"}}),
    "root": pod({"name": "agent", "image": "registry.example/agent:1", "securityContext": {"runAsUser": 0}}),
    "root without capabilities": pod({"name": "agent", "image": "registry.example/agent:1", "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["all"]}}}),
    "one of two": pod(container("a"), {"name": "b", "image": "registry.example/agent:1"}),
}


def first(pod, name):
    return next(one for one in pod["spec"].get("initContainers", []) + pod["spec"]["containers"] if one["name"] == name)


def agent(change):
    """A change of the agent's container."""
    return lambda pod: change(first(pod, "agent"))


def context(**fields):
    return agent(lambda one: one["securityContext"].update(fields))


def drop(name):
    def change(pod):
        for field in ("initContainers", "containers"):
            pod["spec"][field] = [one for one in pod["spec"].get(field, []) if one["name"] != name]

    return change


def of(name, **fields):
    return lambda pod: first(pod, name).update(fields)


def user_of(name, user):
    return lambda pod: first(pod, name)["securityContext"].update(runAsUser=user)


def specification(**fields):
    return lambda pod: pod["spec"].update(fields)


def before_all(name):
    return lambda pod: pod["spec"]["initContainers"].insert(0, container(name))


def mount(name, path, **more):
    return agent(lambda one: one["volumeMounts"].append({"name": name, "mountPath": path, **more}))


def other_configuration(pod):
    volume = next(one for one in pod["spec"]["volumes"] if one["name"] == "tollgate-config")
    volume["configMap"]["name"] = "mine"


def variable(name, value=None, **more):
    """The sidecar is told something else."""

    def change(pod):
        one = next(e for e in first(pod, "tollgate")["env"] if e["name"] == name)
        one.clear()
        one.update({"name": name, **({} if value is None else {"value": value}), **more})

    return change


def added(name, field, entry):
    """One more in a list of a container."""
    return lambda pod: first(pod, name).setdefault(field, []).append(entry)


def beneath(container_name, path, **more):
    """One of the sidecar's mounts is another one."""
    return lambda pod: next(m for m in first(pod, container_name)["volumeMounts"] if m["mountPath"] == path).update(more)


def source(name, **fields):
    """A volume of another source."""

    def change(pod):
        one = next(v for v in pod["spec"]["volumes"] if v["name"] == name)
        one.clear()
        one.update({"name": name, **fields})

    return change


def volume(**fields):
    return lambda pod: pod["spec"]["volumes"].append({"name": "work", **fields})


def both(*changes):
    return lambda pod: [change(pod) for change in changes]


def exempting(user):
    """The fence and its check let one more user out."""

    def change(pod):
        for one in pod["spec"]["initContainers"]:
            if one["name"].startswith("tollgate-"):
                one["args"] += ["--exempt-uid", str(user)]

    return change


def asking_for(**changed):
    """Another fence than the platform's."""

    def change(pod):
        annotations = pod["metadata"]["annotations"]
        fence = {**json.loads(annotations["tollgate.dev/fence"]), **changed}
        annotations["tollgate.dev/fence"] = json.dumps(fence, separators=(",", ":"))

    return change


def root_with(*dropped):
    def change(one):
        one["securityContext"] = {"runAsUser": 0, "allowPrivilegeEscalation": False, "capabilities": {"drop": list(dropped)}}

    return agent(change)


ALL = ("init", "cni", "proxy")
FENCED = ("init", "cni")

# What is done to an injected pod, in which modes it must be refused, and by which words.
REFUSED_CHANGES = [
    ("no sidecar", drop("tollgate"), ALL, "there is no Tollgate sidecar"),
    ("an image that is not ours", of("tollgate", image="evil.example/tollgate:0.1.0"), ALL, "another image"),
    ("an image that begins like ours", of("tollgate", image="registry.example.com/tollgate-evil:1"), ALL, "another image"),
    ("another command in our image", of("tollgate", command=["tollgate", "exec"]), ALL, "container tollgate: command, args"),
    ("no arguments", of("tollgate", args=[]), ALL, "container tollgate: command, args"),
    ("another subcommand", of("tollgate", args=["demo"]), ALL, "container tollgate: command, args"),
    ("a configuration of the pod's", of("tollgate", args=["run", "--config", "/work/mine.yaml"]), ALL, "container tollgate: command, args"),
    ("a configuration from another ConfigMap", other_configuration, ALL, "tollgate-config is not what"),
    ("variables from elsewhere", of("tollgate", envFrom=[{"configMapRef": {"name": "mine"}}]), ALL, "container tollgate: env is not what"),
    ("a sidecar of another user", user_of("tollgate", 0), ALL, "container tollgate: securityContext is not what"),
    ("a container before the fence", before_all("early"), FENCED, "what starts before them"),
    ("a container before the sidecar", before_all("early"), ("proxy",), "what starts before them"),
    ("a mesh's name without a mesh", before_all("istio-init"), ALL, "what starts before them"),
    ("no check", drop("tollgate-fence-check"), FENCED, "what starts before them"),
    ("no fence", drop("tollgate-fence"), ("init",), "what starts before them"),
    ("a fence that is taken away", of("tollgate-fence", args=["fence", "apply", "--remove"]), ("init",), "container tollgate-fence: command, args"),
    ("a fence that is printed", of("tollgate-fence", args=["fence", "print"]), ("init",), "container tollgate-fence: command, args"),
    ("a check that checks nothing", of("tollgate-fence-check", args=["fence", "print"]), FENCED, "container tollgate-fence-check: command, args"),
    ("a check as root", user_of("tollgate-fence-check", 0), FENCED, "container tollgate-fence-check: securityContext is not what"),
    ("no annotation for the node", lambda pod: pod["metadata"]["annotations"].pop("tollgate.dev/capture"), ("cni",), "the node places no fence"),
    ("the sidecar's user", context(runAsUser=15000), ALL, "pass the fence"),
    ("the sidecar's user for all", specification(securityContext={"runAsUser": 15000}), ALL, "spec.securityContext.runAsUser"),
    ("NET_ADMIN", context(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), ALL, "add capabilities"),
    ("NET_RAW by its other name", context(capabilities={"drop": ["ALL"], "add": ["CAP_NET_RAW"]}), ALL, "add capabilities"),
    ("SETUID", context(capabilities={"drop": ["ALL"], "add": ["SETUID"]}), ALL, "add capabilities"),
    ("privileged", context(privileged=True), ALL, "must not be privileged"),
    ("all of /proc", context(procMount="Unmasked"), ALL, "unmask /proc"),
    ("an unprivileged user who may become root", context(allowPrivilegeEscalation=True), FENCED, "allowPrivilegeEscalation"),
    ("nothing said about escalation", agent(lambda one: one.pop("securityContext")), FENCED, "as root it must drop NET_RAW and SETUID"),
    ("root with all that containers have", root_with(), FENCED, "as root it must drop NET_RAW and SETUID"),
    ("root with SETUID", root_with("NET_RAW"), FENCED, "as root it must drop NET_RAW and SETUID"),
    ("root with NET_RAW", root_with("SETUID"), FENCED, "as root it must drop NET_RAW and SETUID"),
    ("the authority's key", mount("tollgate-ca-key", "/key"), ALL, "volumes of the sidecar"),
    ("the socket at which tasks are opened", mount("tollgate-admin", "/admin", readOnly=True), ALL, "volumes of the sidecar"),
    ("the Workload API", mount("tollgate-spiffe", "/spiffe", readOnly=True), ALL, "volumes of the sidecar"),
    ("the sidecar's token", mount("tollgate-identity", "/token", readOnly=True), ALL, "volumes of the sidecar"),
    ("its secrets", mount("tollgate-secret-key", "/secret", readOnly=True), ALL, "volumes of the sidecar"),
    ("the certificates, to write", mount("tollgate-ca", "/certificates"), ALL, "only tollgate-ca is shared"),
    ("one process namespace", specification(shareProcessNamespace=True), ALL, "shareProcessNamespace"),
    ("the node's network", specification(hostNetwork=True), ALL, "hostNetwork"),
    ("the node's processes", specification(hostPID=True), ALL, "hostNetwork, hostPID"),
    ("the node's memory", specification(hostIPC=True), ALL, "hostIPC"),
    # A pod that claims to have its sidecar already, of its author's own making.
    ("another service account's identity", variable("TOLLGATE_SERVICE_ACCOUNT", "admin"), ALL, "container tollgate: env"),
    ("an identity from a label", variable("TOLLGATE_SERVICE_ACCOUNT", valueFrom={"fieldRef": {"fieldPath": "metadata.labels['sa']"}}), ALL, "container tollgate: env"),
    ("another namespace's identity", variable("TOLLGATE_POD_NAMESPACE", "kube-system"), ALL, "container tollgate: env"),
    ("another trust domain", variable("TOLLGATE_TRUST_DOMAIN", "other.example"), ALL, "container tollgate: env"),
    ("another way of capture", variable("TOLLGATE_CAPTURE", "cni"), ("init", "proxy"), "container tollgate: env"),
    ("labels that the pod has not", variable("TOLLGATE_POD_LABELS", '{"team":"admin"}'), ALL, "container tollgate: env"),
    ("a weakness nobody can read", variable("TOLLGATE_POD_WEAKNESSES", "[ ]"), ALL, "container tollgate: env"),
    ("a variable twice", added("tollgate", "env", {"name": "TOLLGATE_SERVICE_ACCOUNT", "value": "admin"}), ALL, "container tollgate: env"),
    ("another task than its annotation says", variable("TOLLGATE_TASK", "{purpose: admin}"), ALL, "container tollgate: env"),
    ("a task from a label", variable("TOLLGATE_TASK", valueFrom={"fieldRef": {"fieldPath": "metadata.labels['task']"}}), ALL, "container tollgate: env"),
    ("an annotation that its sidecar is not told of", lambda pod: pod["metadata"]["annotations"].update({"tollgate.dev/task": "{purpose: admin}"}), ALL, "container tollgate: env"),
    ("a user who opens tasks", added("tollgate", "env", {"name": "TOLLGATE_ADMIN_USER", "value": "1000"}), ALL, "container tollgate: env"),
    ("an orchestrator that nobody permits", lambda pod: pod["metadata"]["annotations"].update({"tollgate.dev/orchestrator": "agent"}), ALL, "permits no tollgate.dev/orchestrator"),
    ("the socket where an agent looks", variable("TOLLGATE_ADMIN", "/etc/tollgate/trust/admin.sock"), ALL, "container tollgate: env"),
    ("a library before all others", added("tollgate", "env", {"name": "LD_PRELOAD", "value": "/work/evil.so"}), ALL, "container tollgate: env"),
    ("a variable of the fence", added("tollgate-fence", "env", {"name": "LD_PRELOAD", "value": "/work/evil.so"}), ("init",), "container tollgate-fence: env"),
    ("a variable of the check", added("tollgate-fence-check", "env", {"name": "LD_PRELOAD", "value": "/work/evil.so"}), FENCED, "container tollgate-fence-check: env"),
    ("a mount over the configuration", added("tollgate", "volumeMounts", {"name": "work", "mountPath": "/etc/tollgate/config/config.yaml", "subPath": "mine.yaml"}), ALL, "container tollgate: volumeMounts"),
    ("a part of the configuration", beneath("tollgate", "/etc/tollgate/config", subPath="mine"), ALL, "container tollgate: volumeMounts"),
    ("another volume in the configuration's place", beneath("tollgate", "/etc/tollgate/config", name="tollgate-ca"), ALL, "container tollgate: volumeMounts"),
    ("the key where an agent looks", beneath("tollgate", "/run/tollgate/ca", name="work"), ALL, "container tollgate: volumeMounts"),
    ("no report to read", lambda pod: first(pod, "tollgate")["volumeMounts"].remove(next(m for m in first(pod, "tollgate")["volumeMounts"] if m["name"] == "tollgate-fence")), FENCED, "container tollgate: volumeMounts"),
    ("a report that the sidecar may write", beneath("tollgate", "/run/tollgate/fence", readOnly=False), FENCED, "container tollgate: volumeMounts"),
    ("a report from elsewhere", beneath("tollgate-fence-check", "/run/tollgate/fence", name="work"), FENCED, "container tollgate-fence-check: volumeMounts"),
    ("a mount of the fence's", added("tollgate-fence", "volumeMounts", {"name": "work", "mountPath": "/usr/local/bin"}), ("init",), "container tollgate-fence: volumeMounts"),
    ("an order to the sidecar after its start", of("tollgate", lifecycle={"postStart": {"exec": {"command": ["tollgate", "exec", "id"]}}}), ALL, "container tollgate: command, args"),
    ("an order to the sidecar before its end", of("tollgate", lifecycle={"preStop": {"exec": {"command": ["tollgate", "exec", "id"]}}}), ALL, "container tollgate: command, args"),
    ("an order to the sidecar as a probe", of("tollgate", livenessProbe={"exec": {"command": ["tollgate", "exec", "id"]}}), ALL, "container tollgate: command, args"),
    ("a probe of another port", lambda pod: first(pod, "tollgate")["startupProbe"]["httpGet"].update(port=8080), ALL, "container tollgate: command, args"),
    ("a probe of another host", lambda pod: first(pod, "tollgate")["startupProbe"]["httpGet"].update(host="169.254.169.254"), ALL, "container tollgate: command, args"),
    ("no probe to wait for", lambda pod: first(pod, "tollgate").pop("startupProbe"), ALL, "container tollgate: command, args"),
    ("a sidecar that ends", lambda pod: first(pod, "tollgate").pop("restartPolicy"), ALL, "container tollgate: command, args"),
    ("a message in the configuration's place", of("tollgate", terminationMessagePath="/etc/tollgate/config/config.yaml"), ALL, "container tollgate: command, args"),
    ("a port of the node", lambda pod: first(pod, "tollgate")["ports"].append({"containerPort": 15001, "hostPort": 15001}), ALL, "container tollgate: command, args"),
    ("a device of the sidecar", of("tollgate", volumeDevices=[{"name": "work", "devicePath": "/dev/x"}]), ALL, "container tollgate: command, args"),
    ("one more argument of the sidecar", lambda pod: first(pod, "tollgate")["args"].append("--help"), ALL, "container tollgate: command, args"),
    ("help in the fence's place", both(of("tollgate-fence", args=["fence", "apply", "--help"]), of("tollgate-fence-check", args=["fence", "check", "--help"])), ("init",), "container tollgate-fence: command, args"),
    ("help in the check's place", of("tollgate-fence-check", args=["fence", "check", "--help"]), FENCED, "container tollgate-fence-check: command, args"),
    ("one more user who passes", exempting(1000), ("init",), "container tollgate-fence: command, args"),
    ("one more user whom the check lets pass", exempting(1000), ("cni",), "container tollgate-fence-check: command, args"),
    ("another user as the sidecar", lambda pod: [one.update(args=[a.replace("15000", "1000") for a in one["args"]]) for one in pod["spec"]["initContainers"]], FENCED, "command, args"),
    ("one more user whom the node lets pass", asking_for(exempt=[1000]), ("cni",), "asks for another fence"),
    ("another user whom the node lets pass", asking_for(uid=1000), ("cni",), "asks for another fence"),
    ("other ports on the node", asking_for(proxy=8080), ("cni",), "asks for another fence"),
    ("no fence's annotation", lambda pod: pod["metadata"]["annotations"].pop("tollgate.dev/fence"), ("cni",), "asks for another fence"),
    ("a second fence", lambda pod: pod["spec"]["containers"].append({**copy.deepcopy(first(pod, "tollgate")), "name": "tollgate-fence", "args": ["fence", "apply", "--uid", "1000"], "securityContext": {"privileged": True}}), ("cni", "proxy"), "where Tollgate has none"),
    ("a fence among the containers", lambda pod: pod["spec"]["containers"].append({**copy.deepcopy(first(pod, "tollgate")), "name": "tollgate-fence"}), ("init",), "where Tollgate has none"),
    ("a name that begins like ours", lambda pod: pod["spec"]["containers"].append(container("tollgate-x")), ALL, "where Tollgate has none"),
    ("a second sidecar", lambda pod: pod["spec"]["containers"].append(copy.deepcopy(first(pod, "tollgate"))), ALL, "there is no Tollgate sidecar"),
    ("a sidecar that may gain privileges", lambda pod: first(pod, "tollgate")["securityContext"].update(allowPrivilegeEscalation=True), ALL, "container tollgate: securityContext"),
    ("a sidecar with a capability", lambda pod: first(pod, "tollgate")["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]), ALL, "container tollgate: securityContext"),
    ("a sidecar that writes its root", lambda pod: first(pod, "tollgate")["securityContext"].update(readOnlyRootFilesystem=False), ALL, "container tollgate: securityContext"),
    ("a sidecar without SELinux", lambda pod: first(pod, "tollgate")["securityContext"].update(seLinuxOptions={"type": "spc_t"}), ALL, "container tollgate: securityContext"),
    ("a sidecar without AppArmor", lambda pod: first(pod, "tollgate")["securityContext"].update(appArmorProfile={"type": "Unconfined"}), ALL, "container tollgate: securityContext"),
    ("a fence without AppArmor", lambda pod: first(pod, "tollgate-fence")["securityContext"].update(appArmorProfile={"type": "Unconfined"}), ("init",), "container tollgate-fence: securityContext"),
    ("a sidecar whose end starts all again", of("tollgate", restartPolicyRules=[{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [0]}}]), ALL, "container tollgate: command, args"),
    ("a check whose failure counts for nothing", of("tollgate-fence-check", restartPolicyRules=[{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]), FENCED, "container tollgate-fence-check: command, args"),
    ("a NetworkPolicy that nobody placed", variable("TOLLGATE_NETWORK_POLICY", "true"), ALL, "container tollgate: env"),
    ("a NetworkPolicy by another ConfigMap", variable("TOLLGATE_NETWORK_POLICY", valueFrom={"configMapKeyRef": {"name": "mine", "key": "network-policy"}}), ALL, "container tollgate: env"),
    ("a privileged fence", lambda pod: first(pod, "tollgate-fence")["securityContext"].update(privileged=True), ("init",), "container tollgate-fence: securityContext"),
    ("a fence that may do more", lambda pod: first(pod, "tollgate-fence")["securityContext"]["capabilities"].update(add=["NET_ADMIN", "SYS_ADMIN"]), ("init",), "container tollgate-fence: securityContext"),
    ("another key of the configuration", source("tollgate-config", configMap={"name": "tollgate-config", "items": [{"key": "other", "path": "config.yaml"}]}), ALL, "tollgate-config is not what"),
    ("a configuration from a Secret", source("tollgate-config", secret={"secretName": "tollgate-config"}), ALL, "tollgate-config is not what"),
    ("policy of the pod's own", source("tollgate-policy", configMap={"name": "mine"}), ALL, "tollgate-policy is not what"),
    ("no policy", lambda pod: pod["spec"].update(volumes=[v for v in pod["spec"]["volumes"] if v["name"] != "tollgate-policy"]), ALL, "tollgate-policy is not what"),
    ("a key on the node's disk", source("tollgate-ca-key", emptyDir={}), ALL, "tollgate-ca-key is not what"),
    ("a socket on the node's disk", source("tollgate-admin", emptyDir={}), ALL, "tollgate-admin is not what"),
    ("a socket in a claim", source("tollgate-admin", persistentVolumeClaim={"claimName": "mine"}), ALL, "tollgate-admin is not what"),
    ("a key in a claim", source("tollgate-ca-key", persistentVolumeClaim={"claimName": "mine"}), ALL, "tollgate-ca-key is not what"),
    ("a token of another audience", source("tollgate-identity", projected={"sources": [{"serviceAccountToken": {"audience": "other", "path": "token"}}]}), ALL, "tollgate-identity is not what"),
    ("a secret of the sidecar's that is the pod's", source("tollgate-secret-key", secret={"secretName": "mine"}), ALL, "tollgate-secret-key is not what"),
    ("a volume with a name of ours", lambda pod: pod["spec"]["volumes"].append({"name": "tollgate-more", "emptyDir": {}}), ALL, "names that begin with tollgate-"),
    # What an injector refuses, where there is none.
    ("a token for the sidecar's audience", volume(projected={"sources": [{"serviceAccountToken": {"audience": "tollgate", "path": "t"}}]}), ALL, "is the sidecar's identity"),
    ("a directory of the node", volume(hostPath={"path": "/var/lib/kubelet"}), ALL, "a directory of the node"),
    ("a way up from a permitted directory", volume(hostPath={"path": "/var/log/agents/../../lib"}), ALL, "a directory of the node"),
    ("what is below a permitted directory, where a tenant may put a link", volume(hostPath={"path": "/var/log/agents/link"}), ALL, "a directory of the node"),
    ("a token for the API server", volume(projected={"sources": [{"serviceAccountToken": {"path": "t"}}]}), ALL, "by which a pod asks for it"),
    ("a token for the API server by its name", volume(projected={"sources": [{"serviceAccountToken": {"audience": "https://kubernetes.default.svc.cluster.local", "path": "t"}}]}), ALL, "by which a pod asks for it"),
    ("a certificate for the API server", volume(projected={"sources": [{"podCertificate": {"signerName": "kubernetes.io/kube-apiserver-client-pod", "keyType": "ED25519"}}]}), ALL, "by which a pod asks for it"),
    ("a directory that begins like a permitted one", volume(hostPath={"path": "/var/log/agents-evil"}), ALL, "a directory of the node"),
    ("the Secret of the sidecar, as a variable", agent(lambda one: one["env"].append({"name": "K", "valueFrom": {"secretKeyRef": {"name": "vault-key", "key": "k"}}})), ALL, "are for the sidecar alone"),
    ("the Secret of the sidecar, as variables", agent(lambda one: one.update(envFrom=[{"secretRef": {"name": "vault-key"}}])), ALL, "are for the sidecar alone"),
    ("the Secret of the sidecar, as a volume", volume(secret={"secretName": "vault-key"}), ALL, "are for the sidecar alone"),
    ("the Secret of the sidecar, among others", volume(projected={"sources": [{"configMap": {"name": "a"}}, {"secret": {"name": "vault-key"}}]}), ALL, "are for the sidecar alone"),
    ("the Workload API's socket", volume(csi={"driver": "csi.spiffe.io", "readOnly": True}), ALL, "gives out the sidecar's identity"),
    ("another driver's socket in its place", source("tollgate-spiffe", csi={"driver": "secrets-store.csi.k8s.io"}), ALL, "tollgate-spiffe is not what"),
    ("a driver that nobody named", volume(csi={"driver": "nfs.csi.k8s.io", "volumeAttributes": {"server": "nfs.example"}}), ALL, "over the network"),
    ("a volume from the network", volume(nfs={"server": "nfs.example", "path": "/"}), ALL, "over the network"),
    ("a repository of somebody's", volume(gitRepo={"repository": "https://git.example/x"}), ALL, "over the network"),
    ("a volume that nobody knows yet", volume(telepathy={}), ALL, "over the network"),
    ("a file of the sidecar as a variable", agent(lambda one: one["env"].append({"name": "K", "valueFrom": {"fileKeyRef": {"volumeName": "tollgate-ca-key", "path": "k", "key": "k"}}})), ALL, "volumes of the sidecar"),
    ("a device of the sidecar's for an agent", agent(lambda one: one.update(volumeDevices=[{"name": "tollgate-x", "devicePath": "/dev/x"}])), ALL, "volumes of the sidecar"),
    ("a probe that the node sends elsewhere", agent(lambda one: one.update(livenessProbe={"httpGet": {"host": "169.254.169.254", "port": 80}})), ALL, "past the fence"),
    ("a connection that the node opens elsewhere", agent(lambda one: one.update(readinessProbe={"tcpSocket": {"host": "evil.example", "port": 80}})), ALL, "past the fence"),
    ("a hook that the node calls elsewhere", agent(lambda one: one.update(lifecycle={"preStop": {"httpGet": {"host": "evil.example", "port": 80}}})), ALL, "past the fence"),
    ("names that lead elsewhere", specification(hostAliases=[{"ip": "203.0.113.1", "hostnames": ["api.github.com"]}]), ALL, "where a permitted name leads"),
    ("another name server", specification(dnsPolicy="None", dnsConfig={"nameservers": ["203.0.113.1"]}), ALL, "where a permitted name leads"),
    ("one more name server", specification(dnsConfig={"nameservers": ["203.0.113.1"]}), ALL, "where a permitted name leads"),
    ("another name of the pod's", specification(hostnameOverride="api.github.com"), ALL, "where a permitted name leads"),
    ("a user that the image names", agent(lambda one: one["securityContext"].pop("runAsUser")), FENCED, "is needed"),
    ("a root without capabilities that may gain them", agent(lambda one: one.update(securityContext={"runAsUser": 0, "capabilities": {"drop": ["ALL"]}})), FENCED, "allowPrivilegeEscalation"),
    ("an opt-out that nobody permits", lambda pod: (pod["metadata"]["annotations"].update({"tollgate.dev/inject": "false"}), drop("tollgate")(pod)), ALL, "there is no Tollgate sidecar"),
    ("a static pod's annotation", lambda pod: (pod["metadata"]["annotations"].update({"kubernetes.io/config.mirror": "x"}), drop("tollgate")(pod)), ALL, "there is no Tollgate sidecar"),
]


# What is done to an injected pod and is nobody's harm.
PERMITTED_CHANGES = [
    ("a permitted directory of the node", volume(hostPath={"path": "/var/log/agents"})),
    ("a permitted directory with a slash", volume(hostPath={"path": "/var/log/agents/", "type": "Directory"})),
    ("a token that it asks for", both(specification(automountServiceAccountToken=True), volume(projected={"sources": [{"serviceAccountToken": {"path": "t"}}]}))),
    ("a certificate of another signer", volume(projected={"sources": [{"podCertificate": {"signerName": "example.org/mine", "keyType": "ED25519"}}]})),
    ("a Secret of its own", volume(secret={"secretName": "mine"})),
    ("a variable from a Secret of its own", agent(lambda one: one["env"].append({"name": "K", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "k"}}}))),
    ("a token for another audience", volume(projected={"sources": [{"serviceAccountToken": {"audience": "vault", "path": "t"}}]})),
    ("a driver that the platform named", volume(csi={"driver": "secrets-store.csi.k8s.io"})),
    ("a claim", volume(persistentVolumeClaim={"claimName": "work"})),
    ("probes of its own", agent(lambda one: one.update(livenessProbe={"httpGet": {"path": "/", "port": 80}}, lifecycle={"preStop": {"exec": {"command": ["sleep", "1"]}}}))),
    ("options of its resolver", specification(dnsConfig={"options": [{"name": "ndots", "value": "1"}]})),
    ("a user for all", lambda pod: (first(pod, "agent")["securityContext"].pop("runAsUser"), pod["spec"].update(securityContext={"runAsUser": 1000}))),
]


def debug(**more):
    return {"name": "debugger", "image": "busybox", **more}


# Ephemeral containers: in which modes, and by which words they are refused; none where they are let in.
REFUSED_EPHEMERAL = [
    ("a restricted one", debug(securityContext=RESTRICTED), ALL, None),
    ("one beside the agent", debug(securityContext=RESTRICTED, targetContainerName="agent"), ALL, None),
    ("with NET_ADMIN", debug(securityContext={**RESTRICTED, "capabilities": {"add": ["NET_ADMIN"]}}), ALL, "such as NET_ADMIN"),
    ("privileged", debug(securityContext={"privileged": True}), ALL, "must not be privileged"),
    ("as the sidecar", debug(securityContext={**RESTRICTED, "runAsUser": 15000}), ALL, "pass the fence"),
    ("as nobody says whom", debug(), FENCED, "could become the sidecar's user"),
    ("as the image says", debug(securityContext={k: v for k, v in RESTRICTED.items() if k != "runAsUser"}), FENCED, "is needed"),
    ("with the sidecar's Secret", debug(securityContext=RESTRICTED, env=[{"name": "K", "valueFrom": {"secretKeyRef": {"name": "vault-key", "key": "k"}}}]), ALL, "are for the sidecar alone"),
    ("with all of the sidecar's Secret", debug(securityContext=RESTRICTED, envFrom=[{"secretRef": {"name": "vault-key"}}]), ALL, "are for the sidecar alone"),
    ("inside the sidecar", debug(securityContext=RESTRICTED, targetContainerName="tollgate"), ALL, "nobody enters"),
    ("with the socket at which tasks are opened", debug(securityContext=RESTRICTED, volumeMounts=[{"name": "tollgate-admin", "mountPath": "/k", "readOnly": True}]), ALL, "for it alone"),
    ("with the authority's key", debug(securityContext=RESTRICTED, volumeMounts=[{"name": "tollgate-ca-key", "mountPath": "/k"}]), ALL, "for it alone"),
]

# Options of exec and attach.
REFUSED_EXEC = [
    ("the agent", {"container": "agent", "command": ["sh"]}, None),
    ("the first container", {"command": ["sh"]}, None),
    ("the sidecar", {"container": "tollgate", "command": ["tollgate"]}, "nobody enters the sidecar"),
    ("the fence", {"container": "tollgate-fence"}, "nobody enters the sidecar"),
    ("the sidecar, for tasks", {"container": "tollgate", "command": ["tollgate", "task", "list"]}, "nobody enters the sidecar"),
]

# Values, and what Helm 3 and Helm 4 say of them.
WRONG_VALUES = [
    ({"nosuch": 1}, "Additional property nosuch is not allowed", "additional properties 'nosuch' not allowed"),
    ({"sidecar": {"imagee": {}}}, "sidecar: Additional property imagee is not allowed", "at '/sidecar': additional properties 'imagee'"),
    ({"capture": {"mode": "magic"}}, 'capture.mode must be one of the following: "init", "cni", "proxy"', "value must be one of 'init', 'cni', 'proxy'"),
    ({"capture": {"ports": {"proxy": 0}}}, "capture.ports.proxy: Must be greater than or equal to 1", "at '/capture/ports/proxy': minimum: got 0, want 1"),
    ({"capture": {"ports": {"health": "15020"}}}, "capture.ports.health: Invalid type. Expected: integer, given: string", "at '/capture/ports/health': got string, want integer"),
    ({"capture": {"exemptUids": [0]}}, "capture.exemptUids.0: Must be greater than or equal to 1", "at '/capture/exemptUids/0': minimum: got 0, want 1"),
    ({"capture": {"cni": {"binDir": "opt/cni"}}}, "capture.cni.binDir: Does not match pattern '^/'", "at '/capture/cni/binDir': 'opt/cni' does not match pattern '^/'"),
    ({"sidecar": {"image": {"digest": "latest"}}}, "sidecar.image.digest: Does not match pattern", "at '/sidecar/image/digest': 'latest' does not match pattern"),
    ({"sidecar": {"image": {"pullPolicy": "Sometimes"}}}, "sidecar.image.pullPolicy must be one of", "at '/sidecar/image/pullPolicy': value must be one of"),
    ({"sidecar": {"native": "yes"}}, "sidecar.native must be one of", "at '/sidecar/native': value must be one of"),
    ({"sidecar": {"resources": {"limits": {"memory": "lots"}}}}, "sidecar.resources.limits.memory: Does not match pattern", "at '/sidecar/resources/limits/memory': 'lots' does not match"),
    ({"sidecar": {"secrets": [{"secretName": "a"}]}}, "sidecar.secrets.0: name is required", "at '/sidecar/secrets/0': missing property 'name'"),
    ({"sidecar": {"secrets": [{"name": "Not A Name"}]}}, "sidecar.secrets.0.name: Does not match pattern", "at '/sidecar/secrets/0/name': 'Not A Name' does not match"),
    ({"sidecar": {"identity": {"token": {"expiration": "soon"}}}}, "sidecar.identity.token.expiration: Does not match pattern", "at '/sidecar/identity/token/expiration': 'soon' does not match"),
    ({"sidecar": {"config": {"profil": "strict"}}}, "sidecar.config: Additional property profil is not allowed", "at '/sidecar/config': additional properties 'profil' not allowed"),
    ({"sidecar": {"config": {"limits": {"sniff": 250}}}}, "sidecar.config.limits.sniff: Invalid type. Expected: string", "at '/sidecar/config/limits/sniff': got number, want string"),
    ({"destinations": {"github": {"host": ["a"]}}}, "destinations.github: Additional property host is not allowed", "at '/destinations/github': additional properties 'host' not allowed"),
    ({"destinations": {"github": {"hosts": "api.github.com"}}}, "destinations.github.hosts: Invalid type. Expected: array, given: string", "at '/destinations/github/hosts': got string, want array"),
    ({"namespaces": ["agents"]}, "namespaces.0: Invalid type. Expected: object, given: string", "at '/namespaces/0': got string, want object"),
    ({"namespaces": [{"create": True}]}, "namespaces.0: name is required", "at '/namespaces/0': missing property 'name'"),
    ({"policy": {"inline": {"policy.txt": "x"}}}, "policy.inline: Property name of \"policy.txt\" does not match", "invalid propertyName 'policy.txt'"),
    ({"telemetry": {"otlp": {"endpoint": "collector:4317"}}}, "telemetry.otlp.endpoint: Does not match pattern '^(https?://.+)?$'", "at '/telemetry/otlp/endpoint': 'collector:4317' does not match"),
    ({"state": {"redis": {"url": "redis:6379"}}}, "state.redis.url: Does not match pattern", "at '/state/redis/url': 'redis:6379' does not match"),
    ({"injector": {"replicas": 0}}, "injector.replicas: Must be greater than or equal to 1", "at '/injector/replicas': minimum: got 0, want 1"),
    ({"injector": {"failurePolicy": "fail"}}, 'injector.failurePolicy must be one of the following: "Fail", "Ignore"', "at '/injector/failurePolicy': value must be one of 'Fail', 'Ignore'"),
    ({"injector": {"timeoutSeconds": 60}}, "injector.timeoutSeconds: Must be less than or equal to 30", "at '/injector/timeoutSeconds': maximum: got 60, want 30"),
    ({"injector": {"certificate": {"source": "magic"}}}, "injector.certificate.source must be one of", "at '/injector/certificate/source': value must be one of"),
    ({"injector": {"certificate": {"source": "secret"}}}, "injector.certificate.secret.name: String length must be greater than or equal to 1", "at '/injector/certificate/secret/name': minLength: got 0, want 1"),
    ({"injector": {"certificate": {"secret": {"caBundle": "LS0tLS1CRUdJTg=="}}}}, "injector.certificate.secret.caBundle: Does not match pattern", "at '/injector/certificate/secret/caBundle': 'LS0tLS1CRUdJTg==' does not match"),
    ({"sidecar": {"identity": {"kind": "spire"}}}, "sidecar.identity.kind must be one of", "at '/sidecar/identity/kind': value must be one of"),
    ({"agents": {"privileges": "keep"}}, "agents.privileges must be one of", "at '/agents/privileges': value must be one of"),
    ({"agents": {"meshes": [{"kind": "consul", "images": ["a"]}]}}, "agents.meshes.0.kind must be one of", "at '/agents/meshes/0/kind': value must be one of"),
    ({"agents": {"meshes": [{"kind": "istio", "images": ["docker.io/istio/"]}]}}, "agents.meshes.0.images.0: Does not match pattern", "at '/agents/meshes/0/images/0': 'docker.io/istio/' does not match"),
    ({"agents": {"meshes": [{"kind": "istio", "images": []}]}}, "agents.meshes.0.images: Array must have at least 1 items", "at '/agents/meshes/0/images': minItems: got 0, want 1"),
    ({"admissionPolicies": {"allowedCapabilities": ["NET_ADMIN"]}}, "admissionPolicies.allowedCapabilities.0 must be one of", "at '/admissionPolicies/allowedCapabilities/0': value must be one of"),
    ({"admissionPolicies": {"validationActions": []}}, "admissionPolicies.validationActions: Array must have at least 1 items", "at '/admissionPolicies/validationActions': minItems: got 0, want 1"),
    ({"networkPolicies": {"agents": {"exceptCidrs": ["metadata"]}}}, "networkPolicies.agents.exceptCidrs.0: Does not match pattern", "at '/networkPolicies/agents/exceptCidrs/0': 'metadata' does not match"),
    ({"monitoring": {"podMonitor": True}}, "monitoring.podMonitor: Invalid type. Expected: object, given: boolean", "at '/monitoring/podMonitor': got boolean, want object"),
]

# Values each of which is right, and that together are not.
WRONG_TOGETHER = [
    ({"namespaces": [{"name": "kube-system"}]}, "namespaces: kube-system never gets sidecars"),
    ({"namespaces": [{"name": "tollgate-system"}]}, "namespaces: tollgate-system never gets sidecars"),
    ({"namespaces": [{"name": "a"}, {"name": "a"}]}, "namespaces: a stands there twice"),
    ({"capture": {"ports": {"proxy": 15002}}}, "capture.ports: each must be another one"),
    ({"policy": {"configMap": "mine", "inline": {"data.yaml": "a: 1"}}}, "policy: give either inline or configMap"),
    ({"sidecar": {"identity": {"spiffe": {"csiDriver": "csi.spiffe.io", "hostPath": "/run/spire"}}}}, "give either csiDriver or hostPath"),
    ({"sidecar": {"identity": {"kind": "spiffe"}}}, "sidecar.identity.kind: spiffe needs"),
    ({"sidecar": {"identity": {"kind": "kubernetes", "token": {"enabled": False}}}}, "sidecar.identity.kind: kubernetes needs"),
    ({"agents": {"hostPaths": ["/run"]}, "sidecar": {"identity": {"spiffe": {"hostPath": "/run/spire"}}}}, "agents.hostPaths: /run leads to the Workload API"),
    ({"policy": {"bundles": [{"url": "https://bundles.example/agents.tar.gz"}]}}, "policy.bundles: version 0.1.0 of the sidecar does not serve it"),
    ({"state": {"redis": {"url": "rediss://redis.state:6379"}}}, "state.redis.url: version 0.1.0 of the sidecar does not serve it"),
    ({"sidecar": {"env": {"TOLLGATE_LOG": "debug"}}}, "sidecar.env: TOLLGATE_LOG is the sidecar's own"),
]
