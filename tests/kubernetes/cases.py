"""What the chart is tried with: pods, ways to break out of them, and wrong values."""

import copy

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
}


# Meshes, with the image of their containers. The names of value files.
MESHES = {"istio": "docker.io/istio/proxyv2:1.27.1", "linkerd": "cr.l5d.io/linkerd/proxy:edge-25.9.1"}


def mesh_pod(mesh, image):
    """A pod as a mesh's injector leaves it."""
    init = {"name": f"{mesh}-init", "image": image, "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}}
    user = {"istio": 1337, "linkerd": 2102}[mesh]
    proxy = {"name": f"{mesh}-proxy", "image": image, "restartPolicy": "Always", "securityContext": {**RESTRICTED, "runAsUser": user}}
    return pod(initContainers=[init, proxy])


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
    ("another command in our image", of("tollgate", command=["tollgate", "exec"]), ALL, "runs another command"),
    ("no arguments", of("tollgate", args=[]), ALL, "runs another command"),
    ("another subcommand", of("tollgate", args=["demo"]), ALL, "is not the sidecar"),
    ("a configuration of the pod's", of("tollgate", args=["run", "--config", "/work/mine.yaml"]), ALL, "is not the sidecar"),
    ("a configuration from another ConfigMap", other_configuration, ALL, "must be the ConfigMap tollgate-config"),
    ("variables from elsewhere", of("tollgate", envFrom=[{"configMapRef": {"name": "mine"}}]), ALL, "runs another command"),
    ("a sidecar of another user", user_of("tollgate", 0), ALL, "is not the sidecar"),
    ("a container before the fence", before_all("early"), FENCED, "what starts before them"),
    ("a container before the sidecar", before_all("early"), ("proxy",), "what starts before them"),
    ("a mesh's name without a mesh", before_all("istio-init"), ALL, "what starts before them"),
    ("no check", drop("tollgate-fence-check"), FENCED, "what starts before them"),
    ("no fence", drop("tollgate-fence"), ("init",), "what starts before them"),
    ("a fence that is taken away", of("tollgate-fence", args=["fence", "apply", "--remove"]), ("init",), "does not apply the fence"),
    ("a fence that is printed", of("tollgate-fence", args=["fence", "print"]), ("init",), "does not apply the fence"),
    ("a check that checks nothing", of("tollgate-fence-check", args=["fence", "print"]), FENCED, "does not check the fence"),
    ("a check as root", user_of("tollgate-fence-check", 0), FENCED, "does not check the fence"),
    ("no annotation for the node", lambda pod: pod["metadata"]["annotations"].pop("tollgate.dev/capture"), ("cni",), "the node places no fence"),
    ("the sidecar's user", context(runAsUser=15000), ALL, "pass the fence"),
    ("the sidecar's user for all", specification(securityContext={"runAsUser": 15000}), ALL, "spec.securityContext.runAsUser"),
    ("NET_ADMIN", context(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), ALL, "add capabilities"),
    ("NET_RAW by its other name", context(capabilities={"drop": ["ALL"], "add": ["CAP_NET_RAW"]}), ALL, "add capabilities"),
    ("SETUID", context(capabilities={"drop": ["ALL"], "add": ["SETUID"]}), ALL, "add capabilities"),
    ("privileged", context(privileged=True), ALL, "must not be privileged"),
    ("all of /proc", context(procMount="Unmasked"), ALL, "unmask /proc"),
    ("an unprivileged user who may become root", context(allowPrivilegeEscalation=True), FENCED, "allowPrivilegeEscalation"),
    ("nothing said about escalation", agent(lambda one: one.pop("securityContext")), FENCED, "it must drop NET_RAW and SETUID"),
    ("root with all that containers have", root_with(), FENCED, "it must drop NET_RAW and SETUID"),
    ("root with SETUID", root_with("NET_RAW"), FENCED, "it must drop NET_RAW and SETUID"),
    ("root with NET_RAW", root_with("SETUID"), FENCED, "it must drop NET_RAW and SETUID"),
    ("the authority's key", mount("tollgate-ca-key", "/key"), ALL, "volumes of the sidecar"),
    ("the sidecar's token", mount("tollgate-identity", "/token", readOnly=True), ALL, "volumes of the sidecar"),
    ("its secrets", mount("tollgate-secret-key", "/secret", readOnly=True), ALL, "volumes of the sidecar"),
    ("the certificates, to write", mount("tollgate-ca", "/certificates"), ALL, "only tollgate-ca is shared"),
    ("one process namespace", specification(shareProcessNamespace=True), ALL, "shareProcessNamespace"),
    ("the node's network", specification(hostNetwork=True), ALL, "hostNetwork"),
    ("the node's processes", specification(hostPID=True), ALL, "hostNetwork, hostPID"),
    ("the node's memory", specification(hostIPC=True), ALL, "hostIPC"),
    ("an opt-out that nobody permits", lambda pod: (pod["metadata"]["annotations"].update({"tollgate.dev/inject": "false"}), drop("tollgate")(pod)), ALL, "there is no Tollgate sidecar"),
    ("a static pod's annotation", lambda pod: (pod["metadata"]["annotations"].update({"kubernetes.io/config.mirror": "x"}), drop("tollgate")(pod)), ALL, "there is no Tollgate sidecar"),
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
    ("inside the sidecar", debug(securityContext=RESTRICTED, targetContainerName="tollgate"), ALL, "nobody enters"),
    ("with the authority's key", debug(securityContext=RESTRICTED, volumeMounts=[{"name": "tollgate-ca-key", "mountPath": "/k"}]), ALL, "for it alone"),
]

# Options of exec and attach.
REFUSED_EXEC = [
    ("the agent", {"container": "agent", "command": ["sh"]}, None),
    ("the first container", {"command": ["sh"]}, None),
    ("the sidecar", {"container": "tollgate", "command": ["tollgate"]}, "nobody enters the sidecar"),
    ("the fence", {"container": "tollgate-fence"}, "nobody enters the sidecar"),
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
    ({"agents": {"privileges": "keep"}}, "agents.privileges must be one of", "at '/agents/privileges': value must be one of"),
    ({"agents": {"meshes": [{"kind": "consul", "images": ["a"]}]}}, "agents.meshes.0.kind must be one of", "at '/agents/meshes/0/kind': value must be one of"),
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
    ({"sidecar": {"env": {"TOLLGATE_LOG": "debug"}}}, "sidecar.env: TOLLGATE_LOG is the sidecar's own"),
]
