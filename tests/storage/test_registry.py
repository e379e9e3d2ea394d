"""What MLflow shows of a finished run: description, figures, datasets, and models that load without pickle."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from components.data.tokenizer import Tokenizer
from components.inference.sampling import SamplingParams
from components.inference.text import TextPrompt, text_generator
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.checkpoints import save_model
from storage import tracker
from storage.artifacts import Artifact, Record
from storage.home import Home
from storage.registry import MODEL, Showcase, publish
from storage.tracker import connected

TEXTS = ["the cat sat on the mat", "a dog ran to the river", "1 + 2 = 3"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path)
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    row = {"run_id": "r1", "name": "toy", "profile": "toy", "time": at}
    home.tables.write("runs", "s", [{**row, "event": "started", "status": "running"}])
    home.tables.write("runs", "e", [{**row, "event": "ended", "status": "completed"}])
    assert tracker.sync(home).problem is None
    return home


def sealed(home: Home, kind: str, number: int, **facts: int) -> Artifact:
    artifact = Artifact(kind, f"{number:064d}", facts)
    with home.store.writing(artifact.key) as folder:
        if kind == "tokenizer":
            Tokenizer.train(TEXTS, 300).save(folder)
        elif kind == "checkpoint":
            size = Tokenizer.train(TEXTS, 300).vocab_size
            config = ModelConfig(vocab_size=size, d_model=16, num_layers=1, num_heads=1, context_length=64)
            save_model(folder, Transformer(config, seed=number))
        else:
            (folder / "text.txt").write_text("hello")
        return home.store.seal(folder, Record(artifact, "toy", {}, {}, {}, "r1"))


def test_a_run_shows_what_it_made_and_its_models_load(home: Home) -> None:
    import mlflow

    tokenizer = sealed(home, "tokenizer", 1)
    base, sft = sealed(home, "checkpoint", 2), sealed(home, "checkpoint", 3)
    corpus = sealed(home, "corpus", 4, num_documents=7)
    showcase = Showcase("- ✓ **it works**", {"loss.svg": "<svg/>"}, {"corpus": corpus}, {"base": base}, tokenizer)
    publish(home, "r1", showcase)
    publish(home, "r1", showcase)  # again: nothing new
    publish(home, "r1", Showcase("- ✓ **it works**", models={"base": base, "sft": sft}, tokenizer=tokenizer))
    with connected(home) as client:
        (run,) = client.search_runs(["1"], "tags.`lifespan.level` = 'run'")
        assert run.data.tags["mlflow.note.content"] == "- ✓ **it works**"
        (dataset,) = run.inputs.dataset_inputs
        assert (dataset.dataset.name, dataset.dataset.digest) == ("corpus", corpus.key[:36])
        assert '"num_documents": 7' in dataset.dataset.profile
        assert [f.path for f in client.list_artifacts(run.info.run_id, "figures")] == ["figures/loss.svg"]
        assert len(client.search_model_versions(f"name = '{MODEL}'")) == 2
        assert client.get_model_version_by_alias(MODEL, "sft").tags["lifespan.key"] == sft.key
    files = [f for f in home.mlflow_artifacts.rglob("*") if f.is_file()]
    assert not [f for f in files if f.suffix in (".pkl", ".pickle", ".pt", ".bin")]

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(home.mlflow_uri)
    mlflow.set_registry_uri(home.mlflow_uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{MODEL}@base")
        (answer,) = loaded.predict(["the cat"], params={"max_tokens": 5})
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
    words = Tokenizer.load(home.store.path(tokenizer))
    from components.training.checkpoints import load_model

    generate = text_generator(load_model(home.store.path(base)), words)
    expected = generate([TextPrompt("the cat")], SamplingParams(max_tokens=5, temperature=0.0))[0][0].text.strip()
    assert answer == expected


def test_a_run_that_mlflow_does_not_have_is_named(home: Home) -> None:
    with pytest.raises(LookupError, match="no run r9: `lifespan sync`"):
        publish(home, "r9", Showcase("x"))
