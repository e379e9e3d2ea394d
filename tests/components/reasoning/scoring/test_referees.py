"""Verdicts that others gave on what their models said: every one of them must be ours."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
from public_files import DATA

from components.reasoning.scoring.fields import Fields
from components.reasoning.scoring.saved import read_saved, with_answers
from components.reasoning.scoring.scorers import SCORERS
from components.reasoning.scoring.summary import agreement, judge_item

pytestmark = pytest.mark.slow
MODELS = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}
GAME24 = {
    "gpt-4_0.7_naive_standard_sample_100_start900_end1000.json": ("accs", 10_000),
    "gpt-4_0.7_naive_cot_sample_100_start900_end1000.json": ("infos.*.r", 10_000),
    "gpt-4_0.7_propose1_value3_greedy5_start900_end1000.json": ("infos.*.r", 500),
}


def need(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    return path


@pytest.mark.parametrize("scorer", ["text", "exact"])
def test_big_bench_hard_gives_all_official_metrics(scorer: str) -> None:
    """suzgunmirac/BIG-Bench-Hard: code-davinci-002 on 27 tasks, chains of thought and direct answers."""
    file = need(DATA / "bbh/code-davinci-002-outputs.jsonl.gz")
    official = json.loads((DATA / "bbh/code-davinci-002-official-metrics.json").read_text())
    found = read_saved(str(file), Fields(id="mode,task,index"))
    right: dict[str, list[bool]] = defaultdict(list)
    for item in found.items:
        judged = judge_item(item, SCORERS[scorer])
        right[f"{item.row['mode']}/{item.row['task']}"] += [verdict.right for verdict in judged.verdicts]
    assert sum(map(len, right.values())) == 13_022
    ours = {name: 100 * sum(verdicts) / len(verdicts) for name, verdicts in right.items()}
    assert len(ours) == 54
    assert ours == pytest.approx({name: official[name]["accuracy"] for name in ours}, abs=1e-9)


def test_chains_without_an_answer_are_unparsed_and_not_wrong() -> None:
    """Sorting words "gets worse by thinking": most chains stop before they say an answer."""
    file = need(DATA / "bbh/code-davinci-002-outputs.jsonl.gz")
    found = read_saved(str(file), only=[("task", "word_sorting"), ("mode", "cot")])
    verdicts = [verdict for item in found.items for verdict in judge_item(item, SCORERS["text"]).verdicts]
    assert [sum(v.status == status for v in verdicts) for status in ("answered", "unparsed")] == [104, 146]
    assert sum(verdict.right for verdict in verdicts) == 101


@pytest.mark.parametrize("model", MODELS)
def test_published_solutions_of_gsm8k(model: str) -> None:
    """openai/grade-school-math: 1,319 verdicts on each of four models."""
    file = need(DATA / "gsm8k/example_model_solutions.jsonl")
    found = read_saved(str(file), Fields(text=f"{model}.solution", verdict=f"{model}.is_correct"))
    judged = [judge_item(item, SCORERS["number"]) for item in found.items]
    same = agreement(judged)
    assert same is not None
    assert (same.agreed, same.total) == (1319, 1319)
    assert sum(one.num_right for one in judged) == MODELS[model]


@pytest.mark.parametrize("name", GAME24)
def test_logs_of_tree_of_thought_on_the_game_of_24(name: str) -> None:
    """princeton-nlp/tree-of-thought-llm: GPT-4 on puzzles 900–999."""
    file, gold = need(DATA / "game24" / name), need(DATA / "game24/24.csv")
    verdict, count = GAME24[name]
    found = with_answers(read_saved(str(file), Fields(verdict=verdict)), str(gold), "row", "Puzzles")
    with gold.open() as stream:
        assert found.items[0].references == (list(csv.DictReader(stream))[900]["Puzzles"],)
    same = agreement([judge_item(item, SCORERS["game24"]) for item in found.items])
    assert same is not None
    assert (same.agreed, same.total) == (count, count)
