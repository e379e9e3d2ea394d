"""No pickle is ever loaded: no module of ours could, and files that carry one are refused, or left alone."""

from __future__ import annotations

import ast
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
MODULES = [file for name in ("components", "dashboards", "flows", "storage") for file in (ROOT / name).rglob("*.py")]
FORBIDDEN_IMPORTS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
FORBIDDEN_CALLS = {
    *("torch.load", "torch.save", "torch.package", "torch.hub.load", "torch.jit.load"),
    *("np.load", "numpy.load", "np.save", "pd.read_pickle", "pandas.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"),
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS:
            found.append(str(node.module))
        elif isinstance(node, ast.ImportFrom):
            found += [n for a in node.names if (n := f"{node.module}.{a.name}") in FORBIDDEN_CALLS]
        elif isinstance(node, ast.Call):
            found += [dotted(node.func)] if dotted(node.func) in FORBIDDEN_CALLS else []
            found += [k.arg for k in node.keywords if k.arg in ("allow_pickle", "trust_remote_code")]
    return found


def test_no_module_can_unpickle() -> None:
    assert len(MODULES) > 100
    found = {str(file.relative_to(ROOT)): what for file in MODULES if (what := offences(file.read_text("utf-8")))}
    # What a model wrote is run in one place, the inside of the sandbox, whose process does nothing else.
    assert found == {"components/rlhf/rewards/sandbox_child.py": ["exec", "exec"]}


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from dill import loads", "from torch import load", "torch.load(f)", "np.load(f)"),
        *("eval(x)", "read(f, allow_pickle=True)", "def f():\n    import joblib.parallel"),
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert offences(source)


# --- files that carry one ------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "exploded"


@pytest.fixture
def bomb(mark: Path) -> bytes:
    """A pickle that leaves a mark when it is loaded."""
    content = pickle.dumps(Bomb(mark))
    pickle.loads(content)
    mark.rmdir()  # it works
    return content


def refuses(load: Callable[[], Any]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of many kinds; that nothing is executed is what counts
        load()
    return str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of ours with its tokenizer, whole."""
    import torch

    from components.data.tokenizer import Tokenizer
    from components.model.config import ModelConfig
    from components.model.transformer import Transformer
    from components.rlhf.reward_model import RewardModel, save_reward_model
    from components.training.checkpoints import save_model

    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(0)
    transformer = Transformer(ModelConfig(vocab_size=300, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1))
    save_model(folder, transformer)
    save_reward_model(folder, RewardModel.from_policy(transformer))
    Tokenizer.train(["a b c d"], 300).save(folder)
    return folder


def test_models_of_ours(model: Path, bomb: bytes, mark: Path) -> None:
    from components.data.tokenizer import Tokenizer
    from components.inference.pyfunc import _load_pyfunc
    from components.rlhf.reward_model import load_reward_model
    from components.training.checkpoints import load_model

    for name in ("pytorch_model.bin", "model.pt", "model.pkl", "python_model.pkl"):
        (model / name).write_bytes(bomb)
    load_model(model), load_reward_model(model), Tokenizer.load(model)  # what lies beside is left alone
    folder = model.parent / "data"
    folder.mkdir()
    (folder / "model").symlink_to(model)
    (folder / "tokenizer").symlink_to(model)
    (folder / "python_model.pkl").write_bytes(bomb)
    (folder / "MLmodel").write_text("flavors: {python_function: {python_model: python_model.pkl}}")
    _load_pyfunc(str(folder))
    for file in model.glob("*.safetensors"):
        file.write_bytes(bomb)
    refuses(lambda: load_model(model))
    refuses(lambda: load_reward_model(model))
    refuses(lambda: _load_pyfunc(str(folder)))
    for file in model.glob("*.json"):
        file.write_bytes(bomb)
    refuses(lambda: load_model(model))
    refuses(lambda: Tokenizer.load(model))
    assert not mark.exists()


def test_models_of_others(model: Path, bomb: bytes, mark: Path, tmp_path: Path) -> None:
    from components.model.hub.imports import import_model, import_tokenizer
    from components.model.hub.source import locate

    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 300, "hidden_size": 16}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").write_bytes(bomb)
    assert "pickle" in refuses(lambda: import_model(locate(str(folder))))
    (folder / "model.safetensors").write_bytes(bomb)
    refuses(lambda: import_model(locate(str(folder))))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "pytorch_model.bin"}}))
    refuses(lambda: import_model(locate(str(folder))))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes(bomb)
    refuses(lambda: import_tokenizer(locate(str(folder))))
    for content in (bomb, b"GGUF" + bomb):
        (tmp_path / "model.gguf").write_bytes(content)
        refuses(lambda: import_model(locate(str(tmp_path / "model.gguf"))))
    assert not mark.exists()


def test_saved_states_and_shards(bomb: bytes, mark: Path, tmp_path: Path) -> None:
    import hashlib

    import numpy as np

    from components.data.shards import TokenShards, _map
    from flows.engine.work import Work
    from flows.settings import ComputeConfig

    state = tmp_path / "state"
    state.mkdir()
    (state / "step-000000001.safetensors").write_bytes(bomb)
    (state / "step-000000001.pt").write_bytes(bomb)
    told = {"step": 1, "meta": {}, "segments": [], "spent": {}, "sha256": hashlib.sha256(bomb).hexdigest()}
    (state / "step-000000001.json").write_text(json.dumps(told))
    refuses(lambda: Work(tmp_path, state, ComputeConfig()).load_state())

    shards = tmp_path / "shards"
    shards.mkdir()
    np.save(shards / "objects.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    for name in ("notes-train-00000.safetensors", "index.json"):
        (shards / name).write_bytes((shards / "objects.npy").read_bytes())
    refuses(lambda: TokenShards.open(shards))
    for name in ("objects.npy", "notes-train-00000.safetensors"):
        assert "damaged token shard" in refuses(lambda name=name: _map(shards / name, 1))
    assert not mark.exists()


def test_tables_and_sources(bomb: bytes, mark: Path, tmp_path: Path) -> None:
    from components.data.sources import SourceConfig, SourceError, read_source
    from storage.home import Home
    from storage.queries import query

    home = Home(tmp_path / "home")
    row = {"run_id": "r", "key": "k", "stage": "s", "step": 0, "name": "loss", "value": 1.0}
    home.tables.write("metrics", "k", [row])
    file = home.tables.path("metrics") / "k.parquet"
    # Arrow once unpickled the metadata of an extension type that a file named (CVE-2023-47248).
    marks = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
    table = pq.read_table(file)
    fields = [field.with_metadata(marks) for field in table.schema]
    loaded = pa.table(table.columns, pa.schema(fields, {b"pandas": bomb, b"lifespan.parts": bomb}))
    pq.write_table(loaded, file)
    assert home.tables.read("metrics", ["name", "value"]).to_pylist() == [{"name": "loss", "value": 1.0}]
    assert query(home, "SELECT name, value FROM metrics").to_pylist() == [{"name": "loss", "value": 1.0}]
    home.tables.write("metrics", "l", [row])
    home.tables.compact(["metrics"])
    assert home.tables.read("metrics").num_rows == 2

    texts = pa.table({"text": pa.array(["a text"]), "blob": pa.array([bomb])})
    pq.write_table(texts.replace_schema_metadata({b"pandas": bomb}), tmp_path / "texts.parquet")
    found = list(read_source(SourceConfig("s", "parquet", str(tmp_path / "texts.parquet"))))
    assert [document.text for document in found] == ["a text"]  # type: ignore[union-attr]
    for kind, name in (("parquet", "x.parquet"), ("jsonl", "x.jsonl"), ("text", "x.txt"), ("files", "x.pkl")):
        (tmp_path / name).write_bytes(bomb)
        with pytest.raises(SourceError):
            list(read_source(SourceConfig("s", kind, str(tmp_path / name))))
    assert not mark.exists()


def test_records_profiles_and_preferences(bomb: bytes, mark: Path, tmp_path: Path) -> None:
    from flows.config import load_config
    from flows.settings import ConfigError
    from storage.home import Home

    store = Home(tmp_path).store
    folder = tmp_path / "artifacts" / "aa" / ("a" * 64)
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(bomb)
    assert store.find("a" * 64) is None
    (tmp_path / "mine.toml").write_bytes(bomb)
    with pytest.raises(ConfigError):
        load_config(str(tmp_path / "mine.toml"), [])
    assert not mark.exists()


def test_mlflow_is_told_to_unpickle_nothing() -> None:
    from flows.services import hermetic

    assert hermetic.settings(".")["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
