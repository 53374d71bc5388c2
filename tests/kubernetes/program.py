"""What the program makes of what the chart renders for it: configurations, commands, and the examples' pods."""

import json
import subprocess
import tempfile
from pathlib import Path

import jsonschema
import yaml
from admitting import expect
from cases import PODS, first
from rendering import HERE, ROOT, inject, injectors_file, label, name_of, objects, of_kind, pod_of, rendered
from rendering import valid_everywhere, value_files, versions_of


def configurations(checks, tollgate):
    """The files that the program reads are such as it takes."""
    schema = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "config.schema.json").read_text()))
    environment = {
        **{
            f"TOLLGATE_{name}_PORT": str(port)
            for name, port in (("PROXY", 15001), ("TRANSPARENT", 15002), ("DNS", 15053), ("HEALTH", 15020))
        },
        "TOLLGATE_TRUST_DOMAIN": "cluster.local",
        "TOLLGATE_POD_NAMESPACE": "agents",
        "TOLLGATE_SERVICE_ACCOUNT": "bot",
        "PATH": "",
    }
    sidecars = injectors = 0
    for file in value_files():
        all_objects = rendered(versions_of(file)[-1], file)
        policies = {
            one["metadata"]["namespace"]: one["data"]
            for one in of_kind(all_objects, "ConfigMap")
            if one["metadata"]["name"] == "tollgate-policy"
        }
        for one in of_kind(all_objects, "ConfigMap"):
            if "config.yaml" in one["data"]:
                sidecars += 1
                text = one["data"]["config.yaml"]
                for problem in schema.iter_errors(yaml.safe_load(text)):
                    checks.fail(
                        f"{label(file)}: {one['metadata']['namespace']}: {problem.json_path}: {problem.message}"
                    )
                if tollgate:
                    told = {**environment, **told_by(tollgate, all_objects)}
                    answer = check_config(tollgate, text, policies.get(one["metadata"]["namespace"], {}), told)
                    if answer:
                        checks.fail(f"{label(file)}: {one['metadata']['namespace']}: {answer}")
            if "inject.yaml" in one["data"] and tollgate:
                injectors += 1
                answer = inject(tollgate, one["data"]["inject.yaml"], yaml.safe_dump(PODS["restricted"]))
                if isinstance(answer, str):
                    checks.fail(f"{label(file)}: the injector: {answer}")
    checks.told(
        f"configuration: {sidecars} of sidecars agree with docs/config.schema.json"
        + (f" and `tollgate config check`; `tollgate inject` takes {injectors}" if tollgate else "")
    )


def told_by(tollgate, all_objects):
    """What the injector tells a sidecar, where there is one."""
    if not of_kind(all_objects, "Deployment"):
        return {}
    (pod,) = inject(tollgate, injectors_file(all_objects), yaml.safe_dump(PODS["restricted"]))
    return {one["name"]: one["value"] for one in first(pod, "tollgate")["env"] if "value" in one}


def check_config(tollgate, text, policy, environment):
    """What `tollgate config check` finds, with the policy in place of its mount."""
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        (where / "policy").mkdir()
        for name, content in policy.items():
            (where / "policy" / name).write_text(content)
        (where / "config.yaml").write_text(text.replace("/etc/tollgate/policy", str(where / "policy")))
        answer = subprocess.run(
            [tollgate, "config", "check", where / "config.yaml"], capture_output=True, text=True, env=environment
        )
        # What Secrets and ConfigMaps of the cluster hold is not here.
        lines = [
            line for line in answer.stderr.splitlines() if line.startswith("error:") and "/etc/tollgate/" not in line
        ]
        return "\n".join(lines) if answer.returncode else None


def commands(checks, tollgate):
    """The commands of the chart's own containers run as they are written, but for the paths."""
    if not tollgate:
        return
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        for name in ("webhook", "bin", "conf"):
            (where / name).mkdir()
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=injector",
                "-keyout",
                where / "webhook" / "tls.key",
                "-out",
                where / "webhook" / "tls.crt",
            ],
            check=True,
            capture_output=True,
        )
        network = where / "conf" / "10-network.conflist"
        network.write_text(json.dumps({"cniVersion": "1.0.0", "name": "network", "plugins": [{"type": "bridge"}]}))

        all_objects = rendered("1.37", HERE / "values" / "linkerd.yaml")
        (where / "inject.yaml").write_text(
            injectors_file(all_objects).replace("/etc/tollgate/webhook", f"{where}/webhook")
        )
        (injector,) = of_kind(all_objects, "Deployment")
        (installer,) = of_kind(all_objects, "DaemonSet")
        remove = rendered("1.37", HERE / "values" / "linkerd.yaml", "--set", "capture.cni.remove=true")
        (remover,) = of_kind(remove, "DaemonSet")
        paths = {
            "/etc/tollgate/inject/": f"{where}/",
            "/host/opt/cni/bin": f"{where}/bin",
            "/host/etc/cni/net.d": f"{where}/conf",
        }
        runs = ((injector, "serving reviews"), (installer, "the entry stands"), (remover, "the entry is taken out"))
        for one, word in runs:
            if one is remover and "tollgate-cni" not in network.read_text():
                checks.fail("the installer takes its entry away when it ends")
            arguments = one["spec"]["template"]["spec"]["containers"][0]["args"]
            for mounted, here in paths.items():
                arguments = [argument.replace(mounted, here) for argument in arguments]
            # A network of its own, for the ports.
            process = subprocess.Popen(
                ["unshare", "--map-root-user", "--net", tollgate, *arguments], stderr=subprocess.PIPE, text=True
            )
            lines = []
            for line in process.stderr:
                lines.append(line)
                if word in line:
                    break
            if one is installer and "tollgate-cni" not in network.read_text():
                checks.fail(f"{name_of(one)}: there is no entry in {network.read_text()}")
            process.terminate()
            lines.append(process.communicate(timeout=60)[1])
            if process.returncode or word not in "".join(lines):
                checks.fail(f"{name_of(one)}: {arguments} ends with {process.returncode}: {''.join(lines)}")
        if "tollgate-cni" in network.read_text() or not (where / "bin" / "tollgate-cni").exists():
            checks.fail("the installer leaves its entry where it is to take it out, or takes its program away")
    checks.told("the commands of injector and CNI installer run as the chart writes them, and end on SIGTERM")


def examples(checks, tollgate):
    """The manifests of the examples are valid, as they are and with their sidecar, and no policy refuses them."""
    count = injected = 0
    for file in sorted((ROOT / "examples" / "kubernetes").glob("*/*.yaml")):
        if file.name in ("values.yaml", "data.yaml"):
            continue
        count += valid_everywhere(checks, file, objects(file.read_text()))
        if not tollgate:
            continue
        all_objects = rendered("1.37", file.parent / "values.yaml")
        answer = inject(tollgate, injectors_file(all_objects), file.read_text())
        if isinstance(answer, str):
            checks.fail(f"{file.relative_to(ROOT)}: {answer}")
            continue
        count += valid_everywhere(checks, file, answer)
        for one in answer:
            template_of = pod_of(one)
            if template_of:
                injected += expect(
                    checks,
                    f"{file.relative_to(ROOT)}: {name_of(one)}",
                    of_kind(all_objects, "ValidatingAdmissionPolicy"),
                    "pods",
                    "CREATE",
                    template_of,
                    None,
                )
    checks.told(
        f"examples: {count} validations of their manifests"
        + (f"; {injected} pods get their sidecar and are let in" if tollgate else "")
    )
