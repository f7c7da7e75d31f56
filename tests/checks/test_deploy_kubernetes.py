"""The manifests: each overlay builds, is valid by Kubernetes' own schemas, restricted, and closed but where it
must be open.

No cluster has run them: docs/guide/deploy.md says so.
"""

import copy
import functools
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from attributor.server import LIVENESS
from attributor.settings import AttributorSettings
from gmvaluator.auth.secret_files import SECRETS
from tests.checks.deployed import DEPLOY, parse
from tests.checks.exposition import exposed

FOLDER = DEPLOY / "kubernetes"
BUILT = ("base", "overlays/single-node", "overlays/gpu", "overlays/cluster", "jobs/indexer", "jobs/ray")
VERSIONS = ("1.30", "1.37")
"""The oldest that has all the fields that are used, and the newest whose schemas are at hand."""

Manifest = dict[str, Any]


@functools.cache
def built(name: str) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    words = ["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"]
    if shutil.which(words[0]) is None:
        pytest.skip("neither kubectl nor kustomize is installed: what they would build cannot be looked at")
    done = subprocess.run([*words, str(FOLDER / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(name: str, kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in built(name) if one["kind"] == kind}


def templates(manifest: Manifest) -> Iterator[Manifest]:
    """Every template of pods in a manifest, wherever it is."""
    for key, value in manifest.items():
        if key == "template" and "containers" in value.get("spec", {}):
            yield value
        elif isinstance(value, dict):
            yield from templates(value)
        elif isinstance(value, list):
            yield from (found for one in value if isinstance(one, dict) for found in templates(one))


def all_templates() -> list[tuple[str, Manifest]]:
    return [(f"{name} {one['kind']} {one['metadata']['name']}", template)
            for name in BUILT for one in built(name) for template in templates(one)]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_by_kubernetes_schemas(version: str) -> None:
    # A RayJob is not Kubernetes' own: its pods are looked at below. What overlays leave alike is looked at once.
    different = {json.dumps(one): one for name in BUILT for one in built(name) if one["kind"] != "RayJob"}
    assert len(different) > 20
    for manifest in different.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_find_faults() -> None:
    faulty = copy.deepcopy(of_kind("base", "Deployment")["attributor"])
    faulty["spec"]["template"]["spec"]["containers"][0]["readOnly"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(faulty, VERSIONS[0], strict=True)


def test_a_rayjob_is_made_of_pods_and_of_fields_that_kuberay_knows() -> None:
    """KubeRay publishes no schema as a package; these are the fields of its API reference that are used here."""
    (job,) = built("jobs/ray")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert job["apiVersion"] == "ray.io/v1"
    assert spec.keys() <= {"entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
                           "backoffLimit", "rayClusterSpec"}  # fmt: skip
    assert cluster.keys() == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    for template in templates(job):
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "one", **template["metadata"]}}
        for version in VERSIONS:
            kubernetes_validate.validate(pod, version, strict=True)
    program, *words = spec["entrypoint"].split()
    assert program == "gmvaluator"
    assert parse(words)["engine"] == "ray"
    extras = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = re.search(r"EXTRAS=([\w-]+)", (FOLDER / "jobs" / "ray" / "kustomization.yaml").read_text(encoding="utf-8"))
    assert named is not None
    assert any(one.startswith("ray[data,default]") for one in extras[named[1]])  # default: the server that takes jobs
    constraints = (DEPLOY.parent / "constraints.txt").read_text(encoding="utf-8")
    assert f"\nray=={cluster['rayVersion']}\n" in constraints


def test_every_pod_meets_the_restricted_level() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    assert len(all_templates()) >= 15
    for where, template in all_templates():
        pod, containers = template["spec"], template["spec"]["containers"]
        assert "initContainers" not in pod, where
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert pod["automountServiceAccountToken"] is False, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), where
        for volume in pod["volumes"]:
            assert volume.keys() <= {"name", "emptyDir", "secret", "configMap", "persistentVolumeClaim"}, where
        for container in containers:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert "hostPort" not in str(container.get("ports")), where
            assert container["resources"]["limits"]["memory"], where
            assert re.search(r":v?\d", container["image"]), where
    for name in BUILT[:4]:
        (namespace,) = of_kind(name, "Namespace").values()
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_volume_that_is_mounted_is_there_and_is_used() -> None:
    for where, template in all_templates():
        pod = template["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        claimed = {"storage", "data"} if "StatefulSet" in where else set()
        assert mounted - claimed == {volume["name"] for volume in pod["volumes"]} - claimed, where
        for container in pod["containers"]:
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            for variable in container.get("env", []):
                if variable["name"].removesuffix("_FILE") in SECRETS:
                    assert variable["name"].endswith("_FILE"), where
                    assert variable["value"].startswith("/etc/gmvaluator/secrets/"), where
                    assert "/etc/gmvaluator/secrets" in paths, where


def our_words() -> list[tuple[str, list[str]]]:
    """Every command of ours that a pod runs."""
    return [
        (where, container["args"])
        for where, template in all_templates()
        for container in template["spec"]["containers"]
        if container["image"].startswith("gmvaluator") and "command" not in container and "args" in container
    ]


def test_commands_are_ours() -> None:
    commands = our_words()
    assert {words[0] for _, words in commands} == {"serve", "dashboard", "ledger", "index"}
    for where, words in commands:
        assert parse(words), where


def test_the_attributor_is_probed_drained_and_scaled() -> None:
    for name in BUILT[:4]:
        pod = of_kind(name, "Deployment")["attributor"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        port = int(parse(container["args"])["health"].rpartition(":")[2])
        assert container["readinessProbe"]["grpc"] == {"port": port}
        assert container["livenessProbe"]["grpc"] == {"port": port, "service": LIVENESS}
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] > pause + AttributorSettings(Path()).drain_s + 15
        assert pod["affinity"]["podAntiAffinity"]
    for name in ("base", "overlays/cluster"):
        scaler = of_kind(name, "HorizontalPodAutoscaler")["attributor"]["spec"]
        assert scaler["scaleTargetRef"]["name"] in of_kind(name, "Deployment")
        (metric,) = scaler["metrics"]
        assert metric["pods"]["metric"]["name"] in exposed()
        assert of_kind(name, "PodDisruptionBudget")["attributor"]["spec"]["maxUnavailable"] < scaler["minReplicas"]
    adapter = yaml.safe_load((FOLDER / "helm" / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    assert not of_kind("overlays/single-node", "HorizontalPodAutoscaler")
    assert not of_kind("overlays/single-node", "PodDisruptionBudget")


def test_the_gpu_overlay_asks_for_one() -> None:
    deployment = of_kind("overlays/gpu", "Deployment")["attributor"]["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"].endswith("-cuda")
    assert {"name": "GMV_DEVICE", "value": "cuda"} in container["env"]
    assert deployment["strategy"] == {"type": "Recreate"}


def selected(policy: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector of labels takes in `labels`."""
    matches = all(labels.get(key) == value for key, value in policy.get("matchLabels", {}).items())
    return matches and all(labels.get(one["key"]) in one["values"] for one in policy.get("matchExpressions", []))


def may_talk(name: str, source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Whether the policies let pods of `source` reach `port` of pods of `target`, both in the namespace."""
    policies = [policy["spec"] for policy in of_kind(name, "NetworkPolicy").values()]

    def allowed(direction: str, peers: str, of: dict[str, str], peer: dict[str, str]) -> bool:
        rules = [rule for policy in policies if selected(policy["podSelector"], of)
                 for rule in policy.get(direction, [])]  # fmt: skip
        return any(
            (not rule.get("ports") or any(one["port"] == port for one in rule["ports"]))
            and any("podSelector" in one and selected(one["podSelector"], peer) for one in rule[peers])
            for rule in rules
        )

    return allowed("egress", "to", source, target) and allowed("ingress", "from", target, source)


def test_only_those_who_need_them_reach_qdrant_and_postgresql() -> None:
    components = ("attributor", "dashboard", "indexer", "ledger-check", "index-check", "other")
    ours = {one: {"app.kubernetes.io/name": "gmvaluator", "app.kubernetes.io/component": one} for one in components}
    stranger = {"app.kubernetes.io/name": "stranger"}
    qdrant, postgres = {"app.kubernetes.io/name": "qdrant"}, {"app.kubernetes.io/name": "postgres"}
    for name in BUILT[:4]:
        to_qdrant = {who for who, labels in ours.items() if may_talk(name, labels, qdrant, 6334)}
        to_postgres = {who for who, labels in ours.items() if may_talk(name, labels, postgres, 5432)}
        assert to_qdrant == {"attributor", "indexer", "index-check"}
        assert to_postgres == {"attributor", "indexer", "dashboard", "ledger-check"}
        assert may_talk(name, ours["dashboard"], ours["attributor"], 50051)
        assert not may_talk(name, ours["indexer"], ours["attributor"], 50051)
        assert may_talk(name, qdrant, qdrant, 6335)
        assert not any(may_talk(name, stranger, target, port) for target, port in ((qdrant, 6334), (postgres, 5432)))
        everyone = of_kind(name, "NetworkPolicy")["nothing-by-default"]["spec"]
        assert everyone == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_indexers_parts_are_as_many_as_its_pods() -> None:
    (job,) = built("jobs/indexer")
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert int(environment["PARTS"]) == spec["completions"]
    (script,) = container["args"]
    script = script.replace("$JOB_COMPLETION_INDEX", str(spec["completions"] - 1))
    for variable, value in environment.items():
        script = script.replace(f"${variable}", value)
    words = script.replace('"', "").split()
    assert words[:2] == ["exec", "gmvaluator"]
    part = parse(words[2:])["partition"]
    assert (part.index, part.count) == (spec["completions"] - 1, spec["completions"])


def test_qdrants_values_keep_two_replicas_encrypted_and_behind_a_key() -> None:
    values = yaml.safe_load((FOLDER / "helm" / "qdrant.yaml").read_text(encoding="utf-8"))
    collection = values["config"]["storage"]["collection"]
    assert values["replicaCount"] >= 3
    assert collection["replication_factor"] == collection["write_consistency_factor"] == 2
    assert values["config"]["service"]["enable_tls"]
    assert values["config"]["cluster"]["p2p"]["enable_tls"]
    assert "apiKey" not in values
    mounted = {mount["mountPath"] for mount in values["additionalVolumeMounts"]}
    assert all(str(Path(path).parent) in mounted for path in values["config"]["tls"].values())
    version = values["image"]["tag"]
    assert f"qdrant/qdrant:{version}-unprivileged" in (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    for _, template in all_templates():
        for container in template["spec"]["containers"]:
            assert not container["image"].startswith("qdrant/") or version in container["image"]
