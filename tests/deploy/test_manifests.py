"""What `deploy/` says is what the code expects; and Kubernetes would take it."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.commands.cli import app
from flows.config import load_config
from flows.services.services import POOL

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECRET = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"}


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in KUBERNETES:
        for document in yaml.safe_load_all(file.read_text()):
            yield file.name, document


def found(value: Any, name: str) -> Iterator[Any]:
    """Every value of this name, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == name:
                yield inner
            yield from found(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from found(inner, name)


def containers() -> Iterator[dict[str, Any]]:
    for _, manifest in manifests():
        for group in found(manifest, "containers"):
            yield from group


def words() -> Iterator[list[str]]:
    """Every command line of ours in the manifests and in compose."""
    lines = [c.get("command", []) + c.get("args", []) for c in containers()]
    lines += [service.get("entrypoint", []) for service in COMPOSE["services"].values()]
    for line in lines:
        if line[:2] == ["sh", "-c"]:
            for part in line[2].split("&&"):
                yield shlex.split(part.strip().removeprefix("exec "))
        elif line:
            yield line


def test_the_kustomization_names_every_manifest_but_the_job_and_the_secret() -> None:
    named = set(yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())["resources"])
    assert named == {f.name for f in KUBERNETES} - {"kustomization.yaml", "secret.example.yaml", "train-job.yaml"}


@pytest.mark.parametrize("line", [line for line in words() if line[0] == "lifespan"], ids=" ".join)
def test_lifespan_knows_the_commands(line: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    context = command.commands[line[1]].make_context(line[1], line[2:])
    if line[1] == "run":
        load_config(context.params["profile"], context.params["overrides"])


def test_workers_take_from_our_pool() -> None:
    pools = [line[line.index("--pool") + 1] for line in words() if "--pool" in line]
    assert pools == [POOL, POOL]


def test_every_service_listens_where_the_settings_look_for_it() -> None:
    (settings,) = (m["data"] for file, m in manifests() if file == "settings.yaml")
    ports = {m["metadata"]["name"]: m["spec"]["ports"][0]["port"] for _, m in manifests() if m["kind"] == "Service"}
    compose = COMPOSE["services"]["worker"]["environment"]
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        assert settings[name] == compose[name]
        host, port = re.match(r"http://(\w+):(\d+)", settings[name]).groups()  # type: ignore[union-attr]
        assert ports[host] == int(port)
        line = next(line for line in words() if line[0] in (host, "mlflow" if host == "mlflow" else "prefect"))
        assert port in " ".join(line)
    assert settings["LIFESPAN_HOME"] == compose["LIFESPAN_HOME"]


def test_passwords_stand_in_no_file() -> None:
    (secret,) = (m["stringData"] for file, m in manifests() if file == "secret.example.yaml")
    assert set(secret) == SECRET
    assert {name for name, value in secret.items() if value} == {"AWS_DEFAULT_REGION"}
    for name, value in list(found(COMPOSE, "POSTGRES_PASSWORD")) and COMPOSE["x-lifespan"]["environment"].items():
        assert "PASSWORD" not in name or value.startswith("${")
    (settings,) = (m["data"] for file, m in manifests() if file == "settings.yaml")
    assert not SECRET & set(settings)


def test_versions_are_those_of_the_project() -> None:
    ray = next(text for text in PROJECT["optional-dependencies"]["ray"] if text.startswith("ray"))
    (cluster,) = (m for _, m in manifests() if m["kind"] == "RayCluster")
    assert ray.endswith(f"=={cluster['spec']['rayVersion']}")
    image = (DEPLOY / "Dockerfile").read_text()
    extras = re.search(r"-e '\.\[([\w,]+)\]'", image)
    assert extras and set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys()
    copied = set(re.findall(r"^COPY (\w+) \1$", image, re.M))
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert copied == set(hatch["packages"])


def test_gpus_are_requested_as_they_are_limited_and_have_shared_memory() -> None:
    with_gpu = [c for c in containers() if "nvidia.com/gpu" in c.get("resources", {}).get("limits", {})]
    assert len(with_gpu) == 2
    for container in with_gpu:
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    job = next(c for c in with_gpu if c["name"] == "run")
    assert f"compute.ranks={job['resources']['limits']['nvidia.com/gpu']}" in job["command"]


KNOWN = [(file, m) for file, m in manifests() if m["kind"] not in ("Kustomization", "RayCluster")]


@pytest.mark.parametrize(("file", "manifest"), KNOWN, ids=[f"{file}-{m['kind']}" for file, m in KNOWN])
def test_kubernetes_would_take_it(file: str, manifest: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install '.[dev]' brings kubernetes-validate")
    validate.validate(manifest, "1.34", strict=True)
    with pytest.raises(validate.ValidationError):  # it does look
        validate.validate({**manifest, "unknown": 1}, "1.34", strict=True)


def test_the_pods_of_the_ray_cluster_would_be_taken() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install '.[dev]' brings kubernetes-validate")
    (cluster,) = (m["spec"] for _, m in manifests() if m["kind"] == "RayCluster")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        validate.validate(pod, "1.34", strict=True)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
