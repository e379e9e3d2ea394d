"""Models into the store and out of it, as a user calls for them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.hub.folder import export_folder, import_folder
from components.model.hub.source import BaseConfig
from components.model.transformer import Transformer
from components.training.checkpoints import load_model, save_model
from flows.commands.cli import app
from flows.runs.models import export_model, find_model, open_model
from flows.runs.showcase import showcase
from flows.settings import ConfigError
from flows.stages.imported import import_source
from storage.artifacts import Artifact, Record
from storage.home import Home

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def public_folder(folder: Path, seed: int = 0, **changes: Any) -> tuple[Path, Transformer, Tokenizer]:
    """A model that somebody published."""
    tokenizer = Tokenizer.train(["the cat sat on the mat\n"] * 20, 300)
    settings: dict[str, Any] = {"d_model": 32, "num_layers": 2, "context_length": 64, "qk_norm": False, **changes}
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **settings), seed).eval()
    folder.mkdir(parents=True)
    export_folder(folder, model.cfg, model.state_dict(), tokenizer)
    return folder, model, tokenizer


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_there_and_back_by_the_command_line(home: Home, tmp_path: Path) -> None:
    folder, model, tokenizer = public_folder(tmp_path / "theirs")
    code, out, _ = call("import", str(folder))
    assert code == 0
    assert f"num_params {sum(p.numel() for p in model.parameters())}" in out
    key = next(line.split()[1] for line in out.splitlines() if line.startswith("checkpoint"))
    assert call("import", str(folder))[1].count(key) == 1  # the same artifact, not a second one
    code, out, _ = call("export", key[:10], str(tmp_path / "deep" / "ours"))
    assert code == 0
    back = import_folder(tmp_path / "deep" / "ours")
    assert back.cfg == model.cfg
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
    assert Tokenizer.load(tmp_path / "deep" / "ours").encode("the mat") == tokenizer.encode("the mat")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["ours"]
    assert call("export", "imported", str(tmp_path / "again"))[0] == 0


def test_other_bytes_are_another_artifact_and_a_shorter_context_too(home: Home, tmp_path: Path) -> None:
    folder, _, _ = public_folder(tmp_path / "theirs")
    keys = {import_source(home, str(folder))[1].key, import_source(home, str(folder), context_length=16)[1].key}
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    keys.add(import_source(home, str(folder))[1].key)
    assert len(keys) == 3
    short = import_source(home, str(folder), context_length=16)[1]
    assert load_model(home.store.path(short)).cfg.context_length == short.facts["context_length"] == 16


def test_a_folder_that_holds_something_is_left_alone(home: Home, tmp_path: Path) -> None:
    folder, _, _ = public_folder(tmp_path / "theirs")
    key = import_source(home, str(folder))[1].key
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="already exists and is not empty"):
        export_model(home, key, full)
    with pytest.raises(ConfigError, match="already exists and is not empty"):
        export_model(home, key, full / "mine")
    assert [path.name for path in full.iterdir()] == ["mine"]
    empty = tmp_path / "empty"
    empty.mkdir()
    export_model(home, key, empty)
    assert (empty / "model.safetensors").is_file()


def test_a_model_that_no_layout_holds_leaves_nothing_behind(home: Home, tmp_path: Path) -> None:
    key = "a" * 64
    with home.store.writing(key) as folder:
        save_model(folder, Transformer(ModelConfig(d_model=32, num_layers=1, logit_softcap=3.0)))
        home.store.seal(folder, Record(Artifact("checkpoint", key), "pretrain", {}, {}, {}, "run"))
    with pytest.raises(ConfigError, match=r"logit_softcap is 3.0.*cannot be exported"):
        export_model(home, key, tmp_path / "out" / "model")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "nowhere"], "nowhere: no such folder or file"),
        (["import", "package:lifespan-has-no-such-package"], "not installed: `pip install --no-deps"),
        (["export", "sft", "out"], "sft: no such model: no run of this home has made a model yet"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(home: Home, arguments: list[str], said: str) -> None:
    code, _, err = call(*arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_names_of_models(home: Home, tmp_path: Path) -> None:
    """By label, stage and alias, of the newest run that has one; a name that fits several is asked about."""
    keys = []
    for seed in range(4):
        folder, _, _ = public_folder(tmp_path / str(seed), seed)
        keys.append(import_source(home, str(folder))[1].key)
    labels = {
        "old": {"finetune": 0, "ppo[kl_coef=0.0]": 1, "ppo[kl_coef=0.1]": 2, "finetune[puzzles]": 1},
        "new": {"pretrain": 3},
    }
    for hour, (run_id, stages) in enumerate(labels.items()):
        time = datetime(2026, 11, 23, hour, tzinfo=UTC)
        home.tables.write("runs", run_id, [{"run_id": run_id, "event": "started", "status": "running", "time": time}])
        rows = [
            {
                "run_id": run_id, "stage": label.partition("[")[0], "label": label, "key": keys[seed],
                "kind": "checkpoint", "status": "ran",
            }
            for label, seed in stages.items()
        ]  # fmt: skip
        home.tables.write("stages", run_id, rows)
    found = {name: find_model(home, name).checkpoint.key for name in ("base", "sft", "finetune", "solver")}
    assert found == {"base": keys[3], "sft": keys[0], "finetune": keys[0], "solver": keys[1]}
    assert find_model(home, "ppo[kl_coef=0.1]").checkpoint.key == keys[2]
    tokenizer = find_model(home, "sft").tokenizer
    assert tokenizer is not None
    assert tokenizer.kind == "tokenizer"
    with pytest.raises(ConfigError, match=r"run old has ppo\[kl_coef=0.0\], ppo\[kl_coef=0.1\]: name one"):
        find_model(home, "ppo")
    with pytest.raises(ConfigError, match=r"grop: no such model: there are pretrain, finetune"):
        find_model(home, "grop")
    with pytest.raises(ConfigError, match="is a tokenizer, not a model"):
        find_model(home, tokenizer.key)


def test_a_hub_model_of_a_life_is_pinned() -> None:
    with pytest.raises(ValueError, match=r"revision is 'main'.*give the commit \(40 hex digits\)"):
        BaseConfig("owner/model", "main")
    assert BaseConfig("owner/model", COMMIT).revision == COMMIT


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server that answers like the hub, with one repository; its address and the paths that were asked for."""
    folder, _, _ = public_folder(tmp_path / "published")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "run_me.py").write_text("raise SystemExit")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(head=True)

        def do_GET(self) -> None:
            self.answer(head=False)

        def answer(self, head: bool) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            if path.startswith("/api/models/owner/model/revision/"):
                siblings = [{"rfilename": name} for name in files]
                self.reply(json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode(), head)
            elif path == f"/api/models/owner/model/tree/{COMMIT}":
                entries = [
                    {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                    for name, body in files.items()
                ]
                self.reply(json.dumps(entries).encode(), head)
            elif path.startswith(f"/owner/model/resolve/{COMMIT}/") and path.rpartition("/")[2] in files:
                self.reply(files[path.rpartition("/")[2]], head)
            else:
                self.send_error(404)

        def reply(self, body: bytes, head: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if not head:
                self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_a_hub_model_is_fetched_without_what_could_run(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    """In a process of its own, because the hub's client reads its settings once."""
    address, asked = hub
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    code = """
        import json
        from components.model.hub.source import fetch
        from components.model.hub.errors import UnsupportedModel
        source = fetch("owner/model", "main")
        print(json.dumps([source.commit, sorted(file.name for file in source.path.iterdir())]))
        try:
            fetch("owner/absent", "main")
        except UnsupportedModel as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    wanted = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    first, second = done.stdout.splitlines()
    assert json.loads(first) == [COMMIT, wanted]
    assert {path.rpartition("/")[2] for path in asked if "/resolve/" in path} == set(wanted)
    assert second.startswith("hub model 'owner/absent' at 'main': ")


def checkpoint(home: Home, stage: str, number: int) -> str:
    """A sealed checkpoint with nothing in it."""
    key = f"{number:064x}"
    with home.store.writing(key) as folder:
        (folder / "file").write_text(stage)
        home.store.seal(folder, Record(Artifact("checkpoint", key), stage, {}, {}, {}, "r"))
    return key


@pytest.mark.parametrize(
    ("alias", "made", "expected"),
    [
        ("base", ["import_model", "pretrain"], "pretrain"),
        ("base", ["import_model"], "import_model"),
        ("aligned", ["ppo", "grpo"], "grpo"),
        ("aligned", ["ppo"], "ppo"),
        ("sft", ["finetune", "pretrain"], "finetune"),
    ],
)
def test_an_alias_means_the_same_model_to_commands_and_in_the_registry(
    alias: str, made: list[str], expected: str, home: Home
) -> None:
    now = datetime.now(UTC)
    keys = {stage: checkpoint(home, stage, number) for number, stage in enumerate(made)}
    run = {"run_id": "r", "event": "started", "status": "running", "time": now, "profile": "p"}
    home.tables.write("runs", "r", [run])
    row = {"run_id": "r", "status": "ran", "kind": "checkpoint", "group": "g", "started_at": now, "ended_at": now}
    home.tables.write("stages", "r", [{**row, "stage": s, "label": s, "key": key} for s, key in keys.items()])
    assert find_model(home, alias).checkpoint.key == keys[expected]
    registered = showcase(home, "r", SimpleNamespace(scope="", headlines=[], figures={})).models  # type: ignore[arg-type]
    assert registered[alias].key == keys[expected]
    assert set(registered) <= {"base", "sft", "aligned", "champion"}


def test_a_model_leaves_as_a_gguf_file_or_in_bf16(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = public_folder(tmp_path / "theirs")
    key = import_source(home, str(folder))[1].key
    monkeypatch.chdir(tmp_path)
    assert call("export", key, "--format", "gguf")[0] == 0
    assert call("export", key, "small.gguf", "--dtype", "q8_0")[0] == 0
    assert call("export", key, "half", "--dtype", "bf16")[0] == 0
    whole = open_model(home, str(tmp_path / "theirs"))
    for made in (f"{key}.gguf", "small.gguf", "half"):
        opened = open_model(home, str(tmp_path / made))
        assert opened.tokenizer.encode("the cat") == whole.tokenizer.encode("the cat")
        close = torch.allclose(opened.model.embedding.weight, whole.model.embedding.weight, rtol=0.01, atol=0.01)
        assert close
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    for arguments, said in (
        ([key, "small.gguf"], "small.gguf: already exists: name a new one"),
        ([key, "x", "--format", "onnx"], "--format onnx: takes one of safetensors, gguf, peft"),
        ([key, "x", "--dtype", "q8_0"], "--dtype q8_0: safetensors takes one of f32, f16, bf16"),
        ([key, "x", "--format", "peft"], "has no adapters of its own: it was not trained with LoRA"),
    ):
        code, _, err = call("export", *arguments)
        assert code == 2 and said in err
    assert not (tmp_path / "x").exists()
