"""Who opens tasks: people by `kubectl exec`, a container that a pod's author names, and nobody else. And which task is a pod's own."""

import copy

import yaml
from admitting import admitted, expect, with_values
from cases import PODS, first
from custody_cases import OPERATORS, ORCHESTRATORS
from rendering import inject, injectors_file, of_kind

ADMIN = {"name": "tollgate-admin", "mountPath": "/run/tollgate/admin", "readOnly": True}


def operators(checks):
    """One command in the sidecar is let in, for those who may."""
    named = {"users": ["jo"], "groups": ["sre"]}
    writers = {"users": ["system:serviceaccount:ci:policy"]}
    validating = of_kind(with_values({"admissionPolicies": {"operators": named, "writers": writers}}), "ValidatingAdmissionPolicy")
    for title, user, resource, name, command, is_let_in in OPERATORS:
        options = {"container": name, **({"command": command} if command else {})}
        words = None if is_let_in else "nobody enters the sidecar"
        admitted(checks, f"{title}, {resource}", validating, resource, "CONNECT", options, words, None, user)
    checks.told(f"operators: {len(OPERATORS)} who run a command in a pod, or may not")


def orchestrators(checks, tollgate):
    """A container that opens tasks has the socket where it is permitted, and no other has it."""
    if not tollgate:
        return
    tried = 0
    all_objects = with_values({"agents": {"orchestrators": True}})
    validating, config = of_kind(all_objects, "ValidatingAdmissionPolicy"), injectors_file(all_objects)
    without = injectors_file(with_values({}))
    for title, made, words in ORCHESTRATORS:
        made = copy.deepcopy(made)
        plain = inject(tollgate, config, yaml.safe_dump(made))
        made["metadata"]["annotations"] = {"tollgate.dev/orchestrator": "boss"}
        answer = inject(tollgate, config, yaml.safe_dump(made))
        if isinstance(answer, str) != bool(words):
            checks.fail(f"the injector, an orchestrator {title}: {answer}")
            continue
        if not isinstance(inject(tollgate, without, yaml.safe_dump(made)), str):
            checks.fail(f"the injector takes an orchestrator {title} where none is permitted")
        if words:
            # An injector's work for the same pod, to which its author wrote what the injector refuses.
            (forged,) = plain
            forged["metadata"]["annotations"]["tollgate.dev/orchestrator"] = "boss"
            tried += expect(checks, f"an orchestrator {title}", validating, "pods", "CREATE", forged, words)
            continue
        (injected,) = answer
        tried += expect(checks, f"an orchestrator {title}", validating, "pods", "CREATE", injected, None)
        if ADMIN not in first(injected, "boss")["volumeMounts"] or ADMIN in first(injected, "agent")["volumeMounts"]:
            checks.fail(f"an orchestrator {title}: it has not the socket, or the agent has")
        for how, change, words in (
            ("an agent with its socket", lambda pod: first(pod, "agent")["volumeMounts"].append(ADMIN), "volumes of the sidecar"),
            ("a directory that it writes", lambda pod: first(pod, "boss")["volumeMounts"][-1].pop("readOnly"), "volumes of the sidecar"),
            ("the sidecar's key", lambda pod: first(pod, "boss")["volumeMounts"].append({**ADMIN, "name": "tollgate-ca-key"}), "volumes of the sidecar"),
            ("another user than its own", lambda pod: variable(pod, "TOLLGATE_ADMIN_USER").update(value="1000"), "container tollgate: env"),
            ("an agent by another annotation", lambda pod: pod["metadata"]["annotations"].update({"tollgate.dev/orchestrator": "agent"}), "volumes of the sidecar"),
        ):
            changed = copy.deepcopy(injected)
            change(changed)
            tried += expect(checks, how, validating, "pods", "CREATE", changed, words)
    try:
        with_values({"agents": {"orchestrators": True}, "mutatingAdmissionPolicy": {"enabled": True}})
        checks.fail("orchestrators are rendered for an API server that injects by itself")
    except AssertionError as refused:
        if "it gives no container the socket" not in str(refused):
            checks.fail(f"orchestrators without an injector: {refused}")
    tried += without_tasks(checks, tollgate)
    checks.told(f"orchestrators and tasks of pods: {tried} are let in or refused, by the policies as by the injector")


def variable(pod, name):
    return next(one for one in first(pod, "tollgate")["env"] if one["name"] == name)


def without_tasks(checks, tollgate):
    """Where pods may not say their task, none does."""
    all_objects = with_values({"agents": {"tasks": False}})
    validating, config = of_kind(all_objects, "ValidatingAdmissionPolicy"), injectors_file(all_objects)
    if not isinstance(inject(tollgate, config, yaml.safe_dump(PODS["a task"])), str):
        checks.fail("the injector takes a task where none is permitted")
    (injected,) = inject(tollgate, config, yaml.safe_dump(PODS["restricted"]))
    count = expect(checks, "no task", validating, "pods", "CREATE", injected, None)
    injected["metadata"]["annotations"]["tollgate.dev/task"] = "{purpose: admin}"
    return count + expect(checks, "a task that nobody permits", validating, "pods", "CREATE", injected, "permits no tollgate.dev/task")


def identities(checks):
    """What proves the agents' identity follows from what the sidecar has, unless the values say it."""
    socket, token = {"csiDriver": "csi.spiffe.io"}, {"enabled": False}
    cases = (
        ({}, {}, "kubernetes"),
        ({"token": token}, {}, "static"),
        ({"spiffe": socket}, {}, "spiffe"),
        ({"spiffe": {"hostPath": "/run/spire"}, "token": token}, {}, "spiffe"),
        ({"spiffe": socket, "kind": "kubernetes"}, {}, "kubernetes"),
        ({"spiffe": socket, "kind": "static"}, {}, "static"),
        ({}, {"agent": {"identity": {"kind": "static", "id": "mine"}}}, "static"),
    )
    for identity, config, kind in cases:
        values = {"sidecar": {"identity": identity, "config": config}, "namespaces": [{"name": "agents"}]}
        texts = [one["data"]["config.yaml"] for one in of_kind(with_values(values), "ConfigMap") if "config.yaml" in one["data"]]
        found = yaml.safe_load(texts[0])["agent"]["identity"]
        wanted = config.get("agent", {}).get("identity", {}).get(
            "id", "spiffe://${TOLLGATE_TRUST_DOMAIN}/ns/${TOLLGATE_POD_NAMESPACE}/sa/${TOLLGATE_SERVICE_ACCOUNT}"
        )
        if found != {"kind": kind, "id": wanted}:
            checks.fail(f"with {identity} and {config} the identity is {found}")
    checks.told(f"identity: {len(cases)} ways to prove it, or not")
