"""What a finished run shows in MLflow beside its numbers: a description, figures, datasets, and registered models.

A model version is files alone: safetensors, JSON and an `MLmodel` that names the loader module, so
`mlflow.pyfunc.load_model("models:/lifespan@sft")` unpickles nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from storage.artifacts import Artifact
from storage.home import Home
from storage.tracker import connected

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MODEL = "lifespan"
LOADER = "components.inference.pyfunc"
_KEY = "lifespan.key"


@dataclass(frozen=True)
class Showcase:
    """What to show of a run.

    Attributes:
        description: Markdown, for the top of the run's page.
        figures: SVG content by file name.
        datasets: artifacts by name.
        models: checkpoints by alias; an alias moves to the run that was published last.
        tokenizer: of all the models.
    """

    description: str
    figures: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, Artifact] = field(default_factory=dict)
    models: Mapping[str, Artifact] = field(default_factory=dict)
    tokenizer: Artifact | None = None


def publish(home: Home, run_id: str, showcase: Showcase) -> None:
    """Show it on the run's page; publishing again changes nothing. `tracker.sync` must have mirrored the run before.

    Raises:
        LookupError: MLflow has no such run.
        Exception: whatever MLflow raises when it cannot be reached.
    """
    with home.lock("mlflow-sync"), connected(home) as client:
        own = _run_in_mlflow(client, run_id)
        client.set_tag(own, "mlflow.note.content", showcase.description)
        for name, svg in showcase.figures.items():
            client.log_text(own, svg, f"figures/{name}")
        _log_datasets(client, own, showcase.datasets)
        if showcase.tokenizer is not None:
            for alias, checkpoint in showcase.models.items():
                _register(home, client, own, alias, checkpoint, showcase.tokenizer)


def _run_in_mlflow(client: MlflowClient, run_id: str) -> str:
    wanted = f"tags.`lifespan.run_id` = '{run_id}' AND tags.`lifespan.level` = 'run'"
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(places, wanted, max_results=1)
    if not found:
        raise LookupError(f"MLflow has no run {run_id}: `lifespan sync` brings it up to date")
    return str(found[0].info.run_id)


def _log_datasets(client: MlflowClient, own: str, datasets: Mapping[str, Artifact]) -> None:
    """Log each as a dataset whose digest is its key: the same bytes from the same code have the same digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for name, artifact in datasets.items():
        profile = {k: v for k, v in artifact.facts.items() if isinstance(v, int | float | str)}
        source = json.dumps({"lifespan_artifact": artifact.key, "kind": artifact.kind})
        dataset = Dataset(name, artifact.key[:36], "lifespan", source, profile=json.dumps(profile))
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", artifact.kind)]))
    if inputs:
        client.log_inputs(own, inputs)


def _register(
    home: Home, client: MlflowClient, own: str, alias: str, checkpoint: Artifact, tokenizer: Artifact
) -> None:
    """Create a version of the registered model for this checkpoint unless there is one, and point the alias at it."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):  # it exists
        client.create_registered_model(
            MODEL, description="Models that Lifespan trained; the aliases say what each is for."
        )
    versions = client.search_model_versions(f"name = '{MODEL}' AND tags.`{_KEY}` = '{checkpoint.key}'", max_results=1)
    if versions:
        version = versions[0].version
    else:
        folder = f"models/{alias}"
        with tempfile.TemporaryDirectory() as place:
            _write_model(Path(place), home.store.path(checkpoint), home.store.path(tokenizer), f"runs:/{own}/{folder}")
            client.log_artifacts(own, place, folder)
        made = client.create_model_version(
            MODEL, f"runs:/{own}/{folder}", own, tags={_KEY: checkpoint.key, "lifespan.alias": alias}
        )
        version = made.version
    client.set_registered_model_alias(MODEL, alias, version)


def _write_model(folder: Path, checkpoint: Path, tokenizer: Path, uri: str) -> None:
    """Write MLflow's layout of a model: the files of checkpoint and tokenizer, and the module that loads them."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    for name, source in (("model", checkpoint), ("tokenizer", tokenizer)):
        shutil.copytree(source, folder / "data" / name)
    text = Schema([ColSpec("string")])
    params = ParamSchema([ParamSpec("max_tokens", "long", 64), ParamSpec("temperature", "double", 0.0)])
    model = Model(artifact_path=uri, signature=ModelSignature(text, text, params))
    model.add_flavor("python_function", loader_module=LOADER, data="data", python_version="3.11")
    model.save(str(folder / "MLmodel"))
