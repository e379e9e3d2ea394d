"""The assembly of a life is pure: what lies outside is read once, before it, from the home that the caller names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from components.rlhf.judgements import Candidate, Item, judged, make_items
from flows import lifecycle, outside
from flows.commands.cli import app
from flows.config import load_config
from flows.engine.graph import Graph
from flows.lifecycle import life, lifecycle_graph, run_lifecycle
from flows.outside import Outside
from flows.runs.run import RunResult
from flows.settings import ConfigError
from flows.stages import preferences
from storage.artifacts import Artifact, Record
from storage.home import Home

NOWHERE = (
    'data.sources=[{ name = "mine", kind = "text", path = "no/where.txt" }]',
    "preferences.source=people",
    "base.model=no/where/at/all",
)


def test_an_assembly_looks_at_no_file_and_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("the assembly looks outside")

    cfg = load_config("smoke", NOWHERE)
    monkeypatch.delenv("LIFESPAN_HOME", raising=False)
    monkeypatch.setattr(Home, "__init__", refuse)
    for name in ("raw_digests", "digests", "conversation_digests", "prompt_digests", "evaluation_digests"):
        monkeypatch.setattr(outside, name, refuse)
    monkeypatch.setattr(preferences, "file_digest", refuse)
    first, other = Graph(), Graph()
    lifecycle_graph(cfg, first, Outside())
    answers = first.nodes["sample_answers"].key
    found = Outside({"mine": {"where.txt": "ab"}}, {"model.gguf": "cd"}, {}, {answers: {"ann": "7:ef"}, "00": {}})
    lifecycle_graph(cfg, other, found)
    settings = {label: node.bound.settings for label, node in other.nodes.items()}
    assert settings["prepare_corpus"]["raw"] == {"mine": {"where.txt": "ab"}}
    assert settings["import_model"]["raw"] == {"model.gguf": "cd"}
    changed = {label for label, node in other.nodes.items() if node.key != first.nodes[label].key}
    assert {"prepare_corpus", "import_model", "collect_preferences"} <= changed
    assert "make_conversations" not in changed


def test_other_bytes_of_a_users_conversations_are_other_conversations() -> None:
    cfg = load_config("smoke", ['instruction.sources=[{ name = "mine", path = "nowhere.jsonl" }]'])
    first, other = Graph(), Graph()
    lifecycle_graph(cfg, first, Outside())
    lifecycle_graph(cfg, other, Outside(conversations={"mine": {"nowhere.jsonl": "ab"}}))
    changed = {label for label, node in other.nodes.items() if node.key != first.nodes[label].key}
    assert {"make_conversations", "finetune"} <= changed
    assert not {"prepare_corpus", "pretrain", "make_puzzles"} & changed


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a graph was assembled and a user's files were hashed."""
    calls: Counter[str] = Counter()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return call(*arguments, **named)

        return wrapped

    for module, name in ((lifecycle, "assemble"), (outside, "raw_digests")):
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return calls


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.txt").write_text("One text.\n")
    return f'data.sources=[{{ name = "mine", kind = "text", path = "{tmp_path / "mine.txt"}" }}]'


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_command_assembles_once_and_hashes_a_file_once_also_with_only(
    command: str, home: Home, mine: str, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Graph] = []

    def run(graph: Graph, *arguments: object, **options: object) -> RunResult:
        graphs.append(graph)
        return RunResult("20250131-142501-3fa9", "completed", 1.0, "", {})

    monkeypatch.setattr(lifecycle, "run_graph", run)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # so that no server is started
    done = CliRunner().invoke(app, [command, "smoke", "--set", mine, "--only", "tokenize"])
    assert done.exit_code == 0, done.output
    assert counted == {"assemble": 1, "raw_digests": 1}
    if graphs:
        assert set(graphs[0].nodes) == {"prepare_corpus", "train_tokenizer", "tokenize"}
    counted.clear()
    wrong = CliRunner().invoke(app, [command, "smoke", "--set", mine, "--only", "tokenise"])
    assert (wrong.exit_code, wrong.stderr.count("error: ")) == (2, 1)
    assert "error: --only: no stage 'tokenise' in this run; there are prepare_corpus, " in wrong.stderr
    assert counted == {"assemble": 1, "raw_digests": 1}
    assert len(graphs) <= 1


def test_a_wrong_name_in_only_leaves_no_run_behind(home: Home, console: Console) -> None:
    with pytest.raises(ConfigError, match="--only: no stage 'nothing'"):
        run_lifecycle(load_config("smoke"), home=home, console=console, prefect=False, mlflow=False, only=["nothing"])
    assert home.tables.read("runs").num_rows == 0


def test_people_judge_in_the_home_of_the_run_and_not_in_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config("smoke", ["preferences.source=people"])
    home, other = Home(tmp_path / "here"), Home(tmp_path / "elsewhere")
    monkeypatch.setenv("LIFESPAN_HOME", other.root)
    key = life(cfg, home).nodes["sample_answers"].key
    items, _ = make_items(["Tell me a story."], [[Candidate(text, "sft", 1.0, True) for text in ("One.", "Two.")]])
    with home.store.writing(key) as out:
        artifact = Artifact("answers", key, {"batch": "ab" * 8})
        home.store.seal(out, Record(artifact, "sample_answers", {}, {}, {}, "r"))
    assert judgements_of(life(cfg, home)) == {}
    judge(home, items[0])
    assert set(judgements_of(life(cfg, home))) == {"ann"}
    assert judgements_of(life(cfg, other)) == {}


def judgements_of(graph: Graph) -> dict[str, str]:
    return dict(graph.nodes["collect_preferences"].bound.settings["judgements"])


def judge(home: Home, item: Item) -> None:
    home.annotations.publish("ab" * 8, "stories", 1, [item.to_json()])
    said = judged(item, "ann", [1, 2], seconds=1.0, submitted_at="2026-01-01T00:00:00+00:00")
    home.annotations.record("ab" * 8, "ann", {"form": f"{1:016x}", **said.to_json()})
