"""The parts of a life: what a profile asks for is what is assembled, and what a part lacks is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import lifecycle, outside
from flows.config import load_config
from flows.lifecycle import life
from flows.settings import ConfigError
from storage.home import Home

NUMBER = 'rewards=["number"]'
NOWHERE, LIFE = 'prompts=[{ path = "nowhere.jsonl" }]', 'life.parts=["grpo"]'


def nodes(*settings: str, profile: str = "smoke") -> dict[str, Any]:
    return life(load_config(profile, list(settings)), Home("no-such-home")).nodes


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A setting with prompts of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.jsonl").write_text('{"prompt": "1+1?", "answer": 2}\n{"prompt": "1+2?", "answer": 3}\n')
    (tmp_path / "set.jsonl").write_text('{"question": "1+1?", "answer": 2}\n')
    return 'prompts=[{ path = "sums.jsonl" }]'


def test_without_parts_the_life_is_whole_and_with_all_of_them_it_has_dpo_too() -> None:
    from flows.parts import PARTS

    parts = [part for part in PARTS if part != "in_context"]  # which only its name brings
    whole, named = nodes(), nodes(f"life.parts={parts}")
    assert nodes('life.parts=["in_context"]').keys() & whole.keys() == set()
    assert named.keys() == whole.keys()  # smoke asks for DPO itself
    assert {label: node.key for label, node in named.items()} == {label: node.key for label, node in whole.items()}


def test_a_part_brings_what_it_builds_on_and_nothing_else(mine: str) -> None:
    base = {"prepare_corpus", "train_tokenizer", "tokenize", "pretrain"}
    assert nodes('life.parts=["pretrain"]').keys() == base
    grpo = nodes('life.parts=["grpo"]', mine, NUMBER)
    assert grpo.keys() == base | {"prepare_prompts", "grpo"}
    assert grpo["grpo"].needs[0] == "pretrain"  # without "sft" the policy begins as the base
    tuned = nodes('life.parts=["sft", "grpo"]', mine, NUMBER)
    assert tuned["grpo"].needs[0] == "finetune"
    dpo = nodes('life.parts=["dpo"]')
    assert dpo.keys() == base | {"sample_answers", "collect_preferences", "dpo"}  # no reward model
    ppo = nodes(
        'life.parts=["ppo", "best_of_n"]', mine, NUMBER, "alignment.mitigations=[]", "alignment.compare_kl_coefs=[]"
    )
    assert ppo.keys() == base | {"prepare_prompts", "ppo[kl_coef=0.1]", "best_of_n"}
    sets = nodes('life.parts=["reasoning", "cost"]', 'evaluations=[{ path = "set.jsonl", name = "mine" }]')
    assert sets.keys() == base | {"prepare_evaluations", "evaluate_set[mine,base]", "measure_serving", "account_costs"}
    Path("pairs.jsonl").write_text('{"prompt": "1+1?", "chosen": "2", "rejected": "3"}\n')
    judged = ["preferences.source='file'", 'preferences.path="pairs.jsonl"']
    asked = 'evaluations=[{ path = "set.jsonl" }]'
    policies = nodes('life.parts=["dpo", "ppo", "reasoning"]', mine, NUMBER, asked, *judged)
    assert {"evaluate_set[set,base]", "evaluate_set[set,dpo]", "evaluate_set[set,ppo]"} <= policies.keys()
    assert policies["evaluate_set[set,ppo]"].needs[0] == "ppo[kl_coef=0.1]"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (['life.parts=["grop"]'], "there is no part 'grop'; did you mean 'grpo'? There are pretrain, sft, "),
        (['life.parts=["ppo"]'], 'life.parts: nothing pays ppo: add "reward_model" to life.parts, or give rewards'),
        (['life.parts=["sft", "grpo"]', 'rewards=["reward_model"]'], 'add it to life.parts'),
        (['life.parts=["grpo"]', "MINE"], "grpo: the prompts say nothing about what an answer is worth: give rewards"),
        (['life.parts=["dpo"]', "MINE"], 'preferences: source = "gold" judges our own stories'),
        (["data.sources=[]"], "data: no data source is configured: give [[data.sources]], or a [base]"),
        (['rewards=["nmber"]'], "rewards: there is no kind 'nmber' (did you mean 'number'?); it takes exact, number"),
        (['rewards=[{kind="number",tolerence=1}]'], "no such setting in rewards; did you mean rewards.tolerance"),
        (['rewards=["number", "number"]'], "rewards: two are called 'number': give one a name of its own"),
        (['rewards=["nowhere.py:score"]'], "nowhere.py: No such file or directory; paths are relative to"),
        (['evaluations=[{ path = "set.jsonl", scorer = "judge" }]'], "scorer"),
        (['evaluations=[{ path = "nowhere.jsonl" }]'], "nowhere.jsonl: no such file, folder or match"),
        ([NOWHERE, NUMBER, LIFE], "nowhere.jsonl: no such file, folder or match"),
    ],
)  # fmt: skip
def test_what_is_missing_or_misspelt_is_told_in_one_sentence(settings: list[str], said: str, mine: str) -> None:
    with pytest.raises((ConfigError, ValueError)) as error:
        nodes(*(mine if one == "MINE" else one for one in settings))
    assert said in str(error.value)


def test_an_edit_of_a_reward_changes_the_policies_alone(mine: str) -> None:
    score = Path("score.py")
    score.write_text("from words import WORDS\n\ndef score(completion):\n    return len(WORDS)\n")
    Path("words.py").write_text("WORDS = ()\n")
    settings = ('life.parts=["sft", "grpo", "ppo"]', mine, 'rewards=["score.py:score"]')
    first = {label: node.key for label, node in nodes(*settings).items()}
    score.write_text('"""A docstring."""\n' + score.read_text() + "# a comment\n")
    assert {label: node.key for label, node in nodes(*settings).items()} == first
    Path("words.py").write_text("WORDS = (1,)\n")
    second = {label: node.key for label, node in nodes(*settings).items()}
    changed = {label for label in first if first[label] != second[label]}
    assert changed == {label for label in first if label.startswith(("grpo", "ppo["))}
    Path("sums.jsonl").write_text('{"prompt": "1+1?", "answer": 2}\n')
    third = {label: node.key for label, node in nodes(*settings).items()}
    assert {label for label in first if third[label] != second[label]} == changed | {"prepare_prompts"}
    score.write_text("def score(:\n")
    with pytest.raises(ConfigError, match=r"score.py:1: invalid syntax"):
        nodes(*settings)


def test_a_base_of_somebody_else_needs_no_text(monkeypatch: pytest.MonkeyPatch, mine: str) -> None:
    monkeypatch.setattr(outside, "digests", lambda base: {"model": "ab"})
    monkeypatch.setattr(lifecycle, "_context_length", lambda cfg: None)
    settings = ["data.sources=[]", 'base.model="somewhere"', mine, NUMBER]
    made = nodes('life.parts=["grpo", "reasoning", "cost"]', 'evaluations=[{ path = "set.jsonl" }]', *settings)
    assert made.keys() == {
        "import_tokenizer", "import_model", "prepare_prompts", "prepare_evaluations", "grpo", "evaluate_set[set,base]",
        "evaluate_set[set,grpo]", "measure_serving", "account_costs",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"recurrent: they measure on text: give \[\[data.sources\]\]"):
        nodes('life.parts=["recurrent"]', *settings)
    with pytest.raises(ConfigError, match=r"finetune.replay is 0.25, and there is no text to replay"):
        nodes('life.parts=["sft", "grpo"]', *settings)
    assert "finetune" in nodes('life.parts=["sft", "grpo"]', "finetune.replay=0", *settings)
