"""What holds of pods without a sidecar, of pods that are long made, and of the objects that are the agents' policy."""

import copy

from cases import container, pod

TAKEN = "are for the sidecar alone"
IDENTITY = "is the sidecar's identity"


def passing(name="agent", volumes=(), **more):
    """A pod that passes without a sidecar as a pod for Windows; a name of ours is no excuse in it."""
    return pod(container(name, **more), os={"name": "windows"}, volumes=list(volumes))


def opted_out(made):
    made = copy.deepcopy(made)
    del made["spec"]["os"]
    made["metadata"]["annotations"] = {"tollgate.dev/inject": "false"}
    return made


# Pods for Windows, and by which words they are refused; none where they are let in.
WITHOUT_SIDECAR = [
    ("with nothing", passing(), None),
    ("with a Secret of its own", passing(volumes=[{"name": "s", "secret": {"secretName": "mine"}}]), None),
    ("with the sidecar's Secret as a variable", passing(env=[{"name": "K", "valueFrom": {"secretKeyRef": {"name": "vault-key", "key": "k"}}}]), TAKEN),
    ("with the sidecar's Secret as a variable of its name", passing("tollgate", env=[{"name": "K", "valueFrom": {"secretKeyRef": {"name": "vault-key", "key": "k"}}}]), TAKEN),
    ("with all of the sidecar's Secret", passing(envFrom=[{"secretRef": {"name": "vault-key"}}]), TAKEN),
    ("with the sidecar's Secret as a volume", passing(volumes=[{"name": "s", "secret": {"secretName": "vault-key"}}]), TAKEN),
    ("with the sidecar's Secret as the sidecar's volume", passing(volumes=[{"name": "tollgate-secret-key", "secret": {"secretName": "vault-key"}}]), TAKEN),
    ("with the sidecar's token", passing(volumes=[{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "tollgate", "path": "t"}}]}}]), IDENTITY),
    ("with the sidecar's token in its volume", passing(volumes=[{"name": "tollgate-identity", "projected": {"sources": [{"serviceAccountToken": {"audience": "tollgate", "path": "t"}}]}}]), IDENTITY),
    ("with the Workload API", passing(volumes=[{"name": "w", "csi": {"driver": "csi.spiffe.io", "readOnly": True}}]), "gives out the sidecar's identity"),
]


def annotated(**changed):
    """Other annotations of `tollgate.dev`; None takes one away."""

    def change(pod):
        annotations = pod["metadata"].setdefault("annotations", {})
        for name, value in changed.items():
            if value is None:
                del annotations[f"tollgate.dev/{name}"]
            else:
                annotations[f"tollgate.dev/{name}"] = value

    return change


# What is done to a pod that runs, or waits to be scheduled; and whether it is let in.
LATER = [
    ("another annotation", lambda pod: pod["metadata"]["annotations"].update({"a": "b"}), True),
    ("no annotations", lambda pod: pod["metadata"].pop("annotations"), False),
    ("no capture", annotated(capture=None), False),
    ("another capture", annotated(capture="proxy"), False),
    ("another fence", annotated(fence="{}"), False),
    ("an annotation that was not there", annotated(inject="false"), False),
    ("a task", annotated(task="{purpose: admin}"), False),
    ("another orchestrator", annotated(orchestrator="agent"), False),
    ("free to be scheduled, with another fence", lambda pod: (annotated(fence="{}")(pod), pod["spec"].pop("schedulingGates", None)), False),
]

# What a binding brings.
BINDINGS = [
    ("nothing", {}, True),
    ("the scheduler's", {"annotations": {"scheduler.example/score": "1"}}, True),
    ("a fence", {"annotations": {"tollgate.dev/capture": "proxy"}}, False),
]

# Who writes, what and how; and whether it is let in.
WRITERS = [
    ("somebody, the configuration", {}, "configmaps", "tollgate-config", "UPDATE", False),
    ("somebody, the policy", {}, "configmaps", "tollgate-policy", "UPDATE", False),
    ("somebody, a policy where there is none", {}, "configmaps", "tollgate-policy", "CREATE", False),
    ("somebody, no policy any more", {}, "configmaps", "tollgate-policy", "DELETE", False),
    ("somebody, the NetworkPolicy", {}, "networkpolicies", "tollgate-agents", "UPDATE", False),
    ("somebody, no NetworkPolicy any more", {}, "networkpolicies", "tollgate-agents", "DELETE", False),
    ("somebody, a ConfigMap of their own", {}, "configmaps", "mine", "UPDATE", True),
    ("who may change the policies", {"authorized": True}, "configmaps", "tollgate-policy", "UPDATE", True),
    ("a user that is named", {"username": "system:serviceaccount:ci:policy"}, "configmaps", "tollgate-policy", "UPDATE", True),
    ("a group that is named", {"groups": ["platform"]}, "networkpolicies", "tollgate-agents", "DELETE", True),
    ("the end of the namespace", {"username": "system:serviceaccount:kube-system:namespace-controller"}, "configmaps", "tollgate-config", "DELETE", True),
    ("its controller, to write", {"username": "system:serviceaccount:kube-system:namespace-controller"}, "configmaps", "tollgate-config", "UPDATE", False),
]

# Who runs what in which container, by which way; and whether it is let in, where some are named who may order tasks.
TASKS = ["tollgate", "task", "list"]
OPERATORS = [
    ("somebody", {}, "pods/exec", "tollgate", TASKS, False),
    ("who may change the policies", {"authorized": True}, "pods/exec", "tollgate", TASKS, True),
    ("a user that is named", {"username": "jo"}, "pods/exec", "tollgate", [*TASKS, "--output", "json"], True),
    ("a group that is named", {"groups": ["sre"]}, "pods/exec", "tollgate", ["tollgate", "task", "kill", "x"], True),
    ("a user that is named, with a shell", {"username": "jo"}, "pods/exec", "tollgate", ["sh"], False),
    ("a user that is named, with another program", {"username": "jo"}, "pods/exec", "tollgate", ["/work/tollgate", "task", "list"], False),
    ("a user that is named, to run a program", {"username": "jo"}, "pods/exec", "tollgate", ["tollgate", "exec", "task"], False),
    ("a user that is named, to attach", {"username": "jo"}, "pods/attach", "tollgate", None, False),
    ("a user that is named, in the fence", {"username": "jo"}, "pods/exec", "tollgate-fence", TASKS, False),
    ("who writes policy", {"username": "system:serviceaccount:ci:policy"}, "pods/exec", "tollgate", TASKS, False),
    ("somebody, in the agent", {}, "pods/exec", "agent", TASKS, True),
]

# Annotations of a pod whose containers these are, and by which words it is refused; none where it is let in.
BESIDE = [container(), container("boss")]
BESIDE[1]["securityContext"]["runAsUser"] = 2000
ALIKE = [container(), container("boss")]
UNSAID = [container(), copy.deepcopy(BESIDE[1])]
del UNSAID[0]["securityContext"]["runAsUser"]
ROOT = [container(), container("boss", securityContext={"runAsUser": 0, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}})]
FIRST = "names one of spec.containers, beside the agent's"
ORCHESTRATORS = [
    ("beside the agent", pod(*BESIDE), None),
    ("with the agent's user", pod(*ALIKE), FIRST),
    ("with a user that an image names beside it", pod(*UNSAID), FIRST),
    ("as root", pod(*ROOT), FIRST),
    ("alone", pod(BESIDE[1]), FIRST),
    ("not there", pod(container(), container("other")), FIRST),
    ("before the agent", pod(container(), initContainers=[BESIDE[1]]), FIRST),
    ("with the user of what comes before", pod(*BESIDE, initContainers=[container("prepare", securityContext=BESIDE[1]["securityContext"])]), FIRST),
]
