"""What the chart becomes, by both Helms, and what the program makes of it."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "helm" / "tollgate"
PARTS = Path(os.environ.get("TOLLGATE_PARTS", ROOT / "target" / "parts"))
HELMS = {name: PARTS / "helm" / name for name in ("helm4", "helm3")}
VERSIONS = ("1.28", "1.29", "1.33", "1.37")
NAMESPACE = "tollgate-system"
# The API that a cluster of this version must switch on for the policies.
BETA = {version: "admissionregistration.k8s.io/v1beta1/ValidatingAdmissionPolicy" for version in ("1.28", "1.29")}


class Checks:
    """What was checked and what was found."""

    def __init__(self):
        self.failures = []
        self.told_with = 0

    def told(self, text):
        """Says what was checked, unless something of it failed."""
        if len(self.failures) == self.told_with:
            print(f"ok    {text}", flush=True)
        self.told_with = len(self.failures)

    def fail(self, text):
        print(f"FAIL  {text}", flush=True)
        self.failures.append(text)


def helm(which, *arguments):
    return subprocess.run([HELMS[which], *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


def template(which, version, file=None, *more, beta=True):
    arguments = ["template", "tollgate", CHART, "--namespace", NAMESPACE, "--kube-version", f"{version}.0"]
    if file:
        arguments += ["--values", file]
        arguments += flags_of(file)
    if beta and version in BETA:
        arguments += ["--api-versions", BETA[version]]
    return helm(which, *arguments, *more)


def flags_of(file):
    """The files that a file of values says it is to be given with."""
    flags = re.findall(r"--set-file '([^']+)'", Path(file).read_text())
    return [word for flag in flags for word in ("--set-file", flag)]


def objects(text):
    return [one for one in yaml.safe_load_all(text) if one]


def rendered(version, file, *more):
    """What the current Helm renders; it must."""
    answer = template("helm4", version, file, *more)
    if answer.returncode:
        raise AssertionError(f"{label(file)}, {version}: {answer.stderr.strip()}")
    return objects(answer.stdout)


def name_of(one):
    return f"{one['kind']}/{one['metadata']['name']}"


def of_kind(all_objects, kind):
    return [one for one in all_objects if one["kind"] == kind]


def value_files():
    return sorted((HERE / "values").glob("*.yaml")) + sorted((ROOT / "examples" / "kubernetes").glob("**/values.yaml"))


def label(file):
    return f"examples/{file.parent.name}" if file.name == "values.yaml" else file.stem


def versions_of(file):
    """The versions that a value file is for: all, unless it says `# kubernetes: …`."""
    said = re.search(r"^# kubernetes: (.*)$", file.read_text(), re.M)
    return said[1].split() if said else VERSIONS


def inject(tollgate, config, manifests):
    """The manifests as `tollgate inject file` makes them, or what it says against them."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(config)
        file.flush()
        answer = subprocess.run(
            [tollgate, "inject", "file", "--config", file.name], input=manifests, capture_output=True, text=True
        )
    return answer.stderr.strip() if answer.returncode else objects(answer.stdout)


def injectors_file(all_objects):
    (text,) = [one["data"]["inject.yaml"] for one in of_kind(all_objects, "ConfigMap") if "inject.yaml" in one["data"]]
    return text


def pod_of(one):
    """The pod that an object makes, if it makes one."""
    spec = one.get("spec", {})
    if one["kind"] == "Pod":
        return one
    if one["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return {"metadata": {}, **spec["template"]} if "template" in spec else None


def valid_everywhere(checks, file, all_objects):
    count = 0
    for one in all_objects:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
                count += 1
            except kubernetes_validate.ValidationError as error:
                checks.fail(f"{file.relative_to(ROOT)} for {version}: {name_of(one)}: {error.message}")
    return count
