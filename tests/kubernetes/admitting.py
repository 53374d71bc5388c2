"""What the chart's admission policies let in, and what they refuse with which words; both by a real CEL."""

import copy
import difflib
import json
import tempfile
from pathlib import Path

import admission
import kubernetes_validate
import yaml
from cases import PERMITTED_CHANGES, PODS, REFUSED_CHANGES, REFUSED_EPHEMERAL, REFUSED_EXEC, RESTRICTED, WEAK, debug
from custody_cases import BINDINGS, LATER, WITHOUT_SIDECAR, WRITERS, opted_out
from mesh_cases import MESHES, mesh_changes, mesh_pod, with_cni
from rendering import HERE, ROOT, VERSIONS, inject, injectors_file, label, objects, of_kind, pod_of, rendered
from rendering import valid_everywhere, value_files


def policies(checks, tollgate):
    """The API server's injection, and what the validating policies refuse; both by a real CEL."""
    compared = 0
    let_in = refused = 0
    for mode in ("init", "cni", "proxy"):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(
                {
                    "mutatingAdmissionPolicy": {"enabled": True},
                    "capture": {"mode": mode},
                    "agents": {
                        "hostPaths": ["/var/log/agents"],
                        "csiDrivers": ["secrets-store.csi.k8s.io", "csi.spiffe.io"],
                    },
                    "sidecar": {
                        "secrets": [{"name": "key", "secretName": "vault-key"}],
                        "identity": {"spiffe": {"csiDriver": "csi.spiffe.io"}},
                    },
                    "namespaces": [{"name": "agents"}],
                },
                file,
            )
            file.flush()
            all_objects = rendered("1.37", Path(file.name))
            with_injector = rendered("1.37", Path(file.name), "--set", "mutatingAdmissionPolicy.enabled=false")
        (mutating,) = of_kind(all_objects, "MutatingAdmissionPolicy")
        validating = of_kind(all_objects, "ValidatingAdmissionPolicy")
        config = injectors_file(with_injector)
        for title, pod in PODS.items():
            injected = admission.mutate(mutating, pod)
            if admission.mutate(mutating, injected) != injected:
                checks.fail(f"{mode}, {title}: injected twice it differs")
            try:
                kubernetes_validate.validate(injected, "1.37", strict=True)
            except kubernetes_validate.ValidationError as error:
                checks.fail(f"{mode}, {title}: what is injected is no valid pod: {error.message}")
            let_in += expect(checks, f"{mode}, {title}", validating, "pods", "CREATE", injected, None)
            if mode != "init" and (broken := admission.pod_security(injected["spec"])):
                checks.fail(f"{mode}, {title}: the injected pod is not restricted: {broken}")
            if tollgate:
                compared += compare(checks, f"{mode}, {title}", injected, inject(tollgate, config, yaml.safe_dump(pod)))
        for title, change, modes, words in REFUSED_CHANGES:
            if mode in modes:
                pod = admission.mutate(mutating, copy.deepcopy(PODS["restricted"]))
                change(pod)
                refused += expect(checks, f"{mode}, {title}", validating, "pods", "CREATE", pod, words)
        for title, change in PERMITTED_CHANGES:
            pod = admission.mutate(mutating, copy.deepcopy(PODS["restricted"]))
            change(pod)
            let_in += expect(checks, f"{mode}, {title}", validating, "pods", "CREATE", pod, None)
        before = admission.mutate(mutating, PODS["restricted"])
        after = copy.deepcopy(before)
        after["metadata"]["finalizers"] = []
        let_in += expect(checks, f"{mode}, a label changes", validating, "pods", "UPDATE", after, None, old=before)
        old = copy.deepcopy(PODS["restricted"])
        let_in += expect(
            checks,
            f"{mode}, a pod from before loses its finalizer",
            validating,
            "pods",
            "UPDATE",
            {**old, "metadata": {"name": "x"}},
            None,
            old=old,
        )
        changed = copy.deepcopy(before)
        next(c for c in changed["spec"]["initContainers"] if c["name"] == "tollgate")[
            "image"
        ] = "evil.example/tollgate:1"
        refused += expect(
            checks,
            f"{mode}, the sidecar's image is changed",
            validating,
            "pods",
            "UPDATE",
            changed,
            "another image",
            old=before,
        )
        for title, container, modes, words in REFUSED_EPHEMERAL:
            if mode in modes:
                pod = copy.deepcopy(before)
                pod["spec"]["ephemeralContainers"] = [container]
                count = expect(
                    checks, f"{mode}, {title}", validating, "pods/ephemeralcontainers", "UPDATE", pod, words, old=before
                )
                let_in, refused = let_in + (count if words is None else 0), refused + (count if words else 0)
        for title, options, words in REFUSED_EXEC:
            for resource in ("pods/exec", "pods/attach"):
                count = expect(checks, f"{mode}, {resource}: {title}", validating, resource, "CONNECT", options, words)
                let_in, refused = let_in + (count if words is None else 0), refused + (count if words else 0)
    checks.told(
        f"admission policies, by CEL: {let_in} requests are let in, {refused} are refused with the words that are wanted"
    )
    if tollgate:
        checks.told(f"the API server's injection and the program's give the same pod, in {compared} cases")


def every_injection(checks, tollgate):
    """What an injector makes with the values of a file, the admission policies of the same file let in."""
    if not tollgate:
        return
    tried = 0
    for file in value_files():
        all_objects = rendered("1.37", file)
        if not of_kind(all_objects, "Deployment"):
            continue
        for title, pod in PODS.items():
            if label(file) == "older" and pod["spec"].get("restartPolicy"):
                continue
            answer = inject(tollgate, injectors_file(all_objects), yaml.safe_dump(pod))
            if isinstance(answer, str):
                checks.fail(f"{label(file)}, {title}: {answer}")
                continue
            tried += valid_everywhere(checks, file, answer) // len(VERSIONS)
            expect(
                checks,
                f"{label(file)}, {title}",
                of_kind(all_objects, "ValidatingAdmissionPolicy"),
                "pods",
                "CREATE",
                answer[0],
                None,
            )
            again = inject(tollgate, injectors_file(all_objects), yaml.safe_dump(answer[0]))
            if again != answer:
                checks.fail(f"{label(file)}, {title}: injected twice it differs")
    checks.told(
        f"{tried} injections with the values of every file are valid, are let in by the policies, and change nothing the second time"
    )


def expect(checks, title, validating, resource, operation, new, words, old=None):
    """Whether the policies let it in, or refuse it with these words. As it is and as an API server completes it."""
    if resource == "pods":
        completed, before = admission.completed(new), old and admission.completed(old)
        if not admitted(checks, f"{title}, completed", validating, resource, operation, completed, words, before):
            return 0
    return admitted(checks, title, validating, resource, operation, new, words, old)


def admitted(checks, title, validating, resource, operation, new, words, old, user=None):
    try:
        admission.validate(validating, resource, operation, new, old, user)
    except admission.Refused as refused:
        if words is None or words not in str(refused):
            checks.fail(f"{title}: refused: {refused}" + (f", without {words!r}" if words else ""))
            return 0
        return 1
    if words is not None:
        checks.fail(f"{title}: it is let in")
        return 0
    return 1


def compare(checks, title, ours, theirs):
    """Both injections are the same, but for what the chart's documentation says that the API server's leaves out."""
    if isinstance(theirs, str):
        checks.fail(f"{title}: the program refuses it: {theirs}")
        return 0
    (theirs,) = theirs

    def normal(pod):
        pod = copy.deepcopy(pod)
        pod["spec"].pop("automountServiceAccountToken", None)
        pod["metadata"].get("annotations", {}).pop("tollgate.dev/kept-variables", None)
        fence = pod["metadata"]["annotations"].get("tollgate.dev/fence")
        if fence:
            pod["metadata"]["annotations"]["tollgate.dev/fence"] = json.loads(fence)
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            for variable in container.get("env", []):
                if variable["name"] == "TOLLGATE_POD_LABELS":
                    variable["value"] = json.loads(variable["value"])
            container["env"] = sorted(
                (
                    v
                    for v in container.get("env", [])
                    if v["name"] != "JAVA_TOOL_OPTIONS" or "-Xmx" not in v.get("value", "")
                ),
                key=lambda v: v["name"],
            )
            container["volumeMounts"] = sorted(container.get("volumeMounts", []), key=lambda m: m["mountPath"])
        pod["spec"]["volumes"] = sorted(pod["spec"].get("volumes", []), key=lambda v: v["name"])
        return pod

    ours, theirs = admission.shown(normal(ours)), admission.shown(normal(theirs))
    if ours != theirs:
        checks.fail(
            f"{title}: the injections differ:\n"
            + "\n".join(
                difflib.unified_diff(
                    theirs.splitlines(), ours.splitlines(), "the program", "the policy", lineterm="", n=2
                )
            )
        )
        return 0
    return 1


# What is the sidecar's, in the values of these checks.
OWNED = {
    "sidecar": {
        "secrets": [{"name": "key", "secretName": "vault-key"}],
        "identity": {"spiffe": {"csiDriver": "csi.spiffe.io"}},
    }
}


def with_values(values):
    """What is rendered with these."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        return rendered("1.37", Path(file.name))


def custody(checks, tollgate):
    """A pod that passes without a sidecar does not get what is the sidecar's, by the policies or by the injector."""
    tried = 0
    all_objects = with_values({**OWNED, "agents": {"optOut": True}})
    validating = of_kind(all_objects, "ValidatingAdmissionPolicy")
    for title, made, words in WITHOUT_SIDECAR:
        for how, one in (("for Windows", made), ("opted out", opted_out(made))):
            tried += expect(checks, f"{how}, {title}", validating, "pods", "CREATE", one, words)
            answer = tollgate and inject(tollgate, injectors_file(all_objects), yaml.safe_dump(one))
            if tollgate and (isinstance(answer, str) != bool(words) or (not words and answer != [one])):
                checks.fail(f"the injector, {how}, {title}: {answer}")
    checks.told(f"pods without a sidecar: {tried} are let in without what is the sidecar's, and refused with it")


def annotations(checks):
    """What the node reads of a pod stays as it was."""
    tried = 0
    validating = of_kind(with_values({"capture": {"mode": "cni"}}), "ValidatingAdmissionPolicy")
    (mutating,) = of_kind(
        with_values({"capture": {"mode": "cni"}, "mutatingAdmissionPolicy": {"enabled": True}}), "MutatingAdmissionPolicy"
    )
    before = admission.mutate(mutating, PODS["restricted"])
    before["spec"]["schedulingGates"] = [{"name": "example.org/wait"}]
    for title, change, is_let_in in LATER:
        after = copy.deepcopy(before)
        change(after)
        words = None if is_let_in else "stay as they were"
        for resource in ("pods", "pods/status"):
            tried += expect(checks, f"{resource}, {title}", validating, resource, "UPDATE", after, words, old=before)
    for title, metadata, is_let_in in BINDINGS:
        words = None if is_let_in else "stay as they were"
        for resource in ("bindings", "pods/binding"):
            tried += expect(checks, f"a binding with {title}", validating, resource, "CREATE", {"metadata": metadata}, words)
    checks.told(f"annotations: {tried} later changes, of which none changes what the node reads")


def writers(checks):
    """The objects that are the agents' policy are written by those who may."""
    named = {"users": ["system:serviceaccount:ci:policy"], "groups": ["platform"]}
    validating = of_kind(with_values({"admissionPolicies": {"writers": named}}), "ValidatingAdmissionPolicy")
    for title, user, resource, name, operation, is_let_in in WRITERS:
        one = {"metadata": {"name": name}}
        new, old = (None if operation == "DELETE" else one), (None if operation == "CREATE" else one)
        words = None if is_let_in else "is the agents' policy"
        admitted(checks, f"{title}, {operation}", validating, resource, operation, new, words, old, user)
    checks.told(f"writers: {len(WRITERS)} who write the agents' policy, or may not")


def meshes(checks, tollgate):
    """A mesh's containers pass where the mesh is named, only with its images and only as the mesh makes them."""
    if not tollgate:
        return
    tried = 0
    for mesh, image in MESHES.items():
        for mode in ("init", "cni"):
            file = HERE / "values" / f"{mesh}.yaml"
            all_objects = rendered("1.37", file, "--set", f"capture.mode={mode}")
            validating = of_kind(all_objects, "ValidatingAdmissionPolicy")
            answer = inject(tollgate, injectors_file(all_objects), yaml.safe_dump(mesh_pod(mesh, image)))
            if isinstance(answer, str):
                checks.fail(f"{mesh}, {mode}: its containers are refused: {answer}")
                continue
            forged = inject(
                tollgate, injectors_file(all_objects), yaml.safe_dump(mesh_pod(mesh, "evil.example/proxy:1"))
            )
            if not isinstance(forged, str):
                checks.fail(f"{mesh}, {mode}: containers with its names are injected")
            looked = inject(tollgate, injectors_file(all_objects), yaml.safe_dump(with_cni(mesh, image)))
            if isinstance(looked, str):
                checks.fail(f"{mesh}, {mode}, with its own CNI plugin: {looked}")
            else:
                tried += expect(checks, f"{mesh}, {mode}, with its own CNI plugin", validating, "pods", "CREATE", looked[0], None)
            names = [one["name"] for one in answer[0]["spec"]["initContainers"]]
            if names.index("tollgate-fence-check") < names.index(f"{mesh}-init"):
                checks.fail(f"{mesh}, {mode}: the fence is checked before the mesh sets up the network: {names}")
            tried += closed(checks, f"{mesh}, {mode}", validating, f"{mesh}-proxy", answer[0])
            for title, change, words in mesh_changes(mesh):
                # What the policies refuse, the injector refuses first.
                forged = mesh_pod(mesh, image)
                change(forged)
                said = inject(tollgate, injectors_file(all_objects), yaml.safe_dump(forged))
                if isinstance(said, str) != bool(words):
                    checks.fail(f"{mesh}, {mode}, {title}: the injector: {said}")
                # The mesh's own injector may come later and put its containers first.
                for own in (False, True):
                    pod = copy.deepcopy(answer[0])
                    inits = pod["spec"]["initContainers"]
                    pod["spec"]["initContainers"] = sorted(
                        inits, key=lambda one: one["name"].startswith(mesh) != own
                    )
                    change(pod)
                    expected = words
                    if words == "runAsUser" and own:
                        expected = "what starts before them"
                    tried += expect(
                        checks,
                        f"{mesh}, {mode}, {'its first' if own else 'ours first'}, {title}",
                        validating,
                        "pods",
                        "CREATE",
                        pod,
                        expected,
                    )
    checks.told(f"meshes: {tried} pods with the containers of {' and '.join(MESHES)}, genuine and forged, in init and cni")


def closed(checks, title, validating, name, pod):
    """Nobody enters the container of this name."""
    tried = 0
    for resource in ("pods/exec", "pods/attach"):
        tried += expect(checks, f"{title}, {resource}", validating, resource, "CONNECT", {"container": name}, "nobody enters")
    entered = copy.deepcopy(pod)
    entered["spec"]["ephemeralContainers"] = [debug(securityContext=RESTRICTED, targetContainerName=name)]
    resource = "pods/ephemeralcontainers"
    return tried + expect(checks, f"{title}, its processes", validating, resource, "UPDATE", entered, "nobody enters", old=pod)


def weak_pods(checks, tollgate):
    """A pod that stays weak says so: the policies let it in with the injector's sentences, and not without them."""
    if not tollgate:
        return
    honest = forged = refused = 0
    for name in ("defaults", "cni", "older", "lower", "warning"):
        all_objects = rendered("1.37", HERE / "values" / f"{name}.yaml")
        validating = of_kind(all_objects, "ValidatingAdmissionPolicy")
        for title, pod in WEAK.items():
            answer = inject(tollgate, injectors_file(all_objects), yaml.safe_dump(pod))
            if isinstance(answer, str):
                refused += 1
                if name != "warning":
                    checks.fail(f"{name}, {title}: {answer}")
                continue
            (answer,) = answer
            honest += expect(checks, f"{name}, {title}", validating, "pods", "CREATE", answer, None)
            sidecar = next(
                one
                for one in answer["spec"].get("initContainers", []) + answer["spec"]["containers"]
                if one["name"] == "tollgate"
            )
            (said,) = [e for e in sidecar["env"] if e["name"] == "TOLLGATE_POD_WEAKNESSES"]
            if said["value"] == "[]":
                continue
            for lie in ("[]", "[ ]", "", "{}"):
                said["value"] = lie
                forged += expect(
                    checks, f"{name}, {title}, {lie!r}", validating, "pods", "CREATE", answer, "container tollgate: env"
                )
    checks.told(
        f"weak pods: {honest} are let in and say why their level is low, {forged} that say otherwise are not; {refused} are refused by agents.privileges refuse"
    )


# What of the injector's corpus an API server's own injection makes safe instead of refusing it, or is of no pod.
MADE_SAFE = {"opted-out-without-permission", "a-job-on-an-older-cluster", "no-manifests"}


def refused_corpus(checks):
    """What the injector refuses, the policies refuse where there is no injector."""
    tried = 0
    for mode in ("init", "cni", "proxy"):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(
                {
                    "mutatingAdmissionPolicy": {"enabled": True},
                    "capture": {"mode": mode},
                    "sidecar": {"secrets": [{"name": "github", "secretName": "github-app"}]},
                },
                file,
            )
            file.flush()
            all_objects = rendered("1.37", Path(file.name))
        (mutating,) = of_kind(all_objects, "MutatingAdmissionPolicy")
        validating = of_kind(all_objects, "ValidatingAdmissionPolicy")
        for manifest in sorted((ROOT / "tests/it/inject/refused").glob("*.yaml")):
            if manifest.stem in MADE_SAFE or (mode == "proxy" and manifest.stem == "a-user-that-nobody-wrote-down"):
                continue
            for one in objects(manifest.read_text()):
                pod = restricted(pod_of(one), keep_user=manifest.stem == "a-user-that-nobody-wrote-down")
                injected = admission.mutate(mutating, pod)
                tried += expect(checks, f"{mode}, {manifest.stem}", validating, "pods", "CREATE", injected, "")
    checks.told(f"without an injector the policies refuse what it refuses: {tried} pods of tests/it/inject/refused")


def restricted(pod, keep_user):
    """The pod with nothing wrong but what its author said."""
    pod = copy.deepcopy(pod)
    for one in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
        defaults = copy.deepcopy(RESTRICTED)
        if keep_user:
            del defaults["runAsUser"]
        one["securityContext"] = {**defaults, **one.get("securityContext", {})}
    return pod
