"""What an API server does with admission policies, as far as the chart's need it: conditions, variables, validations
and mutations, evaluated by the reference implementation of CEL.

What it does not do is check types against Kubernetes' schemas: `object` is any JSON here.
"""

import copy
import json
import re

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings

NAMES = ("object", "oldObject", "request", "variables")
ENVIRONMENT = cel.NewEnv(variables={name: cel.Type.DYN for name in NAMES}, extensions=[ext_strings.ExtStrings()])
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[A-Za-z_][\w.]*|\s+|.', re.S)


class Refused(Exception):
    """A pod that a policy does not let in."""


# An authorizer is the API server's own; here the request says what it would answer.
AUTHORIZER = re.compile(r'authorizer(?:\.\w+\("[^"]*"\))+\.allowed\(\)')


def evaluate(expression, values):
    """The value of an expression, as JSON has it."""
    expression = AUTHORIZER.sub("request.authorized", expression)
    try:
        result = ENVIRONMENT.compile(expression).eval(data={name: values.get(name) for name in NAMES})
    except Exception as error:  # CEL's errors have no narrower type.
        raise AssertionError(f"{error}\nin {expression}") from error
    if result.type() == cel.Type.ERROR:
        raise AssertionError(f"{result.value()}\nin {expression}")
    return result.plain_value()


def applies(spec, values):
    return all(evaluate(one["expression"], values) for one in spec.get("matchConditions", []))


def with_variables(spec, values):
    """The same values with the policy's variables, each of which may use those before it."""
    values = {**values, "variables": {}}
    for one in spec.get("variables", []):
        values["variables"] = {**values["variables"], one["name"]: evaluate(one["expression"], values)}
    return values


def matches(rule, resource, operation, name):
    """Whether a policy's rule is about this request."""
    names = rule.get("resourceNames")
    return resource in rule["resources"] and operation in rule["operations"] and (not names or name in names)


def validate(policies, resource, operation, new, old=None, user=None):
    """Refuses what one of these policies does not let in, with its message. `user` is who asks: a name, groups, and whether the
    API server's authorizer permits what is asked of it."""
    who = {"username": "jane", "groups": ["system:authenticated"], **(user or {})}
    authorized = who.pop("authorized", False)
    values = {"object": new, "oldObject": old, "request": {"operation": operation, "userInfo": who, "authorized": authorized}}
    name = (new or old).get("metadata", {}).get("name")
    for policy in policies:
        spec = policy["spec"]
        if not any(matches(rule, resource, operation, name) for rule in spec["matchConstraints"]["resourceRules"]):
            continue
        if not applies(spec, values):
            continue
        known = with_variables(spec, values)
        for rule in spec["validations"]:
            if not evaluate(rule["expression"], known):
                raise Refused(rule["message"])


def mutate(policy, pod):
    """The pod as a MutatingAdmissionPolicy leaves it."""
    spec = policy["spec"]
    pod = copy.deepcopy(pod)
    if not applies(spec, {"object": pod, "request": {"operation": "CREATE"}}):
        return pod
    for mutation in spec["mutations"]:
        values = with_variables(spec, {"object": pod, "request": {"operation": "CREATE"}})
        if mutation["patchType"] == "ApplyConfiguration":
            merge(pod, evaluate(plain(mutation["applyConfiguration"]["expression"]), values))
        else:
            for step in evaluate(plain(mutation["jsonPatch"]["expression"]), values):
                patch(pod, step)
    return pod


def plain(expression):
    """Kubernetes' objects as maps: `Object.spec{a: 1}` as `{"a": dyn(1)}`. Their types must be those of their fields."""
    out, frames = [], []
    tokens = TOKEN.findall(expression)
    for index, token in enumerate(tokens):
        following = next((t for t in tokens[index + 1 :] if not t.isspace()), "")
        innermost = frames[-1] if frames else None
        if re.fullmatch(r"(Object|JSONPatch)[\w.]*", token) and following == "{":
            expected = next((f"{f['type']}.{f['field']}" for f in reversed(frames) if f["type"]), None)
            if expected and not expected.startswith("JSONPatch") and token != expected:
                raise AssertionError(f"{token} where {expected} is wanted")
            frames.append({"type": token, "field": None, "opens": True})
            continue
        if token in "([{":
            if innermost and innermost.get("opens"):
                innermost["opens"] = False
                out.append("{")
                continue
            frames.append({"type": None})
        elif token in ")]}":
            frame = frames.pop()
            if frame["type"] and frame["field"]:
                out.append(")")
        elif token == "," and innermost and innermost["type"]:
            out.append(")")
            innermost["field"] = None
        elif (
            innermost
            and innermost["type"]
            and innermost["field"] is None
            and re.fullmatch(r"\w+", token)
            and following == ":"
        ):
            innermost["field"] = token
            out.append(f'"{token}"')
            continue
        elif token == ":" and innermost and innermost["type"] and out[-1] == f'"{innermost["field"]}"':
            out.append(": dyn(")
            continue
        out.append(token)
    return "".join(out)


def completed(pod):
    """The pod as an API server completes it before the validating policies see it: defaults, and the service account's
    token in every container."""
    pod = copy.deepcopy(pod)
    spec = pod["spec"]
    for field, value in (("restartPolicy", "Always"), ("dnsPolicy", "ClusterFirst"), ("terminationGracePeriodSeconds", 30), ("securityContext", {}), ("serviceAccountName", "default")):
        spec.setdefault(field, value)
    for volume in spec.get("volumes", []):
        for kind in ("configMap", "secret", "projected"):
            if kind in volume:
                volume[kind].setdefault("defaultMode", 0o644)
    token = {"projected": {"defaultMode": 0o644, "sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}, {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}
    automount = spec.get("automountServiceAccountToken", True)
    if automount:
        spec.setdefault("volumes", []).append({"name": "kube-api-access-abcde", **token})
    for container in spec.get("initContainers", []) + spec["containers"]:
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.setdefault("resources", {})
        if automount:
            container.setdefault("volumeMounts", []).append({"name": "kube-api-access-abcde", "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"})
        for variable in container.get("env", []):
            variable.get("valueFrom", {}).get("fieldRef", {}).setdefault("apiVersion", "v1")
            if variable.get("value") == "":
                del variable["value"]
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            if probe in container:
                container[probe].setdefault("successThreshold", 1)
                container[probe].get("httpGet", {}).setdefault("scheme", "HTTP")
        for mount in container.get("volumeMounts", []):
            if mount.get("readOnly") is False:
                del mount["readOnly"]
    return pod


KEYS = {
    "volumes": "name",
    "containers": "name",
    "initContainers": "name",
    "imagePullSecrets": "name",
    "env": "name",
    "volumeMounts": "mountPath",
}


def merge(target, applied):
    """Server-side apply, for the lists that a pod has."""
    for field, value in applied.items():
        if isinstance(value, dict):
            merge(target.setdefault(field, {}), value)
        elif isinstance(value, list) and field in KEYS:
            present = target.setdefault(field, [])
            for one in value:
                same = [p for p in present if p[KEYS[field]] == one[KEYS[field]]]
                assert len(same) < 2, f"{field} holds {one[KEYS[field]]} twice"
                if same:
                    merge(same[0], one)
                else:
                    present.append(one)
            if not present:
                del target[field]
        else:
            target[field] = value


def patch(target, step):
    assert step["op"] == "add", step
    *parents, last = step["path"].strip("/").split("/")
    for parent in parents:
        target = target[parent]
    if isinstance(target, list):
        target.insert(int(last), step["value"])
    else:
        target[last] = step["value"]


def pod_security(spec):
    """What of PodSecurity's restricted profile a pod's specification breaks."""
    found = [field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    found += [f"volume {v['name']}" for v in spec.get("volumes", []) if "hostPath" in v]
    general = spec.get("securityContext", {})
    for container in spec.get("initContainers", []) + spec["containers"]:
        own = container.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        broken = {
            "privileged": own.get("privileged", False),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "capabilities.drop": "ALL" not in capabilities.get("drop", []),
            "capabilities.add": bool(set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}),
            "runAsNonRoot": own.get("runAsNonRoot", general.get("runAsNonRoot")) is not True,
            "runAsUser": own.get("runAsUser", general.get("runAsUser")) == 0,
            "seccompProfile": own.get("seccompProfile", general.get("seccompProfile", {})).get("type")
            not in ("RuntimeDefault", "Localhost"),
            "hostPort": any("hostPort" in port for port in container.get("ports", [])),
        }
        found += [f"{container['name']}: {field}" for field, is_broken in broken.items() if is_broken]
    return found


def shown(pod):
    return json.dumps(pod, indent=1, sort_keys=True)
