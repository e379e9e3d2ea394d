"""lm-eval pointed at the server against the same weights through its own `hf` model, item by item."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import uvicorn

from components.data.tokenizer import Tokenizer
from components.inference.answers import Answer
from components.inference.engine import Engine
from components.inference.server import make_app
from components.inference.service import Service
from components.model.config import ModelConfig
from components.model.hub.folder import export_folder
from components.model.transformer import Transformer

pytestmark = pytest.mark.slow
lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is a peer: pip install -e .[peers]")

TEXT = "The king said: 37+8=45; what is 45-6=39?\nA friend takes the bell, and the end is near. Yes, no, perhaps."
HF_LENGTH = 64  # of the `hf` model's windows, well within the context of 128
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has half learned its text, so that some of it is greedy, in Hugging Face's layout."""
    tokenizer = Tokenizer.train([TEXT] * 3, 320)
    model = Transformer(ModelConfig(tokenizer.vocab_size, d_model=32, num_layers=2, context_length=128), 0)
    optimizer, row = torch.optim.AdamW(model.parameters(), 3e-3), torch.tensor([tokenizer.encode(TEXT)])
    for _ in range(60):
        F.cross_entropy(model(row[:, :-1])[0], row[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("model") / "tiny"
    folder.mkdir()
    export_folder(folder, model.cfg, model.state_dict(), tokenizer)
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three local tasks: a choice, a perplexity, a generation."""
    folder = tmp_path_factory.mktemp("tasks")

    def write(name: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        source = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        # YAML takes JSON as it is.
        (folder / f"{name}.yaml").write_text(json.dumps({**source, "test_split": "test", **settings}), encoding="utf-8")

    choices = [
        {
            "question": " ".join(WORDS[i : i + n]),
            "options": [" ".join(WORDS[i + n : i + n + 2]), "no", "37+8=45"],
            "gold": 0,
        }
        for n in (1, 4, 9)
        for i in range(0, 9, 2)
    ]
    choice = {"doc_to_text": "{{question}}", "doc_to_choice": "options", "doc_to_target": "gold"}
    choice |= {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
    write("choosing", choices, choice)
    texts = [
        {"text": " ".join(WORDS[i:] * n)} for n in (1, 5) for i in range(5)
    ]  # the longer ones take several windows
    rolling = {"doc_to_text": "", "doc_to_target": "text", "output_type": "loglikelihood_rolling"}
    write("reading", texts, {**rolling, "metric_list": [{"metric": "byte_perplexity"}]})
    prompts = [{"prompt": " ".join(WORDS[i : i + 5]), "answer": "x"} for i in range(12)]
    until = {"until": ["\n", " the", "5"], "max_gen_toks": 24, "do_sample": False, "temperature": 0}
    generated = {"doc_to_text": "{{prompt}}", "doc_to_target": "answer", "output_type": "generate_until"}
    write("writing", prompts, {**generated, "generation_kwargs": until, "metric_list": [{"metric": "exact_match"}]})
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    from components.model.hub import imports
    from components.model.hub.source import locate

    source = locate(str(folder))
    model, tokenizer = imports.import_model(source), imports.import_tokenizer(source)
    service = Service(lambda: Engine(model, 8, None, tokenizer.text_bytes), 64)
    app = make_app("tiny", tokenizer, service, local_only=True)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1/completions"
    finally:
        server.should_exit = True
        thread.join()


def answers(model: str, arguments: dict[str, Any], tasks: Path, batch_size: int = 1) -> dict[str, list[Any]]:
    """By task, what the model said to each item."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=["choosing", "reading", "writing"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        batch_size=batch_size,
        device="cpu",
    )
    assert found is not None
    ordered = {task: sorted(rows, key=lambda row: row["doc_id"]) for task, rows in found["samples"].items()}
    return {task: [row["filtered_resps"] for row in rows] for task, rows in ordered.items()}


def through_server(folder: Path, tasks: Path, batch_size: int = 1, concurrent: int = 1) -> dict[str, list[Any]]:
    with served(folder) as url:
        arguments: dict[str, Any] = {
            "model": "tiny",
            "base_url": url,
            "tokenizer_backend": "huggingface",
            "tokenizer": str(folder),
        }
        # Its own windows are two shorter than told: one for the token behind, one for the beginning.
        arguments |= {"max_length": HF_LENGTH + 2, "max_retries": 1, "num_concurrent": concurrent}
        return answers("local-completions", arguments, tasks, batch_size)


def differences(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> list[str]:
    """Items that are not the same within 1e-4 of a log-likelihood."""
    found = []
    for task in theirs:
        assert len(ours[task]) == len(theirs[task]) > 5
        for number, (a, b) in enumerate(zip(ours[task], theirs[task], strict=True)):
            if task == "writing":
                same = a == b
            elif task == "reading":
                same = a[0] == pytest.approx(b[0], abs=1e-4)
            else:
                same = all(x[0] == pytest.approx(y[0], abs=1e-4) and x[1] == y[1] for x, y in zip(a, b, strict=True))
            if not same:
                found.append(f"{task} {number}: {a} != {b}")
    return found


@pytest.fixture(scope="module")
def reference(folder: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    pytest.importorskip("accelerate", reason="lm-eval's hf model needs it")
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    try:
        return answers("hf", {"pretrained": str(folder), "max_length": HF_LENGTH, "dtype": "float32"}, tasks)
    finally:
        patch.undo()


def test_every_item_is_answered_as_by_the_same_weights_in_transformers(
    folder: Path, tasks: Path, reference: dict[str, list[Any]]
) -> None:
    assert {bool(option[1]) for item in reference["choosing"] for option in item} == {False, True}
    assert len({item[0] for item in reference["writing"]}) > 3
    assert differences(through_server(folder, tasks), reference) == []
    assert differences(through_server(folder, tasks, batch_size=3, concurrent=4), reference) == []


def test_a_server_that_drops_the_last_token_is_found_out(
    folder: Path, tasks: Path, reference: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Answer.whole

    def dropping(self: Answer, completions: Any) -> dict[str, Any]:
        told = whole(self, completions)
        for choice in told["choices"]:
            if choice["logprobs"]:
                choice["logprobs"] = {name: values[:-1] for name, values in choice["logprobs"].items()}
        return told

    monkeypatch.setattr(Answer, "whole", dropping)
    found = differences(through_server(folder, tasks), reference)
    assert len([line for line in found if not line.startswith("writing")]) == len(reference["choosing"]) + len(
        reference["reading"]
    )
