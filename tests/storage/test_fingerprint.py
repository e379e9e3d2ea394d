"""The same thing has one spelling; what has none is named; reasons say what changed."""

from __future__ import annotations

import enum
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.artifacts import Artifact, Record
from storage.fingerprint import Identity, artifact_key, canonical_json, digest, explain, nearest, plain

_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_trees = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


class Schedule(enum.Enum):
    COSINE = "cosine"


@dataclass(frozen=True)
class Optimizer:
    lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Config:
    steps: int = 3
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = Schedule.COSINE


def test_spelling_of_a_config_is_fixed() -> None:
    # A changed spelling would silently orphan every artifact that users have.
    assert canonical_json(Config()) == '{"optimizer":{"betas":[0.9,0.95],"lr":0.02},"schedule":"cosine","steps":3}'
    assert artifact_key("pretrain", Config(), {"tokenizer": "ab" * 32}, {"components.x": "cd" * 32}) == (
        "d607a07a268ed429e6d7fa9aff7e9e428f35a2bfce58eadc938f11de0db7dd58"
    )


@given(_trees)
def test_json_readers_get_back_what_went_in(tree: Any) -> None:
    text = canonical_json(tree)
    assert text.isascii()
    back = json.loads(text)
    assert back == tree
    assert canonical_json(back) == text


@given(st.dictionaries(st.text(), _leaves, min_size=2), st.randoms())
def test_order_of_names_is_no_part_of_identity(mapping: dict[str, Any], random: Any) -> None:
    items = list(mapping.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(mapping)


@given(_trees, _trees)
def test_different_things_have_different_spellings(a: Any, b: Any) -> None:
    def typed(tree: Any) -> Any:  # == cannot tell 1, 1.0 and True apart, nor 0.0 and -0.0
        if isinstance(tree, dict):
            return {name: typed(item) for name, item in tree.items()}
        if isinstance(tree, list):
            return [typed(item) for item in tree]
        return type(tree).__name__, repr(tree)

    assert (canonical_json(a) == canonical_json(b)) == (typed(a) == typed(b))


def test_a_dataclass_is_its_fields_and_not_its_name() -> None:
    other = make_dataclass("Renamed", [("lr", float, 0.02), ("betas", tuple, (0.9, 0.95))], frozen=True)
    assert digest(other()) == digest(Optimizer()) == digest({"betas": [0.9, 0.95], "lr": 0.02})
    assert digest({"steps": 1}) != digest({"steps": 1.0}) != digest({"steps": True})


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ({1, 2}, "sorted tuple"),
        (Path("data"), "digest of the content"),
        (b"x", "digest"),
        (len, "use numbers"),
        (Optimizer, "use numbers"),
        ({1: "a"}, "names must be strings"),
    ],
)
def test_what_has_no_order_or_meaning_is_named(value: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=rf"^config\.data\.sources\[1\].*{advice}"):
        canonical_json({"data": {"sources": ["ok", value]}})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"config\.optimizer\.lr: -?(nan|inf)"):
        canonical_json(Config(optimizer=Optimizer(lr=value)))


def test_numpy_numbers_are_not_guessed_at() -> None:
    numpy = pytest.importorskip("numpy")
    assert canonical_json(numpy.float64(0.1)) == "0.1"  # is a float
    with pytest.raises(TypeError, match=r"config\.seed: a int64 .*\.item\(\)"):
        canonical_json({"seed": numpy.int64(1)})


def test_key_is_the_same_in_another_process() -> None:
    program = (
        "from storage.fingerprint import artifact_key as k; print(k('s', {'b': 0.1, 'a': 'é'}, {'x': ['1', '2']}, {}))"
    )
    # Another hash seed: the order of sets and of hashes must not leak in.
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.strip() == artifact_key("s", {"a": "é", "b": 0.1}, {"x": ["1", "2"]}, {})


@given(st.text(max_size=3), _trees, st.text(max_size=3), st.text(max_size=3))
def test_every_part_enters_the_key(stage: str, config: Any, input_key: str, code: str) -> None:
    base = artifact_key(stage, config, {"a": input_key}, {"m": code})
    assert base != artifact_key(stage + "x", config, {"a": input_key}, {"m": code})
    assert base != artifact_key(stage, [config], {"a": input_key}, {"m": code})
    assert base != artifact_key(stage, config, {"a": input_key + "x"}, {"m": code})
    assert base != artifact_key(stage, config, {"a": [input_key]}, {"m": code})
    assert base != artifact_key(stage, config, {"a": input_key}, {"m": code + "x"})


def _record(config: Any, inputs: dict[str, Any], code: dict[str, str], created: str = "2026-01-01") -> Record:
    return Record(Artifact("checkpoint", "0" * 64), "ppo", plain(config), inputs, code, "run", created=created)


def test_reasons_name_field_input_and_module() -> None:
    old = _record(
        {"ppo": {"kl_coef": 0.1, "steps": 5, "old": 1}, "seed": 0},
        {"reward": "a" * 64, "points": ["1" * 64, "2" * 64], "gone": "x"},
        {"components.rlhf.ppo": "1", "components.old": "1", "flows.parts:ppo": "1"},
    )
    new = Identity(
        "ppo",
        {"ppo": {"kl_coef": 0.2, "steps": 5, "new": None}, "seed": 0},
        {"reward": "b" * 64, "points": ["1" * 64, "3" * 64]},
        {"components.rlhf.ppo": "2", "components.new": "1", "flows.parts:ppo": "1"},
    )
    assert explain(old, new) == [
        "ppo.kl_coef: 0.1 -> 0.2",
        "ppo.new: new setting, null",
        "ppo.old: setting is gone, was 1",
        "input gone: is gone",
        "input points: changed (22222222 -> 33333333)",
        "input reward: changed (aaaaaaaa -> bbbbbbbb)",
        "code: components.new is used now",
        "code: components.old is no longer used",
        "code: components.rlhf.ppo changed",
    ]
    told = explain(old, new, causes={"b" * 64: "reward_model will run: steps: 1 -> 2"})
    assert "input reward: reward_model will run: steps: 1 -> 2" in told


def test_no_reason_when_nothing_differs_and_one_when_it_never_ran() -> None:
    old = _record(Config(), {"a": "1"}, {"m": "1"})
    assert explain(old, Identity("ppo", Config(), {"a": "1"}, {"m": "1"})) == []
    assert explain(None, Identity("ppo", Config(), {}, {})) == ["it never ran before"]


@given(_trees, _trees)
def test_explain_is_silent_exactly_when_the_key_is_the_same(a: Any, b: Any) -> None:
    old, new = {"x": a}, {"x": b}
    same = artifact_key("ppo", old, {}, {}) == artifact_key("ppo", new, {}, {})
    assert (explain(_record(old, {}, {}), Identity("ppo", new, {}, {})) == []) == same


def test_nearest_is_the_same_point_of_a_sweep() -> None:
    point = _record({"kl_coef": 0.1, "steps": 5}, {}, {}, created="2026-01-01")
    other = _record({"kl_coef": 0.0, "steps": 9}, {}, {}, created="2026-02-01")
    assert nearest([other, point], Identity("ppo", {"kl_coef": 0.1, "steps": 6}, {}, {})) is point
    assert nearest([other, point], Identity("dpo", {}, {}, {})) is None
